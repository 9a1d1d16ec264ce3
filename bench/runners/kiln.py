"""kiln, with the recipe of the reference job. kiln.py LAB OUT

The guest fetches the job's files from a server in this process, so that serving them is counted."""

import functools
import http.server
import os
import shutil
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lab import JOB, Lab, run

# Where a guest with user networking sees the host.
HOST = "10.0.2.2"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def main(lab, out):
    handler = functools.partial(Quiet, directory=lab.folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = os.path.join(out, "recipe")
    os.makedirs(folder)
    shutil.copy(os.path.join(JOB, "job.yml"), folder)
    with open(os.path.join(JOB, "recipe.yaml")) as file:
        text = file.read()
    address = f"http://{HOST}:{server.server_address[1]}/{os.path.basename(lab.archive)}"
    text = text.replace("@SERVER@", address).replace("@OUT@", os.path.join(out, "out.qcow2"))
    recipe = os.path.join(folder, "recipe.yaml")
    with open(recipe, "w") as file:
        file.write(text)
    kiln = os.environ["KILN"]
    run(kiln, "--home", lab.home, "--accel", "tcg", "--progress", "plain", "build", recipe, "--rebuild")


if __name__ == "__main__":
    main(Lab(sys.argv[1]), sys.argv[2])

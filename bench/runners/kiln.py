"""kiln, with the recipe of the reference job. kiln.py LAB OUT"""

import os
import shutil
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lab import JOB, SCRIPTS, Lab, run


def main(lab, out, lane="booted", edit=False):
    """With `edit`, only a comment of the last script is another one than in the builds before."""
    folder = os.path.join(out, "recipe")
    os.makedirs(folder)
    for name in ("provision.yml", "install.yml", "check.yml"):
        shutil.copy(os.path.join(JOB, name), folder)
    last = lab.path("inputs", SCRIPTS[-1])
    if edit:
        last = shutil.copy(last, folder)
        with open(last, "a") as file:
            file.write(f"# {time.time_ns()}\n")
    with open(os.path.join(JOB, "recipe.yaml")) as file:
        text = file.read()
    text = text.replace("@INPUTS@", lab.path("inputs")).replace("@LAST@", last)
    text = text.replace("@OUT@", os.path.join(out, "out.qcow2"))
    text += f"  run: {lane}\n"
    recipe = os.path.join(folder, "recipe.yaml")
    with open(recipe, "w") as file:
        file.write(text)
    command = [os.environ["KILN"], "--home", lab.home, "--accel", "tcg", "--progress", "plain", "build", recipe]
    run(*command, *([] if edit else ["--no-cache"]))


if __name__ == "__main__":
    main(Lab(sys.argv[1]), sys.argv[2])

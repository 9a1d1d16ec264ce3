"""The floor of an edit of the last script: its run alone, on the disk that micro.py left. micro-rebuild.py LAB OUT"""

import os
import sys

from micro import Lab, main, run

if __name__ == "__main__":
    lab, out = Lab(sys.argv[1]), sys.argv[2]
    archive = os.path.join(out, "job.tar")
    run("tar", "-C", lab.path("inputs"), "--owner=0", "--group=0", "-cf", archive, "30-validate.sh")
    main(lab, out, lab.path("out", "micro", "disk.qcow2"), archive, scripts="30-validate")

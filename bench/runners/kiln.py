"""kiln, with the recipe of the reference job. kiln.py LAB OUT"""

import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lab import JOB, Lab, run


def main(lab, out, lane="booted"):
    folder = os.path.join(out, "recipe")
    os.makedirs(folder)
    shutil.copy(os.path.join(JOB, "job.yml"), folder)
    with open(os.path.join(JOB, "recipe.yaml")) as file:
        text = file.read()
    text = text.replace("@INPUTS@", lab.path("inputs")).replace("@OUT@", os.path.join(out, "out.qcow2"))
    text += f"  run: {lane}\n"
    recipe = os.path.join(folder, "recipe.yaml")
    with open(recipe, "w") as file:
        file.write(text)
    kiln = os.environ["KILN"]
    run(kiln, "--home", lab.home, "--accel", "tcg", "--progress", "plain", "build", recipe, "--rebuild")


if __name__ == "__main__":
    main(Lab(sys.argv[1]), sys.argv[2])

"""Packer, with a self-contained result. packer.py LAB OUT"""

import hashlib
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from lab import Lab, run


def main(lab, out):
    digest = lab.path("base.sha256")
    if not os.path.exists(digest):
        with open(lab.base, "rb") as file, open(digest, "w") as target:
            target.write(hashlib.file_digest(file, "sha256").hexdigest())
    with open(digest) as file:
        known = file.read()
    values = {"base": lab.base, "digest": known, "key": lab.key, "inputs": lab.path("inputs")}
    values |= {"out": os.path.join(out, "packer"), "console": os.path.join(out, "console.log")}
    words = [word for name, value in values.items() for word in ("-var", f"{name}={value}")]
    settings = {"CHECKPOINT_DISABLE": "1", "PACKER_CACHE_DIR": lab.path("packer-cache")}
    run("packer", "build", "-color=false", *words, os.path.join(HERE, "packer.json"), env=os.environ | settings)
    os.rename(os.path.join(out, "packer", "out.qcow2"), os.path.join(out, "out.qcow2"))


if __name__ == "__main__":
    main(Lab(sys.argv[1]), sys.argv[2])

"""The floor with a booted guest: QEMU and SSH, nothing else. raw-ssh.py LAB OUT"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lab import Guest, Lab, flatten, overlay

COPY = "mkdir -p /var/tmp/j && tar -C /var/tmp/j -xf - && mv /var/tmp/j/tree /opt/app && mv /var/tmp/j/debs /var/tmp/debs"


def main(lab, out):
    disk = os.path.join(out, "disk.qcow2")
    overlay(lab.base, disk)
    guest = Guest(lab, disk, out)
    try:
        with open(lab.archive, "rb") as archive:
            guest.ssh(COPY, stdin=archive)
        guest.ssh("bash /var/tmp/j/10-provision.sh")
        guest.ssh("bash /var/tmp/j/20-install.sh", stdout=subprocess.DEVNULL)
        guest.ssh("bash /var/tmp/j/30-validate.sh")
        guest.ssh("rm -rf /var/tmp/j; : > /etc/machine-id; cloud-init clean --logs; sync")
        guest.power_off()
    finally:
        guest.kill()
    flatten(disk, os.path.join(out, "out.qcow2"))


if __name__ == "__main__":
    main(Lab(sys.argv[1]), sys.argv[2])

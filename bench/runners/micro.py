"""The floor without a booted guest: a kernel, busybox and chroot. micro.py LAB OUT"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lab import Lab, flatten, overlay, run


def main(lab, out, base, archive, scripts="10-provision 20-install 30-validate"):
    disk, console = os.path.join(out, "disk.qcow2"), os.path.join(out, "console.log")
    overlay(base, disk)
    words = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off tsc=reliable"
    words += f" scripts={scripts.replace(' ', ',')}"
    command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "1", "-m", "512"]
    command += ["-nodefaults", "-display", "none", "-no-user-config", "-no-reboot", "-append", words]
    command += ["-kernel", lab.path("micro", "vmlinuz"), "-initrd", lab.path("micro", "initrd")]
    command += ["-drive", f"file={disk},if=virtio,format=qcow2,cache=unsafe,discard=unmap"]
    command += ["-drive", f"file={archive},if=virtio,format=raw,readonly=on", "-serial", "file:" + console]
    qemu = subprocess.Popen(command)
    try:
        qemu.wait(timeout=600)
    finally:
        if qemu.poll() is None:
            qemu.kill()
            qemu.wait()
    with open(console, errors="replace") as file:
        text = file.read()
    if "RESULT 0" not in text:
        sys.exit(text[-2000:])
    flatten(disk, os.path.join(out, "out.qcow2"))


if __name__ == "__main__":
    lab = Lab(sys.argv[1])
    main(lab, sys.argv[2], lab.base, lab.archive)

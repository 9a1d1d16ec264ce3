"""Lays out the lab: key, inputs, the base image, the micro appliance. What is there already stays."""

import glob
import json
import os
import shutil
import subprocess

from lab import JOB, SCRIPTS, fresh, run


def prepare(lab, kiln):
    os.makedirs(lab.folder, exist_ok=True)
    for step, made in [(key, lab.key), (archive, lab.archive), (micro, lab.path("micro", "initrd"))]:
        if not os.path.exists(made):
            step(lab)
    base(lab, kiln)


def key(lab):
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", lab.key)


def archive(lab):
    """One tar of everything that goes into the guest, owned by root there."""
    folder = fresh(lab.path("inputs"))
    run("python3", os.path.join(JOB, "tree.py"), os.path.join(folder, "tree"))
    debs = os.path.join(folder, "debs")
    os.makedirs(debs)
    # What the lists say now, not what a deb of yesterday was called.
    run("apt-get", "-q", "download", "nginx", "nginx-common", cwd=debs, stdout=subprocess.DEVNULL)
    for script in SCRIPTS:
        shutil.copy(os.path.join(JOB, script), folder)
    part = lab.archive + ".part"
    run("tar", "-C", folder, "--owner=0", "--group=0", "--sort=name", "-cf", part, "tree", "debs", *SCRIPTS)
    os.rename(part, lab.archive)


def base(lab, kiln):
    with open(os.path.join(JOB, "base.yaml")) as file:
        text = file.read()
    with open(lab.key + ".pub") as file:
        text = text.replace("@KEY@", file.read().strip())
    definition = lab.path("reference-base.yaml")
    with open(definition, "w") as file:
        file.write(text)
    command = [kiln, "--home", lab.home, "--format", "json", "base", "build", definition]
    built = run(*command, stdout=subprocess.PIPE).stdout
    with open(lab.path("base.path"), "w") as file:
        file.write(json.loads(built)["disk"])


def micro(lab):
    """A kernel of Debian's and an initramfs of busybox, its modules and one script."""
    folder = fresh(lab.path("micro"))
    meta = "linux-image-cloud-amd64"
    lines = run("apt-cache", "depends", meta, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    package = next(l.split()[-1] for l in lines if "Depends: linux-image" in l)
    run("apt-get", "-q", "download", package, cwd=folder, stdout=subprocess.DEVNULL)
    run("dpkg", "-x", glob.glob(os.path.join(folder, "*.deb"))[0], os.path.join(folder, "kernel"))
    kernel = os.path.join(folder, "kernel")
    os.rename(glob.glob(os.path.join(kernel, "boot", "vmlinuz-*"))[0], os.path.join(folder, "vmlinuz"))
    modules = (glob.glob(os.path.join(kernel, "usr/lib/modules/*")) + glob.glob(os.path.join(kernel, "lib/modules/*")))[0]
    root = os.path.join(folder, "root")
    for part in ("bin", "m"):
        os.makedirs(os.path.join(root, part))
    shutil.copy(shutil.which("busybox"), os.path.join(root, "bin"))
    os.symlink("busybox", os.path.join(root, "bin", "sh"))
    shutil.copy(os.path.join(os.path.dirname(JOB), "runners", "micro-init.sh"), os.path.join(root, "init"))
    os.chmod(os.path.join(root, "init"), 0o755)
    # depmod wants lib/modules under its base folder.
    image_root = modules.split("/lib/modules/")[0]
    run("depmod", "-b", image_root, os.path.basename(modules))
    with open(os.path.join(modules, "modules.dep")) as file:
        depends = dict(line.rstrip("\n").split(":", 1) for line in file)
    order = []
    for name in ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "virtio_rng"):
        for path in [p for p in depends if p.endswith(f"/{name}.ko")]:
            for needed in reversed([path] + depends[path].split()):
                if needed not in order:
                    order.append(needed)
    for path in order:
        shutil.copy(os.path.join(modules, path), os.path.join(root, "m"))
    with open(os.path.join(root, "order"), "w") as file:
        file.writelines(os.path.basename(path) + "\n" for path in order)
    command = f"cd {root} && find . | cpio --quiet -o -H newc > ../initrd.part && mv ../initrd.part ../initrd"
    run("sh", "-c", command)
    shutil.rmtree(kernel)

"""What the competitors share: where things lie, and how to start a plain guest."""

import os
import shutil
import socket
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
JOB = os.path.join(HERE, "reference-job")
SCRIPTS = ["10-provision.sh", "20-install.sh", "30-validate.sh"]


class Lab:
    """The folder that a benchmark works in."""

    def __init__(self, folder):
        self.folder = os.path.abspath(folder)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    @property
    def home(self):
        return self.path("home")

    @property
    def key(self):
        return self.path("key")

    @property
    def archive(self):
        return self.path("job.tar")

    @property
    def base(self):
        with open(self.path("base.path")) as file:
            return file.read().strip()


def run(*command, **options):
    """Runs a tool to its end; its failure is ours."""
    return subprocess.run(command, check=True, **options)


def overlay(base, path):
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path)


def flatten(path, target):
    run("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", path, target)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Guest:
    """A plain QEMU guest that is reached by SSH; `key_from_outside` where the disk knows no key (any more)."""

    def __init__(self, lab, disk, folder, key_from_outside=False):
        self.port = free_port()
        self.folder = folder
        self.target = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-q"]
        self.target += ["-S", os.path.join(folder, "ssh"), "-i", lab.key, "-p", str(self.port), "root@127.0.0.1"]
        drive = f"file={disk},if=virtio,format=qcow2,cache=unsafe,discard=unmap"
        net = f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        credential = []
        if key_from_outside:
            with open(lab.key + ".pub") as key:
                value = "io.systemd.credential:ssh.authorized_keys.root=" + key.read().strip()
            credential = ["-smbios", "type=11,value=" + value]
        self.qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "1", "-m", "1024"]
            + ["-nodefaults", "-display", "none", "-no-user-config", "-drive", drive, "-netdev", net]
            + ["-device", "virtio-net-pci,netdev=n", "-device", "virtio-rng-pci"]
            + ["-serial", "file:" + os.path.join(folder, "console.log")]
            + credential
        )
        self.master = None
        try:
            self._connect()
        except BaseException:
            self.kill()
            raise

    def _connect(self):
        deadline = time.monotonic() + 600
        while not self._greets():
            if time.monotonic() > deadline or self.qemu.poll() is not None:
                raise SystemExit("the guest's sshd did not answer; see " + self.folder)
            time.sleep(0.2)
        # A master of our own rather than a daemon: its work must be counted.
        self.master = subprocess.Popen(["ssh", "-M", "-N"] + self.target)
        while not os.path.exists(os.path.join(self.folder, "ssh")):
            if time.monotonic() > deadline or self.master.poll() is not None:
                raise SystemExit("no log-in over SSH; see " + self.folder)
            time.sleep(0.1)

    def _greets(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as link:
                link.settimeout(5)
                return link.recv(4) == b"SSH-"
        except OSError:
            return False

    def ssh(self, command, **options):
        return run("ssh", *self.target, command, **options)

    def power_off(self):
        subprocess.run(["ssh", *self.target, "systemctl poweroff"])
        self.qemu.wait(timeout=600)
        self.master.wait(timeout=60)

    def kill(self):
        for process in (self.qemu, self.master):
            if process and process.poll() is None:
                process.kill()
                process.wait()


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder

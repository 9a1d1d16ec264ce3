#!/usr/bin/env python3
"""Whole builds that meet a fault: each fails soon, says what, where and what next, and leaves nothing.

usage: faults.py KILN HOME [CASE ...]

HOME holds the base image debian-12-minimal. Every case is a `kiln build` in
which something goes wrong. Looked at are the exit code, what the failure says
and names, the time it takes, and what is left: no QEMU, no disk, an image that
is FAILED. At the end a build in the same home succeeds.
"""
import json, os, pathlib, re, shutil, signal, subprocess, sys, tempfile, threading, time

from qemus import machines

BASE = "debian-12-minimal"
FOREVER = "sleep 3600"

# Runs beside the agent's unit, whose processes end with it, and waits until the port is free.
WRITE_TO_PORT = """cat > /run/port.sh <<'END'
until exec 3<> /dev/virtio-ports/kiln.agent; do sleep 0.2; done
%s >&3
sleep 3600
END
systemd-run --quiet --no-block bash /run/port.sh
sleep 1
kill -9 $PPID
"""

BLOCKING_UNIT = """cat > /etc/systemd/system/never-ends.service <<'END'
[Unit]
Before=multi-user.target
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
END
systemctl enable never-ends.service
"""


class Case:
    """A build that fails, and how."""

    def __init__(self, name, script, says, code=1, stage="provision", step="Meet", meddle=None, **more):
        self.name, self.script, self.says, self.code, self.stage = name, script, says, code, stage
        self.step, self.meddle = step, meddle
        self.parent = more.get("parent", BASE)
        self.settings = more.get("settings", "")
        self.reboot = more.get("reboot", False)
        self.small_home = more.get("small_home", False)
        self.limit = more.get("limit", 900)

    def document(self):
        steps = [f"      - name: Meet\n        action: ExecuteBash\n        inputs:\n          commands:\n            - |\n"]
        steps += [f"              {line}\n" for line in self.script.splitlines()]
        if self.reboot:
            steps += ["      - {name: Again, action: Reboot, inputs: {delaySeconds: 0}}\n"]
        return "name: fault\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n" + "".join(steps)

    def recipe(self):
        settings = f"network: none, memory: 512{self.settings}"
        return (f"name: fault-{self.name}\nversion: 1.0.0\nparentImage: {self.parent}\n"
                f"components: [./fault.yml]\nimageTestsConfiguration: {{imageTestsEnabled: false}}\n"
                f"kiln: {{{settings}}}\n")


class Home:
    def __init__(self, kiln, path):
        self.kiln, self.path = kiln, pathlib.Path(path).resolve()

    def command(self, *arguments):
        return [self.kiln, "--home", str(self.path), *arguments]

    def machines(self):
        return machines(self.path)

    def build(self, case, folder, meddle=None):
        """Runs the build; `meddle` is called when its step has begun. Returns exit code, screen, seconds."""
        (folder / "fault.yml").write_text(case.document())
        (folder / "recipe.yaml").write_text(case.recipe())
        argv = self.command("--progress", "plain", "build", "--rebuild", str(folder / "recipe.yaml"))
        begun, screen = time.monotonic(), []
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        watchdog = threading.Timer(case.limit, process.send_signal, [signal.SIGQUIT])
        watchdog.start()
        for line in process.stdout:
            screen.append(line)
            if meddle and re.search(r" step \d+/\d+ .*/Meet \(", line):
                meddle(self)
                meddle = None
        code = process.wait()
        watchdog.cancel()
        return code, "".join(screen), time.monotonic() - begun

    def image(self, name):
        listing = subprocess.run(self.command("--format", "json", "image", "list"), capture_output=True, text=True)
        assert listing.returncode == 0, f"image list: {listing.stdout}{listing.stderr}"
        found = [i for i in json.loads(listing.stdout)["images"] if i["name"] == name]
        return found[-1] if found else {"status": "not there", "reason": None}


def kill_qemu(home):
    for pid in home.machines():
        os.kill(pid, signal.SIGKILL)


def fill_but(leave):
    """Somebody else fills the disk that kiln's home is on, but for so many MiB."""
    def fill(home):
        with open(home.path / "filler", "wb", buffering=0) as filler:
            for size in (1 << 20, 4096, 1):
                try:
                    while shutil.disk_usage(home.path).free > leave << 20:
                        filler.write(b"x" * size)
                except OSError:
                    pass
    return fill


WRITE_MUCH = "dd if=/dev/zero of=/big bs=1M count=400 conv=fsync"
HOST_FULL = [r"this host .*No space left", r"next: .*room on this host"]
HANG = {"settings": ", timeouts: {boot: 300}", "code": 124}
CASES = [
    Case("qemu-killed", FOREVER, [r"QEMU ended unasked \(signal: 9", r"next: .*memory"], code=7, meddle=kill_qemu),
    Case("agent-killed", "kill -9 $PPID; " + FOREVER, [r"the agent in the guest has ended; the guest still runs"], limit=150),
    Case("host-disk-fills", WRITE_MUCH, HOST_FULL, code=7, small_home=True, meddle=fill_but(64)),
    Case("host-disk-full", WRITE_MUCH, HOST_FULL, code=7, small_home=True, meddle=fill_but(0)),
    Case("guest-disk-full", "set -e; dd if=/dev/zero of=/big bs=1M", [r"the guest's disk is full", r"next: .*volumeSize"]),
    Case("panic", "echo c > /proc/sysrq-trigger; " + FOREVER, [r"kernel panicked", r"sysrq"]),
    Case("reboot-at-once", "echo b > /proc/sysrq-trigger; " + FOREVER, [r"guest rebooted", r"next: .*194"]),
    Case("reboot-orderly", "systemctl reboot; " + FOREVER, [r"guest rebooted", r"next: .*194"]),
    Case("reboot-and-go-on", "systemctl reboot", [r"guest rebooted", r"next: .*194"], stage="seal", step=None),
    Case("power-off", "systemctl poweroff; " + FOREVER, [r"guest powered off"]),
    Case("garbage", WRITE_TO_PORT % "head -c 300M /dev/urandom", [r"broke the protocol"]),
    Case("flood", WRITE_TO_PORT % "cat /dev/zero", [r"broke the protocol"]),
    Case("frame-of-4-gib", WRITE_TO_PORT % r"printf 'K\x01\x00\x00\x01\x00\x00\x00\xff\xff\xff\xff'", [r"broke the protocol", r"4294967295"]),
    Case("hang-after-reboot", BLOCKING_UNIT, [r"never-ends.service"], step="Again", reboot=True, **HANG),
    Case("hang-in-boot", "true", [r"never-ends.service"], stage="boot", step=None, parent="fault-never-ends", **HANG),
]
PARENT = Case("never-ends", BLOCKING_UNIT, [])
GOOD = Case("none", "echo all is well > /etc/well", [])


def wrong_with(case, code, screen, seconds):
    """What is not as it should be of a failure: nothing, or a list."""
    wrong = []
    if code != case.code:
        wrong.append(f"exit code {code}, not {case.code}")
    _, found, failure = screen.rpartition("\nerror: ")
    if not found:
        wrong.append("there is no error")
    failure = found + failure
    wrong += [f"does not say /{text}/" for text in [*case.says, r"  next: "] if not re.search(text, failure)]
    place = {"stage": case.stage}
    if case.step:
        place.update(component="fault", phase="build", step=case.step)
    for name, value in place.items():
        if not re.search(rf"^  {name} +{value}", failure, re.M):
            wrong.append(f"does not name {name} {value}")
    if seconds > case.limit:
        wrong.append(f"took {seconds:.0f} s")
    return wrong


def left_behind(home, case):
    wrong = []
    limit = time.monotonic() + 10
    while home.machines() and time.monotonic() < limit:
        time.sleep(0.1)
    if home.machines():
        wrong.append(f"QEMU is alive: {home.machines()}")
    image = home.image(f"fault-{case.name}")
    if image["status"] != "FAILED" or not image["reason"]:
        wrong.append(f"the image is {image['status']}: {image['reason']}")
    left = [str(p) for p in (home.path / "builds").rglob("*.qcow2")]
    return wrong + ([f"left {left}"] if left else [])


class SmallHome(Home):
    """A home on a file system that has little room beyond its base."""

    def __init__(self, home, folder):
        super().__init__(home.kiln, tempfile.mkdtemp(dir=folder))
        parts = [home.path / "appliance", *(home.path / "bases").glob(f"{BASE}-*")]
        used = sum(f.stat().st_blocks * 512 for p in parts for f in p.rglob("*"))
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={used + (1200 << 20)}", "kiln-faults", self.path], check=True)
        for part in parts:
            shutil.copytree(part, self.path / part.relative_to(home.path))

    def end(self):
        subprocess.run(["umount", self.path], check=True)


def run(home, case, folder):
    where = SmallHome(home, folder) if case.small_home else home
    try:
        code, screen, seconds = where.build(case, folder, case.meddle)
        print(f"--- {case.name}: exit {code} after {seconds:.0f} s\n{screen}", flush=True)
        (where.path / "filler").unlink(missing_ok=True)
        wrong = wrong_with(case, code, screen, seconds) + left_behind(where, case)
    finally:
        if case.small_home:
            where.end()
    print("".join(f"    WRONG: {w}\n" for w in wrong), flush=True)
    return (case.name, code, seconds, wrong)


def succeed(home, case, folder):
    code, screen, seconds = home.build(case, folder)
    assert code == 0, f"{case.name} ended with {code}:\n{screen}"
    return (case.name, code, seconds, [])


def main():
    if os.geteuid() != 0:
        os.execvp("unshare", ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv])
    home, names = Home(os.path.abspath(sys.argv[1]), sys.argv[2]), sys.argv[3:]
    unknown = set(names) - {case.name for case in CASES}
    assert not unknown, f"no case is called {unknown}"
    cases = [case for case in CASES if not names or case.name in names]
    (home.path / "tmp").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.path / "tmp") as folder:
        folder = pathlib.Path(folder)
        rows = []
        if any(case.parent != BASE for case in cases):
            rows.append(succeed(home, PARENT, folder))
        rows += [run(home, case, folder) for case in cases]
        rows.append(succeed(home, GOOD, folder))
    print(f"{'case':<26} {'exit':>4} {'s':>5}  verdict")
    for name, code, seconds, wrong in rows:
        print(f"{name:<26} {code:>4} {seconds:>5.0f}  {'; '.join(wrong) or 'as it should be'}")
    sys.exit(any(wrong for *_, wrong in rows))


main()

#!/usr/bin/env python3
"""kill -9 of kiln at random moments of a build: nothing is lost and nothing is left.

usage: kills.py KILN HOME [KILLS] [SEED]

HOME holds the base image debian-12-minimal. One build runs through first and
tells how long a build takes; then so many are killed, each at a random moment
of that time. After each kill: no QEMU of this home is alive, the catalog is
whole, the next command says FAILED of the killed image and leaves no disk of
it. At the end a build runs through again.
"""
import json, os, pathlib, random, signal, sqlite3, subprocess, sys, tempfile, time

RECIPE = """name: kills
version: 1.0.0
parentImage: debian-12-minimal
components: [./kills.yml]
kiln: {network: none, memory: 512}
"""
DOCUMENT = """name: kills
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: Write, action: ExecuteBash, inputs: {commands: [set -e, 'seq 1 20000 > /etc/kills']}}
"""


class Trial:
    def __init__(self, kiln, home):
        self.home = pathlib.Path(home).resolve()
        self.argv = [kiln, "--home", str(self.home), "--progress", "none"]
        self.folder = tempfile.TemporaryDirectory(dir=self.home / "tmp")
        for name, text in (("recipe.yaml", RECIPE), ("kills.yml", DOCUMENT)):
            pathlib.Path(self.folder.name, name).write_text(text)
        self.recipe = str(pathlib.Path(self.folder.name, "recipe.yaml"))

    def build(self):
        return subprocess.Popen([*self.argv, "build", "--rebuild", self.recipe], stdout=subprocess.PIPE, text=True)

    def whole_build(self):
        begun, process = time.monotonic(), self.build()
        process.communicate()
        assert process.returncode == 0, f"a build nobody killed ended with {process.returncode}"
        return time.monotonic() - begun

    def machines(self):
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"qemu-system" in line and bytes(self.home) in line:
                found.append(entry.name)
        return found

    def look_after(self, when):
        limit = time.monotonic() + 10
        while self.machines():
            assert time.monotonic() < limit, f"killed after {when:.2f} s: QEMU outlived kiln: {self.machines()}"
            time.sleep(0.05)
        catalog = self.home / "catalog.db"
        if catalog.exists():
            state = sqlite3.connect(catalog).execute("pragma integrity_check").fetchone()
            assert state == ("ok",), state
        listing = subprocess.run([*self.argv, "--format", "json", "image", "list"], capture_output=True, text=True)
        assert listing.returncode == 0, listing.stderr
        for image in json.loads(listing.stdout)["images"]:
            assert image["status"] in ("AVAILABLE", "FAILED", "CANCELLED"), image
        left = [p for p in (self.home / "builds").rglob("*.qcow2")]
        assert not left, f"killed after {when:.2f} s: left {left}"


def main():
    kiln, home = sys.argv[1:3]
    kills = int(sys.argv[3]) if len(sys.argv) > 3 else 50
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else time.time_ns()
    chance = random.Random(seed)
    trial = Trial(os.path.abspath(kiln), home)
    span = trial.whole_build()
    print(f"a build takes {span:.1f} s; {kills} kills, seed {seed}", flush=True)
    for number in range(1, kills + 1):
        when = chance.uniform(0, span)
        process = trial.build()
        try:
            process.wait(when)
            how = "it was through by then"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            how = "killed"
        process.communicate()
        trial.look_after(when)
        print(f"{number:>3} after {when:6.2f} s: {how}, nothing left", flush=True)
    print(f"and a whole build again: {trial.whole_build():.1f} s")


main()

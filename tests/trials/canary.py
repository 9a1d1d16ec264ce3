#!/usr/bin/env python3
"""Layers are right: what lives only in memory is missed where a layer does not have it.

usage: canary.py KILN HOME

HOME holds the base image debian-12-minimal. A canary is a component that needs what the one
before it left in memory (a file in /run, a sysctl, a running unit, and a file in /tmp). With
`needs: live` a cold build and one after an edit of it both work, and the plan refuses to start
between the two. Without, the edit's build fails, says that it started from a layer, and works with
--no-cache.
"""
import json, os, pathlib, shutil, subprocess, sys, tempfile

BASE = "debian-12-minimal"
LEAVES = """echo sings > /tmp/canary
echo sings > /run/canary
echo 7 > /proc/sys/vm/swappiness
systemd-run --quiet --unit=canary sleep 100000"""
NEEDS = """grep -q sings /tmp/canary || { echo /tmp is not what it was; exit 11; }
grep -q sings /run/canary || { echo /run is not what it was; exit 12; }
test $(cat /proc/sys/vm/swappiness) = 7 || { echo the sysctl is not what it was; exit 13; }
systemctl is-active canary || { echo the unit is not what it was; exit 14; }
echo heard > /etc/canary"""


class Site:
    def __init__(self, kiln, source, work):
        self.kiln, self.home, self.work = kiln, work / "home", work
        for name in ("bases", "appliance"):
            shutil.copytree(source / name, self.home / name, copy_function=os.link)

    def run(self, *arguments):
        command = [self.kiln, "--home", str(self.home), *arguments]
        done = subprocess.run(command, cwd=self.work, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def json(self, *arguments, codes=(0,)):
        code, out, said = self.run("--format", "json", *arguments)
        assert code in codes, f"{arguments}: {code}: {out}{said}"
        return json.loads(out)

    def build(self, recipe, *options):
        """Exit code, components whose steps ran, the screen and the notes."""
        code, out, said = self.run("--progress", "json", "build", recipe, *options)
        events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        ran = [e["component"] for e in events if e["type"] == "stepStarted"]
        notes = [e["text"] for e in events if e["type"] == "note"]
        return code, ran, "\n".join([out, *(l for l in said.splitlines() if not l.startswith("{")), *notes])

    def write(self, name, text):
        (self.work / name).write_text(text)

    def document(self, name, script):
        lines = "".join(f"              {line}\n" for line in script.splitlines())
        head = f"name: {name}\nschemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n      - name: Run\n"
        head += "        action: ExecuteBash\n        inputs:\n          commands:\n            - |\n              set -e\n"
        self.write(f"{name}.yml", head + lines)


def recipe(name, components, settings="network: none, memory: 512"):
    tests = "imageTestsConfiguration: {imageTestsEnabled: false}\n"
    return f"name: {name}\nversion: 1.0.0\nparentImage: {BASE}\ncomponents: [{components}]\n{tests}kiln: {{{settings}}}\n"


def canary(site):
    site.document("leaves", LEAVES)
    site.document("needs", NEEDS)
    site.write("live.yaml", recipe("live", "./leaves.yml, {component: ./needs.yml, needs: live}"))
    code, ran, said = site.build("live.yaml")
    assert (code, ran) == (0, ["leaves", "needs"]), said
    site.document("needs", NEEDS + "\necho again >> /etc/canary")
    plan = site.json("plan", "live.yaml")
    assert [c["layer"] for c in plan["components"]] == [False, False], plan
    why = plan["components"][0]["why"]
    assert why == "needs needs what is in memory after it (needs: live)", why
    code, ran, said = site.build("live.yaml")
    assert (code, ran) == (0, ["leaves", "needs"]), said
    print(f"needs: live: cold and after an edit both work; the plan says: {why}", flush=True)

    site.document("needs", NEEDS)
    site.write("cold.yaml", recipe("cold", "./leaves.yml, ./needs.yml"))
    # By its parts it is the recipe before: its layers would do.
    code, ran, said = site.build("cold.yaml", "--no-cache")
    assert (code, ran) == (0, ["leaves", "needs"]), said
    site.document("needs", NEEDS + "\necho once more >> /etc/canary")
    code, ran, said = site.build("cold.yaml")
    assert (code, ran) == (1, ["needs"]), said
    assert "started from the layer after leaves: --no-cache tells whether that matters" in said, said
    code, ran, said = site.build("cold.yaml", "--no-cache")
    assert (code, ran) == (0, ["leaves", "needs"]), said
    print("without it: the build from the layer fails and says so; --no-cache works", flush=True)


def main():
    kiln, source = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory(prefix="canary-", dir=source.parent) as work:
        site = Site(kiln, source, pathlib.Path(work))
        canary(site)


if __name__ == "__main__":
    main()

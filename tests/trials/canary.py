#!/usr/bin/env python3
"""Layers are right: what a build gets from them is what it would have made.

usage: canary.py KILN HOME

HOME holds the base image debian-12-minimal. First a canary: a component that needs what the one
before it left in memory (a file in /run, a sysctl, a running unit, and a file in /tmp). With
`needs: live` a cold build and one after an edit of it both work, and the plan refuses to start
between the two. Without, the edit's build fails, says that it started from a layer, and works with
--no-cache. Then one recipe, built cold, from a layer, from a warm state and in the appliance: the
same packages and the same files, but for those on a list, each with its cause.
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
INSTALL = """export DEBIAN_FRONTEND=noninteractive
dpkg -i /var/tmp/debs/*.deb
rm -rf /var/tmp/debs
useradd --system canary
systemctl enable fstrim.timer"""
CONFIGURE = """echo canary > /etc/canary
seq 1 5000 > /var/lib/canary"""

# Paths that may differ between two images of one recipe, and why.
BUILDS = [
    ("/etc/shadow-", "useradd's backup of the file before, written at the day's date"),
    ("/etc/ld.so.cache", "ldconfig writes it anew in the order in which it meets the libraries"),
    ("/var/cache/ldconfig/aux-cache", "times and inodes of libraries"),
    ("/var/log/", "what happened when"),
    ("/var/lib/systemd/", "catalogues and time stamps of systemd's own"),
    ("/var/lib/dpkg/status-old", "dpkg's own backup"),
    ("/var/lib/dpkg/info/format", "dpkg's own"),
    ("/var/backups/", "what dpkg's daily job keeps"),
    ("/etc/machine-id", "of the machine"),
    ("/etc/.updated", "systemd's note of when /usr was looked at"),
    ("/var/.updated", "systemd's note of when /usr was looked at"),
]
# More where one of the two was made without a boot.
BOOTS = BUILDS + [
    ("/etc/resolv.conf", "services write it when they run"),
    ("/var/lib/dbus/", "written by services when they start first"),
    ("/var/lib/private/", "made by services when they start first"),
    ("/var/tmp/", "folders that services had for themselves"),
    ("/var/lib/lastlog", "made at the first log-in"),
    ("/lost+found", "of the file system"),
]


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
        """Exit code, components whose steps ran, the screen."""
        code, out, said = self.run("--progress", "json", "build", recipe, *options)
        events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        ran = [e["component"] for e in events if e["type"] == "stepStarted"]
        return code, ran, out + "".join(l + "\n" for l in said.splitlines() if not l.startswith("{"))

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


def compared(site, one, other, allowed):
    found = site.json("image", "diff", one, other, "--all", codes=(0, 1))
    assert found["packages"] == [], found["packages"]
    assert found["kernelArguments"] == {"removed": [], "added": []}
    causes, rest = {}, []
    for file in found["files"]:
        cause = next((c for path, c in allowed if file["path"] == path or file["path"].startswith(path)), None)
        causes.setdefault(cause, []).append(file["path"])
        if cause is None:
            rest.append((file["path"], file["differs"]))
    for cause, paths in sorted((c, p) for c, p in causes.items() if c):
        print(f"    {len(paths):>3} x {cause}: {paths[0]}")
    assert not rest, f"{one} and {other} differ without a cause: {rest}"


def same(site):
    debs = site.work / "debs"
    debs.mkdir()
    subprocess.run(["apt-get", "-q", "download", "hello"], cwd=debs, check=True, stdout=subprocess.DEVNULL)
    site.document("install", INSTALL)
    site.document("configure", CONFIGURE)
    install = "{component: ./install.yml, files: [{source: ./debs, destination: /var/tmp/debs}]}"
    settings = "network: none, memory: 512"
    site.write("same.yaml", recipe("same", f"{install}, ./configure.yml", settings))
    images = {}
    for kind, options in (("cold", ["--no-cache"]), ("layer", ["--no-cache-from", "configure"])):
        code, ran, said = site.build("same.yaml", *options)
        assert code == 0 and ran == (["install", "configure"] if kind == "cold" else ["configure"]), said
        images[kind] = site.json("image", "list")["images"][-1]["image"]
    for kind, more in (("warm", ", warm: true"), ("appliance", ", run: appliance")):
        site.write(f"{kind}.yaml", recipe(f"same-{kind}", f"{install}, ./configure.yml", settings + more))
        # The first makes the warm state, the second begins with it.
        for _ in range(2 if kind == "warm" else 1):
            code, ran, said = site.build(f"{kind}.yaml", "--no-cache")
            assert (code, ran) == (0, ["install", "configure"]), said
        images[kind] = f"same-{kind}"
    for kind in ("layer", "warm", "appliance"):
        print(f"cold against {kind}:", flush=True)
        compared(site, images["cold"], images[kind], BOOTS if kind == "appliance" else BUILDS)


def main():
    kiln, source = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory(prefix="canary-", dir=source.parent) as work:
        site = Site(kiln, source, pathlib.Path(work))
        canary(site)
        same(site)


main()

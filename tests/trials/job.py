#!/usr/bin/env python3
"""The reference job of bench/, made in every way that there is; and what versions cost in the store.

usage: job.py KILN HOME LAB [--only ways|sizes] [--versions N]

  ways   in LAB (bench/run.py's folder; laid out where it is missing) the job is built cold, from its
         layers, from a warm state and in the appliance: the same packages, the same files but for those
         on a list, each with its cause, and each image passes the job's test in a fresh machine
  sizes  so many versions (default 10) of an image, each with 50 MB of its own, on debian-12-minimal of
         HOME: the store holds no more than these and 12 MB for each version
"""
import argparse, os, pathlib, shutil, sys, tempfile

from canary import Site

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))
from lab import SCRIPTS, Lab
from prepare import prepare

MB = 1_000_000
PAYLOAD = 50 * MB
# What a version may cost beside its payload.
BESIDE = 12 * MB

# Paths that may differ between two images of one recipe, and why.
BUILDS = [("/var/log/", "what happened when")]
# More where one of the two was made without a boot.
BOOTS = BUILDS + [
    ("/var/lib/systemd/", "folders and time stamps of systemd's own"),
    ("/var/lib/dbus/", "written by services when they start first"),
]


def job(site, lab, name, settings):
    """A recipe of the job with its test, which is run in a fresh machine."""
    folder = BENCH / "reference-job"
    for document in ("provision.yml", "install.yml", "check.yml"):
        shutil.copy(folder / document, site.work)
    script = (folder / "40-test.sh").read_text()
    site.document("fresh", script)
    text = (site.work / "fresh.yml").read_text().replace("name: build", "name: test")
    site.write("fresh.yml", text)
    recipe = (folder / "recipe.yaml").read_text()
    recipe = recipe.replace("@INPUTS@", lab.path("inputs")).replace("@LAST@", lab.path("inputs", SCRIPTS[-1]))
    recipe = recipe.replace("name: reference-job", f"name: {name}", 1)
    recipe = recipe.replace("imageTestsConfiguration:\n  imageTestsEnabled: false\n", "  - component: ./fresh.yml\n")
    recipe = recipe.replace("  exports: ['@OUT@']\n", settings)
    site.write(f"{name}.yaml", recipe)
    return f"{name}.yaml"


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


def trial_ways(options, work):
    lab = Lab(options.lab)
    prepare(lab, options.kiln)
    site = Site(options.kiln, pathlib.Path(lab.home), work)
    all_three = ["provision", "install", "check"]

    def build(recipe, *switches):
        code, ran, said = site.build(recipe, *switches)
        assert code == 0, said
        ran = list(dict.fromkeys(ran))
        assert ran[-1] == "fresh", ran
        return ran[:-1], "woke from a warm state" in said

    recipe = job(site, lab, "job", "")
    assert build(recipe, "--no-cache") == (all_three, False)
    assert build(recipe, "--no-cache-from", "install") == (all_three[1:], False)
    images = {"cold": "job/1.0.0/1", "layers": "job/1.0.0/2", "warm": "job-warm", "appliance": "job-appliance"}
    recipe = job(site, lab, "job-warm", "  warm: true\n")
    # The first makes the warm state, the second begins with it.
    for woke in (False, True):
        assert build(recipe, "--no-cache") == (all_three, woke)
    recipe = job(site, lab, "job-appliance", "  run: appliance\n")
    assert build(recipe, "--no-cache") == (all_three, False)
    print("each passes the job's test in a fresh machine", flush=True)
    for kind in ("layers", "warm", "appliance"):
        print(f"cold against {kind}:", flush=True)
        compared(site, images["cold"], images[kind], BOOTS if kind == "appliance" else BUILDS)


def stored(site):
    """Bytes that the store takes on the disk, but for bases, the appliance and warm states, which are told apart."""
    kinds = site.json("store", "df")["kinds"]
    apart = {"bases", "appliance", "warmStates"}
    return sum(k["bytes"] for k in kinds if k["kind"] not in apart), {k["kind"]: k["bytes"] for k in kinds if k["bytes"]}


def trial_sizes(options, work):
    site = Site(options.kiln, options.home, work)
    site.document("common", "seq 1 200000 > /opt/common")
    site.document("own", "sync")
    for number in range(1, options.versions + 1):
        (work / "payload").write_bytes(os.urandom(PAYLOAD))
        site.write(
            "sizes.yaml",
            f"name: sizes\nversion: 1.0.{number}\nparentImage: debian-12-minimal\ncomponents:\n  - component: ./common.yml\n"
            "  - component: ./own.yml\n    files: [{source: ./payload, destination: /opt/payload}]\n"
            "imageTestsConfiguration: {imageTestsEnabled: false}\n"
            f"kiln: {{network: none, memory: 512, run: {options.lane}}}\n",
        )
        code, ran, said = site.build("sizes.yaml")
        assert code == 0, said
        total, kinds = stored(site)
        print(f"{number:>3} {total / MB:8.1f} MB stored; {', '.join(ran)} ran; {kinds}", flush=True)
    limit = options.versions * (PAYLOAD + BESIDE)
    assert total <= limit, f"{total / MB:.1f} MB are more than {limit / MB:.1f}"


TRIALS = {"ways": trial_ways, "sizes": trial_sizes}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kiln", type=os.path.abspath)
    parser.add_argument("home", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("lab", type=os.path.abspath)
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--lane", choices=["appliance", "booted"], default="booted")
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=options.home.parent) as work:
            TRIALS[name](options, pathlib.Path(work))


main()

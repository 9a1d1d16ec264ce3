#!/usr/bin/env python3
"""The store under two kilns and under kill -9, on the tiny base.

usage: layers.py KILN HOME [--only NAME ...] [--races N] [--merges N] [--prunes N] [--seed N]

  races    so many times (default 100) one kiln prunes all it may, at a random moment, while another
           builds from a layer: the build works, and its image has all its components, in order
  merges   so many kills (default 20) around the moment when a chain of layers is merged
  prunes   one kill right before and one right after each write of a prune to the catalog, and so
           many (default 20) at random moments of one

After each kill everything is as kills.py asks for, `kiln store verify` finds no damage, and the next
build is whole.
"""
import argparse, json, os, pathlib, random, shutil, signal, subprocess, tempfile, time

import kills
from kills import at_each_write, tiny_site, writes_of

DOCUMENT = """name: NAME
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: Write, action: ExecuteBash, inputs: {commands: [set -e, 'echo NAME >> /etc/order', 'seq 1 SIZE > /etc/NAME']}}
"""


def recipe_of(work, count):
    """A recipe of so many components, and their names."""
    names = [f"part-{number:02}" for number in range(1, count + 1)]
    for name in names:
        edit(work, name, 20000)
    recipe = work / "parts.yaml"
    recipe.write_text(
        f"name: parts\nversion: 1.0.0\nparentImage: tiny\ncomponents: [{', '.join(f'./{n}.yml' for n in names)}]\n"
        "imageTestsConfiguration: {imageTestsEnabled: false}\n"
        "kiln: {network: none, memory: 128, run: appliance, exports: [parts.raw]}\n"
    )
    return recipe, names


def edit(work, name, size):
    (work / f"{name}.yml").write_text(DOCUMENT.replace("NAME", name).replace("SIZE", str(size)))


def look_at_image(work, names):
    raw = work / "parts.raw"
    order = subprocess.run(["debugfs", "-R", "cat /etc/order", raw], capture_output=True, text=True, check=True)
    assert order.stdout.split() == names, order.stdout
    check = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def look_at_store(site):
    code, out, said = site.run("--format", "json", "store", "verify")
    assert code == 0 and json.loads(out)["damage"] == [], out + said


def good(site, *arguments):
    code, out, said = site.run("--format", "json", "--progress", "none", *arguments)
    assert code == 0, out + said
    return json.loads(out)


def restored(kept, target):
    shutil.rmtree(target)
    shutil.copytree(kept, target, symlinks=True)


def forget_images(site):
    images = [i["image"] for i in good(site, "image", "list")["images"]]
    if images:
        code, _, said = site.run("image", "remove", *images)
        assert code == 0, said


def trial_races(options, work):
    site, _ = tiny_site(options.kiln, options.home, work)
    recipe, names = recipe_of(work, 3)
    begun = time.monotonic()
    good(site, "build", str(recipe))
    span, chance = time.monotonic() - begun, random.Random(options.seed)
    print(f"a build takes {span:.1f} s; {options.races} races, seed {options.seed}", flush=True)
    started, pruned = {}, 0
    for number in range(1, options.races + 1):
        # Nothing but the build itself keeps the layers.
        forget_images(site)
        edit(work, names[-1], 20000 + number)
        build = site.start("--progress", "json", "build", "--rebuild", str(recipe))
        # Mostly around the moment between the plan and its build.
        time.sleep(chance.uniform(0, 0.6) if chance.random() < 0.8 else chance.uniform(0, span))
        dropped = good(site, "store", "prune", "--all")["dropped"]
        out, said = build.communicate()
        assert build.returncode == 0, said
        ran = [e["component"] for e in kills.events(said.splitlines()) if e["type"] == "stepStarted"]
        started[len(ran)] = started.get(len(ran), 0) + 1
        pruned += len(dropped)
        look_at_image(work, names)
        site.look_at_catalog()
        print(f"{number:>3} {len(dropped)} layers dropped, {len(ran)} of 3 components ran", flush=True)
    look_at_store(site)
    print(f"    {pruned} layers dropped; components that ran: {started}", flush=True)
    assert pruned and len(started) > 1, "nobody ever got in anybody's way"


def trial_merges(options, work):
    site, _ = tiny_site(options.kiln, options.home, work)
    recipe, names = recipe_of(work, 18)
    good(site, "build", str(recipe))
    look_at_image(work, names)
    chance = random.Random(options.seed)
    where = {}
    for number in range(1, options.merges + 1):
        # The seventeenth again: from the sixteenth's layer, a chain that is to be merged.
        forget_images(site)
        edit(work, names[16], 20000 + number)
        build = site.start("--progress", "none", "build", str(recipe))
        # The merged file comes and goes within a second.
        limit = time.monotonic() + 60
        while not list((site.home / "builds").glob("parts-*/merged.qcow2")):
            assert build.poll() is None and time.monotonic() < limit, build.communicate()
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 1.0))
        build.send_signal(signal.SIGKILL)
        build.communicate()
        site.look_after()
        look_at_store(site)
        merged = bool(list((site.home / "builds").glob("parts-*/merged.qcow2")))
        assert not merged, "a half-merged file is left"
        plan = good(site, "plan", str(recipe))
        layers = sum(c["layer"] for c in plan["components"])
        where[layers] = where.get(layers, 0) + 1
        good(site, "build", str(recipe))
        look_at_image(work, names)
        print(f"{number:>3} killed; the next build began after component {layers}; all in order", flush=True)
    print(f"    builds after a kill began after component: {where}", flush=True)


def trial_prunes(options, work):
    site, _ = tiny_site(options.kiln, options.home, work)
    recipe, names = recipe_of(work, 4)
    good(site, "build", str(recipe))
    forget_images(site)
    full = work / "full"
    shutil.copytree(site.home, full, symlinks=True)
    prune = ["store", "prune", "--all"]
    count = writes_of(site, work, *prune)
    assert count >= 3, f"{count} writes are no prune"

    def pruning(at):
        restored(full, site.home)
        return site.run(*prune, at=at)[0]

    def look_after():
        done = site.look_after()
        look_at_store(site)
        return done

    at_each_write("a prune", count, pruning, look_after)
    chance = random.Random(options.seed)
    for number in range(1, options.prunes + 1):
        restored(full, site.home)
        process = site.start(*prune)
        time.sleep(chance.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        look_after()
        plan = good(site, "plan", str(recipe))
        print(f"{number:>3} killed, {sum(c['layer'] for c in plan['components'])} of 4 layers left", flush=True)
    good(site, "build", str(recipe))
    look_at_image(work, names)


TRIALS = {"races": trial_races, "merges": trial_merges, "prunes": trial_prunes}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kiln", type=os.path.abspath)
    parser.add_argument("home", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--races", type=int, default=100)
    parser.add_argument("--merges", type=int, default=20)
    parser.add_argument("--prunes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="layers-", dir=options.home.parent) as work:
            work = pathlib.Path(work)
            kills.make_shim(work)
            TRIALS[name](options, work)


main()

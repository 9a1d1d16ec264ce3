#!/usr/bin/env python3
"""kill -9 of kiln: nothing is lost, nothing is left.

usage: kills.py KILN HOME [--only NAME ...] [--random N] [--layers N] [--demo N] [--seed N]

  random   so many kills at random moments of random stages of a build of a tiny image (default 50)
  layers   so many kills while layers are kept and while builds start from them (default 30): each
           next build goes on from what was kept, and its image is the same as that of a cold one
  wakes    so many kills while the appliance wakes from its memory, or is kept for the first time
           (default 20): the next build wakes or boots, and does not meet a half state
  writes   one right before and one right after each write to the catalog: of such a build, of the
           first command in a new home, of the command that cleans up after a killed build
  demo     so many kills at random moments of random stages of the demo's recipe, examples/nginx
           (default 3)

HOME holds the base debian-12; everything happens in homes of the trial's
own beside it. After each kill: no QEMU of the home is alive 10 s later; the next command works and
says FAILED of the killed image; the catalog is sound and knows of nothing that goes on; every stored
file has its row and its digest, every row its file; no disk and no half-written file is left. At the
end a build runs through.
"""
import argparse, collections, hashlib, json, os, pathlib, random, shutil, signal, sqlite3, subprocess, tempfile, threading, time

from qemus import machines

HERE = pathlib.Path(__file__).resolve().parent
TINY = """name: kills
version: 1.0.0
parentImage: tiny
components: [./kills.yml]
imageTestsConfiguration: {imageTestsEnabled: false}
kiln: {network: none, memory: 128, run: appliance, exports: [kills.raw]}
"""
DOCUMENT = """name: kills
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: Write, action: ExecuteBash, inputs: {commands: [set -e, 'seq 1 20000 > /etc/kills', 'sleep 1']}}
"""


class Site:
    """A home folder and a recipe to build in it."""

    def __init__(self, kiln, source, work, bases=()):
        self.home = work / "home"
        self.command = [kiln, "--home", str(self.home)]
        link_tree(source / "appliance", self.home / "appliance")
        for base in (source / "bases").iterdir():
            if base.name.rpartition("-")[0] in bases:
                link_tree(base, self.home / "bases" / base.name)
        self.digests = {}

    def start(self, *arguments, at=None):
        environment = dict(os.environ)
        if at:
            environment |= {"LD_PRELOAD": str(SHIM), "KILL_AT": at}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*self.command, *arguments], env=environment, **pipes)

    def run(self, *arguments, at=None):
        process = self.start(*arguments, at=at)
        out, said = process.communicate()
        return process.returncode, out, said

    def build(self, recipe, *options):
        return self.start("--progress", "json", "build", *(options or ["--no-cache"]), str(recipe))

    def whole_build(self, recipe, *options):
        """Returns how long each stage takes, in s, and at last the end after them."""
        process = self.build(recipe, *options)
        out, said = process.communicate()
        assert process.returncode == 0, f"a build nobody killed ended with {process.returncode}: {said}"
        left = list(recipe.parent.glob(".*.unfinished"))
        assert not left, f"a killed export left {left}, and the next one too"
        spans = {e["stage"]: e["wallMs"] / 1000 for e in events(said.splitlines()) if e["type"] == "stageEnded"}
        return spans | {END: 0.1}

    def machines(self):
        return machines(self.home)

    def look_after(self):
        """Checks everything, and returns where the build was that has been put in order."""
        limit = time.monotonic() + 10
        while self.machines():
            assert time.monotonic() < limit, f"QEMU outlived kiln: {self.machines()}"
            time.sleep(0.05)
        code, out, said = self.run("--format", "json", "image", "list")
        assert code == 0, said
        for image in json.loads(out)["images"]:
            assert image["status"] in ("AVAILABLE", "FAILED", "CANCELLED"), image
        self.look_at_catalog()
        left = [p for name in ("*.qcow2", "*.unfinished", "*.raw") for p in (self.home / "builds").rglob(name)]
        left += [p for name in ("tmp", "runs") for p in (self.home / name).iterdir()]
        left += list(self.home.rglob("*.unfinished"))
        assert not left, f"left: {left}"
        return "cleaned up" if "cleaned up" in said else "nothing to clean up"

    def look_at_catalog(self):
        catalog = sqlite3.connect(self.home / "catalog.db")
        ask = lambda sql: catalog.execute(sql).fetchall()
        assert ask("pragma integrity_check") == [("ok",)]
        assert ask("pragma foreign_key_check") == []
        assert ask("select id from builds where ended is null") == []
        assert ask("select what from undo") == []
        assert ask("select * from pins") == []
        rows = {d: (name or f"{d}.{kind}") for d, kind, name in ask("select digest, format, file from artifacts")}
        disks = {d for (d,) in ask("select disk from images where disk is not null and status = 'AVAILABLE'")}
        layers = {d for (d,) in ask("select disk from layers")}
        catalog.close()
        assert disks | layers <= rows.keys(), (disks | layers) - rows.keys()
        files = {p.name for p in (self.home / "artifacts").iterdir()}
        for digest, name in rows.items():
            assert name in files, f"{name} has a row and is gone"
            assert self.digest(self.home / "artifacts" / name) == digest, f"{name} is not what its name says"
            files -= {name, f"{digest}.blocks", f"{digest}.packages"}
        assert not files, f"without a row: {files}"

    def digest(self, path):
        """Each file is read once: stored ones are not written to."""
        status = path.stat()
        key = (status.st_ino, status.st_mtime_ns, status.st_size)
        if key not in self.digests:
            with open(path, "rb") as file:
                self.digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self.digests[key]

    def last_state(self):
        """What the newest build was doing when it was put in order."""
        catalog = sqlite3.connect(self.home / "catalog.db")
        try:
            row = catalog.execute("select detail from journal where entry = 'reconciled' order by id desc").fetchone()
        finally:
            catalog.close()
        return row[0] if row else "nothing"


END = "the end"


def events(lines):
    """The events among a build's lines."""
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)


def reaches(process, stage):
    """Reads a build's events until the stage begins; afterwards somebody reads on."""
    wanted = {"type": "buildEnded"} if stage == END else {"type": "stageStarted", "stage": stage}
    said = collections.deque(maxlen=40)
    lines = (said.append(line) or line for line in process.stderr)
    found = any(wanted.items() <= event.items() for event in events(lines))
    assert found, f"the build ended before {stage}:\n{''.join(said)}"
    threading.Thread(target=process.stderr.read, daemon=True).start()


def link_tree(source, target):
    shutil.copytree(source, target, copy_function=os.link)


def tiny_site(kiln, source, work):
    site = Site(kiln, source, work)
    subprocess.run([str(HERE.parent / "tiny-base.sh"), str(work)], check=True)
    code, _, said = site.run("base", "import", str(work / "tiny.raw"), "--name", "tiny", "--firmware", "bios")
    assert code == 0, said
    for name, text in (("recipe.yaml", TINY), ("kills.yml", DOCUMENT)):
        (work / name).write_text(text)
    # Later builds wake the appliance that the first one keeps, and are faster by that.
    site.whole_build(work / "recipe.yaml")
    return site, work / "recipe.yaml"


def at_random(site, recipe, spans, kills, chance):
    """Kills at random moments of random stages, and tells at what each build was."""
    stages = collections.Counter()
    for number in range(1, kills + 1):
        stage = chance.choice(list(spans))
        when = chance.uniform(0, spans[stage])
        process = site.build(recipe)
        reaches(process, stage)
        time.sleep(when)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = site.look_after()
        what = site.last_state() if done == "cleaned up" else "through already"
        stages[what] += 1
        print(f"{number:>3} {stage} + {when:5.2f} s: {what}; all in order", flush=True)
    for what, times in sorted(stages.items()):
        print(f"    {times:>3} x {what}")


def at_each_write(name, count, run, look):
    """`run(at)` is killed before and after each of its writes; `look` checks what is left."""
    assert count, f"{name}: no writes"
    for number in range(1, count + 1):
        for side in ("before", "after"):
            code = run(f"{side} {number}")
            assert code == -signal.SIGKILL, f"{name}: {side} write {number} of {count} it ended with {code}"
            look()
    print(f"{name}: {count} writes, killed before and after each: all in order", flush=True)


def writes_of(site, work, *arguments):
    counted = work / "writes"
    counted.unlink(missing_ok=True)
    code, _, said = site.run(*arguments, at=f"count {counted}")
    assert code == 0, said
    return len(counted.read_bytes())


def told(spans):
    return f"{sum(spans.values()):.1f} s (" + ", ".join(f"{s} {t:.1f}" for s, t in spans.items()) + ")"


def trial_random(options, work):
    site, recipe = tiny_site(options.kiln, options.home, work)
    spans = site.whole_build(recipe)
    print(f"a tiny build takes {told(spans)}; {options.random} kills, seed {options.seed}", flush=True)
    at_random(site, recipe, spans, options.random, random.Random(options.seed))
    print(f"and a whole build again: {told(site.whole_build(recipe))}", flush=True)


LAYERED = """name: kills
version: 1.0.0
parentImage: tiny
components: [./one.yml, ./two.yml, ./three.yml]
imageTestsConfiguration: {imageTestsEnabled: false}
kiln: {network: none, memory: 128, run: appliance, exports: [kills.raw]}
"""
ONE_OF_THEM = """name: NAME
schemaVersion: 1.0
phases:
  - name: build
    steps:
      - {name: Write, action: ExecuteBash, inputs: {commands: [set -e, 'printf "NAME " >> /etc/order', 'seq 1 20000 > /etc/NAME']}}
"""
ORDER = "one two three "


def trial_layers(options, work):
    site, _ = tiny_site(options.kiln, options.home, work)
    recipe = work / "layered.yaml"
    recipe.write_text(LAYERED)
    for name in ORDER.split():
        (work / f"{name}.yml").write_text(ONE_OF_THEM.replace("NAME", name))
    cold = site.whole_build(recipe)
    chance, stages, steps = random.Random(options.seed), collections.Counter(), collections.Counter()
    print(f"a layered build takes {told(cold)}; {options.layers} kills, seed {options.seed}", flush=True)
    for number in range(1, options.layers + 1):
        # Another first, second or third component: the build begins at another layer.
        edited = chance.choice(ORDER.split())
        text = ONE_OF_THEM.replace("NAME", edited)
        (work / f"{edited}.yml").write_text(text.replace("20000", str(20000 + number)))
        process = site.build(recipe, "--rebuild")
        stage = chance.choice(["prepare", "provision", "provision", "provision", "seal"])
        reaches(process, stage)
        time.sleep(chance.uniform(0, cold[stage]))
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = site.look_after()
        stages[site.last_state() if done == "cleaned up" else "through already"] += 1
        process = site.build(recipe, "--rebuild")
        out, said = process.communicate()
        assert process.returncode == 0, said
        ran = [e["component"] for e in events(said.splitlines()) if e["type"] == "stepStarted"]
        assert ran == ORDER.split()[len(ORDER.split()) - len(ran):], ran
        steps[len(ran)] += 1
        order = subprocess.run(
            ["debugfs", "-R", "cat /etc/order", work / "kills.raw"], capture_output=True, text=True, check=True
        )
        assert order.stdout == ORDER, order.stdout
        check = subprocess.run(["e2fsck", "-fn", work / "kills.raw"], capture_output=True, text=True)
        assert check.returncode == 0, check.stdout
        print(f"{number:>3} {edited} edited, {stage}; then {len(ran)} of 3 ran; all in order", flush=True)
    for what, times in sorted(stages.items()):
        print(f"    {times:>3} x {what}")
    assert len(steps) > 1, f"every build ran as many components: {steps}"


def trial_wakes(options, work):
    site, recipe = tiny_site(options.kiln, options.home, work)
    spans = site.whole_build(recipe)
    warm, chance, outcomes = site.home / "warm", random.Random(options.seed), collections.Counter()
    for number in range(1, options.wakes + 1):
        first = chance.random() < 0.5
        if first:
            shutil.rmtree(warm)
        process = site.build(recipe)
        reaches(process, "prepare")
        # To be kept it boots, is laid down and wakes.
        time.sleep(chance.uniform(0, spans["prepare"] * (3 if first else 1)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        site.look_after()
        process = site.build(recipe)
        said = process.communicate()[1]
        assert process.returncode == 0, said
        assert "no warm start" not in said, said
        outcome = "kept anew" if "warm for the next time" in said else "woke"
        outcomes["first time: " * first + outcome] += 1
        print(f"{number:>3} killed while {'it was kept' if first else 'it woke'}; the next {outcome}", flush=True)
    print(f"    {dict(outcomes)}", flush=True)


def trial_writes(options, work):
    site, recipe = tiny_site(options.kiln, options.home, work)
    build = ["build", "--no-cache", str(recipe)]
    site.whole_build(recipe)
    count = writes_of(site, work, *build)
    stages = collections.Counter()

    def look():
        site.look_after()
        stages[site.last_state()] += 1

    at_each_write("a build", count, lambda at: site.run(*build, at=at)[0], look)
    for what, times in sorted(stages.items()):
        print(f"    {times:>3} x {what}")

    # The first command of a new home makes the catalog.
    new = work / "new"
    new.mkdir()
    fresh = Site(options.kiln, options.home, new)
    first = new / "kept"
    shutil.copytree(fresh.home, first)

    def restored(kept, target):
        shutil.rmtree(target)
        shutil.copytree(kept, target, symlinks=True)

    count = writes_of(fresh, work, "image", "list")

    def first_command(at):
        restored(first, fresh.home)
        return fresh.run("image", "list", at=at)[0]

    at_each_write("the first command in a home", count, first_command, fresh.look_after)

    # A build that was killed while its components ran, and the command that cleans up after it.
    logs = lambda: set((site.home / "builds").glob("*/steps/*Write.log"))
    known, process = logs(), site.build(recipe)
    while logs() == known:
        assert process.poll() is None, "the build ended before its step"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    dead = work / "dead"
    while site.machines():
        time.sleep(0.05)
    shutil.copytree(site.home, dead, symlinks=True)
    count = writes_of(site, work, "image", "list")
    assert count >= 2, f"{count} writes are no clean-up"

    def cleaning_up(at):
        restored(dead, site.home)
        return site.run("image", "list", at=at)[0]

    at_each_write("cleaning up after a killed build", count, cleaning_up, site.look_after)
    print(f"and a whole build again: {told(site.whole_build(recipe))}", flush=True)


def trial_demo(options, work):
    site = Site(options.kiln, options.home, work, bases=["debian-12"])
    example = work / "nginx"
    shutil.copytree(HERE.parents[1] / "examples/nginx", example)
    recipe = example / "recipe.yaml"
    spans = site.whole_build(recipe)
    print(f"the demo's build takes {told(spans)}; {options.demo} kills, seed {options.seed}", flush=True)
    at_random(site, recipe, spans, options.demo, random.Random(options.seed))
    print(f"and a whole build again: {told(site.whole_build(recipe))}", flush=True)


TRIALS = {
    "random": trial_random,
    "layers": trial_layers,
    "wakes": trial_wakes,
    "writes": trial_writes,
    "demo": trial_demo,
}


def make_shim(work):
    global SHIM
    SHIM = work / "kill_at_write.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", SHIM, HERE / "kill_at_write.c", "-ldl"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kiln", type=os.path.abspath)
    parser.add_argument("home", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--random", type=int, default=50)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--wakes", type=int, default=20)
    parser.add_argument("--demo", type=int, default=3)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    # Also makes the appliance where it is missing.
    look = [options.kiln, "--home", str(options.home), "base", "inspect", "debian-12"]
    subprocess.run(look, check=True, stdout=subprocess.DEVNULL)
    for name in options.only:
        # Beside the home: hard links, and a name that QEMU's command lines tell apart.
        with tempfile.TemporaryDirectory(prefix="kills-", dir=options.home.parent) as work:
            work = pathlib.Path(work)
            make_shim(work)
            TRIALS[name](options, work)


if __name__ == "__main__":
    main()

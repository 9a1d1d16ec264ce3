#!/usr/bin/env python3
"""Exports of one disk: kiln beside qemu-img, medians of interleaved runs.

    bench/exports.py [--runs 5] [--disk DISK.qcow2] [--cores 1,2] [--work DIR]

Without --disk a disk is made of this machine's programs, libraries and
documents (about 600 MB of real files in an ext4 file system). CPU seconds count
every process that a command starts, also those it leaves behind. kiln's numbers
include reading every file back and comparing it, and making it durable;
qemu-img does neither, so `qemu-img + compare` is there too.
"""

import argparse
import ctypes
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36
TREES = ["/usr/bin", "/usr/lib/python3", "/usr/lib/gcc", "/usr/share/doc", "/usr/share/perl"]
GROUND = 640 << 20

# name: (arguments of qemu-img convert, arguments of kiln's export)
FORMATS = {
    "raw": (["-W", "-m", "8", "-O", "raw"], "raw"),
    "qcow2": (["-O", "qcow2"], "qcow2"),
    "qcow2-zstd": (["-O", "qcow2", "-c", "-o", "compression_type=zstd"], "qcow2-zstd"),
    "vmdk": (["-O", "vmdk", "-o", "subformat=streamOptimized"], "vmdk"),
    "vhd": (["-O", "vpc", "-o", "subformat=fixed,force_size=on"], "vhd"),
    "vhd-dynamic": (["-O", "vpc", "-o", "subformat=dynamic,force_size=on"], "vhd-dynamic"),
}
QEMU_NAME = {"qcow2-zstd": "qcow2", "vhd": "vpc", "vhd-dynamic": "vpc"}


def measure(argv, core_list):
    """(CPU seconds, wall seconds) of a command and all its descendants."""
    begun = time.monotonic()
    child = subprocess.Popen(["taskset", "-c", core_list, *map(str, argv)], stdout=subprocess.DEVNULL)
    cpu = 0.0
    failed = None
    wall = 0.0
    while True:
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        cpu += usage.ru_utime + usage.ru_stime
        if pid == child.pid:
            wall = time.monotonic() - begun
            failed = status
    if failed != 0:
        sys.exit(f"failed ({failed}): {' '.join(map(str, argv))}")
    return cpu, wall


def make_disk(work):
    """A qcow2 with an ext4 of real files, about 600 MB, the same on every run of one machine."""
    disk, raw = work / "disk.qcow2", work / "disk.raw"
    if disk.exists():
        return disk
    tree = work / "tree"
    size = 0
    for source in TREES:
        for folder, _, names in os.walk(source):
            for name in sorted(names):
                path = pathlib.Path(folder, name)
                if path.is_symlink() or not path.is_file() or size > GROUND:
                    continue
                target = tree / path.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                size += path.stat().st_size
    with open(raw, "wb") as file:
        file.truncate(2 << 30)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, raw], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    shutil.rmtree(tree)
    raw.unlink()
    return disk


def build_kiln():
    subprocess.run(["cargo", "build", "--release", "--locked", "--example", "export"], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release/examples/export"


def jobs(kiln, disk, work):
    """name: list of commands, run one after the other"""
    all_formats = {}
    out = work / "out"
    kiln_all = [kiln, disk]
    qemu_all = []
    for name, (qemu, own) in FORMATS.items():
        theirs, ours = out / f"qemu.{name}", out / f"kiln.{name}"
        convert = ["qemu-img", "convert", "-f", "qcow2", *qemu, disk, theirs]
        driver = QEMU_NAME.get(name, name)
        compare = ["qemu-img", "compare", "-f", "qcow2", "-F", driver, disk, theirs]
        all_formats[f"{name}: qemu-img"] = [convert]
        all_formats[f"{name}: qemu-img + compare"] = [convert, compare]
        all_formats[f"{name}: kiln"] = [[kiln, disk, own, ours]]
        kiln_all += [own, ours]
        qemu_all.append(convert)
    all_formats["all: qemu-img"] = qemu_all
    all_formats["all: kiln"] = [kiln_all]
    return all_formats


def missed(results, sizes):
    """What is not reached of what exports are meant to reach."""
    for cores in ("1", "2"):
        cpu = {name.split(",")[0]: value["cpu"] for name, value in results.items() if f", {cores} core" in name}
        vmdk, theirs = cpu.get("vmdk: kiln"), cpu.get("vmdk: qemu-img")
        if vmdk and vmdk > theirs / 2:
            yield f"VMDK on {cores} core(s): {vmdk} CPU s are more than half of {theirs}"
        both = [cpu.get("raw: qemu-img"), theirs, cpu.get("all: kiln")]
        if all(both) and both[2] > 1.5 * (both[0] + both[1]):
            yield f"all formats on {cores} core(s): {both[2]} CPU s, raw and VMDK by qemu-img {both[0]} + {both[1]}"
    walls = [results.get(f"vmdk: kiln, {cores} core(s)", {}).get("wall") for cores in (1, 2)]
    if all(walls) and walls[1] >= walls[0]:
        yield f"VMDK takes {walls[1]} s on two cores, {walls[0]} s on one"
    for name in FORMATS:
        theirs, ours = sizes.get(f"qemu.{name}"), sizes.get(f"kiln.{name}")
        if theirs and ours and ours > 1.03 * theirs:
            yield f"{name}: {ours} bytes, {theirs} by qemu-img"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--disk", type=pathlib.Path)
    parser.add_argument("--cores", default="1,2", help="how many cores to try, e.g. 1,2,4")
    parser.add_argument("--only", help="formats to try, e.g. vmdk,raw,all")
    parser.add_argument("--kiln", type=pathlib.Path, help="program to measure [default: build it]")
    parser.add_argument("--work", type=pathlib.Path, default=os.environ.get("KILN_BENCH_HOME"))
    parser.add_argument("--json", action="store_true", help="print numbers only")
    options = parser.parse_args()
    work = pathlib.Path(options.work or tempfile.mkdtemp(prefix="kiln-bench-", dir="/var/tmp")) / "exports"
    (work / "out").mkdir(parents=True, exist_ok=True)
    # Orphans come to us, so that their CPU time is counted.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    kiln = options.kiln or build_kiln()
    disk = options.disk or make_disk(work)
    table = jobs(kiln, disk, work)
    if options.only:
        only = options.only.split(",")
        table = {name: commands for name, commands in table.items() if name.split(":")[0] in only}
    results = {}
    sizes = {}
    for cores in map(int, options.cores.split(",")):
        if cores > len(os.sched_getaffinity(0)):
            continue
        core_list = ",".join(map(str, sorted(os.sched_getaffinity(0), reverse=True)[:cores]))
        samples = {name: [] for name in table}
        for _ in range(options.runs):
            for name, commands in table.items():
                for old in (work / "out").iterdir():
                    old.unlink()
                parts = [measure(argv, core_list) for argv in commands]
                samples[name].append((sum(p[0] for p in parts), sum(p[1] for p in parts)))
                for file in (work / "out").iterdir():
                    sizes[file.name] = file.stat().st_blocks * 512
        for name, values in samples.items():
            cpu, wall = (statistics.median(v[i] for v in values) for i in (0, 1))
            results[f"{name}, {cores} core(s)"] = {"cpu": round(cpu, 2), "wall": round(wall, 2)}
    shutil.rmtree(work / "out")
    if options.json:
        print(json.dumps({"results": results, "allocated": sizes}))
        return
    print(f"{'':44} {'CPU s':>8} {'wall s':>8}   (medians of {options.runs} interleaved runs)")
    for name, value in results.items():
        print(f"{name:44} {value['cpu']:8.2f} {value['wall']:8.2f}")
    print(f"\n{'MB on the host':44} {'qemu-img':>8} {'kiln':>8} {'ratio':>8}")
    for name in FORMATS:
        theirs, ours = sizes.get(f"qemu.{name}"), sizes.get(f"kiln.{name}")
        if theirs and ours:
            print(f"{name:44} {theirs / 1e6:8.1f} {ours / 1e6:8.1f} {ours / theirs:8.3f}")
    if found := list(missed(results, sizes)):
        sys.exit("\n".join(["", "goals missed:", *found]))


if __name__ == "__main__":
    main()

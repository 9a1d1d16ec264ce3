#!/usr/bin/env python3
"""From `kiln shell BASE -- true` to its end, booted and woken: wall time, and CPU time of kiln, of QEMU and
of all they started.

usage: bench/warm.py [--rounds N] [--kiln PROGRAM] [--base NAME] HOME
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import time

PR_SET_CHILD_SUBREAPER = 36


def measured(command):
    """Wall and CPU seconds until the last of its processes has ended, and wall seconds until it has."""
    begun = time.monotonic()
    before = os.times()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read().decode()
    code = child.wait()
    wall = time.monotonic() - begun
    # A machine that kiln kills as it goes becomes ours, and so does its time.
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    after = os.times()
    if code != 0:
        raise SystemExit(f"{command}: {code}\n{said}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kiln", default="target/release/kiln")
    parser.add_argument("--base", default="debian-12-minimal")
    parser.add_argument("home")
    given = parser.parse_args()
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise SystemExit("prctl(PR_SET_CHILD_SUBREAPER) failed")
    shell = [given.kiln, "--home", given.home, "--progress", "plain", "shell", given.base]
    wall, cpu, _ = measured(shell + ["--", "true"])
    print(f"(first, or woken already: {wall:.2f} s wall, {cpu:.2f} CPU s)", flush=True)
    kinds = {"booted": shell + ["--no-warm", "--", "true"], "woken": shell + ["--", "true"]}
    results = {kind: [] for kind in kinds}
    for number in range(given.rounds):
        for kind, command in kinds.items():
            wall, cpu, said = measured(command)
            if (kind == "woken") != ("woke from a warm state" in said):
                raise SystemExit(f"{kind} it was not:\n{said}")
            results[kind].append((wall, cpu))
            print(f"{number + 1} {kind}: {wall:.2f} s wall, {cpu:.2f} CPU s", flush=True)
    for kind, runs in results.items():
        for index, what in enumerate(["wall", "CPU"]):
            values = [run[index] for run in runs]
            low, high = min(values), max(values)
            print(f"{kind:7} {what:4} median {statistics.median(values):6.2f} s   ({low:.2f} to {high:.2f})")


main()

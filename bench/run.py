#!/usr/bin/env python3
"""The reference job, competitor against competitor. See README.md."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

from lab import HERE, JOB, Guest, Lab, fresh, overlay
from prepare import prepare

COMPETITORS = [
    "raw-ssh",
    "micro",
    "kiln",
    "kiln-appliance",
    "micro-rebuild",
    "kiln-edit",
    "kiln-appliance-edit",
    "packer",
]
FLOOR = "raw-ssh"


def measure(command, core, log, environment):
    """Runs a command on one core; CPU seconds are those of all that it started and waited for."""
    begun = time.monotonic()
    with open(log, "wb") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "exit": process.returncode,
        "cpu": usage.ru_utime + usage.ru_stime,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "wall": time.monotonic() - begun,
        "peakMiB": usage.ru_maxrss / 1024,
    }


def round_of(name, number, lab, options):
    out = fresh(lab.path("out", name))
    log = lab.path("logs", f"{name}-{number}.log")
    command = [sys.executable, os.path.join(HERE, "runners", f"{name}.py"), lab.folder, out]
    result = measure(command, options.core, log, os.environ | {"KILN": options.kiln})
    disk = os.path.join(out, "out.qcow2")
    if result["exit"] == 0 and not os.path.exists(disk):
        result["exit"] = "no out.qcow2"
    if result["exit"] != 0:
        sys.exit(f"{name} failed ({result['exit']}); see {log}")
    result |= {"competitor": name, "round": number, "outputMiB": os.stat(disk).st_blocks / 2048}
    result["load"] = os.getloadavg()[0]
    return result


def test(name, lab):
    """A fresh machine from what the competitor made last must pass the job's test."""
    folder = fresh(lab.path("test", name))
    disk = os.path.join(folder, "disk.qcow2")
    overlay(lab.path("out", name, "out.qcow2"), disk)
    guest = None
    try:
        # Sealing takes keys away.
        guest = Guest(lab, disk, folder, key_from_outside=True)
        with open(os.path.join(JOB, "40-test.sh")) as script:
            done = guest.ssh("bash -s", stdin=script, stdout=subprocess.PIPE, text=True)
        guest.power_off()
    except (Exception, SystemExit) as problem:
        print(f"{name}: its machine could not be tested: {problem}", file=sys.stderr)
        return False
    finally:
        if guest:
            guest.kill()
    return "TEST-PASS" in done.stdout


def save(lab, results, passed):
    with open(lab.path("results.json"), "w") as file:
        json.dump({"results": results, "passed": passed}, file, indent=1)


def table(results, names, passed):
    lines = ["| competitor | runs | CPU s (min-max) | user + system | wall s | peak MiB | output MiB | x raw-ssh | test |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")

    def column(name, field):
        return [r[field] for r in results if r["competitor"] == name]

    floor = statistics.median(column(FLOOR, "cpu")) if FLOOR in names else None
    for name in names:
        cpu = column(name, "cpu")
        middle = {f: statistics.median(column(name, f)) for f in ("cpu", "user", "system", "wall", "peakMiB", "outputMiB")}
        ratio = f"{middle['cpu'] / floor:.2f}" if floor else "-"
        verdict = {True: "pass", False: "FAIL", None: "-"}[passed.get(name)]
        lines.append(
            f"| {name} | {len(cpu)} | {middle['cpu']:.1f} ({min(cpu):.1f}-{max(cpu):.1f}) "
            f"| {middle['user']:.1f} + {middle['system']:.1f} | {middle['wall']:.0f} | {middle['peakMiB']:.0f} "
            f"| {middle['outputMiB']:.0f} | {ratio} | {verdict} |"
        )
    return "\n".join(lines)


def arguments():
    root = os.path.dirname(HERE)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="names of competitors, with commas: " + ", ".join(COMPETITORS))
    parser.add_argument("--kiln", default=os.path.join(root, "target/release/kiln"))
    parser.add_argument("--lab", default=os.path.join(root, "target/bench"), help="folder to work in, kept")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="core to run on")
    parser.add_argument("--no-test", action="store_true", help="do not start the results")
    options = parser.parse_args()
    options.kiln = os.path.abspath(options.kiln)
    return options


def main():
    options = arguments()
    if options.only:
        names = options.only.split(",")
        if unknown := set(names) - set(COMPETITORS):
            sys.exit(f"no competitor {', '.join(sorted(unknown))}: there are {', '.join(COMPETITORS)}")
    else:
        names = [n for n in COMPETITORS if n != "packer" or shutil.which("packer")]
    if not os.path.exists(options.kiln):
        sys.exit(f"no kiln at {options.kiln}: cargo build --release, or --kiln PATH")
    lab = Lab(options.lab)
    prepare(lab, options.kiln)
    for folder in ("logs", "out", "test"):
        os.makedirs(lab.path(folder), exist_ok=True)
    results, passed = [], {}
    for number in range(1, options.rounds + 1):
        for name in names:
            result = round_of(name, number, lab, options)
            results.append(result)
            print(f"round {number} {name:14} {result['cpu']:7.1f} CPU s {result['wall']:7.1f} s", file=sys.stderr, flush=True)
        save(lab, results, passed)
    for name in [] if options.no_test else names:
        passed[name] = test(name, lab)
    save(lab, results, passed)
    text = table(results, names, passed)
    with open(lab.path("results.md"), "w") as file:
        file.write(text + "\n")
    print(text)
    if not all(passed.values()):
        sys.exit("a result did not pass its test")


if __name__ == "__main__":
    main()

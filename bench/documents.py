#!/usr/bin/env python3
"""What component documents cost: validating many, and surviving hostile ones.

usage: documents.py [KILN] [--runs N]

CPU seconds of `kiln component validate` on 1,000 documents of 200 lines (the
goal is less than 1), then the peak resident size of kiln on each hostile input
(the goal is less than 256 MiB). Exit code 1 when a goal is missed.
"""
import argparse, os, pathlib, shutil, subprocess, tempfile, time

DOCUMENTS, LINES = 1000, 200
CPU_GOAL, MEMORY_GOAL = 1.0, 256


def ordinary(number):
    """A document as people write them: scripts, files, chaining, a loop, a condition."""
    lines = [f"name: document-{number}", "description: One of many", "schemaVersion: 1.0", "parameters:",
             "  - Package:", "      type: string", "      default: nginx", "phases:", "  - name: build", "    steps:"]
    step = 0
    while len(lines) + 21 + 10 <= LINES:
        step += 1
        lines += [f"      - name: Install{step}", "        action: ExecuteBash", "        timeoutSeconds: 600",
                  "        onFailure: Abort", "        inputs:", "          commands:", "            - set -eu",
                  f"            - echo 'step {step} of {{{{ Package }}}}'", "            - |", "              if command -v apt-get; then",
                  "                apt-get install -y '{{ Package }}'", "              fi",
                  f"      - name: Write{step}", "        action: CreateFile", "        if:",
                  f"          stringEquals: '{{{{ build.Install{step}.outputs.stdout }}}}'", "          value: ok",
                  "        inputs:", f"          - path: /etc/app/{step}.conf", "            content: a = b", "            permissions: 0644"]
    lines += ["  - name: validate", "    steps:", "      - name: Look", "        action: ExecuteBash", "        loop:",
              "          name: Each", "          forEach: [a, b]", "        inputs:", "          commands:",
              "            - test -e /etc/app/{{ Each.value }}"]
    lines += ["# The end."] * (LINES - len(lines))
    assert len(lines) == LINES
    return "\n".join(lines) + "\n"


def steps(text):
    return [f"schemaVersion: 1.0\nphases:\n  - name: build\n    steps:\n      - {text}\n"]


def hostile():
    """Name, document in pieces, whether it is run as well. Never a large piece: a child's peak is at least
    what its parent had when it was made."""
    head = "schemaVersion: 1.0\nphases: []\nname: "
    bomb = "a: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    for i in range(1, 20):
        bomb += f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n"
    yield "64 MiB of text", [head] + ["x" * (1 << 20)] * 64, False
    yield "10,000 nested lists", [head + "[" * 10_000], False
    yield "an alias bomb", [bomb], False
    yield "braces without end", steps("{name: Open, action: CreateFile, inputs: [{path: out, content: '" + "{{ " * 100_000 + "'}]}"), True
    yield "NUL bytes", steps('{name: Nul, action: CreateFile, inputs: [{path: "a\\0b", content: x}]}'), True
    yield "an expression on itself", steps("{name: Self, action: ExecuteBash, inputs: {commands: ['{{ build.Self.outputs.stdout }}']}}"), False
    yield "a loop of 2^31 in 5 s", steps("{name: Long, action: Assert, timeoutSeconds: 5, loop: {for: {start: 0, end: 2147483647, updateBy: 1}}, inputs: {stringIsEmpty: ''}}"), True
    # In lines of 16 KB: the log adds its own to every line, and the disk has to hold it.
    loud = "line=$(printf %016000d 7); for i in $(seq 125000); do echo $line; done"
    yield "2 GB of output", steps(f"{{name: Loud, action: ExecuteBash, inputs: {{commands: ['{loud}']}}}}"), True


def run(argv, cwd):
    """CPU seconds, wall seconds, peak MiB of kiln itself, exit code."""
    begun = time.monotonic()
    with open(os.devnull, "w") as nothing:
        process = subprocess.Popen(argv, cwd=cwd, stdout=nothing, stderr=nothing)
        _, status, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, time.monotonic() - begun, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kiln", nargs="?", default="target/release/kiln")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    kiln, missed = os.path.abspath(arguments.kiln), False
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        names = [f"{i:04}.yml" for i in range(DOCUMENTS)]
        for i, file in enumerate(names):
            (folder / file).write_text(ordinary(i))
        times = []
        for _ in range(arguments.runs):
            cpu, wall, peak, code = run([kiln, "--home", str(folder / "home"), "component", "validate", *names], folder)
            assert code == 0, f"valid documents were refused: {code}"
            times.append(cpu)
        times.sort()
        print(f"{DOCUMENTS} documents of {LINES} lines: {times[len(times) // 2]:.2f} CPU s (best {times[0]:.2f}, worst {times[-1]:.2f}), {peak:.0f} MiB")
        missed |= times[len(times) // 2] >= CPU_GOAL
        for what, pieces, runs in hostile():
            file = folder / "hostile.yml"
            with open(file, "w") as to:
                to.writelines(pieces)
            argv = [kiln, "--home", str(folder / "home"), "component"]
            if runs:
                argv += ["run", "--documents", str(file), "--log-directory", str(folder / "logs"), "--state-directory", str(folder / "state"), "--working-directory", str(folder)]
            else:
                argv += ["validate", str(file)]
            assert shutil.disk_usage(folder).free > 6 << 30, "the loudest input needs 6 GiB of disk"
            cpu, wall, peak, code = run(argv, folder)
            shutil.rmtree(folder / "logs", ignore_errors=True)
            print(f"{what:<26} exit {code}, {peak:>4.0f} MiB, {cpu:.1f} CPU s, {wall:.1f} s")
            missed |= peak >= MEMORY_GOAL or code < 0
    raise SystemExit(missed)


main()

"""The QEMUs that a kiln has started."""
import pathlib


def machines(home):
    """Process ids of every QEMU, system emulator or tool, that names the home folder on its command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"qemu" in line.split(b"\0")[0] and bytes(home) in line:
            found.append(int(entry.name))
    return found

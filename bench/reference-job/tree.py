#!/usr/bin/env python3
"""Makes the job's file tree: 299 files, 20 MiB, half noise and half text, always the same bytes."""

import os
import random
import sys

TOTAL = 20 * 1024 * 1024
SIZES = [700, 3000, 9000, 30000, 60000, 120000, 250000]


def content(rng, number, size):
    noise = rng.randbytes(size // 2)
    if number % 2:
        return noise + noise.hex().encode()[: size - len(noise)]
    return (b"config key = value %d\n" % number * (size // 16))[:size]


def main(folder):
    rng = random.Random(20120)
    total = number = 0
    while total < TOTAL:
        place = os.path.join(folder, f"d{number % 17:02d}", f"s{number % 5}")
        os.makedirs(place, exist_ok=True)
        data = content(rng, number, min(rng.choice(SIZES), TOTAL - total))
        path = os.path.join(place, f"f{number:05d}.dat")
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, 0o755 if number % 11 == 0 else 0o644)
        total += len(data)
        number += 1
    assert (number, total) == (299, TOTAL), (number, total)


if __name__ == "__main__":
    main(sys.argv[1])

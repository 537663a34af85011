"""Masks of a fleet: seconds a device, and whether the sum is that of the values, bit for bit.

Values of the size of the `total` form (packed Gram matrix of all classes, sum and count of each):
random integers below 2^50, as many as lite0 has. One thread.

Run: python benchmarks/fleet_masks.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import time

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgecl.fleet.masks import new_round, sit, unmask


def main() -> None:
    parser = argparse.ArgumentParser(description="Masks of a fleet.")
    parser.add_argument("--dim", default=1752, type=int, help="Width of the features.")
    parser.add_argument("--classes", default=100, type=int, help="Classes.")
    parser.add_argument("--devices", default=[3, 5, 10, 40], type=int, nargs="+", help="Devices.")
    options = parser.parse_args()
    d = options.dim
    n = d * (d + 1) // 2 + options.classes * (d + 1)
    print(f"{options.classes} classes of {d} features: {n:,} values, {8 * n / 1e6:.1f} MB\n")
    print(
        "| devices | masks: s a device, longest | sum: s | values that differ |\n|---|---|---|---|"
    )
    for count in options.devices:
        _measure(n, count)


def _measure(n: int, count: int) -> None:
    rng = np.random.default_rng(0)
    keys = {f"device-{i}": Ed25519PrivateKey.generate() for i in range(count)}
    members = {name: key.public_key().public_bytes_raw().hex() for name, key in keys.items()}
    round_id = new_round()
    turns = [sit("plant", round_id, name, "00" * 32, n, key) for name, key in keys.items()]
    seats, masked = [t.seat for t in turns], {}
    total, longest = np.zeros(n, np.int64), 0.0
    for turn in turns:
        values = rng.integers(-(1 << 50), 1 << 50, n)
        total += values
        began = time.perf_counter()
        masked[turn.seat.device] = turn.mask(seats, members, values.view(np.uint64))[1]
        longest = max(longest, time.perf_counter() - began)
    began = time.perf_counter()
    found = unmask(seats, masked)
    seconds = time.perf_counter() - began
    print(f"| {count} | {longest:.2f} | {seconds:.2f} | {np.count_nonzero(found != total)} |")


if __name__ == "__main__":
    main()

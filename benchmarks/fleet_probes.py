"""Probes of a fleet's merger: what they hold, and seconds of the CPU for a contribution that comes.

Held: scikit-learn's digits as they are (64 grey values), 20 probes of each, 30 rows of a digit from
a device (50 of a mislabelled one), other pictures in every round. What counts is one device of all
ten digits; where new classes come, one of three digits.

Cost: each of four devices sends ten rows of every class (a centre and noise, on the grid), and the
merger has ten probes of each. The first that is tried needs the sums of all that counts and two
solves; each one after it its own sums and one solve. One thread.

Run: python benchmarks/fleet_probes.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.datasets import load_digits

from edgecl.fleet.contribution import read, rows_part, write
from edgecl.fleet.gate import Gate
from edgecl.fleet.header import Contribution, digest
from edgecl.fleet.identity import public_hex
from edgecl.fleet.orders import Orders
from edgecl.fleet.plant import Plant, Policy, make_plant
from edgecl.fleet.probes import Probes, put_probes
from edgecl.fleet.sums import Layout
from edgecl.heads import head_config
from edgecl.heads.statistics import Gram
from edgecl.runtime.grid import quantise

_EACH = 10
Rows = Mapping[int, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description="Probes of a fleet's merger.")
    parser.add_argument("--dim", default=1752, type=int, help="Width of the features.")
    parser.add_argument(
        "--classes", default=[10, 100, 1000], type=int, nargs="+", help="Numbers of classes."
    )
    parser.add_argument("--rounds", default=50, type=int, help="Rounds of what is held.")
    options = parser.parse_args()
    print("| what comes | held | of |\n|---|---|---|")
    for what, n in _held(options.rounds).items():
        print(f"| {what} | {n} | {options.rounds} |")
    print("\n| classes | probes | MB of them | the first: s | each one after it: s |")
    print("|---|---|---|---|---|")
    for k in options.classes:
        _cost(options.dim, k)


class _World:
    """A merger with probes, and what devices send."""

    def __init__(self, folder: Path, d: int, probes: Rows) -> None:
        self._folder = folder
        home: Any = SimpleNamespace(
            manifest=SimpleNamespace(feature_map="f" * 64, num_features=d),
            config=SimpleNamespace(head=head_config("ridge")),
        )
        self.plant: Plant = make_plant(folder / "plant", home, None, Policy())
        self._ids = {c: Orders().id_of(self.plant.key, str(c)) for c in probes}
        order = sorted(probes, key=lambda c: self._ids[c])
        x = np.concatenate([probes[c] for c in order])
        y = np.repeat(np.arange(len(order)), [len(probes[c]) for c in order])
        put_probes(self.plant, Probes(tuple(self._ids[c] for c in order), x, y, "a" * 64))

    def sent(self, name: str, rows: Rows) -> Contribution:
        key, fleet = Ed25519PrivateKey.generate(), self.plant.fleet
        made = [rows_part(self._ids[c], str(c), x) for c, x in rows.items()]
        made.sort(key=lambda each: each[0].id)
        contribution = Contribution(
            fleet=fleet.id,
            device=name,
            key=public_hex(key),
            generation=1,
            order=0,
            receipt="",
            feature_map=fleet.feature_map,
            head="ridge",
            layout=Layout.of(Gram(fleet.dim)),
            parts=tuple(part for part, _ in made),
        )
        path = self._folder / f"{name}.efc"
        write(path, contribution, {part.digest: body for part, body in made}, key)
        return read(path)

    def gate(self, *sent: Contribution) -> Gate:
        return Gate(self.plant, Orders(), {digest(each): each for each in sent})


def _held(rounds: int) -> dict[str, int]:
    x, y = load_digits(return_X_y=True)
    x = quantise((x / 8).astype(np.float32))
    held: dict[str, int] = {}
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        own = [x[rng.permutation(np.flatnonzero(y == c))] for c in range(10)]
        a, b = rng.choice(10, 2, replace=False).tolist()
        with tempfile.TemporaryDirectory() as folder:
            world = _World(Path(folder), x.shape[1], {c: own[c][:20] for c in range(10)})
            all_ten = world.sent("all", {c: own[c][20:50] for c in range(10)})
            three = world.sent("three", {c: own[c][20:50] for c in range(3)})
            cases: dict[str, tuple[Contribution, Rows]] = {
                "the same ten digits": (all_ten, {c: own[c][50:80] for c in range(10)}),
                "one new digit": (three, {3: own[3][50:80]}),
                "seven new digits": (three, {c: own[c][50:80] for c in range(3, 10)}),
                "a digit that is called another": (all_ten, {b: own[a][50:100]}),
                "two digits, swapped": (all_ten, {a: own[b][50:100], b: own[a][50:100]}),
            }
            for i, (what, (before, rows)) in enumerate(cases.items()):
                new = world.sent(f"new-{i}", rows)
                with_it = frozenset({digest(before), digest(new)})
                why = world.gate(before, new).doubt(frozenset({digest(before)}), with_it)
                held[what] = held.get(what, 0) + bool(why)
    return held


def _cost(d: int, k: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = _World(Path(folder), d, {c: _rows(c, d, 9) for c in range(k)})
        sent = [world.sent(f"{i}", {c: _rows(c, d, i) for c in range(k)}) for i in range(4)]
        gate, digests, seconds = world.gate(*sent), [digest(each) for each in sent], []
        for n in (2, 3):
            began = time.process_time()
            gate.doubt(frozenset(digests[:n]), frozenset(digests[: n + 1]))
            seconds.append(time.process_time() - began)
        size = (world.plant.path / "probes.safetensors").stat().st_size / 1e6
        print(f"| {k} | {_EACH * k:,} | {size:.1f} | {seconds[0]:.1f} | {seconds[1]:.1f} |")


def _rows(class_: int, d: int, seed: int) -> np.ndarray:
    centre = np.random.default_rng(class_).gamma(1.0, 0.3, d)
    noise = np.random.default_rng([class_, seed]).normal(0, 0.3, (_EACH, d))
    return quantise(np.maximum(centre + noise, 0).astype(np.float32))


if __name__ == "__main__":
    main()

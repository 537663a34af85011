"""A fleet merged over a folder: seconds, memory, bytes, and how far it is from one place.

Devices are simulated: features are random, of the size of lite0's, on the grid of 2^-12. Merging is
`fleet serve --once`: every file read, checked, copied, added up, one head solved. "From one place"
is the largest difference of weights and bias to a head that learned all rows itself. "Next" is what
the first device sends then, with one new class, while its first file lies on the carrier.

Run: python benchmarks/fleet_folder.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors.numpy import load

from edgecl.fleet.carriers.folder import CONTRIBUTIONS, Folder
from edgecl.fleet.contribution import Contribution, encode, read, rows_part, write_pieces
from edgecl.fleet.identity import DeviceKeys, class_id
from edgecl.fleet.merged import arrays_file
from edgecl.fleet.merger import Merger
from edgecl.fleet.plant import Plant, Policy, make_plant
from edgecl.fleet.sums import Layout
from edgecl.heads import head_config, make_head
from edgecl.heads.statistics import Gram
from edgecl.runtime.grid import quantise
from edgecl.types import Float16

_MAP = "f" * 64


def main() -> None:
    parser = argparse.ArgumentParser(description="A fleet merged over a folder.")
    parser.add_argument("--dim", default=1752, type=int, help="Width of the features.")
    parser.add_argument("--classes", default=10, type=int, help="Classes of each device.")
    parser.add_argument("--rows", default=50, type=int, help="Samples of each class and device.")
    parser.add_argument("--devices", default=[3, 10, 100], type=int, nargs="+", help="Devices.")
    parser.add_argument("--distance", default=0.6, type=float, help="--most-distance of the fleet.")
    options = parser.parse_args()
    print("| devices | MB a device | next: kB | merge: s | CPU s | peak MB | from one place |")
    print("|---|---|---|---|---|---|---|")
    for n in options.devices:
        with tempfile.TemporaryDirectory() as folder:
            _measure(Path(folder), n, options)


def _rows(device: int, class_: int, options: argparse.Namespace) -> Float16:
    rng = np.random.default_rng([device, class_])
    centre = np.random.default_rng(class_).gamma(1.0, 2.0, options.dim)
    noise = rng.normal(0, 2, (options.rows, options.dim))
    return quantise(np.maximum(centre + noise, 0).astype(np.float32))


def _measure(folder: Path, n: int, options: argparse.Namespace) -> None:
    home: Any = SimpleNamespace(
        manifest=SimpleNamespace(feature_map=_MAP, num_features=options.dim),
        config=SimpleNamespace(head=head_config("ridge")),
    )
    plant = make_plant(folder / "plant", home, None, Policy(most_distance=options.distance))
    carrier, size = Folder(folder / "carrier", is_made=True), 0
    for i in range(n):
        own: Any = SimpleNamespace(key=i.to_bytes(32, "big"))
        keys = DeviceKeys.of(own)
        plant.add(f"device-{i}", keys.public)
        classes = {f"class-{c}": _rows(i, c, options) for c in range(options.classes)}
        size = max(size, _contribute(folder, plant, carrier, f"device-{i}", keys, classes))
    began, cpu = time.perf_counter(), time.process_time()
    merger = Merger(Plant(plant.path))
    merger.pull(carrier)
    merged, _ = merger.merge()
    merger.push(carrier)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    assert len(merged.devices) == n, merger.state().held
    path = arrays_file(merger.store, merged)
    assert path is not None
    gap = _gap(load(path.read_bytes()), [name for _, name, _ in merged.classes], n, options)
    own: Any = SimpleNamespace(key=bytes(32))
    classes = {f"class-{c}": _rows(0, c, options) for c in range(options.classes + 1)}
    (first,) = carrier.files(CONTRIBUTIONS, "device-0", suffix="efc")
    more = _contribute(folder, plant, carrier, "device-0", DeviceKeys.of(own), classes, read(first))
    assert merger.pull(carrier) == 1, merger.faults
    assert len(merger.merge()[0].classes) == options.classes + 1
    print(
        f"| {n} | {size / 1e6:.2f} | {more / 1e3:.0f} | {seconds:.1f} | {cpu:.1f} | {peak:.0f} "
        f"| {gap:g} |",
        flush=True,
    )


def _contribute(
    folder: Path,
    plant: Plant,
    carrier: Folder,
    name: str,
    keys: DeviceKeys,
    classes: Mapping[str, Float16],
    base: Contribution | None = None,
) -> int:
    made = [rows_part(class_id(plant.key, c, 0), c, x) for c, x in classes.items()]
    made.sort(key=lambda pair: pair[0].id)
    contribution = Contribution(
        fleet=plant.fleet.id,
        device=name,
        key=keys.key,
        generation=1 if base is None else 2,
        order=0,
        receipt="",
        feature_map=_MAP,
        head="ridge",
        layout=Layout.of(Gram(plant.fleet.dim)),
        parts=tuple(part for part, _ in made),
    )
    path = folder / "one.efc"
    bodies, without = {part.digest: body for part, body in made}, base.spans if base else ()
    write_pieces(path, encode(contribution, bodies, keys.sign, without))
    carrier.put(f"g{contribution.generation}", path, CONTRIBUTIONS, name, suffix="efc")
    return path.stat().st_size


def _gap(
    found: Mapping[str, np.ndarray], names: list[str], n: int, options: argparse.Namespace
) -> float:
    """Return the largest difference to a head that learned all rows in one place."""
    gram, moments = Gram(options.dim), {}
    for place, name in enumerate(names, 1):
        class_ = int(name.removeprefix("class-"))
        moments[place] = gram.of(np.concatenate([_rows(i, class_, options) for i in range(n)]))
    head = make_head("ridge", options.dim)
    head.restore(moments, None)
    whole = head.scorer(dict(enumerate(names, 1))).arrays()
    return max(float(np.abs(found[key] - whole[key]).max()) for key in ("weights", "bias"))


if __name__ == "__main__":
    main()

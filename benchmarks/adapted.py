"""What the second output costs: the engine that takes adapters beside the plain one, one thread.

Run: python benchmarks/adapted.py [--size 224] [--rounds 60]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
from pathlib import Path

import numpy as np

from edgecl.adapters.bottleneck import RANK, new_adapter
from edgecl.backbones import load_backbone
from edgecl.config import Config, ConsolidationConfig
from edgecl.exporters.onnx import init_home
from edgecl.runtime.adapters import GATE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=224, help="side of the input, pixels")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        backbone = load_backbone(image_size=options.size)
        home = init_home(Path(place) / "home", backbone, Config(), adapter_rank=RANK)
        plain, both = home.engine(), home.engine(takes_adapters=True)
        adapter = new_adapter(both.adapter_shapes)
        config = Config(consolidation=ConsolidationConfig(recipe="atoms"))
        other = init_home(Path(place) / "gates", backbone, config, adapter_rank=RANK)
        gates = other.engine(takes_adapters=True)
        engines = {
            "plain": plain,
            "plain and adapted": both.with_adapters(adapter),
            "and two adapters": both.with_adapters(adapter, adapter),
            "an engine with gates, shut": gates.with_adapters(adapter),
            "open": gates.with_adapters({**adapter, GATE: np.ones(1, np.float32)}),
        }
        sizes = [len(home.engine_bytes(has_adapters=has)) for has in (False, True)]
        print("| | batch 1, ms | of plain | batch 8, ms | of plain |\n|---|---|---|---|---|")
        times: dict[tuple[str, int], list[float]] = {}
        rng = np.random.default_rng(0)
        # In turn, since the machine is shared.
        for _ in range(options.rounds):
            for batch in (1, 8):
                x = rng.uniform(-1, 1, (batch, 3, options.size, options.size)).astype(np.float32)
                for name, engine in engines.items():
                    begin = time.perf_counter()
                    engine.run(x)
                    times.setdefault((name, batch), []).append(time.perf_counter() - begin)
        for name in engines:
            row = []
            for batch in (1, 8):
                median = float(np.median(times[name, batch]))
                row += [f"{1e3 * median:.1f}", f"{median / np.median(times['plain', batch]):.2f}"]
            print(f"| {name} | {' | '.join(row)} |")
        print(f"files: {sizes[0] / 1e6:.1f} and {sizes[1] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""Commands beside a busy stream: how long from handing a line over to its exit status.

A home at 224 pixels with 200 pictures of ten classes of Fashion-MNIST, and a process that learns a
labelled camera at 15 frames a second. Each command is handed over as the command line does it; the
start of the command's own process (0.6 s) is not in it. Prints the median, the 95th percentile and
the longest time of each kind, and of all that mend (relabel, rename, confirm, drop).

Run: python benchmarks/handover.py [--rounds N] [--fps F]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fashion_data
import numpy as np
from PIL import Image

from edgecl.config import Config
from edgecl.device import Device
from edgecl.exporters.onnx import init_home
from edgecl.exporters.shipped import shipped
from edgecl.serve.socket import Line, hand_over, is_served
from edgecl.store.table import Role

CLASSES, PER_CLASS = 10, 20
MENDING = ("relabel", "rename", "review confirm", "review drop")


def pictures(folder: Path) -> Path:
    """Write the first pictures of each class as PNG files, a folder a class."""
    x, y = fashion_data.load("train")
    for c in range(CLASSES):
        (folder / f"class-{c}").mkdir(parents=True)
        for i in np.flatnonzero(y == c)[:PER_CLASS]:
            Image.fromarray(x[i]).save(folder / f"class-{c}" / f"{i}.png")
    return folder


def answered(home: Path, *arguments: object) -> float:
    """Hand a line over; returns the seconds until it had ended well."""
    words = [*map(str, arguments), "--home", str(home)]
    begin = time.perf_counter()
    status = None
    for piece in hand_over(home, Line(words, folder=str(home.parent))) or ():
        status = piece.get("status", status)
    if status != 0:
        raise SystemExit(f"{' '.join(words)} ended with {status}")
    return time.perf_counter() - begin


def measured(home: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every command, by its name."""
    device = Device.open(home)
    uids = [s.uid for s in device.samples(role=Role.REPLAY) if s.source != "camera"]
    first = device.samples(role=Role.REPLAY)[-1].label
    found: dict[str, list[float]] = {}
    for i in range(rounds):
        lines: dict[str, tuple[object, ...]] = {
            "relabel": ("relabel", uids[i % len(uids)], f"mended-{i % 2}", "--new"),
            "rename": ("rename", first, f"renamed-{i}"),
            "review confirm": ("review", "confirm", uids[-1 - i % 20]),
            "review drop": ("review", "drop", "--all", "--yes"),
            "snapshot": ("snapshot",),
        }
        first = f"renamed-{i}"
        for name, line in lines.items():
            found.setdefault(name, []).append(answered(home, *line))
            time.sleep(0.2)
    for name in ("mended-0", "mended-1"):
        found.setdefault("forget class", []).append(answered(home, "forget", "class", name))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--fps", type=float, default=15)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        engine = shipped("tf_efficientnet_lite0")
        assert engine is not None
        init_home(home, engine, Config())
        Device.open(home).learn(str(pictures(Path(folder) / "parts")))
        code = "from edgecl.cli import main; main()"
        camera = f"synthetic:fps={chosen.fps:g},classes=4"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "train-stream", camera, "--home", str(home), "-q"],
            stdin=subprocess.DEVNULL,
        )
        try:
            while not is_served(home):
                time.sleep(0.1)
            time.sleep(3)
            found = measured(home, chosen.rounds)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    found["all that mend"] = [t for name in MENDING for t in found[name]]
    print(f"{'command':16} {'median':>7} {'p95':>7} {'longest':>8}   of")
    for name, times in found.items():
        q50, q95 = np.quantile(times, [0.5, 0.95])
        print(f"{name:16} {q50:6.3f}s {q95:6.3f}s {max(times):7.3f}s   {len(times)}")


if __name__ == "__main__":
    main()

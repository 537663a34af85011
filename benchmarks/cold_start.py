"""Cold start: a new process, one picture from a bundle, its label; files are in the page cache.

The command and the Python way in turns, with the interpreter alone and with numpy beside them.
Wall is what a user waits, processor what the machine works; on a machine that does other things the
second is nearer to what a quiet one would show as the first. torch must not be loaded.

Run: python benchmarks/cold_start.py BUNDLE [PICTURE]; python in an environment with edgecl[cpu]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

N_WARM, N_RUNS = 2, 15
MAIN = "from edgecl.cli import main; main()"
PYTHON = (
    "import sys; from edgecl.runtime import Predictor; "
    "print(Predictor(sys.argv[1]).predict(sys.argv[2]).label)"
)
CHECK = f"""
import sys
sys.argv = ["edgecl", "predict", sys.argv[2], "--bundle", sys.argv[1]]
try:
    {MAIN.replace("; ", chr(10) + "    ")}
finally:
    print("torch" in sys.modules)
"""


def main() -> None:
    bundle = sys.argv[1]
    with tempfile.TemporaryDirectory() as place:
        picture = sys.argv[2] if len(sys.argv) > 2 else _picture(Path(place))
        run = [sys.executable, "-c"]
        commands = {
            "edgecl predict PICTURE --bundle DIR": [
                *run, MAIN, "predict", picture, "--bundle", bundle
            ],
            "Predictor(DIR).predict(PICTURE)": [*run, PYTHON, bundle, picture],
            "import numpy": [*run, "import numpy"],
            "python alone": [*run, "pass"],
        }  # fmt: skip
        told = subprocess.run([*run, CHECK, bundle, picture], capture_output=True, text=True)
        assert told.stdout.splitlines()[-1:] == ["False"], told.stdout + told.stderr
        rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for i in range(N_WARM + N_RUNS):
            for name, command in commands.items():
                row = _timed(command)
                if i >= N_WARM:
                    rows[name].append(row)
    print("| | wall s | least | processor s | peak memory MB |")
    print("|---|---|---|---|---|")
    for name, found in rows.items():
        wall, busy, peak = zip(*found, strict=True)
        print(
            f"| `{name}` | {statistics.median(wall):.2f} | {min(wall):.2f} | "
            f"{statistics.median(busy):.2f} | {max(peak):.0f} |"
        )


def _timed(command: list[str]) -> tuple[float, float, float]:
    """Return wall seconds, processor seconds and megabytes of one process."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _picture(folder: Path) -> str:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(out, "JPEG")
    path = folder / "picture.jpg"
    path.write_bytes(out.getvalue())
    return str(path)


if __name__ == "__main__":
    main()

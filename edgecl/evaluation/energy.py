"""The energy that a block of code used, where the machine can say it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    """Measures energy between two calls."""

    source: str

    def begin(self) -> None:
        """Start."""

    def joules(self, seconds: float) -> float:
        """Return what was used in the seconds since."""
        ...


class Rapl:
    """The counters of x86 packages under /sys/class/powercap, microjoules.

    Args:
        zones: Folder of each package.
    """

    source = "rapl"

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = zones

    def begin(self) -> None:
        """Note where the counters stand."""
        self._start = self._read()

    def joules(self, seconds: float) -> float:
        """Return the difference; a counter that started anew at its range has that added."""
        del seconds
        total = 0
        for zone, start, end in zip(self._zones, self._start, self._read(), strict=True):
            if end < start:
                end += int((zone / "max_energy_range_uj").read_text())
            total += end - start
        return total / 1e6

    def _read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self._zones]


class Tegrastats:
    """The board's input power as NVIDIA's tegrastats prints it, milliwatts.

    Args:
        program: Path of tegrastats.
    """

    source = "tegrastats"

    def __init__(self, program: str) -> None:
        self._program = program

    def begin(self) -> None:
        """Let it print a line every 100 ms."""
        command = [self._program, "--interval", "100"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def joules(self, seconds: float) -> float:
        """Return mean power by time; NaN if it printed none."""
        self._process.terminate()
        lines, _ = self._process.communicate(timeout=10)
        power = [int(p) for p in re.findall(r"(?:VDD_IN|POM_5V_IN|VIN_SYS_5V0) (\d+)", lines)]
        return float(np.mean(power)) / 1e3 * seconds if power else float("nan")


@contextmanager
def metered(powercap: Path = _POWERCAP) -> Iterator[dict[str, Any]]:
    """Yield an empty dictionary; it holds the energy that the block used when that has ended.

    Where the machine exposes none, `joules` is None and `reason` says why.
    """
    result: dict[str, Any] = {}
    meter = _meter(powercap)
    begin = time.perf_counter()
    if meter is not None:
        meter.begin()
    try:
        yield result
    finally:
        seconds = time.perf_counter() - begin
        joules = None if meter is None else meter.joules(seconds)
        if meter is None or joules is None or np.isnan(joules):
            result |= {"joules": None, "reason": "no readable RAPL counter and no tegrastats"}
        else:
            watts = joules / seconds
            result |= {"source": meter.source, "joules": joules, "watts": watts}


def _meter(powercap: Path) -> Meter | None:
    zones = sorted(powercap.glob("intel-rapl:?"))
    if zones and all(os.access(zone / "energy_uj", os.R_OK) for zone in zones):
        return Rapl(zones)
    program = shutil.which("tegrastats")
    return None if program is None else Tegrastats(program)

"""The GPU tests from a checkout and a folder of wheels, without a network: `make test-gpu`.

Makes an environment of what lies in the folder, runs the tests marked `gpu`, then fills the table
of `benchmarks/gpu.py`. What is missing is named: wheels, libraries that are wanted but not needed,
a GPU. Without a GPU it installs nothing and only checks the folder.

Exit status: 0 done, 1 a test failed, 2 wrong options, 3 something that it needs is missing.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = "gpu,torch,test"
# What needs them is skipped by name where they are missing.
WANTED = ("tensorrt", "tensorrt-rtx")
RESULT = "gpu-table"

Run = Callable[[Sequence[str]], int]
"""Runs a command in the checkout and returns its exit status."""


def gpu_tests() -> list[str]:
    """Return the files with tests marked `gpu`; other files would want packages of their own."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    found = [f for f in files if "@pytest.mark.gpu\n" in f.read_text(encoding="utf-8")]
    return [str(f.relative_to(ROOT)) for f in found]


def has_gpu() -> bool:
    """Whether the driver finds a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return not failed and count.value > 0


def _fill(wheels: Path) -> str:
    extras = ",".join((NEEDED, *WANTED))
    line = f"pip wheel -w {wheels} 'setuptools>=77' '.[{extras}]'"
    return f"where there is a network, with the same Python: {line}"


def install(python: str, wheels: Path, run: Run, *, is_dry: bool) -> bool:
    """Install from the folder, or see that it could be; returns whether what is needed is there."""
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels)]
    install += ["--dry-run"] * is_dry
    if run([*install, "-e", f".[{NEEDED}]"]):
        print(
            f"missing: wheels in {wheels} for edgecl[{NEEDED}], as pip says above; {_fill(wheels)}"
        )
        return False
    for extra in WANTED:
        if run([*install, "-e", f".[{extra}]"]):
            print(f"missing: wheels in {wheels} for edgecl[{extra}]; what needs it is skipped")
    return True


def main(words: Sequence[str] | None = None, run: Run | None = None) -> int:
    """Do what stands at the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheels", required=True, type=Path, help="folder of wheels")
    parser.add_argument("--venv", type=Path, default=Path(".venv-gpu"), help="made, or used again")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the table, at most")
    options = parser.parse_args(words)
    run = run or _run
    wheels, python = options.wheels.absolute(), str(options.venv.absolute() / "bin/python")
    if not any(wheels.glob("*.whl")):
        print(f"missing: wheels; {wheels} holds none; {_fill(wheels)}")
        return 3
    is_there = has_gpu()
    if run([sys.executable, "-m", "venv", str(options.venv.absolute())]):
        return 3
    is_complete = install(python, wheels, run, is_dry=not is_there)
    if not is_there:
        print("missing: an NVIDIA GPU and its driver (libcuda.so.1); nothing was installed or run")
        if is_complete:
            print("the folder of wheels is complete")
    if not (is_there and is_complete):
        return 3
    failed = run([python, "-m", "pytest", "-q", "-rs", "-m", "gpu", *gpu_tests()])
    table = ["benchmarks/gpu.py", "--minutes", str(options.minutes), "--output", RESULT]
    status = run([python, *table])
    there = f"the table is in {RESULT}.md and .json" if not status else "there is no table"
    print(f"tests {'failed' if failed else 'passed'}; {there}")
    return 1 if failed else status


def _run(command: Sequence[str]) -> int:
    print("+", " ".join(command), flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

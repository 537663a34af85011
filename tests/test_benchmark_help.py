"""Every benchmark answers --help with what it measures, before anything heavy is loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = [p for p in sorted(FOLDER.glob("*.py")) if "\nif __name__ == " in p.read_text()]
# Whatever is imported first of these ends the test.
LIGHT = """
import runpy, sys
for name in ("numpy", "torch", "timm", "edgecl", "onnxruntime", "PIL", "sklearn", "pandas"):
    sys.modules[name] = None
sys.path.insert(0, {folder!r})
sys.argv = [{script!r}, {flag!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def test_there_are_benchmarks() -> None:
    assert {"fashion.py", "stream.py", "methods.py"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_says_what_is_measured_and_names_every_option(script: Path) -> None:
    code = LIGHT.format(folder=str(FOLDER), script=str(script), flag="--help")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    tree = ast.parse(script.read_text(encoding="utf-8"))
    said = ast.get_docstring(tree)
    assert said is not None
    assert said in done.stdout
    assert f"python benchmarks/{script.name}" in done.stdout
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument"):
            assert ast.literal_eval(node.args[0]) in done.stdout


def test_without_it_a_benchmark_goes_on() -> None:
    code = LIGHT.format(folder=str(FOLDER), script=str(FOLDER / "sealed.py"), flag="--quick")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "numpy" in done.stderr

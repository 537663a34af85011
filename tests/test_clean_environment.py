"""Prediction from a bundle needs four packages, and `edgecl predict` one more.

The environment is new and filled from the package registry. edgecl goes into it without what it
requires (`--no-deps`): that list is for learning too, and would hide an import that is not for
prediction.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import build
from edgecl.runtime import Predictor

ROOT = Path(__file__).parents[1]
NEEDED = ("numpy", "onnxruntime", "pillow", "safetensors")
ABSENT = ("torch", "timm", "scipy", "cryptography", "sqlite_utils")
PREDICT = """
import json, sys
from edgecl.runtime import Predictor
prediction = Predictor(sys.argv[1]).predict(sys.argv[2])
found = [name for name in sys.argv[3:] if name in sys.modules]
print(json.dumps(prediction.as_json() | {"found": found}))
"""


def run(place: Path, *command: object) -> str:
    """Run a command in a folder that is no checkout; return what it printed."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env=env,
        cwd=place,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_a_bundle_predicts_where_only_these_packages_are(
    taught_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home, bundle = copy_of(taught_home), tmp_path / "bundle"
    build.last_json(
        build.run_edgecl("export", "onnx", "--output", bundle, "--home", home, "--json")
    )
    picture = tmp_path / "washer.jpg"
    picture.write_bytes(build.encode(build.part_picture("washer", 99)))
    expected = Predictor(bundle).predict(picture).as_json()

    source = tmp_path / "source"  # pip writes its build folder beside what it builds
    for part in ("edgecl", "runtime", "exporters"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source / part)
    place = tmp_path / "environment"
    run(tmp_path, sys.executable, "-m", "venv", place)
    pip = (place / "bin/python", "-m", "pip", "install", "--quiet", "--no-cache-dir")
    run(tmp_path, *pip, *NEEDED)
    run(tmp_path, *pip, "--no-deps", source)

    told = json.loads(run(tmp_path, place / "bin/python", "-c", PREDICT, bundle, picture, *ABSENT))
    assert told.pop("found") == []
    assert told["label"] == expected["label"] == "washer"
    assert told["score"] == pytest.approx(expected["score"], abs=1e-4)

    run(tmp_path, *pip, "typer")
    command = (place / "bin/edgecl", "predict", picture, "--bundle", bundle, "--json")
    assert json.loads(run(tmp_path, *command))["label"] == "washer"

"""`fused.onnx` in the runtimes of other people, with the very lines that docs/deploy.md prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import build
from edgecl.runtime import Predictor

pytest.importorskip("onnx", reason="the package onnx")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NODE_MODULES = Path(os.environ.get("EDGECL_NODE_MODULES", ROOT / "node_modules"))
SIZES = [(48, 48), (64, 64), (97, 60), (33, 120), (200, 210)]


def program(name: str) -> str:
    page = (ROOT / "docs/deploy.md").read_text()
    (found,) = re.findall(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def place(taught_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fused bundle and pictures of several sizes."""
    place = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(taught_home, place / "home")
    done = build.run_edgecl(
        "export", "onnx", "--fused", "--output", place / "bundle", "--home", place / "home"
    )
    assert done.returncode == 0, done.stderr
    for i, (part, size) in enumerate((p, s) for p in build.PARTS for s in SIZES):
        build.part_picture(part, 20 + i).resize(size).save(place / f"{i:02}.png")
    return place


def expected(place: Path) -> list[str]:
    predictor = Predictor(place / "bundle")
    labels = [predictor.predict(path).label for path in sorted(place.glob("*.png"))]
    assert len(labels) == len(SIZES) * len(build.PARTS)
    assert len(set(labels)) >= 3
    return labels


def run(*command: object, cwd: Path) -> list[str]:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_in_onnxruntime_web_the_labels_are_the_same(place: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("Node.js (Debian's nodejs)")
    if not (NODE_MODULES / "onnxruntime-web").is_dir():
        pytest.skip(f"`npm install --no-save onnxruntime-web`, into {NODE_MODULES}")
    (place / "node_modules").symlink_to(NODE_MODULES)
    (place / "classify.mjs").write_text(program("classify.mjs"))
    (place / "run.mjs").write_text(
        """
import { readFileSync } from "node:fs";
import { open } from "./classify.mjs";
const names = JSON.parse(readFileSync("bundle/manifest.json")).classes.map((c) => c.name);
const classify = await open(readFileSync("bundle/fused.onnx"), names);
for (const { file, width, height } of JSON.parse(readFileSync("pictures.json")))
  console.log(await classify({ data: readFileSync(file), width, height }));
"""
    )
    pictures = []
    for path in sorted(place.glob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGBA"))
        path.with_suffix(".rgba").write_bytes(pixels.tobytes())
        height, width = pixels.shape[:2]
        pictures.append({"file": f"{path.stem}.rgba", "width": width, "height": height})
    (place / "pictures.json").write_text(json.dumps(pictures))
    assert run("node", "run.mjs", cwd=place) == expected(place)


@pytest.mark.skipif(find_spec("openvino") is None, reason="the extra `openvino`")
def test_in_openvino_the_labels_are_the_same(place: Path) -> None:
    (place / "classify.py").write_text(program("classify.py"))
    pictures = sorted(path.name for path in place.glob("*.png"))
    assert run(sys.executable, "classify.py", *pictures, cwd=place) == expected(place)

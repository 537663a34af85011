"""The pages for people, walked through: every block behind `<!-- run -->` is run as it stands.

What a page takes for granted is made here: folders of pictures, and a test pattern where it says a
camera. The blocks of a page run one after the other in one folder.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import build

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"<!-- run -->\n```(\w+)\n(.*?)```", re.DOTALL)
PAGES = sorted(page.name for page in DOCS.glob("*.md") if BLOCK.search(page.read_text()))
CAMERA = "synthetic:frames=12,labels=0"
CAMERAS = ("camera:0", "rtsp://frigate.local:8554/gate")


def test_each_of_the_pages_by_person_is_walked() -> None:
    assert PAGES == ["erasure.md", "home-assistant.md", "line.md", "reproduce.md"]


def prepared(place: Path, page: str) -> Path:
    """Make a folder with what a page takes for granted."""
    build.part_folder(place / "parts", 12)
    build.part_folder(place / "parts-test", 3, start=100)
    build.part_folder(place / "clips/gate/dataset", 10, parts=("washer", "gasket"))
    build.part_folder(place / "clips/gate/train", 2, parts=("bracket",))
    programs = place / "bin"
    programs.mkdir()
    python = shlex.quote(sys.executable)
    edgecl = f"{python} -c {shlex.quote(build.COMMAND)}"
    for name, command in (("edgecl", edgecl), ("python", python)):
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / name).chmod(0o755)
    if page == "erasure.md":  # there is a home already
        run(place, "sh", "edgecl init --image-size 64 --json; edgecl train-stream parts --json")
    return place


def run(place: Path, kind: str, block: str) -> str:
    """Run a block of a page; returns what it printed."""
    for camera in CAMERAS:
        block = block.replace(camera, CAMERA)
    command = ["bash", "-euo", "pipefail", "-c", block]
    if kind == "python":
        command = [str(place / "bin/python"), "-c", block]
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=place,
        env={**os.environ, "PATH": path, "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works(page: str, tmp_path: Path) -> None:
    place = prepared(tmp_path, page)
    printed = "".join(run(place, *block) for block in BLOCK.findall((DOCS / page).read_text()))
    wanted = {
        "erasure.md": ("valid: r1", "r1.html"),
        "home-assistant.md": ('"event"',),
        "line.md": ("bracket", "washer"),
        "reproduce.md": ("washer",),
    }
    for text in wanted[page]:
        assert text in printed

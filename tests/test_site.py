"""The site of the documentation is built as `make docs` does, and every warning is an error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra `docs`")
pytest.importorskip("mkdocstrings", reason="the extra `docs`")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


def test_the_site_is_built_without_a_warning_and_has_every_page(tmp_path: Path) -> None:
    # As a program: `-m` looks for the package in this folder first, where half of it is.
    program = Path(sys.executable).with_name("mkdocs")
    command = [program, "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {
        path.relative_to(tmp_path).with_suffix("").as_posix() for path in tmp_path.rglob("*.html")
    }
    docs = {
        p.relative_to(ROOT / "docs").with_suffix("").as_posix()
        for p in (ROOT / "docs").rglob("*.md")
    }
    assert docs | {"index", "contributing", "changelog", "decisions/index", "reference"} <= pages
    reference = (tmp_path / "reference.html").read_text()
    for name in (
        "edgecl.device.Device.forget",
        "edgecl.heads.base.Head",
        "edgecl.unlearning.check",
    ):
        assert f'id="{name}' in reference, name
    # What the docstring says of an argument is there, too.
    assert "Name of the class, number of the sample or text of the source." in reference
    # Nothing is loaded from elsewhere.
    loaded = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', reference)
    assert [url for url in loaded if "edgecl" not in url] == []

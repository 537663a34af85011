"""The documentation names what there is, and only that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import edgecl
from edgecl.cli.app import app
from edgecl.cli.fleet import fleet_app
from edgecl.config import Config
from edgecl.heads import HEADS
from edgecl.settings import load_config, save_config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[str]:
    return [c.name or "" for c in app.registered_commands if not c.hidden] + [
        "export onnx",
        "export tensorrt",
        "export dataset",
        "export contribution",
        "forget class",
        "review list",
        "review mistakes",
        "samples list",
        "samples hold-out",
        "config set",
        *(f"fleet {c.name}" for c in fleet_app.registered_commands),
        "fleet forget",
    ]


def test_every_command_is_in_the_readme_and_the_readme_names_no_other() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in commands():
        assert f"edgecl {command}" in readme, command
    of_group = " class| onnx| tensorrt| dataset| contribution| list| mistakes| set| hold-out"
    command = rf"^edgecl (fleet [a-z]+|[a-z-]+(?:{of_group})?)"
    named = re.findall(command, readme, re.MULTILINE)
    assert set(named) <= set(commands())


def test_every_setting_is_documented_with_its_default(tmp_path: Path) -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    save_config(Config(), tmp_path / "c.toml")
    assert load_config(tmp_path / "c.toml") == Config()
    section = ""
    for line in (tmp_path / "c.toml").read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line:
            key, value = (part.strip().strip('"') for part in line.split("="))
            row = next((r for r in page.splitlines() if f"`{section}.{key}`" in r), "")
            assert value in row, f"{section}.{key}"


def test_every_head_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in HEADS)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for path in re.findall(
        r"`((?:edgecl|runtime|exporters|tests|docs|benchmarks)/[\w./-]+)`", text
    ):
        assert (ROOT / path).exists(), path


def test_the_readme_has_no_blank_left_to_fill_and_names_the_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "@@" not in readme
    assert readme.index("make demo") < readme.index("make test") < 200


def test_public_names_are_documented() -> None:
    for name in edgecl.__all__:
        assert getattr(edgecl, name).__doc__, name


def test_decisions_are_numbered_without_gaps_and_fit_a_page() -> None:
    files = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(f.name[:4]) for f in files] == list(range(1, len(files) + 1))
    assert all(len(f.read_text().splitlines()) <= 60 for f in files)

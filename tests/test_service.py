"""The systemd unit, its settings and the compose file: with options that there are, no secret."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgecl.cli.app import app

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "packaging/edgecl.service"
COMPOSE = ROOT / "docker/compose.yaml"


def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_it_runs_a_command_with_options_that_there_are() -> None:
    program, command, *options = shlex.split(service()["ExecStart"])
    assert program.endswith("/edgecl")
    shown = CliRunner().invoke(app, [command, "--help"]).output
    for option in options:
        assert not option.startswith("--") or option in shown


def test_no_address_stands_in_a_command_line() -> None:
    assert "://" not in service()["ExecStart"]
    shown = CliRunner().invoke(app, ["train-stream", "--help"]).output
    assert service()["EnvironmentFile"].startswith("/etc/")
    for name in ("EDGECL_SOURCE", "EDGECL_LABELS", "EDGECL_EVENTS"):
        assert name in shown


def test_every_setting_of_the_examples_is_one_that_is_read() -> None:
    shown = CliRunner().invoke(app, ["train-stream", "--help"]).output
    for text in ((ROOT / "packaging/edgecl.env").read_text(), COMPOSE.read_text()):
        names = re.findall(r"\b(EDGECL_[A-Z_]+)[=:]", text)
        assert {"EDGECL_SOURCE", "EDGECL_LABELS", "EDGECL_EVENTS"} <= set(names)
        assert all(name in shown for name in names)
    assert "--unknown" in shlex.split(service()["ExecStart"])


def test_the_compose_file_runs_what_there_is_and_publishes_no_port() -> None:
    text = COMPOSE.read_text()
    assert "ports:" not in text  # of a broker without a password
    file = re.search(r"dockerfile: (\S+)", text)
    assert file is not None
    image = (ROOT / file[1]).read_text()
    command, *options = json.loads(re.findall(r"command: (\[.*\])", text)[1])
    shown = CliRunner().invoke(app, [command, "--help"]).output
    assert all(option in shown for option in options if option.startswith("--"))
    for source in re.findall(r"^COPY (.+) \S+$", image, re.MULTILINE):
        assert all((ROOT / part).exists() for part in source.split())
    extras = re.search(r"'\.\[(.+)\]'", image)
    assert extras is not None
    assert set(extras[1].split(",")) == {"cpu", "camera", "mqtt", "metrics"}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    program = shlex.split(service()["ExecStart"])[0]
    text = UNIT.read_text().replace(program, "/bin/true")
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / UNIT.name],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

"""The systemd unit: valid, without a secret, and with options that there are."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgecl.cli.app import app

UNIT = Path(__file__).parents[1] / "packaging/edgecl.service"


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


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    program = shlex.split(service()["ExecStart"])[0]
    text = UNIT.read_text().replace(program, "/bin/true")
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / UNIT.name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

"""`make test-gpu`: what it runs from a folder of wheels, and what it says is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = spec_from_file_location("run_gpu_tests", ROOT / "packaging/run_gpu_tests.py")
assert _spec is not None
assert _spec.loader is not None
script = module_from_spec(_spec)
_spec.loader.exec_module(script)


class Commands:
    """Notes commands; those with one of some words fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.run: list[str] = []

    def __call__(self, command: Sequence[str]) -> int:
        self.run.append(" ".join(command))
        return int(any(word in self.run[-1] for word in self.failing))


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "some-1-py3-none-any.whl").touch()
    return folder


def done(wheels: Path, commands: Commands) -> int:
    words = ["--wheels", str(wheels), "--venv", str(wheels.parent / "venv"), "--minutes", "3"]
    return script.main(words, commands)


@pytest.mark.parametrize(
    ("failing", "status", "said", "n_run"),
    [
        ((), 0, "tests passed; the table is in gpu-table.md and .json", 6),
        (("-m pytest",), 1, "tests failed; the table is in gpu-table.md and .json", 6),
        (("benchmarks/gpu.py",), 1, "tests passed; there is no table", 6),
        ((".[tensorrt]",), 0, "for edgecl[tensorrt]; what needs it is skipped", 6),
        ((".[gpu,torch,test]",), 3, "for edgecl[gpu,torch,test], as pip says above", 2),
        (("-m venv",), 3, "", 1),
    ],
)
def test_on_a_gpu_it_installs_tests_and_measures(
    wheels: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failing: tuple[str, ...],
    status: int,
    said: str,
    n_run: int,
) -> None:
    monkeypatch.setattr(script, "has_gpu", lambda: True)
    commands = Commands(*failing)
    assert done(wheels, commands) == status
    assert said in capsys.readouterr().out
    assert len(commands.run) == n_run
    installing = [command for command in commands.run if " pip install " in command]
    assert all(f"--no-index --find-links {wheels} " in command for command in installing)
    assert not any("--dry-run" in command for command in commands.run)
    if n_run == 6:
        marked = commands.run[-2].partition(" -m gpu ")[2].split()
        assert {"tests/exporters/test_tensorrt.py", "tests/runtime/test_bound.py"} <= {*marked}
        assert "tests/test_gpu_script.py" not in marked
        assert commands.run[-1].endswith("gpu.py --minutes 3.0 --output gpu-table")


@pytest.mark.parametrize("failing", [(), (".[gpu,torch,test]",)])
def test_without_a_gpu_it_checks_the_folder_only(
    wheels: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failing: tuple[str, ...],
) -> None:
    monkeypatch.setattr(script, "has_gpu", lambda: False)
    commands = Commands(*failing)
    assert done(wheels, commands) == 3
    said = capsys.readouterr().out
    assert "missing: an NVIDIA GPU" in said
    assert ("the folder of wheels is complete" in said) == (not failing)
    assert ("pip wheel -w" in said) == bool(failing)
    assert all("-m venv" in command or "--dry-run" in command for command in commands.run)


def test_make_says_that_a_folder_holds_no_wheels(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        ["make", "test-gpu", f"WHEELS={tmp_path}", f"PYTHON={sys.executable}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"missing: wheels; {tmp_path} holds none; where there is a network, " in (done.stdout)


def test_a_driver_without_a_gpu_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return 0

        def cuDeviceGetCount(self, count: object) -> int:
            count._obj.value = found[0]  # type: ignore[attr-defined]
            return 0

    monkeypatch.setattr(script.ctypes, "CDLL", lambda name: Driver())
    found = [0]
    for found[0], is_there in ((0, False), (2, True)):
        assert script.has_gpu() == is_there

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(script.ctypes, "CDLL", missing)
    assert not script.has_gpu()

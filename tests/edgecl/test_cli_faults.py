"""Files outside of the store that cannot be read or written: one line that says what to do."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import workloads

import build
from edgecl.cli import main
from edgecl.errors import RequestError
from edgecl.runtime.faults import in_words, telling

Run = Callable[..., tuple[int, str, str]]

WRITES = {
    "bundle": ("export", "onnx", "--output", "PLACE"),
    "dataset": ("export", "dataset", "--output", "PLACE"),
    "report": ("report", "--output", "PLACE.html"),
    "review": ("review", "list", "--pictures", "PLACE"),
    "log": ("train-stream", "PARTS", "--log-json", "PLACE"),
    "metrics": ("train-stream", "PARTS", "--metrics", "PLACE.prom"),
}
READS = {
    "source": ("train-stream", "PLACE"),
    "table": ("train-stream", "PLACE.csv"),
    "watch": ("train-stream", "watch:PLACE"),
    "predict": ("predict", "PLACE"),
    "evaluate": ("evaluate", "PLACE"),
    "import": ("import", "PLACE"),
    "zip": ("import", "PLACE.zip"),
    "labels": ("train-stream", "synthetic:fps=0,frames=3,labels=0", "--labels", "PLACE"),
    "headers": ("train-stream", "http://127.0.0.1:9/", "--header-file", "PLACE"),
    "picture": ("predict", "PLACE.jpg"),
    "film": ("predict", "PLACE.mp4"),
    "idx": ("train-stream", "PLACE.gz,PLACE.gz"),
    "list": ("import", "PLACE.json"),
    "bundle": ("predict", "PARTS", "--bundle", "PLACE"),
    "calibration": (
        "export", "onnx", "--output", "NEW", "--precision", "int8", "--calibration", "PLACE",
    ),
}  # fmt: skip
OF_HOME = {"home": ("status",), "init": ("init",)}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = workloads.small_home(tmp_path_factory.mktemp("taught") / "home").path
    workloads.learn(home)
    return home


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.part_folder(tmp_path_factory.mktemp("faults") / "parts", 2)


@pytest.fixture
def run(
    taught: Path,
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command of the tables in this process; returns status, stdout and stderr."""
    home = tmp_path / "home"
    shutil.copytree(taught, home)

    def run(command: tuple[str, ...], place: Path) -> tuple[int, str, str]:
        names = {"PLACE": str(place), "PARTS": str(parts), "NEW": str(tmp_path / "new")}
        filled = list(command)
        for name, value in names.items():
            filled = [part.replace(name, value) for part in filled]
        at = place if command in OF_HOME.values() else home
        monkeypatch.setattr(sys, "argv", ["edgecl", *filled, "--home", str(at)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return int(end.value.code or 0), shown.out, shown.err

    return run


def last_line(err: str) -> str:
    return err.strip().splitlines()[-1] if err.strip() else ""


def places(tmp_path: Path) -> list[Path]:
    """Places that no system takes: too long a name, below a file, and below a link to itself."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return [tmp_path / ("n" * 300), tmp_path / "file" / "x", tmp_path / "loop" / "x"]


@pytest.mark.parametrize(
    "command",
    [*WRITES.values(), *READS.values(), *OF_HOME.values()],
    ids=[*(f"write-{n}" for n in WRITES), *(f"read-{n}" for n in READS), *OF_HOME],
)
def test_a_path_that_cannot_be_is_told_in_words(
    command: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    for place in places(tmp_path)[: 3 if command in WRITES.values() else 1]:
        status, _, err = run(command, place)
        assert status == 3
        check_line(last_line(err))


def check_line(line: str) -> None:
    assert line.startswith("edgecl: ")
    for wrong in ("Errno", "Error:", "--debug", "anew", "backup", "None"):
        assert wrong not in line


FAULTS = {
    errno.ENOSPC: "free some disk space",
    errno.EACCES: "see `ls -ld`",
    errno.EMFILE: "ulimit -n",
    errno.EROFS: "mount it writable",
    errno.EIO: "dmesg",
}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Let the system refuse everything at a place and below."""

    def refuse(place: Path, number: int) -> None:

        def is_there(path: Any) -> bool:
            if not isinstance(path, str | os.PathLike):
                return False
            text = os.fspath(path)
            # What is written beside a place before it is put there is meant as well.
            near = os.path.basename(text).startswith(f".{place.name}")
            return text == str(place) or text.startswith((f"{place}/", f"{place}.")) or near

        def guard(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any = ".", *rest: Any, **options: Any) -> Any:
                if is_there(path):
                    raise OSError(number, os.strerror(number), os.fspath(path))
                return real(path, *rest, **options)

            return call

        for module, name in (
            (builtins, "open"), (io, "open"), (os, "open"), (os, "mkdir"), (os, "scandir"),
            (os, "listdir"),
        ):  # fmt: skip
            monkeypatch.setattr(module, name, guard(getattr(module, name)))

    return refuse


@pytest.mark.parametrize("number", list(FAULTS)[:2])
@pytest.mark.parametrize("command", WRITES.values(), ids=WRITES)
def test_a_disk_that_takes_nothing_is_told_in_words(
    command: tuple[str, ...], number: int, run: Run, broken: Any, tmp_path: Path
) -> None:
    broken(tmp_path / "out", number)
    status, _, err = run(command, tmp_path / "out")
    assert status == 3
    check_line(last_line(err))
    assert os.strerror(number) in last_line(err)
    assert FAULTS[number] in last_line(err)
    assert str(tmp_path / "out") in last_line(err)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("command", READS.values(), ids=READS)
def test_a_file_that_cannot_be_read_is_told_in_words(
    command: tuple[str, ...], number: int, run: Run, broken: Any, parts: Path, tmp_path: Path
) -> None:
    place = tmp_path / "in"
    name = next(n for n, c in READS.items() if c == command)
    if name == "bundle":
        run(WRITES["bundle"], place)
    elif name in ("table", "zip", "labels", "headers", "picture", "film", "idx", "list"):
        for suffix in (".csv", ".zip", ".jpg", ".mp4", ".gz", ".json", ""):
            place.with_name(f"in{suffix}").write_bytes(b"x")
    else:
        shutil.copytree(parts, place)
    broken(place, number)
    status, _, err = run(command, place)
    assert status == 3
    check_line(last_line(err))
    assert os.strerror(number) in last_line(err)
    assert FAULTS[number] in last_line(err)


@pytest.mark.parametrize("number", FAULTS)
def test_what_the_system_says_of_a_file_has_advice(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(RequestError, match=FAULTS[number]),
        telling("the file a cannot be written"),
    ):
        raise OSError(number, os.strerror(number), str(tmp_path / "a"))


def test_a_right_that_is_missing_names_the_owner_and_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "no" / "such"))
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    told = in_words(error)
    owner = os.stat(tmp_path).st_uid
    assert f"{tmp_path} belongs to {'root' if owner == 0 else ''}" in told
    assert "and 54321 asks; give that user the right (`chown -R 54321` or chmod)" in told
    assert in_words(OSError("odd")) == "(odd); see to the disk, then start it again"
    assert "give this user the right" in in_words(PermissionError(errno.EPERM, "no"))


@pytest.mark.parametrize("place", ["engine/manifest.json", "engine/backbone.onnx", "device.key",
    "edgecl.toml", "receipts.jsonl"])  # fmt: skip
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_part_of_a_home_that_may_not_be_read_is_not_to_be_made_anew(
    place: str, number: int, run: Run, broken: Any, parts: Path, tmp_path: Path
) -> None:
    (tmp_path / "home" / "receipts.jsonl").touch()
    broken(tmp_path / "home" / place, number)
    status, _, err = run(("predict", "PARTS"), parts)
    assert status == 3
    assert f"{tmp_path / 'home' / place}" in last_line(err)
    check_line(last_line(err))
    assert FAULTS[number] in last_line(err)


def test_output_and_messages_on_a_full_disk(taught: Path) -> None:
    """The status says that the output is lost; messages that are lost end nothing."""
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full")
    home = ["--home", str(taught)]
    for where, arguments, status in (
        ("stdout", ["status", *home], 3),
        ("stderr", ["forget", "class", "nobody", *home], 3),
        ("stderr", ["status", *home], 0),
    ):
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", build.COMMAND, *arguments],
                **streams | {where: full},
                text=True,
                check=False,
            )
        assert done.returncode == status
        if where == "stdout":
            check_line(last_line(done.stderr))
            assert "free some disk space" in done.stderr


def test_a_closed_stdout_or_one_of_few_characters_ends_no_command(
    taught: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", build.COMMAND, "status", "--home", str(taught)]
    for closed in (">&-", "<&- >&-", "<&- >&- 2>&-"):
        line = shlex.join(command) + f" {closed}"
        done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    picture = tmp_path / "cup \u2615.png"
    build.part_picture("washer", 0, 48).save(picture)
    for env in ({"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}):
        done = build.run_edgecl("predict", picture, "--home", taught, env=env)
        assert done.returncode == 0, done.stderr
        assert "\\u2615.png: " in done.stdout

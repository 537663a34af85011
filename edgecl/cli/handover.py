"""Command lines that the process which serves a home carries out, and how it does.

`handed_over` is the side that was typed, `run_line` the side of the stream.
"""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from edgecl.serve.socket import Emit, Line

# Commands that write to a home. `init --force` is none: what is served is not replaced.
WRITES = frozenset(
    {
        "train-stream", "learn", "import", "consolidate", "relabel", "merge-classes",
        "samples hold-out", "merge", "undo", "rename", "snapshot", "rollback", "export onnx",
        "export tensorrt", "export dataset", "export contribution", "export", "forget",
        "forget class", "forget sample", "forget source", "forget pending", "review label",
        "review drop", "review confirm", "config set",
        "fleet join", "fleet export", "fleet sync", "fleet mask",
    }
)  # fmt: skip
_CLONE_FS = 0x200  # <linux/sched.h>
# What the command reads from here: without a home of its own, the other process would take its.
_VARIABLES = (
    "EDGECL_HOME", "EDGECL_SOURCE", "EDGECL_LABELS", "EDGECL_EVENTS", "EDGECL_HEADER_FILE",
    "EDGECL_EVENTS_HEADER_FILE", "EDGECL_FLEET",
)  # fmt: skip


def handed_over(words: str, arguments: list[str], home: Path) -> int | None:
    """Let the process that serves a home carry a command line out, and show what it says.

    Args:
        words: The command, as `forget class`.
        arguments: The whole line behind `edgecl`.
        home: Its home.

    Returns:
        The exit status; None if nobody serves the home, or the command only reads.

    Raises:
        HomeLockedError: The other process ended before it answered.
    """
    if words not in WRITES or not (home / "socket").exists():
        return None
    from edgecl.cli.confirm import is_terminal
    from edgecl.errors import HomeLockedError
    from edgecl.lending import is_lending
    from edgecl.serve.socket import Line, hand_over, is_served
    from edgecl.settings import variables_in

    if is_lending() or not is_served(home):  # this is the other process, or there is none
        return None
    names = [*_VARIABLES, *variables_in(os.environ)]
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment["EDGECL_HOME"] = str(home)
    line = Line(
        arguments,
        folder=os.getcwd(),
        environment=environment,
        columns=shutil.get_terminal_size().columns,
        asks=is_terminal(),
    )
    while True:
        answers = hand_over(home, line)
        if answers is None:
            return None
        asked, status = _shown(answers)
        if asked is None:
            break
        from dataclasses import replace

        line = replace(line, yes=_is_agreed(asked))
    if status is None:
        raise HomeLockedError(
            "the process that serves the home ended before it answered; look with `edgecl status` "
            "at what was done"
        )
    return status


def _shown(answers: Iterator[dict[str, Any]]) -> tuple[list[str] | None, int | None]:
    """Print what comes; returns what is to be asked, or the status."""
    for piece in answers:
        if "ask" in piece:
            return list(piece["ask"]), None
        if "status" in piece:
            return None, int(piece["status"])
        print(piece.get("out", ""), end="", flush=True)
        print(piece.get("err", ""), end="", file=sys.stderr, flush=True)
    return None, None


def _is_agreed(lines: list[str]) -> bool:
    from edgecl.cli.confirm import confirm

    confirm(lambda: lines, yes=False)  # raises if the answer is no
    return True


_runner: list[Callable[[list[str]], int]] = []


def set_runner(run: Callable[[list[str]], int]) -> None:
    """Say what runs a command line in this process; it imports all commands, which import this."""
    _runner[:] = [run]


class NeedsAnswerError(BaseException):  # an error of the command it is not
    """A person is to be asked first; nothing was done."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("a person is to be asked first")
        self.lines = lines


def run_line(line: Line, emit: Emit) -> int:
    """Run a line that was handed over, in the thread that writes; returns its exit status."""
    from edgecl.cli import confirm

    def asked(lines: list[str]) -> None:
        if line.asks and not line.yes:
            raise NeedsAnswerError(lines)

    def to(stream: str) -> Callable[[str], None]:
        return lambda text: emit({stream: text})

    if not line.yes:  # else it was told when it was asked
        _tell_settings(line, to("err"))
    with _placed(line), confirm.asking(asked), _captured(to("out"), to("err")):
        try:
            return _runner[-1](line.arguments)
        except NeedsAnswerError as needed:
            emit({"ask": needed.lines})
            return 0


def _tell_settings(line: Line, tell: Callable[[str], None]) -> None:
    """Name variables of who typed a line that are settings, which are this process's own."""
    # One with other characters is no setting, and not to be shown as it is.
    others = [name for name in line.environment if name not in _VARIABLES and name.isidentifier()]
    ignored = [name for name in others if os.environ.get(name) != line.environment[name]]
    if ignored:
        tell(
            f"note: {', '.join(sorted(ignored))} of this environment: not used, since the process "
            "that serves the home has settings of its own; see `edgecl config set`\n"
        )


@contextmanager
def _placed(line: Line) -> Iterator[None]:
    """Stand where a line was typed: its folder, its variables, the width of its terminal."""
    before, folder = dict(os.environ), os.getcwd()
    for name in _VARIABLES:
        os.environ.pop(name, None)
    os.environ.update({k: v for k, v in line.environment.items() if k in _VARIABLES})
    os.environ["COLUMNS"] = str(line.columns)
    try:
        _leave_shared_folder()
        os.chdir(line.folder)
        yield
    finally:
        os.chdir(folder)
        for name in (*_VARIABLES, "COLUMNS"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _leave_shared_folder() -> None:
    """Give this thread a current folder of its own: others read files by relative paths meanwhile.

    Containers may refuse it; there a source should be named by its whole path.
    """
    with suppress(OSError, AttributeError):
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_FS):
            raise OSError(ctypes.get_errno(), "unshare")


class _Captured(io.TextIOBase):
    """A stream that gives what one thread writes to a function, and all else to the real one.

    The two below live as long as the process: `print` of another thread may still be in one of them
    when `sys.stdout` is put back, and does not hold it.
    """

    def __init__(self) -> None:
        self._real: TextIO = sys.__stdout__ or sys.stdout
        self._write: Callable[[str], None] | None = None
        self._thread = 0

    def begin(self, real: TextIO, write: Callable[[str], None]) -> None:
        """Capture what this thread writes."""
        self._real, self._write, self._thread = real, write, threading.get_ident()

    def end(self) -> TextIO:
        """Capture nothing more; returns the real stream."""
        self._write, self._thread = None, 0
        return self._real

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # click finds out in this way what takes bytes
            raise TypeError(f"expected text, got {type(text).__name__}")
        if self._write is not None and threading.get_ident() == self._thread:
            self._write(text)
            return len(text)
        return self._real.write(text)

    def flush(self) -> None:
        if threading.get_ident() != self._thread:
            self._real.flush()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"


class _NoInput(io.TextIOBase):
    """The standard input of a line that was handed over, which its own process has."""

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise self._refusal

    def readable(self) -> bool:
        raise self._refusal

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        raise self._refusal

    @property
    def _refusal(self) -> Exception:
        from edgecl.errors import UsageError

        return UsageError(
            "the home is served by another process, which cannot read the standard input of "
            "this one; write it to a file and name that"
        )


_out, _err, _none = _Captured(), _Captured(), _NoInput()


@contextmanager
def _captured(out: Callable[[str], None], err: Callable[[str], None]) -> Iterator[None]:
    """Give what this thread prints to functions; it has no standard input."""
    before = sys.stdin
    _out.begin(sys.stdout, out)
    _err.begin(sys.stderr, err)
    sys.stdin, sys.stdout, sys.stderr = _none, _out, _err
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before, _out.end(), _err.end()

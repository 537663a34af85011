"""The command `edgecl`: parse, call, print.

This module is imported on every start, so it imports nothing heavy; a command imports what it needs
when it runs.
"""

from __future__ import annotations

import io
import os
import re
import sys
from contextlib import suppress
from functools import cache
from typing import Any


def main() -> None:
    """Run the command line; ends the process with the documented exit status."""
    # The head works with one thread: two on two busy cores are many times slower than one
    # (docs/benchmarks.md). BLAS reads this when numpy is imported, so it comes first.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    _mend_streams()
    sys.exit(run(sys.argv[1:]))


def _mend_streams() -> None:
    """Let what is printed never end a command: stdout may be closed, or know few characters.

    A descriptor that is closed would be that of the next file, as of the store.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free is this one
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _at_home(word: str) -> str:
    """Return a word with the home folder for `~/`, where no shell puts it: behind = or : or quoted.

    What really lies in a folder called `~` is left alone.
    """
    found = re.match(r"(--[a-z-]+=|watch:)?(~/.*)", word, re.DOTALL)
    if found is None or os.path.lexists(found[2]):
        return word
    return (found[1] or "") + os.path.expanduser(found[2])


def run(line: list[str]) -> int:
    """Run a command line in this process; returns the documented exit status."""
    from edgecl.cli.handover import set_runner
    from edgecl.cli.output import afresh

    set_runner(run)
    with afresh():
        return _run(line)


def _run(line: list[str]) -> int:
    import typer

    from edgecl.errors import EdgeclError

    # Where an error shows up, `--debug` is added at the end of the line; so it may stand anywhere.
    arguments = [_at_home(a) for a in line if a != "--debug"]
    is_debugging = len(arguments) < len(line)
    try:
        # Not standalone: what is wrong with an argument is told with the argument, an address too.
        status = _commands()(args=arguments, standalone_mode=False, obj=arguments)
    except EdgeclError as error:
        if is_debugging:
            raise
        return _ended(arguments, str(error), error.exit_code)
    except typer.Abort:
        print("Aborted!", file=sys.stderr)
        return _ended(arguments, "aborted", 1, is_told=True)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "show"):  # click's, of wrong usage
            lines = str(getattr(error, "message", "")).split("\n")
            error.message = "\n".join(map(_line, lines))  # type: ignore[attr-defined]
            error.show()
            text = _line(error.format_message()).removesuffix(".")
            return _ended(arguments, text, getattr(error, "exit_code", 2), is_told=True)
        if is_debugging:
            raise
        # What no part of edgecl expected: a disk that fails, a package that misbehaves.
        status = 3 if isinstance(error, OSError) else 4 if _is_damage(error) else 1
        return _ended(arguments, _unexpected(error), status)
    if status == 130:
        return _ended(arguments, "interrupted", 130, is_told=True)
    return status if isinstance(status, int) else 0


@cache
def _commands() -> Any:
    """Return all commands, made once in a process: a stream is handed one line after the other."""
    from typer.main import get_command

    from edgecl.cli.app import app

    return get_command(app)


def _ended(arguments: list[str], text: str, status: int, *, is_told: bool = False) -> int:
    """Tell an error: a line on stderr and, with `--json`, an object on stdout; returns the status.

    A result that was printed stays the one object: the exit status says the rest.
    """
    from edgecl.cli.output import has_result, print_json

    if not is_told:
        _tell(f"edgecl: {text}")
    if not has_result() and any(map(_asks_for_json, arguments)):
        with suppress(OSError):
            print_json({"error": _line(text), "exit": status})
    return status


def _asks_for_json(argument: str) -> bool:
    """Whether this is `--json`, or `-j` alone or among other letters."""
    return argument == "--json" or re.fullmatch(r"-[qvuf]*j[a-z]*", argument) is not None


def _tell(text: str) -> None:
    from edgecl.cli.output import show

    with suppress(OSError):  # a log on a full disk must not change the status
        show(_line(text), sys.stderr)


def _line(text: str) -> str:
    """Return an error without the secrets of addresses and what a terminal would obey."""
    from edgecl.cli.output import printable
    from edgecl.runtime.redact import redacted

    return printable(redacted(text))


def _unexpected(error: Exception) -> str:
    from edgecl.runtime.faults import in_words, is_known

    if isinstance(error, OSError) and is_known(error):
        path = error.filename2 or error.filename
        place = (
            os.fsdecode(path) if isinstance(path, str | bytes) else "standard output, or a file,"
        )
        return f"{place} cannot be used {in_words(error)}"
    what = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {what}; add --debug for more"


def _is_damage(error: Exception) -> bool:
    import sqlite3

    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError
    )

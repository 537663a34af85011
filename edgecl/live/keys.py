"""Single keys of a terminal, without waiting and without echo; the terminal is always restored."""

from __future__ import annotations

import codecs
import os
import select
import sys
from types import TracebackType

_CHUNK = 1024


class Keyboard:
    """Reads keys while it is entered; outside of it the terminal is as it was.

    Ctrl-C and Ctrl-Z stay what they are. A process that is killed outright (SIGKILL) cannot
    restore anything; `stty sane` does.

    Args:
        fd: Descriptor of a terminal.

    Raises:
        OSError: It is none (only when entered).
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._is_open = True

    def __enter__(self) -> Keyboard:
        import termios
        import tty

        try:
            self._before = termios.tcgetattr(self._fd)
        except termios.error as error:
            raise OSError(*error.args) from error
        tty.setcbreak(self._fd, termios.TCSANOW)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        import termios

        try:
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
        except termios.error:  # the terminal is gone
            pass

    def read(self) -> str:
        """Return the keys pressed since the last call; never waits."""
        text = ""
        while self._is_open and select.select([self._fd], [], [], 0)[0]:
            try:
                data = os.read(self._fd, _CHUNK)
            except OSError:  # the terminal was closed
                data = b""
            self._is_open = bool(data)
            text += self._decoder.decode(data)
        return text


def has_keyboard() -> bool:
    """Whether standard input is a terminal in which this process may read keys."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    try:
        # A process in the background would be stopped by the first change of the terminal.
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False

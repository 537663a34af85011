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

    Ctrl-C and Ctrl-Z stay what they are; in the background no key is read. A process that is
    killed outright (SIGKILL) cannot restore anything; `stty sane` does.

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

        if not _is_in_front(self._fd):
            return  # the shell has its own settings there, and setting any would stop us
        try:
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
        except termios.error:  # the terminal is gone
            pass

    def read(self) -> str:
        """Return the keys pressed since the last call; never waits."""
        if not self._is_ready():
            return ""
        text = ""
        while self._is_open and select.select([self._fd], [], [], 0)[0]:
            try:
                data = os.read(self._fd, _CHUNK)
            except OSError:  # the terminal was closed
                data = b""
            self._is_open = bool(data)
            text += self._decoder.decode(data)
        return text

    def _is_ready(self) -> bool:
        """Whether keys may be read; a shell that stopped the run and goes on has reset them."""
        import termios
        import tty

        if not self._is_open or not _is_in_front(self._fd):
            return False
        try:
            if termios.tcgetattr(self._fd)[3] & termios.ICANON:
                tty.setcbreak(self._fd, termios.TCSANOW)
        except termios.error:  # the terminal is gone
            self._is_open = False
        return self._is_open


def has_keyboard() -> bool:
    """Whether standard input is a terminal in which this process may read keys."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    return _is_in_front(sys.stdin.fileno())


def _is_in_front(fd: int) -> bool:
    """Whether this process may use a terminal without being stopped for it."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # not the terminal that controls this process: it stops nobody
        return True

"""The Unix socket in a home: command lines that are handed over to the process that serves it.

One JSON object a line. The client sends one:

    {"version": 1, "arguments": ["relabel", "3", "cup"], "folder": "/home/me", "environment": {},
     "columns": 80, "asks": true, "yes": false}

and gets what the command prints as it comes, and then how it ended:

    {"out": "text for stdout"}   {"err": "text for stderr"}   {"ask": ["what will happen"]}
    {"status": 0}

After `ask` nothing was done: the client asks, and sends the line again with `yes`. The socket is
its owner's alone (0600, in a folder of 0700), and another user's peer is not listened to.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgecl.errors import EdgeclError, HomeLockedError, StoreError, UsageError
from edgecl.home import SOCKET as NAME
from edgecl.runtime.faults import in_words
from edgecl.stream.queue import CommandQueue

VERSION = 1
_MOST_BYTES = 2**20
_MOST_CLIENTS = 16
# What a client does not read is held for it up to so many pieces; what comes then is dropped.
_MOST_PIECES = 10_000
_PATIENCE_S = 10.0
_LAST_S = 1.0
_AGAIN_S = 0.1
_BUSY = HomeLockedError(f"{_MOST_CLIENTS} commands wait for this home already; try again later")
Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Line:
    """A command line that is handed over.

    Args:
        arguments: What stands behind `edgecl`.
        folder: Where it was typed; paths are relative to it.
        environment: Variables of edgecl that were set there.
        columns: Width of its terminal, characters.
        asks: Whether a person can be asked.
        yes: Whether a person has said yes.
    """

    arguments: list[str]
    folder: str
    environment: dict[str, str] = field(default_factory=dict)
    columns: int = 80
    asks: bool = False
    yes: bool = False
    version: int = VERSION


class CommandSocket:
    """Listens in a home; made by the process that holds its lock.

    Args:
        home: Folder of the home.
        commands: Where lines wait for the thread that writes.
        run: Runs one in that thread; gets the line and where its output goes, returns the status.

    Raises:
        StoreError: The socket cannot be made.
    """

    def __init__(
        self, home: Path, commands: CommandQueue, run: Callable[[Line, Emit], int]
    ) -> None:
        self._commands, self._run = commands, run
        self._home = home
        self._clients = threading.BoundedSemaphore(_MOST_CLIENTS)
        self._closed = threading.Event()
        try:
            with suppress(FileNotFoundError):  # of a process that was killed: this one has the lock
                os.unlink(home / NAME)
            self._listener = socket.socket(socket.AF_UNIX)
            before = os.umask(0o177)
            try:
                with _short(home) as folder:
                    self._listener.bind(f"{folder}/{NAME}")
            finally:
                os.umask(before)
            self._listener.listen(_MOST_CLIENTS)
        except OSError as error:
            raise StoreError(
                f"the socket of the home {home} cannot be made {in_words(error)}"
            ) from error
        threading.Thread(target=self._accept, name="socket", daemon=True).start()

    def close(self) -> None:
        """Listen no more; clients have a moment to get what they wait for. Safe to call twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with suppress(FileNotFoundError):
            os.unlink(self._home / NAME)
        end = time.monotonic() + _LAST_S
        for _ in range(_MOST_CLIENTS):
            self._clients.acquire(timeout=max(0.0, end - time.monotonic()))

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed, or this process has too many files open just now
                if self._closed.wait(_AGAIN_S):
                    return
                continue
            if not self._clients.acquire(blocking=False):
                with closing(client), suppress(OSError):
                    _tell(client, _BUSY)
                continue
            threading.Thread(
                target=self._answer_and_close, args=(client,), name="client", daemon=True
            ).start()

    def _answer_and_close(self, client: socket.socket) -> None:
        try:
            with closing(client), suppress(OSError):
                if _user_of(client) == os.geteuid():
                    client.settimeout(_PATIENCE_S)
                    self._answer(client)
        finally:
            self._clients.release()

    def _answer(self, client: socket.socket) -> None:
        try:
            line = _parsed(_read_line(client))
        except ValueError as error:
            _tell(client, UsageError(str(error)))
            return
        # Without a bound of its own: the stream, which says that a command is done, never waits.
        pieces: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

        def emit(piece: dict[str, Any]) -> None:
            if pieces.qsize() < _MOST_PIECES:
                pieces.put(piece)

        try:
            done = self._commands.submit(line.arguments[0], lambda: self._run(line, emit))
        except EdgeclError as error:
            _tell(client, error)
            return
        done.add_done_callback(lambda _: pieces.put(None))
        client.settimeout(None)
        while (piece := pieces.get()) is not None:
            _send(client, piece)
        failure = done.exception()
        if failure is not None:
            _tell(client, failure)
        else:
            _send(client, {"status": done.result()})


def is_served(home: Path) -> bool:
    """Whether a process listens in a home."""
    if not (home / NAME).is_socket():
        return False
    try:
        with _connected(home):
            return True
    except OSError:
        return False


def hand_over(home: Path, line: Line) -> Iterator[dict[str, Any]] | None:
    """Send a line to the process that serves a home; yields what it answers.

    Returns:
        None if no process listens there.
    """
    if not (home / NAME).is_socket():
        return None
    try:
        client = _connected(home)
    except OSError:  # of a process that was killed
        return None
    return _answers(client, line)


def _answers(client: socket.socket, line: Line) -> Iterator[dict[str, Any]]:
    # Where the other process was killed, or refused before it read, what it said is all there is.
    with client, suppress(OSError), client.makefile("rb") as file:
        with suppress(OSError):
            _send(client, asdict(line))
        for text in file:
            if text.endswith(b"\n"):  # or it was cut off
                yield json.loads(text)


def _connected(home: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    try:
        with _short(home) as folder:
            client.connect(f"{folder}/{NAME}")
    except BaseException:
        client.close()
        raise
    return client


@contextmanager
def _short(home: Path) -> Iterator[str]:
    """Give a short name of a folder: the address of a socket has room for 107 bytes."""
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _user_of(client: socket.socket) -> int:
    """Return the user of the process at the other end."""
    data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[1])


def _read_line(client: socket.socket) -> bytes:
    with client.makefile("rb") as file:
        text = file.readline(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError(f"a command line of more than {_MOST_BYTES} bytes was handed over")
    return text


def _parsed(text: bytes) -> Line:
    expected = f"expected one JSON object of version {VERSION}, as `edgecl` of this version sends"
    try:
        line = Line(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"what was handed over is no command line; {expected}") from error
    kinds = {
        "arguments": list, "folder": str, "environment": dict, "columns": int, "asks": bool,
        "yes": bool, "version": int,
    }  # fmt: skip
    is_right = all(isinstance(getattr(line, name), kind) for name, kind in kinds.items())
    texts = [*line.arguments, *line.environment, *line.environment.values()] if is_right else [None]
    if not line.arguments or not all(isinstance(part, str) for part in texts):
        raise ValueError(f"what was handed over is no command line; {expected}")
    if line.version != VERSION:
        raise ValueError(
            f"the process that serves this home speaks version {VERSION} of the hand-over, this "
            f"edgecl version {line.version}; start both from the same edgecl"
        )
    return line


def _tell(client: socket.socket, error: BaseException) -> None:
    """End a command with its error; what is no error of edgecl's is named by its type alone."""
    text = str(error) if isinstance(error, EdgeclError) else f"it failed ({type(error).__name__})"
    _send(client, {"err": f"edgecl: {text}\n"})
    _send(client, {"status": getattr(error, "exit_code", 1)})


def _send(client: socket.socket, piece: dict[str, Any]) -> None:
    client.sendall(json.dumps(piece).encode() + b"\n")

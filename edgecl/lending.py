"""A session that is open is lent to what a command does inside the process that holds its home.

`unlearning.request.writing` and `Home.lock` would refuse it otherwise: a second lock on the home is
one too many, also in the same process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecl.session import Session

_here = threading.local()


@contextmanager
def lending(session: Session) -> Iterator[None]:
    """Let calls that write to the session's home, in this thread, work on the session itself."""
    _here.session = session
    try:
        yield
    finally:
        _here.session = None


def is_lending() -> bool:
    """Whether a session is lent in this thread."""
    return getattr(_here, "session", None) is not None


def lent(path: Path) -> Session | None:
    """Return the session that is lent for the home at a path, or None."""
    session: Session | None = getattr(_here, "session", None)
    if session is None or session.home.path.resolve() != path.resolve():
        return None
    return session

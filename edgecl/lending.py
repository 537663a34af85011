"""A session that is open is lent to what a command does inside the process that holds its home.

`unlearning.request.writing` and `Home.lock` would refuse it otherwise: a second lock on the home is
one too many, also in the same process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.session import Session, open_store
from edgecl.store.store import Store

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


def lent(home: Home) -> Session | None:
    """Return the session that is lent for a home, or None.

    A home with other settings, which a command has chosen, gets a session of its own on the same
    store, learner and engine.
    """
    session: Session | None = getattr(_here, "session", None)
    if session is None or session.home.path.resolve() != home.path.resolve():
        return None
    if session.home.config == home.config:
        return session
    other = Session(home, session.store, session.options)
    other.learner, other.engine = session.learner, session.engine
    return other


@contextmanager
def holding(home: Home) -> Iterator[tuple[Store, Learner | None]]:
    """Hold a home's lock and its store, which may be an older copy.

    Yields:
        The store, and the learner that works on it where a session is lent.

    Raises:
        HomeLockedError: Another process writes.
    """
    session = lent(home)
    if session is not None:
        yield session.store, session.learner
        return
    with home.lock(), open_store(home, may_be_older=True) as store:
        yield store, None

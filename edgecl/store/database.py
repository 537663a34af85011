"""The file of the store: its connection, transactions, and errors in words.

The file is in WAL mode with `secure_delete` on (read back, and refused when it is not) and
`synchronous=FULL`: a committed sample survives a pulled plug, and a deleted one leaves no bytes.
"""

from __future__ import annotations

import os
import sqlite3
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from edgecl.errors import EdgeclError, IntegrityError, StoreError
from edgecl.runtime.files import private
from edgecl.store.schema import SCHEMA_VERSION, check_objects, check_version, migrate, wrong_values

_BUSY_TIMEOUT_MS = 5000
_Self = TypeVar("_Self", bound="Database")


class Database(ABC):
    """An open file with the store's tables, and the counters that every commit writes.

    What a part of the store keeps in memory it reads in `load`, which is called again after a
    transaction that failed.

    Args:
        path: The SQLite file.
        read_only: Open without the right to change anything.

    Raises:
        StoreError: It cannot be opened.
        IntegrityError: Not a store of this schema, or `secure_delete` cannot be switched on.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.step: int
        self.version: int
        if not path.is_file():
            raise StoreError(f"the store {path} is missing; restore it from a backup of the home")
        with sqlite_errors(path):
            self.connection = connect(path, read_only=read_only)
            self._file = _identity(path)
            try:
                version = check_version(self.connection)
                if not read_only:
                    _use_log(self.connection)
                    migrate(self.connection)
                elif version < SCHEMA_VERSION:
                    raise StoreError(
                        f"the store {path} has schema {version} and must be brought to "
                        f"{SCHEMA_VERSION} first; run `edgecl forget pending` once"
                    )
                check_objects(self.connection)
                if wrong := wrong_values(self.connection, only_lists=True):
                    raise _foreign(path, wrong)
                self.prepare()
                self.load()
            except KeyError as error:
                self.connection.close()
                raise IntegrityError(f"the store {path} lacks the entry {error}") from error
            except BaseException as error:
                self.__exit__(type(error), error, None)
                raise

    @abstractmethod
    def prepare(self) -> None:
        """Read what never changes while the store is open."""

    @abstractmethod
    def load(self) -> None:
        """Read anew what is kept in memory, as after its rows were replaced in a transaction."""
        meta = self.meta()
        self.step, self.version = int(meta["step"]), int(meta["version"])

    def meta(self) -> dict[str, str]:
        """Return the entries that stand for the whole store."""
        return dict(self.connection.execute("SELECT key, value FROM meta"))

    def set_meta(self, key: str, value: object) -> None:
        """Write an entry that stands for the whole store; inside a transaction."""
        self.connection.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
            (key, str(value)),
        )

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        try:
            if isinstance(error, Exception) and not isinstance(
                error, EdgeclError | OSError | sqlite3.Error
            ):
                self._check_values(error)
        finally:
            self.close()
        # A read that fails, whoever made it, is told like a failing transaction.
        if isinstance(error, sqlite3.DatabaseError):
            with sqlite_errors(self.path):
                raise error

    @contextmanager
    def transaction(self, *, changes_head: bool = True) -> Iterator[None]:
        """Commit all that happens inside, or nothing.

        Args:
            changes_head: Whether a kept head becomes out of date unless it is saved inside.

        Raises:
            StoreError: SQLite refused (disk full, locked, read-only), another process learned
                into the store meanwhile, or its file was deleted or replaced; nothing was changed.
        """
        if _identity(self.path) != self._file:
            raise StoreError(
                f"{self.path} was deleted, moved or replaced while it was in use; what is learned "
                "now would be lost: put it back, or start the command again"
            )
        with sqlite_errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            self._head_version = self.version + changes_head
            try:
                if changes_head:
                    self._check_alone()
                yield
                if changes_head:
                    self.version = self._head_version
                    self.set_meta("step", self.step)
                    self.set_meta("version", self.version)
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                self.load()
                raise

    def _check_alone(self) -> None:
        """Check that what is in memory is what the file holds: one process writes at a time."""
        (version,) = self.connection.execute(
            "SELECT value FROM meta WHERE key = 'version'"
        ).fetchone()
        if int(version) != self.version:
            raise StoreError(
                f"another process learned into {self.path} while this one had it open; was the "
                "file `lock` of the home deleted? end one of them and start the command again"
            )

    def _check_values(self, error: Exception) -> None:
        """Say so if what went wrong comes of a value that edgecl did not write.

        SQLite takes any type in any column, so a foreign or mended file may hold what no reader
        expects. Looked for only after something went wrong: it reads the whole file.

        Raises:
            IntegrityError: A column holds a value of another type, or the store's own code could
                not read a value.
        """
        with suppress(sqlite3.DatabaseError):
            wrong = wrong_values(self.connection)
            if not wrong and _is_raised_below(error, "edgecl.store."):
                wrong = f"{type(error).__name__}: {error}"
            if wrong:
                raise _foreign(self.path, wrong) from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state of the store, whatever another process commits meanwhile."""
        if self.connection.in_transaction:  # that is one state already
            yield
            return
        with sqlite_errors(self.path):
            self.connection.execute("BEGIN")
            try:
                self.load()
                yield
            finally:
                self.connection.execute("COMMIT")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors into one line each, outside of a transaction."""
        with sqlite_errors(self.path):
            yield

    @property
    def is_writing(self) -> bool:
        """Whether a transaction of this store is under way."""
        return self.connection.in_transaction

    def copy_to(self, path: Path) -> None:
        """Write a copy of the database into a new file, page by page."""
        open(path, "wb", opener=private).close()
        with closing(sqlite3.connect(path)) as target:
            self.connection.backup(target)

    def keep_clear(self, table: str, uid: int) -> None:
        """Have a table never give a uid to a new row; inside a transaction."""
        execute = self.connection.execute
        if not execute("SELECT 1 FROM sqlite_sequence WHERE name = ?", (table,)).fetchone():
            execute("INSERT INTO sqlite_sequence(name, seq) VALUES (?, 0)", (table,))
        execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (uid, table))


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file is at a path; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def connect(path: Path | str, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with the pragmas that the promises rest on, read back."""
    if read_only:
        uri = f"{Path(path).resolve().as_uri()}?mode=ro"
        if os.statvfs(path).f_flag & os.ST_RDONLY and not os.path.exists(f"{path}-wal"):
            # SQLite would make a log, even to read; here nobody can write, so none is needed.
            uri += "&immutable=1"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    else:
        connection = sqlite3.connect(path, isolation_level=None)
    try:
        execute = connection.execute
        execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        execute("PRAGMA foreign_keys = ON")
        execute("PRAGMA temp_store = MEMORY")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA secure_delete = ON")
        # VACUUM would renumber nothing (explicit keys), and a trusted schema runs no foreign code.
        execute("PRAGMA trusted_schema = OFF")
        wanted = {"secure_delete": 1, "foreign_keys": 1, "synchronous": 2}
        for pragma, value in wanted.items():
            (found,) = execute(f"PRAGMA {pragma}").fetchone()
            if found != value:
                raise IntegrityError(
                    f"SQLite {sqlite3.sqlite_version} answers {pragma} = {found}; edgecl needs "
                    f"{value}; install an SQLite that has it"
                )
    except BaseException:
        connection.close()
        raise
    return connection


def _foreign(path: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"the store {path} holds what edgecl does not write ({what}); restore the home from a "
        "backup"
    )


def _is_raised_below(error: Exception, package: str) -> bool:
    """Whether the last of our functions that an error left is in a package."""
    names = [f.f_globals.get("__name__", "") for f, _ in traceback.walk_tb(error.__traceback__)]
    ours = [name for name in names if name.startswith("edgecl.")]
    return bool(ours) and ours[-1].startswith(package)


def _use_log(connection: sqlite3.Connection) -> None:
    """Have the file in WAL mode, whatever somebody has set: other journals keep deleted pages."""
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise IntegrityError(
            f"SQLite keeps the store's journal_mode at {mode!r}; edgecl needs WAL: put the home on "
            "a local file system, and stop other programs that use it"
        )


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
            remedy = {
                "locked": "another process holds it; wait for it or stop it",
                "full": "free some disk space; nothing of this step was kept",
                "readonly": "make the home writable",
                "unable to open": "check that the home can be read, and written: SQLite needs a "
                "log beside the store, even to read",
            }
            hint = next(
                (h for word, h in remedy.items() if word in str(error)),
                "check the disk and its free space; nothing of this step was kept",
            )
            raise StoreError(f"the store {path} cannot be used ({error}); {hint}") from error
        raise IntegrityError(
            f"the store {path} is damaged ({error}); restore the home from a backup"
        ) from error

"""Keys of classes: what is kept of a class is sealed, and unreadable once its key is gone."""

from __future__ import annotations

from pathlib import Path

from edgecl.errors import IntegrityError
from edgecl.store.database import Database
from edgecl.store.tables import SEALED
from edgecl.store.vault import Vault


class Sealed(Database):
    """A database of which columns may be encrypted; see `tables.py` for which.

    Args:
        path: The SQLite file.
        read_only: Open without the right to change anything.
        vault: Keys of a sealed store.

    Raises:
        IntegrityError: It is sealed and a key is missing, or plain and there are keys.
    """

    _names: dict[int, str]

    def __init__(self, path: Path, *, read_only: bool = False, vault: Vault | None = None) -> None:
        self._vault = vault
        super().__init__(path, read_only=read_only)
        try:
            self._check_keys(self.meta().get("sealed") == "1")
        except BaseException:
            self.connection.close()
            raise

    @property
    def is_sealed(self) -> bool:
        """Whether pictures, features and statistics are encrypted."""
        return self._vault is not None

    def seal(self, class_uid: int, column: str, row: int | str, data: bytes) -> bytes:
        """Return data as it is kept; every blob of a class's samples goes through here.

        Args:
            class_uid: The class whose key seals it.
            column: Where it is kept, `table.column`; one that `tables.py` says is sealed.
            row: Uid of its row.
            data: The bytes.
        """
        if self._vault is None:
            return data
        return self._vault.seal(class_uid, _bound_to(column, row), data)

    def unseal(self, class_uid: int, column: str, row: int | str, data: bytes) -> bytes:
        """Return data that `seal` gave for the same class, column and row.

        Raises:
            KeyDestroyedError: The class was unlearned.
            IntegrityError: The data were changed, or are another row's.
        """
        if self._vault is None:
            return data
        return self._vault.open(class_uid, _bound_to(column, row), data)

    def destroy_key(self, class_uid: int) -> None:
        """Make what is left anywhere of a class unreadable; after its deletion was committed.

        May be repeated; does nothing in a plain store.

        Raises:
            StoreError: The key file cannot be written.
        """
        if self._vault is not None:
            self._vault.destroy(class_uid)

    def lost_classes(self) -> tuple[int, ...]:
        """Return the uids of classes that nobody can read any more, in an old copy of a store.

        Their key was destroyed. `stored_rows`, `stored_samples` and `all_moments` leave them out;
        `erase` deletes what is left of them.
        """
        if self._vault is None:
            return ()
        destroyed = self._vault.destroyed
        return tuple(uid for uid in self._names if uid in destroyed)

    def revived_keys(self) -> tuple[int, ...]:
        """Return the uids of unlearned classes whose key is there, as in an old key file."""
        if self._vault is None:
            return ()
        rows = self.connection.execute("SELECT target FROM tombstones WHERE kind = 'class'")
        return tuple(sorted({uid for (uid,) in rows} & self._vault.living - set(self._names)))

    def _check_keys(self, is_sealed: bool) -> None:
        """Check that a sealed store comes with its keys, and a plain one with none."""
        if is_sealed != (self._vault is not None):
            raise IntegrityError(
                f"the store {self.path} is encrypted and its key file is missing; restore "
                "class.keys"
                if is_sealed
                else f"the store {self.path} is not encrypted, its home has a key file; restore "
                "the database that belongs to it"
            )
        if self._vault is not None:
            self._vault.refresh()  # after the classes were read, so that a key is not behind
            missing = set(self._names) - self._vault.living - self._vault.destroyed
            if missing:
                names = ", ".join(self._names[uid] for uid in sorted(missing))
                raise IntegrityError(
                    f"{self._vault.path} lacks the key of {names}; restore the newest class.keys"
                )

    def _unspent_uid(self) -> int | None:
        """Return the uid of a new class, or None to let the database choose the next."""
        if self._vault is None:
            return None
        (uid,) = self.connection.execute(
            "SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'classes'"
        ).fetchone()
        while uid in self._vault.destroyed:
            uid += 1
        return int(uid)


def _bound_to(column: str, row: int | str) -> bytes:
    """Return what sealed data are bound to, so that they cannot be moved."""
    if column not in SEALED:
        raise ValueError(f"{column} is not a sealed column of tables.py")
    return f"{column} of row {row}".encode()

"""One key a class: what is sealed with it is unreadable, in every copy, once the key is destroyed.

Deleted rows may live on where no program reaches them: in backups, in snapshots, in blocks that
flash memory set aside. A sealed store keeps pictures, features and statistics encrypted
(AES-256-GCM, NIST SP 800-38D) with a random key of their class, and the keys in one small file of
fixed slots, the only thing that has to be erased for certain.

A slot of 64 bytes never crosses a sector of the disk:

    0   uid of the class, little endian
    8   0xA5 while the key lives, 0x5A once it was destroyed; seven zeros
    16  the key, wrapped (AES key wrap, RFC 3394) with a key that HKDF (RFC 5869) derives from the
        device key and the uid; zeros once it was destroyed
    56  checksum of the rest (BLAKE2b)

Slots are only ever added at the end and overwritten in place: a new file would leave the old one's
blocks behind. A slot that was being written when the power went is ignored and written over.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgecl.errors import IntegrityError, KeyDestroyedError, StoreError
from edgecl.runtime.faults import in_words, is_lost

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SLOT = 64
_LIVES, _DESTROYED = b"\xa5" + bytes(7), b"\x5a" + bytes(7)
_FLAG, _WRAPPED, _CHECKSUM = slice(8, 16), slice(16, 56), slice(56, 64)
_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
_RESTORE = "restore the key file from a backup of this home"


class Vault:
    """The keys of a sealed store.

    Only the process that holds the home's lock adds and destroys keys; others may read meanwhile.

    Args:
        path: The key file, which exists.
        device_key: Key of the device, without which the file opens nothing.

    Raises:
        IntegrityError: The file is missing or a slot is damaged.
    """

    def __init__(self, path: Path, device_key: bytes) -> None:
        self.path = path
        self._device_key = device_key
        self._ciphers: dict[int, AESGCM] = {}
        self.refresh()

    @property
    def living(self) -> frozenset[int]:
        """Uids of the classes whose key is there."""
        return frozenset(u for u, data in self._slots if data[_FLAG] == _LIVES) - self.destroyed

    @property
    def destroyed(self) -> frozenset[int]:
        """Uids of the classes whose key was destroyed; they never get one again."""
        return frozenset(u for u, data in self._slots if data[_FLAG] == _DESTROYED)

    def create(self, class_uid: int) -> None:
        """Make the key of a class, on the disk before this returns; keeps one that is there.

        Raises:
            KeyDestroyedError: The class had a key that was destroyed.
            StoreError: The file cannot be written; it is as before.
        """
        self.refresh()
        if class_uid in self.destroyed:
            raise _destroyed(class_uid)
        if class_uid in self.living:
            return
        from cryptography.hazmat.primitives.keywrap import aes_key_wrap

        wrapped = aes_key_wrap(self._wrapping_key(class_uid), os.urandom(_KEY_BYTES))
        end = len(self._slots) * SLOT
        with self._writing() as file:
            try:
                _write(file, _slot(class_uid, _LIVES, wrapped), end)
            except OSError:
                os.ftruncate(file, end)
                raise
        self.refresh()

    def destroy(self, class_uid: int) -> None:
        """Overwrite the key of a class with zeros, on the disk before this returns.

        May be repeated, and finishes what was begun; a class without a key is none of its business.

        Raises:
            StoreError: The file cannot be written.
        """
        self._ciphers.pop(class_uid, None)
        self.refresh()
        blank = _slot(class_uid, _DESTROYED, bytes(_WRAPPED.stop - _WRAPPED.start))
        places = [i for i, (uid, _) in enumerate(self._slots) if uid == class_uid]
        if places:
            with self._writing() as file:
                for place in places:
                    _write(file, blank, place * SLOT)
            self.refresh()

    def seal(self, class_uid: int, context: bytes, data: bytes) -> bytes:
        """Encrypt data of a class.

        A random nonce of 96 bits allows 2^32 calls a key; a class of so many rows is not to be.

        Args:
            class_uid: The class, which has a key.
            context: Where the data belongs; it opens nowhere else, and for no other class.
            data: Any bytes.

        Returns:
            Nonce (12 bytes), ciphertext, tag (16 bytes).

        Raises:
            IntegrityError: The class has no key, or not one of this device.
            KeyDestroyedError: It was destroyed.
        """
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._cipher(class_uid)
        return nonce + cipher.encrypt(nonce, data, _bound(class_uid, context))

    def open(self, class_uid: int, context: bytes, sealed: bytes) -> bytes:
        """Decrypt what `seal` returned for the same class and context.

        Raises:
            IntegrityError: The data was changed or belongs elsewhere; or see `seal`.
            KeyDestroyedError: The key was destroyed.
        """
        from cryptography.exceptions import InvalidTag

        cipher = self._cipher(class_uid)
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            if len(rest) < _TAG_BYTES:
                raise InvalidTag
            return cipher.decrypt(nonce, rest, _bound(class_uid, context))
        except InvalidTag as error:
            raise IntegrityError(
                f"the sealed {context.decode(errors='replace')} of class {class_uid} is damaged or "
                "was moved there; restore the home from a backup"
            ) from error

    def _cipher(self, class_uid: int) -> AESGCM:
        cipher = self._ciphers.get(class_uid)
        if cipher is None:
            cipher = self._ciphers[class_uid] = self._load(class_uid)
        return cipher

    def _load(self, class_uid: int) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

        if class_uid not in self.living:
            self.refresh()
        if class_uid in self.destroyed:
            raise _destroyed(class_uid)
        wrapped = next((data[_WRAPPED] for uid, data in self._slots if uid == class_uid), None)
        if wrapped is None:
            raise IntegrityError(f"{self.path} lacks the key of class {class_uid}; {_RESTORE}")
        try:
            return AESGCM(aes_key_unwrap(self._wrapping_key(class_uid), wrapped))
        except InvalidUnwrap as error:
            raise IntegrityError(
                f"{self.path} was written with another device.key; restore the one of this home"
            ) from error

    def _wrapping_key(self, class_uid: int) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        purpose = b"edgecl class key " + class_uid.to_bytes(8, "little")
        return HKDF(SHA256(), _KEY_BYTES, None, purpose).derive(self._device_key)

    def refresh(self) -> None:
        """Read the file again; another process may have added or destroyed keys."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            if is_lost(error):
                raise IntegrityError(
                    f"the key file {self.path} cannot be read ({error.strerror}); {_RESTORE}"
                ) from error
            raise StoreError(
                f"the key file {self.path} cannot be read {in_words(error)}"
            ) from error
        slots = [content[i : i + SLOT] for i in range(0, len(content) - SLOT + 1, SLOT)]
        if slots and not any(slots[-1]):
            slots.pop()  # the file grew, and the power went before its content was there
        for i, data in enumerate(slots):
            # A destruction that was cut short has the flag and not yet the checksum.
            if data[_CHECKSUM] != _checksum(data) and data[_FLAG] != _DESTROYED:
                raise IntegrityError(f"slot {i} of {self.path} is damaged; {_RESTORE}")
        self._slots = [(int.from_bytes(data[:8], "little"), data) for data in slots]

    @contextmanager
    def _writing(self) -> Iterator[int]:
        try:
            file = os.open(self.path, os.O_RDWR)
            try:
                yield file
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise StoreError(
                f"the key file {self.path} cannot be written {in_words(error)}; nothing of this "
                "step was kept"
            ) from error


def _slot(class_uid: int, flag: bytes, wrapped: bytes) -> bytes:
    data = class_uid.to_bytes(8, "little") + flag + wrapped
    return data + _checksum(data)


def _checksum(slot: bytes) -> bytes:
    return hashlib.blake2b(slot[: _CHECKSUM.start], digest_size=8, person=b"edgecl keys").digest()


def _bound(class_uid: int, context: bytes) -> bytes:
    return class_uid.to_bytes(8, "little") + context


def _write(file: int, data: bytes, place: int) -> None:
    """Write all of the data; a single call may stop in between when the disk is full."""
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], place + done)


def _destroyed(class_uid: int) -> KeyDestroyedError:
    return KeyDestroyedError(
        f"the key of class {class_uid} was destroyed when it was unlearned, its data cannot be "
        "read any more; the database is an old copy: unlearn the class in it again"
    )

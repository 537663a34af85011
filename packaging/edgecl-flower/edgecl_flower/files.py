"""The files of a carrier folder: which travel, how they are listed, read and written.

A name is believed only where it has the form of the layout, so nobody can name another place; a
file only where its bytes have the digest in its name. What is in a file is signed and is checked
by whoever takes it in, not here.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# What edgecl takes for the name of a device (edgecl/fleet/identity.py).
_DEVICE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_DIGEST = "[0-9a-f]{16}"
UP = re.compile(
    rf"contributions/{_DEVICE}/g[0-9]{{1,18}}-{_DIGEST}\.efc"
    rf"|requests/{_DEVICE}/r[0-9]{{1,18}}-{_DIGEST}\.json"
    rf"|masks/(?:seats|masked)/{_DEVICE}/[sm][0-9]{{1,18}}-{_DIGEST}\.(?:json|efc)"
)
"""What a device sends."""
DOWN = re.compile(
    rf"fleet\.json|orders/[0-9]{{6,18}}-{_DIGEST}\.json|masks/[rl][0-9]{{1,18}}-{_DIGEST}\.json"
    rf"|merged/v[0-9]{{1,18}}-{_DIGEST}\.(?:efb|json)"
)
"""What a device is sent."""
REVOKED = ("merged/", "masks/")
"""Of which a device keeps only what the merger still has."""
STAMP = ".exchanged"
"""Written into an inbox when an exchange has ended."""
MOST_FILES = 10_000
_MOST_DEPTH = 4


@dataclass(frozen=True)
class File:
    """A file in a listing: its path below the folder, first 16 digits of its SHA-256, its size."""

    name: str
    digest: str
    size: int


class Refused(ValueError):
    """What another side said or sent, or a file lying here, that is not as the layout has it."""


def listed(folder: Path, which: re.Pattern[str]) -> list[File]:
    """List the files of a folder that travel, by name. Links are not followed.

    Raises:
        Refused: There are more than `MOST_FILES`.
    """
    found = []
    for name in sorted(_names(folder, "", _MOST_DEPTH), key=lambda n: (n != "fleet.json", n)):
        if which.fullmatch(name):
            digest = _digest_in(name) or _digest(read(folder, name, 1 << 24))
            found.append(File(name, digest, (folder / name).stat().st_size))
    if len(found) > MOST_FILES:
        raise Refused(f"{folder} has {len(found)} files, expected at most {MOST_FILES}")
    return found


def read(folder: Path, name: str, limit: int) -> bytes:
    """Read a file of a folder, if it is no larger than `limit` bytes and its digest is right.

    Raises:
        Refused: It is larger, damaged or a link.
        OSError: It cannot be read.
    """
    with open(folder / name, "rb", opener=lambda p, f: os.open(p, f | os.O_NOFOLLOW)) as file:
        data = file.read(limit + 1)
    _check(name, data, limit)
    return data


def write(folder: Path, name: str, data: bytes, which: re.Pattern[str], limit: int) -> None:
    """Write a file that came from another side: whole or not at all.

    Raises:
        Refused: Its name, size or digest is wrong.
    """
    if not which.fullmatch(name):
        raise Refused(f"{name[:120]!a} is not the name of a file that travels this way")
    _check(name, data, limit)
    path = folder / name
    for below in reversed(Path(name).parents[:-1]):
        (folder / below).mkdir(exist_ok=True)
        if (folder / below).is_symlink():
            raise Refused(f"{folder / below} is a link, expected a folder")
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def fitting(files: Sequence[File], limit: int) -> list[File]:
    """Return the first files that are together no larger than `limit` bytes, but at least one."""
    n, total = 1, 0
    for n, file in enumerate(files, 1):
        total += file.size
        if total > limit and n > 1:
            return list(files[: n - 1])
    return list(files[:n])


def _names(folder: Path, below: str, depth: int) -> Iterator[str]:
    """Go through what lies in a folder, as paths below it."""
    with os.scandir(folder / below) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                yield name
            elif stat.S_ISDIR(mode) and depth > 1:
                yield from _names(folder, f"{name}/", depth - 1)


def _check(name: str, data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise Refused(f"{name} is larger than {limit:,} bytes")
    wanted = _digest_in(name)
    if wanted and _digest(data) != wanted:
        raise Refused(f"{name} does not have the digest that its name says")


def _digest_in(name: str) -> str:
    found = re.search(r"-([0-9a-f]{16})\.[a-z]+$", name)
    return found[1] if found else ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]

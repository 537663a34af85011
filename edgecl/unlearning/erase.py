"""Physical erasure: nothing of a deleted row stays in the files of the home.

The store's own file is edgecl/store/scrub.py's; here are the others.

Flash wear levelling and copy-on-write file systems keep old blocks below what a file shows; that is
beyond this module and said in docs/unlearning.md.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from edgecl.errors import StoreError
from edgecl.home import Home, unfinished_homes
from edgecl.runtime.faults import in_words
from edgecl.runtime.files import flush, wipe
from edgecl.store.snapshots import snapshots_of
from edgecl.store.store import Store

_CHUNK = 8 * 2**20
# What `snapshots.take` and SQLite name files in that folder.
_SNAPSHOT = re.compile(r"(s[0-9]+\.db|\.part)(-wal|-shm|-journal)?")


def find_bytes(
    folder: Path, needles: dict[str, bytes], *, but_not: tuple[str, ...] = ()
) -> dict[str, list[str]]:
    """Look for byte strings in every file below a folder.

    Args:
        folder: Where to look.
        needles: What to look for, by the name under which it is reported.
        but_not: Entries of the folder to leave out: files that never hold learned data.

    Returns:
        For each needle that was found, the files that hold it.
    """
    found: dict[str, list[str]] = {}
    if not needles:
        return found
    overlap = max(len(n) for n in needles.values()) - 1
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.relative_to(folder).parts[0] in but_not:
            continue
        tail = b""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue  # a reader of the store that ended took its files along
        with file:
            while chunk := file.read(_CHUNK):
                window = tail + chunk
                for name, needle in needles.items():
                    if needle in window and str(path) not in found.get(name, []):
                        found.setdefault(name, []).append(str(path))
                tail = window[-overlap:] if overlap else b""
    return found


def remove_unlisted_snapshots(home: Home, store: Store) -> int:
    """Overwrite and delete files of snapshots that are on the list no more; returns how many.

    What has no name that edgecl gives stays: a note, or what a disk that is mounted here brings.

    Raises:
        StoreError: A file cannot be written or deleted.
    """
    if not home.snapshots.is_dir():
        return 0
    listed = {home.snapshot(snapshot.uid) for snapshot in snapshots_of(store)}
    gone = [
        path
        for folder, _, names in os.walk(home.snapshots)  # which follows no link
        for path in (Path(folder) / name for name in sorted(names) if _SNAPSHOT.fullmatch(name))
        if path not in listed
    ]
    for path in gone:
        try:
            wipe(path)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be erased {in_words(error)}; then run `edgecl forget pending`"
            ) from error
    flush(home.snapshots)
    return len(gone)


def remove_left_copies(home: Home) -> int:
    """Overwrite and delete what a killed `bench` or `init` left beside the home; returns how many.

    The merged head of a fleet goes, too: it may know what was unlearned here, and comes anew. The
    caller holds the home's lock, which a running `bench` would hold; a running `init` holds that of
    what it makes.
    """
    left = sorted(home.path.parent.glob(f"{glob.escape(home.copies)}*"))
    left += unfinished_homes(home.path)
    left += [folder for folder in [home.fleet / "merged"] if folder.is_dir()]
    for path in left:
        wipe(path)
    return len(left)

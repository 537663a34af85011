"""The file of the store is rewritten beside itself, not in memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.store.scrub import scrub
from edgecl.store.table import Role

D = 6


@pytest.mark.parametrize("folder", ["home", 'it\'s a "home"', os.fsdecode(b"h\xffme")])
def test_what_a_store_is_rewritten_from_lies_beside_it(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    with build.store(tmp_path / folder / "s.db", D) as store:
        picture = np.random.default_rng(0).bytes(300_000)
        with store.transaction():
            uid = store.add_class("part")
            for i in range(20):  # more than SQLite keeps in memory anyway
                store.add_aside(
                    Role.HELD_OUT, uid, np.full(D, i, np.float16), picture, source="s",
                    frame=str(i), time=0.0, score=1.0,
                )  # fmt: skip
        opened: set[str] = set()

        def look() -> int:
            links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
            opened.update(os.readlink(link) for link in links if link.is_symlink())
            return 0

        store.connection.set_progress_handler(look, 100)
        found = scrub(store)
        store.connection.set_progress_handler(None, 0)
        assert found["vacuumed"]
        unnamed = {path for path in opened if path.endswith(" (deleted)")}
        mine = {path for path in unnamed if path.startswith(f"{(tmp_path / folder).resolve()}/")}
        is_told = not any("\udc80" <= letter for letter in folder)
        assert bool(mine) == is_told
        assert {path for path in unnamed if "etilqs" in path} == mine
        assert store.connection.execute("PRAGMA temp_store").fetchone() == (2,)
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == [
            "s.db", "s.db-shm", "s.db-wal"
        ]  # fmt: skip
        assert store.picture(uid=20) == picture

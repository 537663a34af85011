"""Nobody but its owner can read what a home learned, whatever the mask of the process."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import workloads

from edgecl.exporters.dataset import export_dataset
from edgecl.review import write_pictures
from edgecl.snapshots import take
from edgecl.store.novel import entries
from edgecl.unlearning.request import writing


@pytest.fixture(params=[0o022, 0o000])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def open_files(place: Path) -> list[str]:
    """Return what others than the owner may do anything with; the engine is no secret."""
    return [
        str(path.relative_to(place.parent))
        for path in (place, *place.rglob("*"))
        if stat.S_IMODE(path.stat().st_mode) & 0o077 and "engine" not in path.parts
    ]


@pytest.mark.parametrize("sealed", [False, True])
def test_files_of_a_home_and_its_pictures_are_for_their_owner(
    mask: int, sealed: bool, tmp_path: Path
) -> None:
    place = tmp_path / "home"
    home = workloads.small_home(place, sealed=sealed)
    workloads.learn(place)
    workloads.offer_frames(place)
    with writing(home) as session:
        take(home, session.store)
        assert (place / "device.db-wal").exists()
        assert (place / "device.db-shm").exists()
        assert open_files(place) == []
        export_dataset(home, session.store, tmp_path / "dataset", is_plain=True)
        waiting = [entry.uid for entry in entries(session.store)]
        assert write_pictures(session.store, waiting, tmp_path / "new") > 0
    workloads.forget(place)
    assert open_files(place) == []
    assert {p.name for p in place.rglob("*")} > {"receipts.jsonl", "device.key", "edgecl.toml"}
    for made in ("dataset", "new"):
        names = [p.name for p in (tmp_path / made).rglob("*") if p.is_file()]
        assert names
        assert open_files(tmp_path / made) == []

"""The registry of exports, and how a bundle is revoked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import build
from edgecl.errors import IntegrityError
from edgecl.runtime.bundle import manifest_text, open_bundle, read_manifest
from edgecl.runtime.files import put_in_place
from edgecl.store.exports import (
    FRESH,
    REPLACED,
    STALE,
    WRITING,
    Export,
    add_export,
    exports_of,
    finish_exports,
    holding,
    is_reachable,
    mark_stale,
    part_of,
    revoke,
    set_digest,
)
from edgecl.store.store import Store

NAME = "secret-part"
HEAD = b"rows of the head" * 4


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with build.store(tmp_path / "device.db") as opened:
        yield opened


def write(
    store: Store, place: Path, classes: tuple[int, ...] = (1,), adapters: tuple[int, ...] = ()
) -> Export:
    """Write a bundle as the exporter does, up to the point where it is put in place."""
    found = read_manifest(place) if place.exists() else None
    with store.transaction(changes_head=False):
        replaces = None if found is None else found["version"]
        uid = add_export(
            store, kind="onnx", path=place, feature_map=build.FEATURE_MAP, classes=classes,
            adapters=adapters, body={"replaces": replaces},
        )  # fmt: skip
        text = manifest_text(
            {
                "bundle": 1,
                "version": uid,
                "home": "h",
                "classes": [{"uid": uid, "name": NAME} for uid in classes],
                "files": {"backbone.onnx": "0" * 64, "head.safetensors": "0" * 64},
                "engine": {"engine": "backbone.onnx"},
            }
        )
        set_digest(store, uid, json.loads(text)["digest"])
    export = exports_of(store)[-1]
    part = part_of(export)
    part.mkdir()
    (part / "manifest.json").write_text(text)
    (part / "backbone.onnx").write_bytes(b"frozen")
    for name in ("head.safetensors", "adapter-1.safetensors"):
        (part / name).write_bytes(HEAD)
    return export


def export(store: Store, place: Path, classes: tuple[int, ...] = (1,), **more: object) -> Export:
    made = write(store, place, classes, **more)  # type: ignore[arg-type]
    put_in_place(part_of(made), place)
    finish_exports(store)
    return next(e for e in exports_of(store) if e.uid == made.uid)


def statuses(store: Store) -> list[str]:
    return [e.status for e in exports_of(store)]


def test_a_row_says_what_was_exported(store: Store, tmp_path: Path) -> None:
    made = export(store, tmp_path / "b", (1, 3), adapters=(2,))
    assert exports_of(store) == [made]
    assert (made.uid, made.kind, made.path) == (1, "onnx", tmp_path / "b")
    assert (made.classes, made.adapters, made.status) == ((1, 3), (2,), FRESH)
    assert made.feature_map == build.FEATURE_MAP
    assert made.digest == read_manifest(tmp_path / "b")["digest"]
    assert made.created > 0
    assert is_reachable(made)


def test_holding_finds_a_class_or_an_adapter_and_no_stale_export(
    store: Store, tmp_path: Path
) -> None:
    export(store, tmp_path / "a", (1, 2))
    export(store, tmp_path / "b", (2, 3), adapters=(7,))
    write(store, tmp_path / "c", (3,))  # not in place yet counts too
    assert [e.uid for e in holding(store, [1], [])] == [1]
    assert [e.uid for e in holding(store, [2], [])] == [1, 2]
    assert [e.uid for e in holding(store, [3], [])] == [2, 3]
    assert [e.uid for e in holding(store, [], [7])] == [2]
    assert holding(store, [9], [9]) == []
    with store.transaction(changes_head=False):
        mark_stale(store, [2], "r4")
    assert [e.uid for e in holding(store, [2], [7])] == [1]
    assert statuses(store) == [FRESH, STALE, WRITING]
    assert exports_of(store)[1].body["receipt"] == "r4"


def test_a_mark_is_part_of_the_callers_transaction(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "a")

    def interrupted() -> None:
        with store.transaction(changes_head=False):
            mark_stale(store, [1], "r1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert statuses(store) == [FRESH]


def test_revoking_leaves_no_name_no_head_and_no_adapter(store: Store, tmp_path: Path) -> None:
    made = export(store, tmp_path / "a")
    learned = [tmp_path / "a" / name for name in ("head.safetensors", "adapter-1.safetensors")]
    copies = [tmp_path / "link-1", tmp_path / "link-2", tmp_path / "link-3"]
    for path, copy in zip((*learned, tmp_path / "a" / "manifest.json"), copies, strict=True):
        os.link(path, copy)  # the same blocks: are they overwritten?
    assert revoke(made, "r2") == "erased"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["backbone.onnx", "manifest.json"]
    assert NAME.encode() not in (tmp_path / "a" / "manifest.json").read_bytes()
    assert all(not copy.read_bytes().strip(b"\0") for copy in copies)
    found = read_manifest(tmp_path / "a")
    assert (found["stale"], found["version"], found["home"]) == ("r2", 1, "h")
    with pytest.raises(IntegrityError, match=r"revoked by receipt r2.*edgecl export --rebuild-st"):
        open_bundle(tmp_path / "a")


def test_revoking_again_is_the_same_and_finishes_what_was_cut_off(
    store: Store, tmp_path: Path
) -> None:
    made = export(store, tmp_path / "a")
    assert revoke(made, "r2") == "erased"
    first = read_manifest(tmp_path / "a")
    (tmp_path / "a" / "head.safetensors").write_bytes(HEAD)  # as if the power had gone
    assert revoke(made, "r3") == "erased"
    assert read_manifest(tmp_path / "a") == first
    assert not (tmp_path / "a" / "head.safetensors").exists()


@pytest.mark.parametrize("case", ["gone", "another's", "no manifest", "changed", "a file"])
def test_what_is_not_this_export_any_more_is_unreachable_and_untouched(
    case: str, store: Store, tmp_path: Path
) -> None:
    place = tmp_path / "a"
    made = export(store, place)
    if case in ("gone", "a file"):
        place.rename(tmp_path / "b")
        if case == "a file":
            place.write_text("mine")
    elif case == "another's":
        export(store, place, (2,))
    elif case == "no manifest":
        (place / "manifest.json").unlink()
    else:
        path = place / "manifest.json"
        path.write_text(path.read_text().replace(NAME, "other"))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}
    assert revoke(made, "r1") == "unreachable"
    assert before
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")} == before
    assert not is_reachable(made)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_unreachable(store: Store, tmp_path: Path) -> None:
    made = export(store, tmp_path / "a")
    (tmp_path / "a").chmod(0o500)
    try:
        assert revoke(made, "r1") == "unreachable"
    finally:
        (tmp_path / "a").chmod(0o700)


def test_a_link_in_a_bundle_is_removed_and_its_target_is_not_touched(
    store: Store, tmp_path: Path
) -> None:
    made = export(store, tmp_path / "a")
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "a" / "head.safetensors").unlink()
    (tmp_path / "a" / "head.safetensors").symlink_to(tmp_path / "mine")
    assert revoke(made, "r1") == "erased"
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not (tmp_path / "a" / "head.safetensors").is_symlink()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_the_old_bundle_is_replaced_and_nothing_of_it_is_left(
    can_exchange: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr("edgecl.runtime.files.exchange", lambda *_: False)
    old = export(store, tmp_path / "a", (1,))
    new = export(store, tmp_path / "a", (2,))
    assert statuses(store) == [REPLACED, FRESH]
    assert (is_reachable(old), is_reachable(new)) == (False, True)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["a"]
    assert holding(store, [1], []) == []


def test_an_export_that_was_killed_early_leaves_no_row_and_no_file(
    store: Store, tmp_path: Path
) -> None:
    old = export(store, tmp_path / "a")
    write(store, tmp_path / "a", (2,))
    finish_exports(store)
    assert exports_of(store) == [old]
    assert is_reachable(old)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["a"]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_export_that_was_killed_while_it_replaced_another_is_finished(
    step: int, store: Store, tmp_path: Path
) -> None:
    old = export(store, tmp_path / "a")
    made = write(store, tmp_path / "a", (2,))
    part, aside = part_of(made), tmp_path / (part_of(made).name + "-old")
    # The three renames of a disk that cannot exchange.
    old.path.replace(aside)
    if step > 1:
        part.replace(old.path)
    if step > 2:
        aside.replace(part)
    finish_exports(store)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["a"]
    if step == 1:
        assert exports_of(store) == [old]
        assert is_reachable(old)
    else:
        assert statuses(store) == [REPLACED, FRESH]
        assert is_reachable(made)


def test_while_its_disk_is_away_an_export_stays_open(store: Store, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    made = write(store, tmp_path / "disk" / "a", (5,))
    put_in_place(part_of(made), made.path)
    (tmp_path / "disk").rename(tmp_path / "away")
    finish_exports(store)
    assert statuses(store) == [WRITING]
    assert [e.uid for e in holding(store, [5], [])] == [1]
    assert revoke(made, "r1") == "unreachable"
    (tmp_path / "away").rename(tmp_path / "disk")
    finish_exports(store)
    assert statuses(store) == [FRESH]


def test_a_moved_bundle_is_not_taken_for_replaced(store: Store, tmp_path: Path) -> None:
    old = export(store, tmp_path / "a", (1,))
    old.path.rename(tmp_path / "elsewhere")
    export(store, tmp_path / "a", (2,))
    assert statuses(store) == [FRESH, FRESH]
    assert [revoke(e, "r1") for e in holding(store, [1], [])] == ["unreachable"]

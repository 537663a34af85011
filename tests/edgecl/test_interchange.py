"""`edgecl import` and `edgecl export dataset`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import other_tools
import pytest
import workloads
from hypothesis import given
from hypothesis import strategies as st

import build
from edgecl.errors import EdgeclError, RequestError, UnknownClassError, UsageError
from edgecl.exporters.dataset import export_dataset, folder_names
from edgecl.home import Home
from edgecl.runtime.bundle import open_bundle
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.datasets import open_dataset
from edgecl.session import open_learner, open_store
from edgecl.store.exports import FRESH, STALE, exports_of, finish_exports
from edgecl.store.table import Role
from edgecl.types import ForgetRequest, clean_label
from edgecl.unlearning.plan import make_plan, resolve
from edgecl.unlearning.request import forget, writing

KEYS = {
    "seen", "learned", "skipped", "classes", "prequential_accuracy", "samples_per_second",
    "seconds", "started_at", "interrupted", "format", "classes_found", "left_out",
}  # fmt: skip
LABELS = ("cup", "tea/pot", "plate")


def taught(path: Path, *, sealed: bool = False, labels: tuple[str, ...] = LABELS) -> Home:
    """Make a home that learned three samples a class from two sources, and needs no engine."""
    home = build.tiny_home(path, sealed=sealed)
    x, _ = build.features(3 * len(labels), n_classes=len(labels))
    with open_store(home) as store:
        learner = open_learner(home, store)
        frames = [build.frame(label, i) for label in labels for i in range(3)]
        frames = [replace(f, source=f"camera {i % 2}", time=5.0 + i) for i, f in enumerate(frames)]
        learner.learn_many(frames, x)
    return home


def exported(home: Home, place: Path, **options: Any) -> Path:
    with writing(home) as session:
        store = session.store
        export_dataset(home, store, place, **options)
    return place


def index(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "edgecl.jsonl").read_text().splitlines()]


def content(folder: Path) -> bytes:
    """Return names and bytes of everything below a folder."""
    return b"".join(
        str(p.relative_to(folder)).encode() + (p.read_bytes() if p.is_file() else b"")
        for p in sorted(folder.rglob("*"))
    )


def forgotten(home: Home, request: ForgetRequest) -> dict[str, Any]:
    """Unlearn; returns what was done to the exports."""
    with writing(home) as session:
        store = session.store
        done = forget(home, open_learner(home, store), request)
    return dict(done.erasure.exports)


def status(home: Home) -> str:
    """Return the status of the only export."""
    with open_store(home, read_only=True) as store:
        (export,) = exports_of(store)
    return export.status


# Import


def test_a_dataset_is_learned_and_reported(home: Home, tmp_path: Path) -> None:
    path = other_tools.jetson(tmp_path / "data", 4)
    (path / "train" / "bracket" / "bad.jpg").write_bytes(b"half a picture")
    done = build.run_edgecl("import", path, "--home", home.path, "--json", "--limit", 5)
    result = build.last_json(done)
    assert set(result) >= KEYS
    assert (result["seen"], result["skipped"], result["format"]) == (5, 0, "jetson")
    assert result["learned"] + result["held_out"] == 5
    assert result["classes_found"] == {"bolt-m4": 4, "bracket": 5, "washer": 4}
    assert "read as jetson: train/ has a folder a class" in done.stderr
    done = build.run_edgecl("import", path, "--home", home.path, "--json", "--resume")
    result = build.last_json(done)
    assert (result["started_at"], result["seen"], result["skipped"]) == (5, 8, 1)
    assert result["learned"] + result["held_out"] == 7
    assert "skipped train/bracket/bad.jpg" in done.stderr
    done = build.run_edgecl("evaluate", path / "val", "--home", home.path, "--json")
    assert build.last_json(done)["n"] == 12


def test_a_dry_run_says_what_is_there_and_makes_no_home(tmp_path: Path) -> None:
    path = other_tools.frigate(tmp_path / "gate")
    done = build.run_edgecl("import", path, "--home", tmp_path / "home", "--dry-run", "--json")
    result = build.last_json(done)
    assert (result["format"], result["pictures"]) == ("frigate", 9)
    assert result["left_out"] == ["left out: train/, 2 pictures without a label"]
    assert not (tmp_path / "home").exists()


def test_what_cannot_be_imported_is_one_line(tmp_path: Path) -> None:
    for arguments, status in (([tmp_path / "none"], 3), ([tmp_path, "--format", "yolo"], 2)):
        done = build.run_edgecl("import", *arguments, "--home", tmp_path / "home")
        assert done.returncode == status
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "home").exists()


# Export


def test_a_dataset_is_a_folder_a_class_with_an_index(tmp_path: Path) -> None:
    home = taught(tmp_path / "home")
    place = exported(home, tmp_path / "data")
    assert sorted(p.name for p in place.iterdir()) == [
        "cup", "edgecl.jsonl", "manifest.json", "plate", "tea%2Fpot",
    ]  # fmt: skip
    rows = index(place)
    assert [row["label"] for row in rows] == [label for label in LABELS for _ in range(3)]
    assert rows[1] == {
        "path": "cup/2.png", "label": "cup", "source": "camera 1", "time": 6.0,
        "sample_uid": 2, "class_uid": 1, "source_uid": 2,
    }  # fmt: skip
    with open_store(home, read_only=True) as store:
        for row in rows:
            assert (place / row["path"]).read_bytes() == store.picture(row["sample_uid"])
        (export,) = exports_of(store)
    assert (export.kind, export.status, export.classes) == ("dataset", FRESH, (1, 2, 3))
    assert export.path == place


def test_what_was_exported_is_read_back_with_its_exact_names(tmp_path: Path) -> None:
    place = exported(taught(tmp_path / "home"), tmp_path / "data")
    dataset = open_dataset(place)
    assert dataset.format == "edgecl"
    assert dataset.classes == {"cup": 3, "plate": 3, "tea/pot": 3}
    assert len(list(dataset.source.frames())) == 9
    assert len(open_source(str(place))) == 9  # and as a plain folder, with the folders' names


@pytest.mark.parametrize(
    "label",
    ["manifest.json", "edgecl.jsonl", "..", ".", "con", "x" * 200, "\U0001f600" * 200,
     "\u3042bc", "</script>", ".edgecl.jsonl.part"],
)  # fmt: skip
def test_a_class_of_any_name_is_written_read_and_taken_out(label: str, tmp_path: Path) -> None:
    home = taught(tmp_path / "home", labels=("cup", label))
    place = exported(home, tmp_path / "data")
    assert open_dataset(place).classes == {"cup": 3, label: 3}
    forgotten(home, ForgetRequest(label))
    assert open_dataset(place).classes == {"cup": 3}


def test_pictures_of_an_export_that_are_gone_are_told_beforehand(tmp_path: Path) -> None:
    place = exported(taught(tmp_path / "home"), tmp_path / "data")
    gone = index(place)[1]["path"]
    (place / gone).unlink()
    assert open_dataset(place).notes == (f"not found: 1 of 9 pictures ({gone})",)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    home = taught(tmp_path / "home")
    (tmp_path / "data").mkdir()
    exported(home, tmp_path / "data")  # an empty one is taken
    before = content(tmp_path / "data")
    with pytest.raises(RequestError, match="not empty"):
        exported(home, tmp_path / "data")
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="not empty"):
        exported(home, tmp_path / "file")
    assert content(tmp_path / "data") == before


def test_a_dataset_is_no_bundle(tmp_path: Path) -> None:
    place = exported(taught(tmp_path / "home"), tmp_path / "data")
    with pytest.raises(EdgeclError):
        open_bundle(place)


def test_a_sealed_home_writes_its_pictures_only_when_that_is_asked_for(tmp_path: Path) -> None:
    home = taught(tmp_path / "home", sealed=True)
    with pytest.raises(RequestError, match="--plain"):
        exported(home, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert len(index(exported(home, tmp_path / "data", is_plain=True))) == 9


def test_all_that_is_held_of_some_classes_is_written_and_nothing_else(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home", probes=5)
    x, y = build.features(40, n_classes=2)
    with writing(home) as session:
        learner = session.learner
        for i, (row, label) in enumerate(zip(x, y, strict=True)):
            learner.learn_one(build.frame(f"person {label}", i), row)
        learner.settle()
        session.store.rename_class("person 1", "Alice")
        n_held_out = {o.class_uid: 0 for o in session.store.origins(Role.HELD_OUT)}
        for origin in session.store.origins(Role.HELD_OUT):
            n_held_out[origin.class_uid] += 1
        (alice,) = (uid for uid, name in session.store.names.items() if name == "Alice")
        n_kept = sum(c == alice for _, c in session.store.stored_samples())
    kept = index(exported(home, tmp_path / "kept", classes=["Alice"]))
    assert {row["label"] for row in kept} == {"Alice"}
    assert len(kept) == n_kept
    whole = exported(home, tmp_path / "all", classes=["person 1"], held_out=True)  # its alias
    assert len(index(whole)) == n_kept + n_held_out[alice]
    assert n_held_out[alice] > 0
    assert [p.name for p in whole.iterdir() if p.is_dir()] == ["Alice"]
    with pytest.raises(UnknownClassError, match="'Bob' is unknown; known: "):
        exported(home, tmp_path / "bob", classes=["Alice", "Bob"])
    assert not (tmp_path / "bob").exists()
    # What was unlearned leaves them, also what was held out.
    forgotten(home, ForgetRequest("Alice"))
    assert index(whole) == index(tmp_path / "kept") == []
    assert not list(whole.rglob("*.png")) + list(whole.rglob("*.jpg"))


def test_a_home_without_pictures_has_nothing_to_write(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    with pytest.raises(RequestError, match="no picture is kept"):
        exported(home, tmp_path / "data")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = taught(tmp_path / "home")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgecl.exporters.registered.put_in_place", full)
    with pytest.raises(RequestError, match="No space"):
        exported(home, tmp_path / "out" / "data")
    assert list((tmp_path / "out").iterdir()) == []
    with open_store(home, read_only=True) as store:
        assert exports_of(store) == []


def test_an_export_that_was_killed_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = taught(tmp_path / "home")
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("edgecl.exporters.registered.put_in_place", killed)
        patch.setattr("edgecl.exporters.registered.finish_exports", lambda store: None)
        with pytest.raises(KeyboardInterrupt):
            exported(home, tmp_path / "out" / "data")
    assert list((tmp_path / "out").iterdir()) != []
    with writing(home) as session:
        store = session.store
        finish_exports(store)
        assert exports_of(store) == []
    assert list((tmp_path / "out").iterdir()) == []


# Unlearning reaches what was exported


def test_a_forgotten_class_leaves_the_dataset_and_the_others_stay(tmp_path: Path) -> None:
    home = taught(tmp_path / "home")
    place = exported(home, tmp_path / "data")
    pictures = [(place / row["path"]).read_bytes() for row in index(place)]
    assert forgotten(home, ForgetRequest("tea/pot")) == {"1": "erased"}
    assert {row["label"] for row in index(place)} == {"cup", "plate"}
    left = content(place)
    assert b"tea/pot" not in left
    assert b"tea%2Fpot" not in left
    assert [picture in left for picture in pictures] == [True] * 3 + [False] * 3 + [True] * 3
    assert status(home) == FRESH  # what is left is as good as it was
    # A later request finds it again.
    assert forgotten(home, ForgetRequest("cup")) == {"1": "erased"}
    assert {row["label"] for row in index(place)} == {"plate"}
    assert sorted(p.name for p in place.iterdir()) == ["edgecl.jsonl", "manifest.json", "plate"]


def test_a_forgotten_sample_and_source_leave_the_dataset(tmp_path: Path) -> None:
    home = taught(tmp_path / "home")
    place = exported(home, tmp_path / "data")
    gone = index(place)[4]
    assert forgotten(home, ForgetRequest("5", kind="sample")) == {"1": "erased"}
    assert not (place / gone["path"]).exists()
    assert len(index(place)) == 8
    assert forgotten(home, ForgetRequest("camera 1", kind="source")) == {"1": "erased"}
    assert {row["source"] for row in index(place)} == {"camera 0"}
    assert b"camera 1" not in content(place)
    assert len(list(place.rglob("*.png"))) == len(index(place))


def test_a_source_that_names_a_forgotten_class_is_emptied(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    x, _ = build.features(2, n_classes=2)
    with open_store(home) as store:
        frames = [build.frame("secret", 0), build.frame("other", 1)]
        frames = [replace(f, source="/data/secret") for f in frames]
        open_learner(home, store).learn_many(frames, x)
    place = exported(home, tmp_path / "data")
    forgotten(home, ForgetRequest("secret"))
    assert b"secret" not in content(place)
    assert [row["source"] for row in index(place)] == [""]


def test_a_source_is_emptied_in_a_dataset_that_lacks_the_class_it_names(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    x, _ = build.features(3, n_classes=3)
    with open_store(home) as store:
        learner = open_learner(home, store)
        other = replace(build.frame("other", 0), source="/data/cups and mugs")
        learner.learn_many([other, build.frame("cups", 1)], x[:2])
        for old, new in (("cups", "mugs"), ("mugs", "jars")):
            with store.transaction(changes_head=False):
                store.rename_class(old, new)
    place = exported(home, tmp_path / "data")
    with writing(home) as session:  # learned after the export
        store = session.store
        open_learner(home, store).learn_many([build.frame("data", 2)], x[2:])
    assert index(place)[0]["source"] == "/data/cups and mugs"
    with open_store(home, read_only=True) as store:
        target = resolve(store, ForgetRequest("data"))
        plan = make_plan(store, open_learner(home, store).head, target, "retrain")
    assert plan.exports == (1,)
    assert forgotten(home, ForgetRequest("data")) == {"1": "erased"}
    assert b"/data/" not in content(place)
    place = exported(home, tmp_path / "data 2")
    # An alias is a name, too; the manifest does not have it.
    forgotten(home, ForgetRequest("jars"))
    assert not any(name in content(place) for name in (b"cups", b"mugs", b"jars"))


@pytest.mark.parametrize("what", ["moved", "index", "manifest"])
def test_a_dataset_out_of_reach_is_named(what: str, tmp_path: Path) -> None:
    home = taught(tmp_path / "home")
    place = exported(home, tmp_path / "data")
    if what == "moved":
        place.rename(tmp_path / "elsewhere")
    else:
        name = {"index": "edgecl.jsonl", "manifest": "manifest.json"}[what]
        (place / name).write_text("changed")
    assert forgotten(home, ForgetRequest("cup")) == {"1": "unreachable"}
    assert status(home) == STALE
    if what == "moved":
        (tmp_path / "elsewhere").rename(place)
        assert forgotten(home, ForgetRequest("plate")) == {"1": "erased"}
        assert {row["label"] for row in index(place)} == {"cup", "tea/pot"}
        assert status(home) == STALE  # it still holds the first


def test_an_index_that_names_files_elsewhere_erases_none_of_them(tmp_path: Path) -> None:
    home = taught(tmp_path / "home")
    place = exported(home, tmp_path / "data")
    (tmp_path / "mine.png").write_bytes(b"mine")
    rows = index(place)
    rows[0]["path"] = "../mine.png"
    (place / "edgecl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    forgotten(home, ForgetRequest("cup"))
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_erasing_goes_on_after_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = taught(tmp_path / "home")
    place = exported(home, tmp_path / "data")
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("edgecl.store.exports.replace_text", killed)
        with pytest.raises(KeyboardInterrupt):
            forgotten(home, ForgetRequest("cup"))
    with writing(home):
        pass  # finishes what is open
    assert {row["label"] for row in index(place)} == {"tea/pot", "plate"}
    assert b"cup" not in content(place)


def test_a_dataset_is_never_built_anew(tmp_path: Path) -> None:
    home = taught(tmp_path / "home")
    exported(home, tmp_path / "data")
    forgotten(home, ForgetRequest("cup"))
    done = build.run_edgecl("export", "--rebuild-stale", "--home", home.path, "--json")
    assert build.last_json(done) == {"rebuilt": [], "unreachable": []}


def test_the_command_writes_and_says_what(tmp_path: Path) -> None:
    home = taught(tmp_path / "home")
    done = build.run_edgecl(
        "export", "dataset", "--output", tmp_path / "data", "--home", home.path, "--json"
    )
    result = build.last_json(done)
    assert result.keys() == {"path", "bytes", "pictures", "classes", "export"}
    assert (result["pictures"], result["export"]) == (9, 1)
    assert result["classes"] == dict.fromkeys(LABELS, 3)


def named(labels: list[str]) -> dict[int, str]:
    """Return class names by uid, as the store would have them."""
    found: dict[str, None] = {}
    for label in labels:
        try:
            found[clean_label(label)] = None
        except UsageError:
            continue
    return dict(enumerate(found, start=1))


@given(st.lists(st.text(max_size=210)))
def test_every_class_has_a_folder_of_its_own_that_any_file_system_takes(labels: list[str]) -> None:
    names = named(labels)
    folders = folder_names(names)
    assert folders.keys() == names.keys()
    assert len({name.casefold() for name in folders.values()}) == len(folders)
    for name in folders.values():
        assert 0 < len(name.encode()) <= 255
        assert not set('/\\:*?"<>|') & set(name)
        assert name[0] != "."
        assert name[-1] not in " ."


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cup", "cup"),
        ("a/b", "a%2Fb"),
        ("50%", "50%25"),
        (".hidden", "%2Ehidden"),
        ("..", "%2E%2E"),
        ("CON", "%43ON"),
        ("nul.x", "%6Eul.x"),
        ("Tür", "Tür"),
        ("end.", "end%2E"),
    ],
)
def test_folders_of_some_names(name: str, folder: str) -> None:
    assert folder_names({1: name}) == {1: folder}


def test_names_that_differ_in_case_only_get_different_folders() -> None:
    assert folder_names({1: "Cup", 2: "cup"}) == {1: "Cup", 2: "cup~2"}


# What is looked at before it is believed, through the command line


def folder_of(path: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(build.encode(build.part_picture(build.PARTS[i % 4], i)))
    return path


def test_what_is_passed_over_is_in_the_text_and_in_the_json(tmp_path: Path) -> None:
    home = workloads.small_home(tmp_path / "home")
    folder = folder_of(tmp_path / "p", "cup/1.jfif", "cup/2.jpg", "bolt/noextension")
    (folder / "cup" / "half.jpg").write_bytes(b"no picture")
    (folder / "cup" / "notes.txt").write_text("x")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "t.jpg").write_bytes(b"x")
    for command in ("train-stream", "import"):
        done = build.run_edgecl(command, folder, "--home", home.path, "--json")
        result = build.last_json(done)
        assert result["passed_over"] == {".txt": 1, "@eaDir/": 1}
        parts = [result[key] for key in ("learned", "held_out", "skipped")]
        assert sum(parts) + sum(result["passed_over"].values()) == result["seen"] == 6
        assert result["skipped"] == 1
        assert "passed over: 1 .txt, 1 in @eaDir/" in done.stderr
    done = build.run_edgecl("predict", folder, "--home", home.path, "--json")
    assert len(done.stdout.splitlines()) == 3
    assert "passed over: 1 .txt" in done.stderr


def test_files_among_pictures_that_are_none_are_skipped_by_predict(tmp_path: Path) -> None:
    home = workloads.small_home(tmp_path / "home")
    folder = folder_of(tmp_path / "p", "cup/1.jpg", "bolt/2.jfif")
    assert build.run_edgecl("train-stream", folder, "--home", home.path).returncode == 0
    (tmp_path / "notes.txt").write_text("x")
    paths = [folder / "cup/1.jpg", tmp_path / "notes.txt", folder / "bolt/2.jfif"]
    done = build.run_edgecl("predict", *paths, "--home", home.path, "--json")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert "notes.txt: not a picture" in done.stderr


def test_splits_are_refused_by_who_learns_and_read_by_who_predicts(tmp_path: Path) -> None:
    home = workloads.small_home(tmp_path / "home")
    data = folder_of(
        tmp_path / "data", *(f"{s}/{c}/1.jpg" for s in ("train", "test") for c in "ab")
    )
    for command in ("train-stream", "evaluate"):
        done = build.run_edgecl(command, data, "--home", home.path)
        assert done.returncode == 3
        assert f"did you mean {data}/train?" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert build.last_json(build.run_edgecl("import", data, "--home", home.path, "--json"))
    done = build.run_edgecl("predict", data, "--home", home.path, "--json")
    assert len(done.stdout.splitlines()) == 4


def test_a_new_name_that_looks_like_a_known_one_needs_new(tmp_path: Path) -> None:
    home = workloads.small_home(tmp_path / "home")
    folder = folder_of(tmp_path / "p", "bird/1.jpg", "cup/1.jpg", "cup/2.jpg")
    assert build.run_edgecl("train-stream", folder, "--home", home.path).returncode == 0
    more = folder_of(tmp_path / "more", "Bird/3.jpg", "B\u0456rd/4.jpg")
    (tmp_path / "t.csv").write_text("path,label\nmore/Bird/3.jpg,BIRD\n")
    for arguments in (
        ["train-stream", folder / "bird", "--label", "Bird"],
        ["train-stream", more],
        ["import", more],
        ["train-stream", tmp_path / "t.csv"],
    ):
        done = build.run_edgecl(*arguments, "--home", home.path)
        assert done.returncode == 2, done.stderr
        assert "did you mean bird? --new" in done.stderr
    done = build.run_edgecl("train-stream", more, "--new", "--home", home.path, "--json")
    assert build.last_json(done)["classes"] == 4
    assert "look alike" in done.stderr
    # Once it is known it is known.
    assert build.run_edgecl("train-stream", more, "--home", home.path).returncode == 0


def test_a_table_without_labels_names_its_columns_before_anything_is_learned(
    tmp_path: Path,
) -> None:
    home = workloads.small_home(tmp_path / "home")
    folder_of(tmp_path, "1.jpg")
    (tmp_path / "t.csv").write_text("path,class\n1.jpg,cup\n")
    for command in ("train-stream", "evaluate"):
        done = build.run_edgecl(command, tmp_path / "t.csv", "--home", home.path)
        assert done.returncode == 3
        assert "columns path, class and none called label; rename class to label" in done.stderr
    done = build.run_edgecl("train-stream", tmp_path / "t.csv", "--label", "a", "--home", home.path)
    assert done.returncode == 0


def test_names_of_files_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    home = workloads.small_home(tmp_path / "home")
    evil = "\x1b]0;PWNED\x07\x1b[31m\u202egpj\x9b2J"
    folder = folder_of(tmp_path / "p", "cup/1.jpg", f"cup/{evil}.jpg")
    (folder / "cup" / f"{evil}2.jpg").write_bytes(b"no picture")
    for arguments in (["train-stream", folder], ["predict", folder], ["predict", folder, "--json"],
                      ["import", folder / f"x{evil}"]):  # fmt: skip
        done = build.run_edgecl(*arguments, "--home", home.path)
        for unsafe in ("\x1b", "\x07", "\u202e", "\x9b"):
            assert unsafe not in done.stdout + done.stderr
    done = build.run_edgecl("predict", folder, "--home", home.path, "--json")
    paths = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert str(folder / "cup" / f"{evil}.jpg") in paths

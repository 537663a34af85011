"""Datasets of other tools as sources."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import other_tools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import build
from edgecl.errors import SourceError, UsageError
from edgecl.runtime.preprocess import picture_of
from edgecl.runtime.sources.datasets import Dataset, open_dataset
from edgecl.types import Frame, Skipped

MAKERS: dict[str, Callable[[Path], Path]] = {
    "imagefolder": other_tools.imagefolder,
    "frigate": other_tools.frigate,
    "jetson": other_tools.jetson,
    "teachable-machine": other_tools.teachable_machine,
    "coco": other_tools.coco,
    "one-hot": other_tools.one_hot,
}
PER_CLASS = dict.fromkeys(sorted(other_tools.CLASSES), 3)


def frames(dataset: Dataset) -> list[Frame]:
    return [item for item in dataset.source.frames() if isinstance(item, Frame)]


def skipped(dataset: Dataset) -> dict[str, str]:
    return {i.id: i.reason for i in dataset.source.frames() if isinstance(i, Skipped)}


@pytest.mark.parametrize("name", MAKERS)
def test_every_format_is_recognised_and_its_pictures_have_their_class(
    name: str, tmp_path: Path
) -> None:
    path = MAKERS[name](tmp_path / "data")
    dataset = open_dataset(path)
    assert dataset.format == name
    assert dataset.why
    assert dataset.classes == PER_CLASS
    read = frames(dataset)
    assert len(read) == len(dataset.source) == 9
    assert not skipped(dataset)
    for frame in read:
        assert frame.label in other_tools.CLASSES
        assert frame.label in frame.id
        assert picture_of(frame, max_pixels=10_000).size == (48, 48)
        assert frame.source == str(path)
    assert [f.id for f in read] == list(dataset.source.ids(9))
    assert open_dataset(path, format=name).classes == dataset.classes


@pytest.mark.parametrize("name", MAKERS)
def test_a_source_goes_on_from_any_position(name: str, tmp_path: Path) -> None:
    source = open_dataset(MAKERS[name](tmp_path / "data")).source
    ids = [item.id for item in source.frames()]
    assert [item.id for item in source.frames(4)] == ids[4:]
    assert list(source.ids(4)) == ids[:4]


def test_what_frigate_has_no_label_for_is_left_out_and_named(tmp_path: Path) -> None:
    path = other_tools.frigate(tmp_path / "clips" / "gate")
    build.part_folder(path / "dataset", 2, parts=("gasket",))
    (path / "dataset" / "gasket").rename(path / "dataset" / "unknown")
    dataset = open_dataset(path)
    assert dataset.classes == PER_CLASS
    assert any("train/, 2 pictures" in note for note in dataset.notes)
    assert any("unknown/" in note for note in dataset.notes)


def test_frigates_class_none_is_a_class_and_said_to_be(tmp_path: Path) -> None:
    path = other_tools.frigate(tmp_path / "gate")
    (path / "dataset" / other_tools.CLASSES[0]).rename(path / "dataset" / "none")
    dataset = open_dataset(path)
    assert dataset.classes["none"] == 3
    assert any("'none'" in note for note in dataset.notes)


def test_only_train_of_jetson_inference_is_taken(tmp_path: Path) -> None:
    dataset = open_dataset(other_tools.jetson(tmp_path / "data"))
    assert {f.id.split("/")[0] for f in frames(dataset)} == {"train"}
    assert sum("edgecl evaluate" in note for note in dataset.notes) == 2


def test_labels_that_differ_from_the_folders_are_named(tmp_path: Path) -> None:
    path = other_tools.jetson(tmp_path / "data")
    (path / "labels.txt").write_text(f"{other_tools.CLASSES[0]}\n{other_tools.CLASSES[1]}\nnut\n")
    notes = " ".join(open_dataset(path).notes)
    assert "without a picture: nut" in notes
    assert f"not in labels.txt, and taken all the same: {other_tools.CLASSES[2]}" in notes


def test_a_folder_of_two_formats_is_refused_in_one_line(tmp_path: Path) -> None:
    path = other_tools.jetson(tmp_path / "data")
    build.part_folder(path / "dataset", 1)
    with pytest.raises(SourceError, match=r"jetson .* and frigate .*--format") as caught:
        open_dataset(path)
    assert "\n" not in str(caught.value)
    assert open_dataset(path, format="frigate").classes == dict.fromkeys(sorted(build.PARTS), 1)


def test_a_folder_of_datasets_is_no_dataset(tmp_path: Path) -> None:
    for model in ("gate", "yard"):
        other_tools.frigate(tmp_path / "clips" / model)
    with pytest.raises(
        SourceError,
        match=r"holds datasets, such as gate/, .* did you mean .*clips/gate",
    ):
        open_dataset(tmp_path / "clips")
    assert open_dataset(tmp_path / "clips", format="imagefolder").classes == {
        "gate": 11,
        "yard": 11,
    }


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        open_dataset(tmp_path / "none")
    with pytest.raises(SourceError, match=r"dataset http:/\*\*\*@host/x does not exist"):
        open_dataset(Path("http://me:s3cret@host/x"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no format that is known"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(UsageError, match="'yolo' is unknown"):
        open_dataset(tmp_path / "empty", format="yolo")
    (tmp_path / "a.json").write_text('{"images": 3}')
    with pytest.raises(SourceError, match="no COCO file"):
        open_dataset(tmp_path / "a.json")
    for name in MAKERS:
        with pytest.raises(SourceError):
            open_dataset(tmp_path / "empty", format=name)


# COCO


def test_a_picture_with_several_categories_or_none_is_skipped_and_named(tmp_path: Path) -> None:
    path = other_tools.coco(
        tmp_path / "data",
        images=[{"id": 50, "file_name": "alone.jpg"}],
        annotations=[
            {"image_id": 0, "category_id": 1},  # the same again
            {"image_id": 1, "category_id": 2},  # another one
        ],
    )
    dataset = open_dataset(path / "labels.json")
    reasons = skipped(dataset)
    assert reasons.keys() == {f"{other_tools.CLASSES[0]}-1.jpg", "alone.jpg"}
    assert "several categories (bolt-m4, bracket)" in reasons[f"{other_tools.CLASSES[0]}-1.jpg"]
    assert reasons["alone.jpg"] == "it has no category"
    assert dataset.classes[other_tools.CLASSES[0]] == 2


@pytest.mark.parametrize("name", ["../secret.jpg", "images/../../secret.jpg", "{absolute}", "link"])
def test_a_list_cannot_name_a_picture_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(build.encode(build.part_picture(other_tools.CLASSES[0], 0)))
    name = name.replace("{absolute}", str(secret))
    path = other_tools.coco(
        tmp_path / "data",
        images=[{"id": 50, "file_name": name}],
        annotations=[{"image_id": 50, "category_id": 1}],
    )
    (path / "link").symlink_to(secret)
    assert skipped(open_dataset(path)) == {name: "its path leads out of the dataset"}
    index = tmp_path / "own"
    index.mkdir()
    (index / "link").symlink_to(secret)
    (index / "edgecl.jsonl").write_text(json.dumps({"path": name, "label": "a"}) + "\n")
    assert skipped(open_dataset(index)) == {name: "its path leads out of the dataset"}


@pytest.mark.parametrize(
    "values",
    [
        {"images": [{"id": 1}], "annotations": [], "categories": []},
        {"images": [3], "annotations": [], "categories": []},
        {"images": [{"id": [1], "file_name": "a"}], "annotations": [], "categories": []},
        {"images": [{"id": 1, "file_name": 2}], "annotations": [], "categories": []},
    ],
)
def test_a_list_of_another_shape_is_one_error(values: object, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.raises(SourceError, match="cannot be read as COCO"):
        open_dataset(tmp_path / "a.json")


@settings(max_examples=50)
@given(name=st.text(max_size=20), label=st.text(max_size=20))
def test_no_name_in_a_list_breaks_the_stream(
    name: str, label: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("coco") / "a.json"
    values = {
        "images": [{"id": 1, "file_name": name}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": label}],
    }
    path.write_text(json.dumps(values))
    dataset = open_dataset(path)
    (item,) = dataset.source.frames()
    assert isinstance(item, Skipped)
    os.fsencode(item.id)


# Zips


def entry(path: Path, name: str, data: bytes, **options: object) -> Path:
    """Add an entry to a project."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, data, **options)  # type: ignore[arg-type]
    return path


def test_a_project_of_sounds_is_refused(tmp_path: Path) -> None:
    path = other_tools.teachable_machine(tmp_path / "a.tm", kind="audio")
    with pytest.raises(SourceError, match="of type 'audio'"):
        open_dataset(path)


def test_a_zip_of_folders_names_classes_by_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        data = build.encode(build.part_picture("washer", 0))
        for name in ("set/cup/1.jpg", "set/cup/2.jpg", "set/bowl/1.jpg", "__MACOSX/set/cup/1.jpg"):
            archive.writestr(name, data)
        archive.writestr("set/readme.txt", "x")
    dataset = open_dataset(tmp_path / "a.zip")
    assert dataset.classes == {"bowl": 1, "cup": 2}
    assert any("2 entries" in note for note in dataset.notes)


def test_samples_of_one_class_need_its_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0.jpg", b"x")
    with pytest.raises(SourceError, match="--label NAME"):
        open_dataset(tmp_path / "a.zip")


def test_entries_whose_names_lead_elsewhere_are_left_out_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    path = other_tools.teachable_machine(tmp_path / "a.tm")
    data = build.encode(build.part_picture("washer", 7))
    for name in ("../../washer-!-7.jpg", "/etc/washer-!-8.jpg", "..\\washer-!-9.jpg"):
        entry(path, name, data)
    before = sorted(tmp_path.rglob("*"))
    dataset = open_dataset(path)
    assert len(frames(dataset)) == 9
    assert any("3 entries" in note for note in dataset.notes)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bomb_is_skipped_unread(tmp_path: Path) -> None:
    path = other_tools.teachable_machine(tmp_path / "a.tm")
    entry(path, "washer-!-9.jpg", bytes(2_000_000), compress_type=zipfile.ZIP_DEFLATED)
    dataset = open_dataset(path, max_bytes=1_000_000)
    assert skipped(dataset) == {"washer-!-9.jpg": "2.0 MB are more than the limit of 1 MB"}


def test_an_entry_that_understates_its_size_gives_no_more_than_it_says(tmp_path: Path) -> None:
    path = other_tools.teachable_machine(tmp_path / "a.tm", 1)
    entry(path, "washer-!-9.jpg", bytes(500_000), compress_type=zipfile.ZIP_DEFLATED)
    true = (500_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(true, (1000).to_bytes(4, "little")))
    assert "cannot be read" in skipped(open_dataset(path))["washer-!-9.jpg"]


def test_a_zip_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = other_tools.teachable_machine(tmp_path / "a.tm")
    monkeypatch.setattr("edgecl.runtime.sources.zips._MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(SourceError, match="unpacked"):
        open_dataset(path)


def test_a_zip_with_a_huge_directory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = other_tools.teachable_machine(tmp_path / "a.tm")
    monkeypatch.setattr("edgecl.runtime.sources.zips._MAX_DIRECTORY_BYTES", 100)
    with pytest.raises(SourceError, match="65,535 entries"):
        open_dataset(path)


def test_other_packings_and_encryption_are_skipped(tmp_path: Path) -> None:
    path = other_tools.teachable_machine(tmp_path / "a.tm")
    entry(path, "washer-!-8.jpg", b"x" * 100, compress_type=zipfile.ZIP_BZIP2)
    entry(path, "washer-!-9.jpg", b"x" * 100)
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\x01\x02")  # the last entry of the directory
    data[end + 8] |= 1
    path.write_bytes(bytes(data))
    assert skipped(open_dataset(path)) == {
        "washer-!-8.jpg": "it is packed in a way that is not read; expected stored or deflated",
        "washer-!-9.jpg": "it is encrypted",
    }


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
def test_half_a_zip_is_one_error(cut: float, tmp_path: Path) -> None:
    data = other_tools.teachable_machine(tmp_path / "a.tm").read_bytes()
    (tmp_path / "b.tm").write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(SourceError):
        open_dataset(tmp_path / "b.tm", format="teachable-machine")

"""What lies in a folder is looked at before its names become classes."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import build
from edgecl.errors import SourceError
from edgecl.runtime.formats import is_readable, kind_of
from edgecl.runtime.sources import layouts, open_source
from edgecl.runtime.sources.datasets import open_dataset
from edgecl.runtime.sources.layouts import CAMERA, PART, SPLIT, SYSTEM, UNNAMED, kind_of_folder
from edgecl.runtime.sources.watch import WatchSource
from edgecl.types import Frame

PNG = build.encode(build.part_picture("washer", 0, 8), "PNG")
JPEG = build.encode(build.part_picture("washer", 0, 8))
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
# Every word of the table, and names as people and tools write them.
SPLITS = (
    *layouts._SPLITS.split(), "Train", "VAL", "val2017", "train_images", "test-set", "images_train",
    "fold_1", "trainset", "Test Data", "split_0", "k-fold 3",
)  # fmt: skip
PARTS = (
    *layouts._PARTS.split(), *layouts._SIDES.split(), "JPEGImages", "SegmentationClass", "image_2",
    "obj_train_data", "leftImg8bit", "ground_truth", "Annotations",
)  # fmt: skip
UNNAMED_ = (
    "New folder", "New folder (2)", "New Folder With Items", "untitled folder 2", "New Folder 3",
    "Untitled Folder", "Neuer Ordner 2", "uploads",
)  # fmt: skip
SYSTEMS = (
    *layouts._SYSTEMS.split(), "@eaDir", "#Recycle", "$RECYCLE.BIN", "__MACOSX", "FOUND.000",
    "System Volume Information", "LOST.DIR", ".Trash-1000", ".ipynb_checkpoints", ".git",
    ".@__thumb", ".stversions",
)  # fmt: skip
CAMERAS = (
    "DCIM", "100CANON", "101APPLE", "100_PANA", "AVCHD", "2026-11-28", "20261128", "2026_11",
    "Camera Roll", "WhatsApp Images", "Photos from 2024", "28-11-2026", "28.11.2026", "2026-1-8",
    "20261128_101010", "2026-11-28 10.10.10", "2026-11-28T10-10", "2026_11_28_10_10_10",
)  # fmt: skip
CLASSES = (
    "cup", "bolt-m4", "training shoe", "mask-on", "label printer", "trainer", "valve", "tester",
    "0", "42", "2024", "1999", "001_bird", "100bolts", "imagination", "validator", "test strip",
    "part-7", "good", "20199999", "12.5.80", "1-2-3", "item 2", "20261128_9", "10-2026",
    "maskless", "datalogger",
)  # fmt: skip


def put(folder: Path, *names: str, data: bytes = PNG) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pack(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, PNG)
    return path


def classes(items: Any) -> Counter[str | None]:
    return Counter(i.label if isinstance(i, Frame) else f"skipped: {i.reason}" for i in items)


def learned(folder: Path, **options: Any) -> Counter[str | None]:
    return classes(open_source(str(folder), **options).frames())


# The table


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (SPLIT, SPLITS),
        (PART, PARTS),
        (SYSTEM, SYSTEMS),
        (CAMERA, CAMERAS),
        (UNNAMED, UNNAMED_),
        ("", CLASSES),
    ],
    ids=["splits", "parts", "systems", "cameras", "unnamed", "classes"],
)
def test_every_name_of_the_table_is_known_and_no_class_is(kind: str, names: tuple[str]) -> None:
    assert {name: kind_of_folder(name) for name in names} == dict.fromkeys(names, kind)


@pytest.mark.parametrize("name", [*SPLITS, *PARTS, *CAMERAS])
def test_a_folder_of_such_names_alone_is_refused_everywhere(name: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", f"{name}/1.png", f"{name}/2.png")
    with closing(WatchSource(folder)) as watched:
        assert "no class" in watched.notes[0]
    for open_it in (
        lambda: open_source(str(folder)),
        lambda: open_dataset(folder),
        lambda: open_dataset(pack(tmp_path / "a.zip", f"set/{name}/1.png", f"set/{name}/2.png")),
    ):
        with pytest.raises(SourceError, match="no class") as caught:
            open_it()
        assert f"{name}/" in str(caught.value)
        assert "\n" not in str(caught.value)
    # Who names the class, or does not want one, or insists, is obeyed.
    assert learned(folder, label="cup") == {"cup": 2}
    assert len(open_source(str(folder), wants_classes=False)) == 2
    assert open_dataset(folder, format="imagefolder").classes == {name: 2}


@pytest.mark.parametrize("name", [*SPLITS, *PARTS, *CAMERAS])
def test_one_such_class_among_others_is_taken_and_told(name: str, tmp_path: Path) -> None:
    folder = put(tmp_path, f"{name}/1.png", "cup/1.png", "bolt/1.png")
    source = open_source(str(folder))
    assert classes(source.frames()) == {name: 1, "cup": 1, "bolt": 1}
    assert any(f"{name}/" in note and "class" in note for note in source.notes)
    assert open_dataset(folder).classes == {name: 1, "cup": 1, "bolt": 1}
    with closing(WatchSource(folder)):
        pass


@pytest.mark.parametrize("name", SYSTEMS)
def test_folders_of_systems_are_passed_over_and_counted_at_any_depth(
    name: str, tmp_path: Path
) -> None:
    folder = put(tmp_path, "cup/1.png", "bolt/1.png", f"{name}/x/1.png", f"cup/{name}/2.jpg/t.png")
    source = open_source(str(folder))
    assert classes(source.frames()) == {"cup": 1, "bolt": 1}
    assert sum(source.passed_over.values()) == 2
    assert "2 hidden" in source.notes[0] or f"2 in {name}/" in source.notes[0]
    dataset = open_dataset(folder)
    assert dataset.classes == {"cup": 1, "bolt": 1}
    assert any("passed over" in note for note in dataset.notes)
    path = pack(tmp_path / "a.zip", "cup/1.png", "bolt/1.png", f"{name}/x/1.png")
    assert open_dataset(path).classes == {"cup": 1, "bolt": 1}
    with closing(WatchSource(folder)) as watched:
        assert len(watched._known) == 3  # a.zip is no picture, which only its content will tell


# Splits


SPLIT_FOLDERS = ("train", "valid", "test")


def splits(folder: Path, names: tuple[str, ...] = SPLIT_FOLDERS) -> Path:
    return put(folder, *(f"{split}/{c}/{split}{c}.png" for split in names for c in ("cup", "bolt")))


def test_a_split_dataset_is_refused_with_what_to_type(tmp_path: Path) -> None:
    folder = splits(tmp_path / "data")
    with pytest.raises(SourceError, match=r"test/, train/ and valid/") as caught:
        open_source(str(folder))
    assert f"did you mean {folder}/train?" in str(caught.value)
    assert f"`edgecl import {folder}`" in str(caught.value)
    with closing(WatchSource(folder)) as watched:
        assert "did you mean" in watched.notes[0]


@pytest.mark.parametrize("train", ["train", "Train", "training", "train_set"])
@pytest.mark.parametrize("others", [("valid",), ("validation", "Test"), ("dev",), ("val", "eval")])
def test_import_takes_train_and_names_every_other_split(
    train: str, others: tuple[str, ...], tmp_path: Path
) -> None:
    folder = splits(tmp_path / "data", (train, *others))
    dataset = open_dataset(folder)
    assert (dataset.format, dataset.classes) == ("jetson", {"bolt": 1, "cup": 1})
    for name in others:
        assert any(f"left out: {name}/" in note for note in dataset.notes)


def test_splits_in_a_zip_are_read_as_in_a_folder(tmp_path: Path) -> None:
    names = [f"robo/{s}/{c}/{s}{c}.png" for s in SPLIT_FOLDERS for c in ("cup", "bolt")]
    dataset = open_dataset(pack(tmp_path / "a.zip", *names))
    assert {f.id for f in dataset.source.frames()} == {
        "robo/train/cup/traincup.png", "robo/train/bolt/trainbolt.png",
    }  # fmt: skip
    assert "2 valid/" in dataset.notes[0]
    assert "2 test/" in dataset.notes[0]


def test_a_class_beside_a_split_with_classes_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path, "cup/1.png", "train/cup/1.png", "train/bolt/1.png")
    with pytest.raises(SourceError, match=r"did you mean .*train"):
        open_source(str(folder))


# What a name means is told by its neighbours: the same words beside train, test and the like.
NAMED_SPLITS = (
    ("my_train", "my_test"), ("train80", "test20"), ("1_train", "2_val", "3_test"),
    ("cups-train", "cups-test"), ("seg_train/seg_train", "seg_test/seg_test", "seg_pred/seg_pred"),
    ("training.1a2b", "testing.1a2b"), ("gateTrain", "gateVal"), ("DATASET_TRAIN", "DATASET_DEV"),
    ("train cup", "train bolt", "test cup", "test bolt"),
)  # fmt: skip


@pytest.mark.parametrize("names", NAMED_SPLITS, ids=[n[0] for n in NAMED_SPLITS])
def test_splits_with_a_name_of_their_own_are_no_classes(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    flat = put(tmp_path / "flat", *(f"{name}/1.png" for name in names if "/" not in name))
    if flat.exists():
        for open_it in (lambda: open_source(str(flat)), lambda: open_dataset(flat)):
            with pytest.raises(SourceError, match="splits of a dataset and no class"):
                open_it()
    files = [
        f"{name}/{c}/{name[:8].replace('/', '')}.png" for name in names for c in ("cup", "ring")
    ]
    deep = put(tmp_path / "deep", *files)
    with pytest.raises(SourceError, match=rf"did you mean '?{deep}/.*(?i:rain)"):
        open_source(str(deep))
    # Of `train cup` and `train bolt` neither is the split.
    if len(names) < 4 and "/" not in names[0]:
        wanted = {f.split("/")[-1] for f in files if f.startswith(names[0])}
        n_of_one = {"cup": len(wanted), "ring": len(wanted)}
        assert open_dataset(deep).classes == n_of_one
        assert open_dataset(pack(tmp_path / "a.zip", *files)).classes == n_of_one


@pytest.mark.parametrize(
    "names",
    [("toy train", "test tube"), ("train station", "bus station"), ("test strip", "strip"),
     ("training shoe", "test lamp"), ("trainer", "tester"), ("valve", "testbed")],
)  # fmt: skip
def test_words_of_splits_in_names_of_classes_make_none(
    names: tuple[str, str], tmp_path: Path
) -> None:
    folder = put(tmp_path, *(f"{name}/1.png" for name in names))
    assert learned(folder) == dict.fromkeys(names, 1)
    assert open_dataset(folder).classes == dict.fromkeys(names, 1)


def test_a_split_in_a_folder_of_its_own_name_is_named_where_its_classes_are(tmp_path: Path) -> None:
    files = [f"{s}_set/{s}_set/{c}/1.png" for s in ("training", "test") for c in ("cup", "bolt")]
    folder = put(tmp_path / "d", *files)
    with pytest.raises(SourceError, match=r"did you mean .*d/training_set/training_set\?"):
        open_source(str(folder))
    assert open_dataset(pack(tmp_path / "a.zip", *files)).classes == {"bolt": 1, "cup": 1}
    images = put(tmp_path / "i", *(f"{s}/images/{c}/1.png" for s in ("train", "val") for c in "ab"))
    with pytest.raises(SourceError, match=r"did you mean .*i/train/images\?"):
        open_source(str(images))


def test_splits_below_classes_are_told(tmp_path: Path) -> None:
    source = open_source(str(put(tmp_path, "cup/train/1.png", "cup/test/2.png", "bolt/3.png")))
    assert any("test/ and train/ lie below" in note for note in source.notes)


def test_a_folder_in_a_folder_as_unzipping_leaves_it_is_told(tmp_path: Path) -> None:
    folder = put(tmp_path / "stamps", "stamps/cup/1.png", "stamps/bolt/1.png")
    for open_it in (lambda: open_source(str(folder)), lambda: open_dataset(folder)):
        with pytest.raises(SourceError, match=r"bolt, cup in it; did you mean .*stamps/stamps"):
            open_it()
    assert learned(put(tmp_path / "one", "cup/2026-01-01/1.png")) == {"cup": 1}


@pytest.mark.parametrize("name", ["VOC2012/JPEGImages", "ds0/img", "robo/train/images", "p/train"])
def test_a_folder_around_a_dataset_is_no_class(name: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", f"{name}/1.png")
    for open_it in (lambda: open_source(str(folder)), lambda: open_dataset(folder)):
        with pytest.raises(SourceError, match="no class"):
            open_it()


def test_folders_of_folders_and_copies_are_told(tmp_path: Path) -> None:
    deep = put(tmp_path / "clips", "gate/open/1.png", "gate/shut/1.png", "yard/cat/1.png")
    assert any("lie deeper: each of gate, yard" in n for n in open_source(str(deep)).notes)
    project = put(tmp_path / "ls", "project/upload/1/a.png")
    assert "all pictures of" in " ".join(open_source(str(project)).notes)
    copies = put(
        tmp_path / "copies", "cup/1.png", "cup (1)/1.png", "cup - Copy/1.png", "x(2)/1.png"
    )
    (note,) = open_source(str(copies)).notes
    assert "cup (1)/ and cup - Copy/ in" in note or "cup - Copy/ and cup (1)/ in" in note


# Other tools


def test_frigates_models_and_faces(tmp_path: Path) -> None:
    gate = put(tmp_path / "gate", "dataset/open/1.webp", "dataset/shut/1.webp", "train/1.webp")
    with pytest.raises(SourceError, match=r"did you mean .*gate/dataset\?"):
        open_source(str(gate))
    faces = put(tmp_path / "faces", "anna/1.webp", "bert/1.webp", "train/1.webp", "train/2.webp")
    source = open_source(str(faces))
    assert classes(source.frames()) == {"anna": 1, "bert": 1}
    assert source.passed_over == {"train/": 2}
    assert any("Frigate" in note for note in source.notes)
    dataset = open_dataset(faces)
    assert dataset.classes == {"anna": 1, "bert": 1}
    assert any("train/, 2 pictures" in note for note in dataset.notes)
    vehicles = put(tmp_path / "vehicles", "bus/1.jpg", "car/1.jpg", "train/1.jpg")
    assert learned(vehicles) == {"bus": 1, "car": 1, "train": 1}


def test_masks_labels_and_thumbnails_below_a_class_are_passed_over(tmp_path: Path) -> None:
    names = ("cup/images/1.png", "cup/masks/1.png", "bolt/1.png", "bolt/thumbs/1.png")
    source = open_source(str(put(tmp_path, *names)))
    assert [i.id for i in source.frames()] == ["bolt/1.png", "cup/images/1.png"]
    assert source.passed_over == {"masks/": 1, "thumbs/": 1}


@pytest.mark.parametrize(
    "mask", ["1_mask.png", "1-masks.png", "1 mask.webp", "1_mask_2.png", "1.mask.0.png",
             "1_Mask.png", "1_segmentation.png", "1_gt.png", "1_depth.png", "1_thumb.jpg"],
)  # fmt: skip
def test_masks_and_thumbnails_beside_their_pictures_are_passed_over(
    mask: str, tmp_path: Path
) -> None:
    names = ("cup/1.png", f"cup/{mask}", "bolt/2.png", "bolt/2_side.png", "bolt/3_mask.png")
    folder = put(tmp_path / "d", *names)
    source = open_source(str(folder))
    # One without its picture is a picture of its own.
    wanted = {"cup": 1, "bolt": 3}
    assert classes(source.frames()) == wanted
    assert source.passed_over == {"masks and the like": 1}
    assert "1 masks and the like" in source.notes[0]
    assert open_dataset(folder).classes == wanted
    packed = open_dataset(pack(tmp_path / "a.zip", *names))
    assert packed.classes == wanted
    assert "masks and the like" in packed.notes[0]
    # A class of such things has them for pictures.
    masks = put(tmp_path / "m", "with_mask/1.png", f"with_mask/{mask}", "cup/1.png")
    assert learned(masks)["with_mask"] == (2 if "ask" in mask else 1)


def test_masks_in_a_folder_below_a_class_are_passed_over_in_a_zip_too(tmp_path: Path) -> None:
    names = ("cup/images/1.png", "cup/masks/1.png", "bolt/1.png", "bolt/thumbs/1.png")
    dataset = open_dataset(pack(tmp_path / "a.zip", *names))
    assert dataset.classes == {"cup": 1, "bolt": 1}
    assert all(kind in dataset.notes[0] for kind in ("1 masks/", "1 thumbs/"))
    only = pack(tmp_path / "b.zip", "cup/masks/1.png", "bolt/1.png")
    assert open_dataset(only).classes == {"cup": 1, "bolt": 1}


def coco(folder: Path, where: str, files: list[str]) -> Path:
    values = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(files)],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "bolt"}],
        "annotations": [{"image_id": i, "category_id": 1 + i % 2} for i in range(len(files))],
    }
    (folder / where).parent.mkdir(parents=True, exist_ok=True)
    (folder / where).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("where", "listed", "place"),
    [
        ("list.json", "{}", "{}"),
        ("list.json", "{}", "images/{}"),
        ("list.json", "{}", "data/{}"),
        ("list.json", "images\\{}", "images/{}"),
        ("list.json", "..\\..\\media\\upload\\4\\{}", "images/{}"),
        ("list.json", "images/1/{}", "images/{}"),
        ("list.json", "/home/me/data/{}", "{}"),
        ("list.json", "C:\\data\\{}", "images/{}"),
        ("annotations/instances_val2017.json", "{}", "val2017/{}"),
        ("annotations/instances_val2017.json", "{}", "images/val2017/{}"),
        ("annotations/instances_val2017.json", "../val2017/{}", "val2017/{}"),
        ("annotations/instances_default.json", "{}", "images/default/{}"),
        ("annotations/instances_Train.json", "{}", "images/Train/{}"),
        ("annotations/list.json", "images/{}", "images/{}"),
    ],
)
def test_pictures_of_a_list_are_found_where_tools_put_them(
    where: str, listed: str, place: str, tmp_path: Path
) -> None:
    files = ["0.png", "1.png"]
    folder = coco(tmp_path / "data", where, [listed.format(f) for f in files])
    put(folder, *(place.format(f) for f in files))
    for path in (folder, folder / where):
        dataset = open_dataset(path)
        assert dataset.format == "coco"
        assert classes(dataset.source.frames()) == {"cup": 1, "bolt": 1}


def test_a_list_tells_which_pictures_are_not_there_before_any_is_read(tmp_path: Path) -> None:
    folder = coco(tmp_path / "data", "list.json", ["0.png", "1.png", "2.png"])
    put(folder, "1.png", "a/2.png", "b/2.png")
    dataset = open_dataset(folder)
    assert "not found: 2 of 3 pictures (0.png, 2.png)" in dataset.notes[0]
    assert "--pictures" in dataset.notes[0]
    found = classes(dataset.source.frames())
    assert found["skipped: cannot be read (No such file or directory)"] == 1
    assert sum(n for reason, n in found.items() if "2 pictures in" in str(reason)) == 1
    elsewhere = put(tmp_path / "elsewhere", "0.png", "1.png", "2.png")
    dataset = open_dataset(folder, pictures=elsewhere)
    assert classes(dataset.source.frames()) == {"cup": 2, "bolt": 1}


@pytest.mark.parametrize("ids", [(1, 1.0), (1, "1"), ("1", 1), (1.0, "1"), ("a", "a")])
def test_an_id_is_the_same_however_it_is_written(ids: tuple[Any, Any], tmp_path: Path) -> None:
    values = {
        "images": [{"id": ids[0], "file_name": "0.png"}, {"id": 7, "file_name": "1.png"}],
        "categories": [{"id": ids[0], "name": "cup"}],
        "annotations": [
            {"image_id": ids[1], "category_id": ids[1]},
            {"image_id": 7, "category_id": None},
            {"image_id": 7},
            3,
        ],
    }
    put(tmp_path, "0.png", "1.png")
    (tmp_path / "list.json").write_text(json.dumps(values))
    dataset = open_dataset(tmp_path)
    assert classes(dataset.source.frames()) == {"cup": 1, "skipped: it has no category": 1}
    assert dataset.notes == ("left out: 3 annotations without a picture or known category",)


def test_lists_below_splits_and_beside_others_are_chosen(tmp_path: Path) -> None:
    for split in SPLIT_FOLDERS:
        coco(tmp_path / "robo", f"{split}/_annotations.coco.json", ["0.png", "1.png"])
        put(tmp_path / "robo" / split, "0.png", "1.png")
    dataset = open_dataset(tmp_path / "robo")
    assert {f.source for f in dataset.source.frames()} == {str(tmp_path / "robo" / "train")}
    assert sum("left out" in note for note in dataset.notes) == 2
    whole = tmp_path / "coco"
    for name in ("instances_train2017", "instances_val2017", "person_keypoints_train2017"):
        coco(whole, f"annotations/{name}.json", ["0.png"])
    put(whole, "train2017/0.png", "val2017/0.png")
    dataset = open_dataset(whole)
    assert classes(dataset.source.frames()) == {"cup": 1}
    assert any("instances_val2017.json" in note for note in dataset.notes)


# Zips


@pytest.mark.parametrize(("name", "encoding"), [("café", "cp1252"), ("茶碗", "cp932")])
def test_a_zip_of_another_code_page_is_refused_until_it_is_named(
    name: str, encoding: str, tmp_path: Path
) -> None:
    raw = pack(tmp_path / "a.zip", "XXXX/1.png", "bolt/1.png").read_bytes()
    own = name.encode(encoding)
    (tmp_path / "a.zip").write_bytes(raw.replace(b"XXXX", own))
    with pytest.raises(SourceError, match="--encoding"):
        open_dataset(tmp_path / "a.zip")
    dataset = open_dataset(tmp_path / "a.zip", encoding=encoding)
    assert classes(dataset.source.frames()) == {name: 1, "bolt": 1}
    for wrong in ("utf-8", "klingon"):
        with pytest.raises(SourceError, match=f"{wrong} is not"):
            open_dataset(tmp_path / "a.zip", encoding=wrong)


def test_utf8_names_without_their_mark_and_with_it_are_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", "XXXXX/1.png", "bolt/1.png", "茶碗/1.png")
    path.write_bytes(path.read_bytes().replace(b"XXXXX", "café".encode()))
    assert open_dataset(path).classes == {"bolt": 1, "café": 1, "茶碗": 1}


def test_a_name_that_a_packer_added_in_utf8_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for own in ("XXXX/1.png", "bolt/1.png"):
            info = zipfile.ZipInfo(own)
            if own != "bolt/1.png":
                text = "café/1.png".encode()
                info.extra = struct.pack("<HHBI", 0x7075, 5 + len(text), 1, 0) + text
            archive.writestr(info, PNG)
    path.write_bytes(path.read_bytes().replace(b"XXXX", "café".encode("cp1252")))
    assert open_dataset(path).classes == {"bolt": 1, "café": 1}


def test_a_zip_with_backslashes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("cup\\1.png", "bolt\\1.png", "..\\evil\\1.png", "C:\\evil\\1.png"):
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, PNG)
    dataset = open_dataset(path)
    assert classes(dataset.source.frames()) == {"bolt": 1, "cup": 1}
    assert "2 names that lead elsewhere" in dataset.notes[0]


def test_a_class_of_a_project_may_have_a_slash(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tm", "a/b-!-0.png", "c-!-0.png")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("manifest.json", "{}")
    assert open_dataset(path).classes == {"a/b": 1, "c": 1}


# What a picture is


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_a_picture_is_known_by_its_content(format: str, tmp_path: Path) -> None:
    if not is_readable(format):
        pytest.skip("this Pillow does not read AVIF")
    data = build.encode(Image.new("RGB", (8, 8), (1, 2, 3)), format)
    assert kind_of(data[:64]) == format
    put(tmp_path, "cup/noextension", "cup/a.jfif", "cup/b.xyz", data=data)
    source = open_source(str(tmp_path))
    assert classes(source.frames()) == {"cup": 3}
    assert len(open_source(str(tmp_path / "cup" / "noextension"))) == 1


@pytest.mark.parametrize(
    "text",
    [b"", b"BMW is a car, and BM begins it" * 9, b"P6 is no picture", b"II is two", b"GIF89",
     b"RIFF\0\0\0\0WAVEfmt ", b"\0\0\0\x18ftypisom\0\0\0\0isommp42", b"%PDF-1.4"],
)  # fmt: skip
def test_what_is_no_picture_is_not_taken_for_one(text: bytes) -> None:
    assert kind_of(text) == ""


def test_what_is_passed_over_is_counted_by_kind(tmp_path: Path) -> None:
    put(tmp_path, "cup/1.png", "bolt/2.jpg")
    put(tmp_path, "cup/IMG_1.HEIC", "cup/IMG_2.heic", data=HEIC)
    put(tmp_path, "cup/notes.txt", "cup/Thumbs.db", "cup/.DS_Store", "README", data=b"text")
    put(tmp_path, "cup/a.jpg.part", "cup/b.jpg~", "cup/c.jpg_original", "bolt/d.dng", data=JPEG)
    os.mkfifo(tmp_path / "cup" / "pipe")
    source = open_source(str(tmp_path))
    expected = {
        ".heic": 2, ".txt": 1, ".db": 1, "hidden": 1, "no suffix": 2, ".part": 1, ".jpg~": 1,
        ".jpg_original": 1, ".dng": 1,
    }  # fmt: skip
    if is_readable("HEIC"):
        del expected[".heic"]
    assert source.passed_over == expected
    first = "2 .heic, 2 no suffix" if ".heic" in expected else "2 no suffix"
    assert source.notes[0].startswith(f"passed over: {first}, 1 .db")


def test_a_folder_of_heic_alone_says_how_to_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl.runtime.formats._has_heif", lambda: False)
    put(tmp_path, "cup/1.heic", "cup/2.heic", data=HEIC)
    with pytest.raises(SourceError, match=r"2 \.heic; HEIC is read after .*edgecl\[heif\]"):
        open_source(str(tmp_path))
    (item,) = open_source(str(put(tmp_path, "1.jpg", data=HEIC) / "1.jpg")).frames()
    assert isinstance(item, Frame)  # and its decoding names HEIC (test_preprocess.py)


@pytest.mark.parametrize("inner", ["lost", "cup/inner"])
def test_an_unreadable_folder_is_named_counted_and_skipped(
    inner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "cup/1.png", "bolt/1.png", f"{inner}/1.png")
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # a mode of 000 does not stop root, who runs tests in a container
        if str(path).endswith(inner):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for source in (open_source(str(tmp_path)), open_dataset(tmp_path).source):
        assert classes(source.frames()) == {"cup": 1, "bolt": 1}
        assert source.passed_over == {"unreadable": 1}
    notes = open_source(str(tmp_path)).notes
    assert f"{inner}/ cannot be read (Permission denied)" in notes
    (tmp_path / "all" / inner).mkdir(parents=True)
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(str(tmp_path / "all" / inner))


# Watching


def test_a_watched_folder_goes_by_the_same_table(tmp_path: Path) -> None:
    source = WatchSource(tmp_path, look_s=0.02)
    news: list[str] = []
    source.on_news = news.append
    put(tmp_path, "images/1.png")
    found = source.frames()
    with closing(source):
        item = next(found)
        assert isinstance(item, Frame)
        assert item.label is None
        assert any("images/ is no class" in line for line in news)
        put(tmp_path, "@eaDir/2.png", "cup/noextension")
        put(tmp_path, "cup/notes.txt", data=b"text")
        item = next(found)
        assert isinstance(item, Frame)
        assert (item.id, item.label) == ("cup/noextension", "cup")
        put(tmp_path, "images/3.jpg", data=JPEG)
        item = next(found)
        assert isinstance(item, Frame)
        assert item.label == "images"  # there is a class beside it now
        assert source.passed_over == {".txt": 1}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("gasket",), "no picture is in gasket/, so no class is made of it"),
        (("gasket", "nut/deep"), "no picture is in gasket/, nut/, so no class is made of it"),
        ([f"c{i}" for i in range(7)], "c0/, c1/, c2/, c3/, c4/ and 2 more"),
        (("labels", ".git", "@eaDir"), ""),
    ],
)
def test_an_empty_class_folder_is_told(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    put(tmp_path, "cup/1.png", "bolt/1.png")
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    for notes in (open_source(str(tmp_path)).notes, open_dataset(tmp_path).notes):
        assert [n for n in notes if "no picture is in" in n] == ([] if not said else [
            n for n in notes if said in n
        ])  # fmt: skip
        assert any(said in n for n in notes) or not said
    assert not any("no picture is in" in n for n in open_source(str(tmp_path), label="x").notes)

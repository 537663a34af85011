"""What labelling tools, recorders and systems leave in a folder is read rightly or refused."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import other_tools
import pytest
from PIL import Image

from edgecl.cli.check import check_labels
from edgecl.errors import EdgeclError, SourceError
from edgecl.home import Home
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.datasets import open_dataset
from edgecl.types import Frame, Skipped

_out = io.BytesIO()
Image.new("RGB", (8, 8), (90, 10, 10)).save(_out, "PNG")
PNG = _out.getvalue()
CUPS = ("cup/1.png", "bolt/1.png")


def put(folder: Path, *names: str) -> Path:
    """Write files; what has a picture's suffix is one."""
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(PNG if place.suffix in (".png", ".webp") else b"0 .5 .5 .4 .4\n")
    return folder


BOXES = "boxes and outlines are not learned"
REFUSED = [
    # Flat folders of labelling tools
    (("1.png", "1.txt", "2.png", "2.txt", "classes.txt"), BOXES),
    (("1.png", "1.xml"), BOXES),
    (("1.png", "1.json", "2.png", "2.json"), BOXES),
    # Below a folder of any name, of YOLO, of VOC, of CVAT and Supervisely
    (("stuff/1.png", "stuff/1.txt", "obj.names"), "with boxes beside its pictures"),
    (("obj/1.png", "obj/1.txt", "obj.data"), BOXES),
    (("images/train/1.png", "images/val/2.png", "labels/train/1.txt", "data.yaml"), BOXES),
    (("train/1.png", "train/1.txt", "train/_darknet.labels", "test/1.png"), BOXES),
    (("train/1.png", "train/1.xml", "valid/1.png", "valid/1.xml"), BOXES),
    (("VOCdevkit/VOC2012/JPEGImages/1.png", "VOCdevkit/VOC2012/Annotations/1.xml"), "VOCdevkit"),
    (("images/1.png", "annotations/trimaps/1.png", "annotations/list.txt"), BOXES),
    (("ds0/img/1.png", "ds0/ann/1.png.json", "meta.json"), "did you mean|holds img/"),
    # Datasets in a folder
    (("bottle/train/good/1.png", "bottle/test/broken/1.png", "nut/train/good/1.png"), "/bottle?"),
    (("faces/train/1.webp", "faces/anna/2.webp", "previews/gate/1.webp"), "/faces?"),
    (("gate/dataset/open/1.png", "gate/train/2.png", "export/1.png", "cache/3.png"), "/gate?"),
    (("dataset/train/cup/1.png", "dataset/test/cup/1.png"), "dataset/train?"),
    (("my/data/train/cup/1.png", "my/data/test/cup/1.png"), "my/data"),
    (("train/cup/1.png",), "/train?"),
    # What nobody has named
    (("New folder/1.png", "New folder (2)/2.png"), "what nobody has named"),
    (("Neuer Ordner/1.png", "Nouveau dossier/1.png", "Новая папка/1.png"), "what nobody has named"),
    (("train (1)/cup/1.png", "test - Copy/cup/1.png"), "splits of a dataset"),
    (("DCIM/Camera/1.png", "Pictures/Screenshots/1.png", "WhatsApp/Media/1.png"), "a camera"),
    (("previews/a/1.png", "recordings/b/1.png"), "a camera or recorder"),
]


@pytest.mark.parametrize(("names", "why"), REFUSED, ids=[", ".join(n)[:50] for n, _ in REFUSED])
def test_what_is_no_folder_a_class_is_refused_with_what_helps(
    names: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    put(tmp_path / "d", *names)
    with pytest.raises(SourceError) as error:
        check_labels(open_source(str(tmp_path / "d")))
    assert any(part in str(error.value) for part in why.split("|")), error.value
    assert ". ." not in str(error.value)
    if "leaves out the others" not in str(error.value):
        with pytest.raises(EdgeclError):
            open_dataset(tmp_path / "d")


@pytest.mark.parametrize(
    ("names", "learn", "take"),
    [
        (("a.zip", "b.zip"), "`edgecl import FILE` reads the .zip", "`edgecl import FILE`"),
        (("cup/1.mp4", "bolt/2.mp4"), "--label NAME` learns the .mp4", "learns the .mp4"),
        (
            ("1.png", "2.png"),
            "put it into a sub-folder",
            "of 2 pictures in it: they lie in no sub-",
        ),
        (("1.png", "metadata.csv"), "name the .csv", "no list that is known names them"),
        (("1.txt",), "passed over: 1 .txt", "expected a sub-folder a class"),
    ],
)
def test_what_helps_is_told_for_what_lies_there(
    names: tuple[str, ...], learn: str, take: str, tmp_path: Path
) -> None:
    folder = put(tmp_path / "d", *names)
    with pytest.raises(SourceError) as refused:
        check_labels(open_source(str(folder)))
    assert learn in str(refused.value)
    with pytest.raises(SourceError) as unknown:
        open_dataset(folder)
    assert take in str(unknown.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.zip", "it is no whole .zip"), ("a.tm", "it is no whole .tm"), ("a.tar.gz", "unpack it"),
     ("a.7z", "unpack it"), ("a.txt", "expected a folder, a .zip")],
)  # fmt: skip
def test_a_file_that_is_no_dataset_is_told_with_what_helps(
    name: str, said: str, tmp_path: Path
) -> None:
    put(tmp_path, name)
    with pytest.raises(SourceError, match=said):
        open_dataset(tmp_path / name)


def test_a_path_in_what_is_to_be_typed_is_quoted(tmp_path: Path) -> None:
    put(tmp_path / "my set (1)", "train/cup/1.png", "test/cup/1.png")
    with pytest.raises(SourceError) as error:
        open_source(str(tmp_path / "my set (1)"))
    assert f"did you mean '{tmp_path}/my set (1)/train'?" in str(error.value)
    assert f"`edgecl import '{tmp_path}/my set (1)'`" in str(error.value)
    (note,) = open_dataset(tmp_path / "my set (1)").notes
    assert f"`edgecl evaluate '{tmp_path}/my set (1)/test'`" in note
    with pytest.raises(EdgeclError) as missing:
        Home(tmp_path / "no home")
    assert f"--home '{tmp_path}/no home'`" in str(missing.value)


def test_import_is_only_named_where_it_helps(tmp_path: Path) -> None:
    put(tmp_path / "a", "DCIM/x/1.png", "Pictures/y/1.png")
    put(tmp_path / "b", "train/cup/1.png", "test/cup/1.png")
    told = []
    for name in "ab":
        with pytest.raises(SourceError) as error:
            open_source(str(tmp_path / name))
        told.append(f"{name}` learns train/ and leaves out the others" in str(error.value))
    assert told == [False, True]
    assert open_dataset(tmp_path / "b").classes == {"cup": 1}


@pytest.mark.parametrize(
    "more",
    [
        ("cup/1.json",),  # labelme, in a class's folder
        ("cup/1.txt", "bolt/1.txt"),
        ("__MACOSX/cup/._1.png", ".DS_Store", "cup/._1.png", "bolt/Thumbs.db", "cup/desktop.ini"),
        ("@eaDir/x/1.png", "lost+found/2.png", ".Trash-1000/files/1.png", "$RECYCLE.BIN/S/1.png"),
        ("venv/lib/1.png", "node_modules/x/2.png", ".git/3.png", "__pycache__/4.png"),
        ("keras_model.h5", "labels.txt", "cup/readme.md", "empty/notes.txt"),
    ],
)
def test_what_lies_beside_classes_is_counted_and_none_of_them(
    more: tuple[str, ...], tmp_path: Path
) -> None:
    put(tmp_path / "d", *CUPS, *more)
    source = open_source(str(tmp_path / "d"))
    assert [item.label for item in source.frames() if isinstance(item, Frame)] == ["bolt", "cup"]
    assert sum(source.passed_over.values()) == len(more)
    assert open_dataset(tmp_path / "d").classes == {"bolt": 1, "cup": 1}


@pytest.mark.parametrize("name", ["1 (1).png", "1 - Copy.png", "a b.png", "ä.png", "#1?.png"])
def test_names_that_windows_and_people_give_are_read(name: str, tmp_path: Path) -> None:
    source = open_source(str(put(tmp_path / "d", f"cup/{name}", "bolt/1.png")))
    assert {item.id for item in source.frames()} == {f"cup/{name}", "bolt/1.png"}


def test_a_class_of_two_spellings_that_look_the_same_is_one_in_what_import_tells(
    tmp_path: Path,
) -> None:
    put(tmp_path / "d", "cup/1.png", "cup\u200b/2.png", " cup/3.png", "bolt/1.png")
    dataset = open_dataset(tmp_path / "d")
    assert dataset.classes == {"bolt": 1, "cup": 3}
    assert {item.label for item in dataset.source.frames() if isinstance(item, Frame)} == {
        "bolt",
        "cup",
    }


# Roboflow's table of classes


def test_a_table_of_classes_below_splits_is_read_and_the_others_named(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        other_tools.one_hot(tmp_path / "d" / split)
    dataset = open_dataset(tmp_path / "d")
    assert (dataset.format, dataset.classes) == ("one-hot", dict.fromkeys(other_tools.CLASSES, 3))
    assert [note[:20] for note in dataset.notes] == ["left out: test/, ano", "left out: valid/, an"]
    assert len(dataset.source) == 9
    assert open_dataset(tmp_path / "d" / "valid" / "_classes.csv").classes == dataset.classes


def test_rows_of_several_classes_or_none_are_skipped_and_named(tmp_path: Path) -> None:
    put(tmp_path / "d", *(f"{i}.png" for i in range(9)), "../out.png")
    (tmp_path / "d" / "_classes.csv").write_text(
        "filename, bolt, cup\n0.png, 1, 0\n1.png, 1, 1\n2.png,0,0\n3.png,1\n4.png, 1, 0, 0\n"
        "5.png,yes,no\n,1,0\n../out.png,0,1\n8.png, 0, 1 \n" + "x" * 140_000 + ",1,0\n"
    )
    dataset = open_dataset(tmp_path / "d")
    items = list(dataset.source.frames())
    assert [(i.id, i.label) for i in items if isinstance(i, Frame)] == [
        ("0.png", "bolt"), ("8.png", "cup"),
    ]  # fmt: skip
    why = {i.id: i.reason for i in items if isinstance(i, Skipped)}
    assert why["1.png"] == "it has several classes (bolt, cup)"
    assert why["2.png"] == "it has no class"
    assert why["../out.png"] == "its path leads out of the dataset"
    for id in ("3.png", "4.png", "5.png", "row 8", "row 11"):
        assert "is no file name with 0 or 1 for each of 2 classes" in why[id]
    assert len(items) == 10


@pytest.mark.parametrize(
    "text", ["", "\n", "filename\na\n", "path,label\n1.png,cup\n", "x" * 140_000]
)
def test_another_table_is_no_table_of_classes(text: str, tmp_path: Path) -> None:
    put(tmp_path / "d", "1.png")
    (tmp_path / "d" / "_classes.csv").write_text(text)
    with pytest.raises(SourceError, match="no table of classes"):
        open_dataset(tmp_path / "d")


def test_train_stream_says_who_reads_a_table_of_classes(tmp_path: Path) -> None:
    folder = other_tools.one_hot(tmp_path / "d")
    with pytest.raises(SourceError, match=r"_classes\.csv, `edgecl import`"):
        open_source(str(folder / "_classes.csv"))
    with pytest.raises(SourceError, match=r"`edgecl import .*d` reads"):
        check_labels(open_source(str(folder)))
    other_tools.one_hot(tmp_path / "s" / "train")
    with pytest.raises(SourceError, match=r"`edgecl import .*s` reads Roboflow's _classes\.csv"):
        open_source(str(tmp_path / "s"))


@pytest.mark.parametrize("list_", ["result.json", "_annotations.coco.json", "_classes.csv"])
def test_a_list_in_a_zip_has_to_be_unpacked_and_that_is_said(list_: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0.png", PNG)
        archive.writestr(list_, "{}")
    with pytest.raises(SourceError, match="unpack it, and `edgecl import FOLDER` finds"):
        open_dataset(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("images/default/0.png", PNG)
        archive.writestr("annotations/instances_default.json", "{}")
    with pytest.raises(SourceError, match="unpack it and name the folder"):
        open_dataset(tmp_path / "b.zip")


# COCO in a zip


def packed_list(*files: str, labels: tuple[str, ...] = ("cup",)) -> str:
    """A COCO list of files, each of the next of the labels."""
    names = sorted(set(labels))
    return json.dumps(
        {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(files)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
            "annotations": [
                {"image_id": i, "category_id": names.index(labels[i % len(labels)])}
                for i in range(len(files))
            ],
        }
    )


def zipped(path: Path, entries: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("list_", "picture", "named"),
    [
        ("annotations/instances_default.json", "images/default/0.png", "0.png"),  # CVAT
        ("_annotations.coco.json", "0.png", "0.png"),
        ("train/_annotations.coco.json", "train/0.png", "0.png"),  # Roboflow
        ("result.json", "images/0.png", "images\\0.png"),  # Label Studio on Windows
        ("result.json", "images/0.png", "../../media/upload/4/0.png"),
        ("set/annotations/instances_val2017.json", "set/val2017/0.png", "0.png"),
        ("labels.json", "data/0.png", "0.png"),  # FiftyOne
        ("a/b.json", "c/d/0.png", "/home/me/0.png"),
    ],
)
def test_a_coco_list_in_a_zip_is_read_with_its_pictures(
    list_: str, picture: str, named: str, tmp_path: Path
) -> None:
    dataset = open_dataset(
        zipped(tmp_path / "a.zip", {list_: packed_list(named), picture: PNG, "x/more.png": PNG})
    )
    assert (dataset.format, dataset.classes) == ("coco", {"cup": 1})
    assert list_ in dataset.why
    assert dataset.notes == ("left out: 1 pictures that the list does not name",)
    (frame,) = dataset.source.frames()
    assert isinstance(frame, Frame)
    assert (frame.encoded, frame.label, frame.id) == (PNG, "cup", named)
    assert not dataset.source.passed_over


def test_of_lists_in_a_zip_the_training_one_is_read_and_what_is_lost_is_told(
    tmp_path: Path,
) -> None:
    path = zipped(
        tmp_path / "a.zip",
        {
            "train/_annotations.coco.json": packed_list("0.png", "1.png", "9.png"),
            "test/_annotations.coco.json": packed_list("0.png"),
            "train/0.png": PNG, "train/1.png": PNG, "test/0.png": PNG, "__MACOSX/._0.png": b"x",
            "README.txt": b"hello",
        },
    )  # fmt: skip
    dataset = open_dataset(path)
    frames = list(dataset.source.frames())
    assert [type(f) for f in frames] == [Frame, Frame, Skipped]
    assert dataset.notes == (
        "left out: test/_annotations.coco.json, another list",
        "not found in it: 1 of 3 pictures (9.png)",
        "left out: 1 pictures that the list does not name",
    )
    assert dataset.source.passed_over == {"__MACOSX/": 1, ".txt": 1}
    lists = {f"{name}.json": packed_list("0.png") for name in "ab"}
    with pytest.raises(SourceError, match=r"2 COCO lists \(a.json, b.json\); unpack it"):
        open_dataset(zipped(tmp_path / "b.zip", {**lists, "0.png": PNG}))


# FiftyOne's own list


@pytest.mark.parametrize(
    ("classes", "targets"),
    [
        (["bolt", "cup"], (0, 1)),
        (None, ("bolt", "cup")),
        (["bolt", "cup"], ({"label": 0, "confidence": 0.9}, {"label": 1})),
        (["bolt", "cup"], ("bolt", "cup")),
    ],
)
def test_fiftyones_labels_are_read(
    classes: list[str] | None, targets: tuple[object, object], tmp_path: Path
) -> None:
    put(tmp_path, "data/1.png", "data/deep/2.png", "data/other.png", "data/a.png", "data/a.webp")
    labels = {"1": targets[0], "deep/2": targets[1], "a": targets[0], "gone": targets[0]}
    labels |= {"other": None}
    (tmp_path / "labels.json").write_text(json.dumps({"classes": classes, "labels": labels}))
    dataset = open_dataset(tmp_path)
    assert (dataset.format, dataset.classes) == ("fiftyone", {"bolt": 1, "cup": 1})
    items = list(dataset.source.frames())
    assert [(i.id, i.label) for i in items if isinstance(i, Frame)] == [
        ("data/1.png", "bolt"), ("data/deep/2.png", "cup"),
    ]  # fmt: skip
    assert {i.id: i.reason for i in items if isinstance(i, Skipped)} == {
        "a": "2 pictures in data/ are called so",
        "gone": "it is not in data/",
        "other": "it has no class",
    }
    assert dataset.notes == ("not found: 1 of 5 pictures (gone)",)


@pytest.mark.parametrize("target", [7, -1, True, 1.5, ["bolt", "cup"], [], {"label": {}}, {}])
def test_what_is_no_class_of_fiftyones_list_is_skipped_and_named(
    target: object, tmp_path: Path
) -> None:
    put(tmp_path, "data/1.png", "data/2.png")
    labels = {"classes": ["bolt", "cup"], "labels": {"1": target, "2": 1}}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    first, second = open_dataset(tmp_path).source.frames()
    assert isinstance(first, Skipped)
    assert "class" in first.reason
    assert isinstance(second, Frame)

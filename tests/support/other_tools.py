"""Small datasets as other tools write them, made on the spot; the pictures are those of `build`."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import build

CLASSES = build.PARTS[:3]


def imagefolder(folder: Path, per_class: int = 3) -> Path:
    """A sub-folder a class."""
    return build.part_folder(folder, per_class, parts=CLASSES)


def frigate(folder: Path, per_class: int = 3) -> Path:
    """`clips/MODEL` of Frigate: labelled pictures as .webp and .png, attempts without a label."""
    for part in CLASSES:
        (folder / "dataset" / part).mkdir(parents=True)
        for i in range(per_class):
            suffix = ("webp", "png", "jpg")[i % 3]
            kind = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG"}[suffix]
            data = build.encode(build.part_picture(part, i), kind)
            (folder / "dataset" / part / f"{part}-1764000000.{i}.{suffix}").write_bytes(data)
    (folder / "train").mkdir()
    for i in range(2):
        data = build.encode(build.part_picture(CLASSES[0], 50 + i), "WEBP")
        (folder / "train" / f"1764000000.{i}-abc-1764000001.0-{CLASSES[0]}-0.91.webp").write_bytes(
            data
        )
    return folder


def jetson(folder: Path, per_class: int = 3) -> Path:
    """jetson-inference: labels.txt beside train/, val/ and test/."""
    for i, name in enumerate(("train", "val", "test")):
        build.part_folder(folder / name, per_class, parts=CLASSES, start=10 * i)
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in sorted(CLASSES)))
    return folder


def teachable_machine(path: Path, per_class: int = 3, *, kind: str = "image") -> Path:
    """A project file: a zip of manifest.json and CLASS-!-N.jpg, not packed."""
    manifest = {"type": kind, "version": "2.4.4", "appdata": {"trainEpochs": 50}}
    with zipfile.ZipFile(path, "w") as archive:
        for part in CLASSES:
            for i in range(per_class):
                data = build.encode(build.part_picture(part, i))
                archive.writestr(f"{part}-!-{i}.jpg", data)
        archive.writestr("manifest.json", json.dumps(manifest))
    return path


def coco_values(per_class: int = 3) -> dict[str, list[dict[str, Any]]]:
    """What the list of `coco` says."""
    pairs = [(k, i) for k in range(len(CLASSES)) for i in range(per_class)]
    return {
        "images": [
            {"id": n, "file_name": f"{CLASSES[k]}-{i}.jpg", "width": 48, "height": 48}
            for n, (k, i) in enumerate(pairs)
        ],
        "annotations": [
            {"id": 100 + n, "image_id": n, "category_id": k + 1} for n, (k, _) in enumerate(pairs)
        ],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)],
    }


def coco(folder: Path, per_class: int = 3, **more: list[dict[str, Any]]) -> Path:
    """`labels.json` and its pictures in images/; `more` is added to the list's parts."""
    values = coco_values(per_class)
    for name, entries in more.items():
        values[name] = values[name] + entries
    (folder / "images").mkdir(parents=True)
    for part in CLASSES:
        for i in range(per_class):
            data = build.encode(build.part_picture(part, i))
            (folder / "images" / f"{part}-{i}.jpg").write_bytes(data)
    (folder / "labels.json").write_text(json.dumps(values))
    return folder


def one_hot(folder: Path, per_class: int = 3) -> Path:
    """Write what Roboflow exports for several classes a picture: a table with a column a class."""
    rows = ["filename, " + ", ".join(CLASSES)]
    folder.mkdir(parents=True)
    for k, part in enumerate(CLASSES):
        for i in range(per_class):
            name = f"{part}-{i}_jpg.rf.0a.jpg"
            build.part_picture(part, i).save(folder / name)
            rows.append(", ".join([name, *("01"[j == k] for j in range(len(CLASSES)))]))
    (folder / "_classes.csv").write_text("\n".join(rows) + "\n")
    return folder

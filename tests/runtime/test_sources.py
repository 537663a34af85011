"""Every source yields one item a position, in a known order, and names what it cannot read."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.cli.check import check_labels
from edgecl.errors import EdgeclError, SourceError, UsageError
from edgecl.runtime.sources import Source, open_source
from edgecl.types import Frame, Skipped

PICTURE = build.encode(build.part_picture("washer", 0, 8), "PNG")


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICTURE)
    return folder


def labels(items: Iterable[Frame | Skipped]) -> list[tuple[str, str | None]]:
    out = []
    for item in items:
        assert isinstance(item, Frame), item
        out.append((item.id, item.label))
    return out


def skipped(items: Iterable[Frame | Skipped]) -> list[tuple[str, str]]:
    return [(i.id, i.reason) for i in items if isinstance(i, Skipped)]


def idx(values: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(np.uint8).tobytes()


def idx_pair(folder: Path, *, packed: bool = False, rgb: bool = False, n_labels: int = 5) -> str:
    pictures = np.arange(5 * 4 * 3 * (3 if rgb else 1)).reshape((5, 4, 3, 3) if rgb else (5, 4, 3))
    pack = gzip.compress if packed else bytes
    (folder / "x").write_bytes(pack(idx(pictures)))
    (folder / "y").write_bytes(pack(idx(np.array([3, 1, 4, 1, 5])[:n_labels])))
    return f"{folder / 'x'},{folder / 'y'}"


# Folder


def test_folder_is_sorted_by_class_then_file_and_deeper_folders_belong_to_the_first(
    tmp_path: Path,
) -> None:
    put(tmp_path, "b/2.png", "b/10.PNG", "a/z.jpg", "a/deep/er/a.webp", "loose.png")
    source = open_source(str(tmp_path))
    assert len(source) == 5
    assert labels(source.frames()) == [
        ("a/deep/er/a.webp", "a"),
        ("a/z.jpg", "a"),
        ("b/10.PNG", "b"),
        ("b/2.png", "b"),
        ("loose.png", None),
    ]
    assert [i.source for i in source.frames() if isinstance(i, Frame)] == [str(tmp_path)] * 5
    assert list(source.ids(2)) == ["a/deep/er/a.webp", "a/z.jpg"]


def test_folder_passes_over_hidden_files_and_other_kinds(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/.2.png", ".git/3.png", "a/png")
    (tmp_path / "a/notes.txt").write_text("notes")
    source = open_source(str(tmp_path))
    # One without a suffix is a picture by its content.
    assert labels(source.frames()) == [("a/1.png", "a"), ("a/png", "a")]
    assert source.passed_over == {"hidden": 2, ".txt": 1}


def test_folder_without_pictures_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match="holds no picture") as caught:
        open_source(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert caught.value.exit_code == 3


def test_label_option_wins_over_the_folder(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "2.png")
    source = open_source(str(tmp_path), label=" all ")
    assert labels(source.frames()) == [("2.png", "all"), ("a/1.png", "all")]


def test_folder_name_that_is_no_label_skips_its_pictures_only(tmp_path: Path) -> None:
    put(tmp_path, "a\x07/1.png", "b/2.png")
    items = list(open_source(str(tmp_path)).frames())
    assert [(i, "control" in r) for i, r in skipped(items)] == [("a\x07/1.png", True)]
    assert labels(items[1:]) == [("b/2.png", "b")]


def test_names_that_are_no_text_keep_their_bytes_and_cost_only_a_label(tmp_path: Path) -> None:
    for name in (b"a/\xff.png", b"b\xfe/1.png", b"c/1.png"):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(PICTURE)
    items = list(open_source(str(tmp_path)).frames())
    assert len(items) == 3
    ids = [os.fsencode(i.id) for i in items]
    assert ids == [b"a/\xff.png", b"b\xfe/1.png", b"c/1.png"]
    assert labels(items[2:]) == [("c/1.png", "c")]


# What cannot be read


def test_too_large_vanished_and_unreadable_files_are_skipped_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, *(f"a/{i}.png" for i in range(4)))
    source = open_source(str(tmp_path), max_bytes=len(PICTURE))
    (tmp_path / "a/0.png").write_bytes(PICTURE + b"x")
    (tmp_path / "a/1.png").unlink()
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "2.png":  # a mode of 000 does not stop root, who runs tests in a container
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    items = list(source.frames())
    reasons = skipped(items)
    assert [i for i, _ in reasons] == ["a/0.png", "a/1.png", "a/2.png"]
    assert "more than the limit" in reasons[0][1]
    assert "No such file" in reasons[1][1]
    assert "Permission denied" in reasons[2][1]
    assert labels(items[3:]) == [("a/3.png", "a")]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_folder_or_pipe_named_like_a_picture_is_skipped_and_not_waited_for(
    tmp_path: Path, make: object
) -> None:
    make(tmp_path / "x.png")  # type: ignore[operator]
    (tmp_path / "t.jsonl").write_text('{"path": "x.png"}\n')
    items = list(open_source(str(tmp_path / "t.jsonl")).frames())
    assert skipped(items) == [("x.png", "not a regular file")]


# Table


def test_csv_paths_start_at_the_table(tmp_path: Path) -> None:
    put(tmp_path, "p/1.png", "2.png")
    far = put(tmp_path / "far", "3.png") / "3.png"
    table = tmp_path / "t.csv"
    table.write_text(f'label,path,more\nx,p/1.png,1\n,2.png\n"a, b",{far}\n')
    source = open_source(str(table))
    assert len(source) == 3
    assert labels(source.frames()) == [("p/1.png", "x"), ("2.png", None), (str(far), "a, b")]


def test_csv_with_byte_order_mark_and_windows_lines_is_read(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    (tmp_path / "t.csv").write_bytes("\ufeffpath,label\r\n1.png,é\r\n".encode())
    assert labels(open_source(str(tmp_path / "t.csv")).frames()) == [("1.png", "é")]


def test_rows_without_path_or_with_a_missing_file_are_skipped_in_their_place(
    tmp_path: Path,
) -> None:
    put(tmp_path, "1.png")
    (tmp_path / "t.csv").write_text("path,label\n,a\nnone.png,a\n1.png,a\n1.png,   \n")
    items = list(open_source(str(tmp_path / "t.csv")).frames())
    reasons = skipped(items)
    assert [i for i, _ in reasons] == ["row 2", "none.png", "1.png"]
    assert "no path" in reasons[0][1]
    assert "No such file" in reasons[1][1]
    assert "empty" in reasons[2][1]
    assert labels(items[2:3]) == [("1.png", "a")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "file,label\na,b\n", "columns file, label; expected path,label"),
        ("t.csv", "filename,label\na,b\n", "; rename filename to path$"),
        ("t.csv", "Path,Class\na,b\n", "; rename Path to path and Class to label$"),
        ("t.csv", "image_id, species\na,b\n", "; rename image_id to path and species to label$"),
        ("t.csv", "path;label\na;b\n", "divided by semicolons, save it with commas"),
        ("t.csv", "path\tlabel\na\tb\n", "divided by tabs, save it with commas"),
        ("t.tsv", "path,label\na,b\n", "divided by commas, save it with tabs"),
        ("t.csv", "filename, bolt, cup\na.png, 0, 1\n", "a column for every class is not read"),
        ("t.csv", "path,label,label\na,b,c\n", "several columns called label"),
        ("t.csv", "x" * 140_000, "cannot be read as CSV .row 1"),
        ("t.csv", "", r"columns \(none\)"),
        ("t.csv", "path,label\n", "no row"),
        ("t.jsonl", "\n\n", "no row"),
        ("t.csv", "path,label\n\udcff,a\n", "UTF-8"),
    ],
)
def test_table_that_cannot_be_used_is_an_error(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / name))


def test_columns_with_spaces_and_tabs_are_read(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    (tmp_path / "t.csv").write_text("path , label\n1.png, cup\n 2.png ,bolt\n")
    (tmp_path / "t.tsv").write_text("path\tlabel\n1.png\tcup, red\n2.png\tbolt\n")
    found = {k: labels(open_source(str(tmp_path / f"t.{k}")).frames()) for k in ("csv", "tsv")}
    assert found["csv"] == [("1.png", "cup"), ("2.png", "bolt")]
    assert found["tsv"] == [("1.png", "cup, red"), ("2.png", "bolt")]


def test_a_row_with_too_many_cells_is_skipped_and_not_learned_as_another_class(
    tmp_path: Path,
) -> None:
    put(tmp_path, "1.png", "2.png")
    (tmp_path / "t.csv").write_text('path,label\n1.png,cup,red\n2.png,"cup, red"\n')
    items = list(open_source(str(tmp_path / "t.csv")).frames())
    ((id, reason),) = skipped(items)
    assert id == "1.png"
    assert reason.startswith("row 2 has 3 cells, the header 2; quote")
    assert labels(items[1:]) == [("2.png", "cup, red")]


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ('["bolt"]', "a list"),
        ('{"a": 1}', "an object"),
        ("true", "true or false"),
        ("1e400", "no number"),
        ("NaN", "no number"),
    ],
)
@pytest.mark.parametrize("kind", ["table", "stdin", "inline"])
def test_a_label_that_is_no_text_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, label: str, reason: str
) -> None:
    one = json.dumps(str(put(tmp_path, "1.png") / "1.png"))
    what = (
        f'"image": "{base64.b64encode(PICTURE).decode()}"' if kind == "inline" else f'"path": {one}'
    )
    text = f'{{{what}, "label": {label}}}\n{{{what}, "label": 7}}\n'
    (tmp_path / "t.jsonl").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    items = list(open_source(str(tmp_path / "t.jsonl") if kind == "table" else "-").frames())
    assert f"its label is {reason}" in skipped(items)[0][1]
    assert [label for _, label in labels(items[1:])] == ["7"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "stdin"])
def test_backslashes_of_windows_are_read_where_no_file_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    put(tmp_path, "img/1.png", "a\\b.png")
    monkeypatch.chdir(tmp_path)
    names = ["img\\1.png", "a\\b.png"]
    lines = "".join(json.dumps({"path": n, "label": "cup"}) + "\n" for n in names)
    (tmp_path / "t.jsonl").write_text(lines)
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{n},cup\n" for n in names))
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    source = open_source("-" if kind == "stdin" else f"t.{kind}")
    assert labels(source.frames()) == [(name, "cup") for name in names]


def test_a_byte_order_mark_on_stdin_is_no_part_of_the_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = str(put(tmp_path, "1.png") / "1.png")
    line = "\ufeff" + json.dumps({"path": one, "label": "a"})
    assert labels(stdin_source(monkeypatch, [line]).frames()) == [(one, "a")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label,split\n1.png,a,train\n1.png,b,test\n", "column split holds test, train"),
        ("path,label,Set\n1.png,a,TRAIN\n1.png,b,TEST\n", "column Set holds TEST, TRAIN"),
        ("path,label,is_valid\n1.png,a,False\n1.png,b,True\n", "column is_valid holds"),
        ("path,label,Usage\n1.png,a,Training\n1.png,b,PublicTest\n", "column Usage holds"),
        ("path,label,split\n1.png,a,train\n1.png,b,train\n", ""),
        ("path,label,size\n1.png,a,train\n1.png,b,test\n", ""),
        ("path,label\n1.png,a\n1.png,nan\n1.png,#N/A\n1.png,nan\n", "#N/A (1), nan (2)"),
        ("path,label\n1.png,a\n1.png,None\n1.png,#REF!\n", "#REF! (1), None (1)"),
        ("path,label\n1.png,none\n1.png,a\n1.png,unknown\n", ""),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_what_a_table_says_of_splits_and_of_no_label_is_told(
    text: str, said: str, kind: str, tmp_path: Path
) -> None:
    build.part_picture("washer", 0, 8).save(tmp_path / "1.png")
    if kind == "tsv":
        text = text.replace(",", "\t")
    if kind == "jsonl":
        names, *rows = (line.split(",") for line in text.splitlines())
        text = "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    table = tmp_path / f"t.{kind}"
    table.write_text(text)
    source = open_source(str(table))
    assert all(isinstance(item, Frame) for item in source.frames())
    assert [note for note in source.notes if said in note] == source.notes
    assert bool(source.notes) == bool(said)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("pics/*", "patterns are not read; name the folder"),
        ("pics/cup/?.png", "patterns are not read"),
        ("pcs", "did you mean pics?"),
        ("pics/cup/l.png", "did you mean pics/cup/1.png?"),
        ("'pics'", "did you mean pics?"),
        ("pics ", "did you mean pics?"),
        ("/pics", "did you mean pics?"),
        ("pics\\cup", "did you mean pics/cup?"),
        ("file://pics", "did you mean pics?"),
        ("0", "did you mean camera:0?"),
        ("/dev/video7", "did you mean camera:/dev/video7?"),
        ("two word", "did you mean 'two words'?"),
        ("pipe", "is no file and no folder"),
        ("gone/x", "does not exist; expected a folder"),
    ],
)
def test_what_is_not_there_is_told_with_what_may_be_meant(
    spec: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(put(tmp_path, "pics/cup/1.png", "two words/1.png"))
    os.mkfifo("pipe")
    with pytest.raises(SourceError) as error:
        open_source(spec)
    assert said in str(error.value)


@pytest.mark.parametrize("cell", ["['bolt']", '["bolt"]', "{'a': 1}", '{"choices": ["a", "b"]}'])
def test_a_list_as_text_is_no_label(cell: str, tmp_path: Path) -> None:
    build.part_picture("washer", 0, 8).save(tmp_path / "1.png")
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], ["1.png", cell], ["1.png", "[bolt]"]])
    first, second = open_source(str(tmp_path / "t.csv")).frames()
    assert isinstance(first, Skipped)
    assert "expected text, as a picture has one class" in first.reason
    assert isinstance(second, Frame)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "t.jsonl",
            '{"path":"1.png","label":"a"},\n',
            "it is no JSON object; write one object a line",
        ),
        ("t.jsonl", '[{"path":"1.png","label":"a"}]\n', "it is a list; write one object a line"),
        ("t.jsonl", '{\n"path":"1.png"\n}\n', "it is no JSON object; write one object a line"),
        (
            "t.jsonl",
            '{"file_name":"1.png","label":"a"}\n',
            "it has file_name, label; rename file_name to path",
        ),
        (
            "t.jsonl",
            '{"Path":"1.png","Label":"a"}\n',
            "it has Path, Label; rename Path to path and Label to label",
        ),
        (
            "t.jsonl",
            '{"path":"1.png","class":"a"}\n',
            "line 1 has path, class and no label; rename class to label",
        ),
        ("t.csv", "1.png,a\n2.png,b\n", "write path,label above its first row"),
        ("t.csv", "image,choice\n1.png,a\n", "rename image to path and choice to label"),
    ],
)
def test_what_a_table_lacks_is_told(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    try:
        source = open_source(str(tmp_path / name))
        check_labels(source)
        told = str(skipped(source.frames()))
    except EdgeclError as error:
        told = str(error)
    assert said in told


def test_empty_cells_behind_a_row_are_none(tmp_path: Path) -> None:
    build.part_picture("washer", 0, 8).save(tmp_path / "1.png")
    (tmp_path / "t.csv").write_text("path,label\n1.png,a,\n1.png,b,, \n1.png,c,,x\n")
    items = list(open_source(str(tmp_path / "t.csv")).frames())
    assert [type(item) for item in items] == [Frame, Frame, Skipped]


def test_a_table_that_is_not_utf_8_says_what_to_save_it_as(tmp_path: Path) -> None:
    for encoding in ("utf-16", "latin-1"):
        (tmp_path / "t.csv").write_text("path,label\n1.png,caf\u00e9\n", encoding=encoding)
        with pytest.raises(SourceError, match="save it as UTF-8"):
            open_source(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("name", "text", "where", "reason"),
    [
        ("t.csv", "path,label\n\nLONG,a\n1.png,b\n", "row 3", "field larger than"),
        ("t.tsv", "path\tlabel\nLONG\ta\n1.png\tb\n", "row 2", "field larger than"),
        ("t.csv", "path,label\nx.png,a" + ",b" * 70_000 + "\n1.png,b\n", "row 2", "characters"),
        ("t.jsonl", '{"path": "LONG"}\n{"path": "1.png", "label": "b"}\n', "line 1", "characters"),
        ("t.csv", 'path,label\n1.png,b\n"2.png,a\n3.png,a\n', "row 3", "quote in it not closed"),
    ],
)
def test_a_row_that_is_none_is_skipped_by_its_number_and_the_others_are_read(
    tmp_path: Path, name: str, text: str, where: str, reason: str
) -> None:
    put(tmp_path, "1.png")
    (tmp_path / name).write_text(text.replace("LONG", "x" * 140_000))
    items = list(open_source(str(tmp_path / name)).frames())
    ((id, why),) = skipped(items)
    assert (id, reason in why) == (where, True)
    assert len(why) < 200
    assert labels(i for i in items if isinstance(i, Frame)) == [("1.png", "b")]


def test_a_table_that_is_too_large_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl.runtime.sources.table._MAX_TABLE_BYTES", 1000)
    for name in ("t.csv", "t.jsonl"):
        (tmp_path / name).write_text("path,label\n" + "1.png,a\n" * 200)
        with pytest.raises(SourceError, match="more than 1,000 bytes; split it"):
            open_source(str(tmp_path / name))


def test_jsonl_skips_bad_lines_in_their_place(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    lines = ['{"path": "1.png", "label": 7}', "{bad", "[1]", '{"label": "a"}', '{"path": 1}']
    lines += ["", '{"path": "1.png", "label": null}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    items = list(open_source(str(tmp_path / "t.jsonl")).frames())
    assert [i for i, _ in skipped(items)] == ["line 2", "line 3", "line 4", "line 5"]
    assert labels([items[0], items[-1]]) == [("1.png", "7"), ("1.png", None)]


def test_a_line_separator_inside_a_json_string_does_not_break_the_line(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    line = json.dumps({"path": "1.png", "label": "a\u2028b"}, ensure_ascii=False)
    (tmp_path / "t.jsonl").write_text(line + "\n", encoding="utf-8")
    assert labels(open_source(str(tmp_path / "t.jsonl")).frames()) == [("1.png", "a\u2028b")]


@pytest.mark.parametrize(
    "line",
    [r'{"path": "a\u0000b.png"}', r'{"path": "\ud800.png"}', "[" * 50_000],
    ids=["zero byte", "lone surrogate", "deep nesting"],
)
@pytest.mark.parametrize("kind", ["table", "stdin"])
def test_a_hostile_line_is_skipped_and_the_stream_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, line: str
) -> None:
    good = put(tmp_path, "1.png") / "1.png"
    text = f"{line}\n" + json.dumps({"path": str(good), "label": "a"}) + "\n"
    (tmp_path / "t.jsonl").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    source = open_source(str(tmp_path / "t.jsonl") if kind == "table" else "-")
    items = list(source.frames())
    assert len(skipped(items[:1])) == 1
    assert labels(items[1:]) == [(str(good), "a")]


# IDX


@pytest.mark.parametrize("packed", [True, False])
def test_idx_pair_gives_grey_pictures_and_numbers_as_labels(tmp_path: Path, packed: bool) -> None:
    source = open_source(idx_pair(tmp_path, packed=packed))
    assert len(source) == 5
    frames = [f for f in source.frames() if isinstance(f, Frame)]
    assert labels(frames) == [("0", "3"), ("1", "1"), ("2", "4"), ("3", "1"), ("4", "5")]
    pixels = frames[1].pixels
    assert pixels is not None
    assert pixels.shape == (4, 3, 3)
    assert pixels[0, :, 0].tolist() == [12, 13, 14]
    assert (pixels == pixels[:, :, :1]).all()


def test_idx_pictures_may_be_rgb(tmp_path: Path) -> None:
    first = next(open_source(idx_pair(tmp_path, rgb=True)).frames())
    assert isinstance(first, Frame)
    assert first.pixels is not None
    assert first.pixels[0, 0].tolist() == [0, 1, 2]


def test_label_option_wins_over_idx_labels(tmp_path: Path) -> None:
    source = open_source(idx_pair(tmp_path), label="all")
    assert {label for _, label in labels(source.frames())} == {"all"}


GOOD = idx(np.zeros((5, 4, 3)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX"),
        (b"\0\0\x0d\x03" + GOOD[4:], "not an IDX"),
        (b"\0\0\x08\x09" + GOOD[4:], "not an IDX"),
        (GOOD[:4], "dimensions"),
        (GOOD[:7], "dimensions|damaged|cannot be read"),
        (GOOD[:8], "dimensions"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "more than can be read"),
        (GOOD[:-1], "damaged"),
        (GOOD + b"x", "damaged"),
        (gzip.compress(GOOD, mtime=0)[:-12], "cannot be read"),
        (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 20, "cannot be read"),
        (idx(np.zeros((5, 4))), "shapes"),
        (idx(np.zeros((4, 4, 3))), "shapes"),
        (idx(np.zeros((5, 0, 3))), "shapes"),
        (idx(np.zeros((5, 4, 3, 2))), "shapes"),
    ],
    ids=[
        "empty",
        "another type",
        "nine dimensions",
        "no dimension",
        "half a dimension",
        "one dimension of three",
        "huge",
        "a byte short",
        "a byte long",
        "gzip cut",
        "gzip damaged",
        "one axis short",
        "fewer pictures",
        "no pixels",
        "two channels",
    ],
)
def test_damaged_idx_file_or_unfit_pair_is_an_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    spec = idx_pair(tmp_path)
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        open_source(spec)


def test_missing_half_of_an_idx_pair_is_an_error(tmp_path: Path) -> None:
    spec = idx_pair(tmp_path)
    (tmp_path / "y").unlink()
    with pytest.raises(SourceError, match="y cannot be read"):
        open_source(spec)


# Standard input


def stdin_source(monkeypatch: pytest.MonkeyPatch, lines: list[str], **options: str) -> Source:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    return open_source("-", **options)  # type: ignore[arg-type]


def test_stdin_lines_are_frames_and_bad_ones_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = str(put(tmp_path, "1.png") / "1.png")
    good = json.dumps({"path": one, "label": "a"})
    source = stdin_source(monkeypatch, [good, "", "no json", '{"path": "/none.png"}', good])
    assert len(source) == 0
    items = list(source.frames())
    assert [i for i, _ in skipped(items)] == ["line 2", "/none.png"]
    assert labels([items[0], items[3]]) == [(one, "a"), (one, "a")]


@pytest.mark.parametrize("knows_ids", [True, False])
def test_stdin_continues_at_a_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows_ids: bool
) -> None:
    put(tmp_path, *(f"{i}.png" for i in range(5)))
    names = [str(tmp_path / f"{i}.png") for i in range(5)]
    lines = [json.dumps({"path": name}) for name in names]
    source = stdin_source(monkeypatch, [lines[0], "no json", *lines[2:]])
    if knows_ids:
        assert list(source.ids(3)) == [names[0], "line 2", names[2]]
    assert [i for i, _ in labels(source.frames(3))] == names[3:]


def test_label_option_wins_over_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = str(put(tmp_path, "1.png") / "1.png")
    line = json.dumps({"path": one, "label": "a"})
    assert labels(stdin_source(monkeypatch, [line], label="b").frames()) == [(one, "b")]


def test_stdin_cannot_be_shuffled() -> None:
    with pytest.raises(UsageError, match="cannot be shuffled"):
        open_source("-", shuffle_seed=1)


# One picture, and none


def test_a_picture_is_a_source_of_one_frame(tmp_path: Path) -> None:
    path = str(put(tmp_path, "1.PNG") / "1.PNG")
    source = open_source(path, label="a")
    assert len(source) == 1
    assert labels(source.frames()) == [(path, "a")]
    assert list(source.frames(1)) == []


@pytest.mark.parametrize(
    ("name", "message"), [("gone", "does not exist; expected a folder"), ("a.zip", r"is a \.zip")]
)
def test_unknown_source_is_an_error_that_lists_the_syntax(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(SourceError, match=message) as caught:
        open_source(str(tmp_path / name))
    for known in (".csv", ".jsonl", "images.gz,labels.gz", "stdin", "picture"):
        assert known in str(caught.value)


# Order and position


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("kind", ["folder", "table", "idx"])
def test_frames_from_a_position_continue_exactly(
    tmp_path: Path, kind: str, seed: int | None
) -> None:
    names = [f"a/{i}.png" for i in range(5)]
    put(tmp_path / "f", *names)
    table = tmp_path / "f" / "t.csv"
    table.write_text("path\n" + "".join(f"{n}\n" for n in names))
    spec = {"folder": str(tmp_path / "f"), "table": str(table), "idx": idx_pair(tmp_path)}[kind]
    whole = [i.id for i in open_source(spec, shuffle_seed=seed).frames()]
    assert sorted(whole) == sorted(set(whole))
    for start in range(7):
        source = open_source(spec, shuffle_seed=seed)
        assert [i.id for i in source.frames(start)] == whole[start:]
        assert list(source.ids(start)) == whole[:start]


def test_shuffle_repeats_with_its_seed_and_changes_with_another(tmp_path: Path) -> None:
    put(tmp_path, *(f"a/{i:02}.png" for i in range(20)))

    def ids(seed: int | None) -> list[str]:
        return [i.id for i in open_source(str(tmp_path), shuffle_seed=seed).frames()]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2) != ids(None)
    assert sorted(ids(1)) == ids(None)


def test_a_line_that_is_too_long_is_one_skip_and_the_next_line_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.png")
    good = '{"path": "%s", "label": "x"}' % (tmp_path / "a.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO("[" * 200_000 + "\n" + good + "\n"))
    items = list(open_source("-").frames())
    assert [type(i).__name__ for i in items] == ["Skipped", "Frame"]


def test_a_line_that_is_not_utf8_does_not_end_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.png")
    good = '{"path": "%s", "label": "x"}' % (tmp_path / "a.png")
    raw = io.BytesIO(b'{"path": "\xff.png"}\n' + good.encode() + b"\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="utf-8", errors="strict"))
    items = list(open_source("-").frames())
    assert [type(i).__name__ for i in items] == ["Skipped", "Frame"]


def test_links_are_followed_and_a_link_back_does_not_loop(tmp_path: Path) -> None:
    put(tmp_path / "real", "1.png")
    put(tmp_path / "parts", "bolt/1.png")
    (tmp_path / "parts" / "nut").symlink_to(tmp_path / "real")
    (tmp_path / "parts" / "bolt" / "back").symlink_to(tmp_path / "parts")
    items = list(open_source(str(tmp_path / "parts")).frames())
    assert labels(items) == [("bolt/1.png", "bolt"), ("nut/1.png", "nut")]

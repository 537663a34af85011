from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import build
from edgecl.home import Home
from edgecl.session import Session, open_store

KEYS = {
    "seen", "learned", "skipped", "classes", "prequential_accuracy", "samples_per_second",
    "seconds", "started_at", "interrupted",
    "held_out", "unlabelled", "unknown", "duplicates", "stale", "undone", "dropped", "reconnects",
    "stalls", "repeated", "broken", "oversize", "not_pictures", "still", "passed_over", "p50_ms",
    "p99_ms", "same_as", "change", "change_state", "verdict",
}  # fmt: skip


def train(home: Home, source: object, *options: object, stdin: str | None = None) -> dict[str, Any]:
    done = build.run_edgecl(
        "train-stream", source, "--home", home.path, "--json", *options, stdin=stdin
    )
    return build.last_json(done)


def query(home: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{home}/device.db?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def frames(home: Home) -> list[str]:
    """Return the frames that were taken, learned or held out, in their order."""
    rows = query(
        home.path,
        "SELECT frame, step FROM samples ORDER BY step, role = 'held_out'",
    )
    return [name for name, _ in rows]


def n_held_out(home: Home) -> int:
    ((n,),) = query(home.path, "SELECT count(*) FROM held_out")
    return int(n)


def seen(home: Home) -> dict[str, int]:
    return dict(query(home.path, "SELECT name, n_seen FROM classes"))


def pictures(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.jpg"))


def weights(home: Home) -> tuple[bytes, bytes, tuple[str, ...]]:
    with open_store(home, read_only=True) as store:
        scorer = Session(home, store).exact_scorer()
    return scorer.weights.tobytes(), scorer.bias.tobytes(), tuple(scorer.labels)


@pytest.fixture
def second(home: Home, tmp_path: Path) -> Home:
    """Another home with the same engine that learned nothing."""
    shutil.copytree(home.path, tmp_path / "second")
    return Home(tmp_path / "second")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four parts, six pictures each; never write to it."""
    return build.part_folder(tmp_path_factory.mktemp("parts"), 6)


def test_a_folder_is_learned_and_reported_as_one_object(home: Home, parts: Path) -> None:
    done = build.run_edgecl("train-stream", parts, "--home", home.path, "--json")
    result = build.last_json(done)
    assert set(result) == KEYS
    assert len(done.stdout.splitlines()) == 1
    assert (result["seen"], result["learned"], result["skipped"]) == (24, 24, 0)
    assert (result["classes"], result["started_at"], result["interrupted"]) == (4, 0, False)
    assert 0 < result["prequential_accuracy"] < 1
    assert result["samples_per_second"] > 0
    assert frames(home) == pictures(parts)
    assert seen(home) == dict.fromkeys(build.PARTS, 6)


def test_unusable_pictures_are_named_counted_and_skipped(home: Home, tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "mixed", 2)
    whole = (folder / "washer" / "001.jpg").read_bytes()
    (folder / "bracket" / "000.jpg").write_bytes(b"")
    (folder / "bracket" / "text.png").write_text("no picture")
    (folder / "washer" / "001.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "loose.jpg").write_bytes(whole)
    done = build.run_edgecl("train-stream", folder, "--home", home.path, "--json")
    result = build.last_json(done)
    assert (result["seen"], result["learned"], result["skipped"]) == (10, 6, 4)
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped ")]
    names = ("bracket/000.jpg", "bracket/text.png", "loose.jpg", "washer/001.jpg")
    assert sorted(line.split(": ")[0] for line in skipped) == [f"skipped {n}" for n in names]
    assert all(len(line.split(": ", 1)[1]) > 10 for line in skipped)
    assert not set(names) & set(frames(home))


def test_file_names_that_are_not_utf8_do_not_stop_the_stream(home: Home, tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "odd", 2, parts=("washer", "gasket"))
    os.rename(
        os.fsencode(folder / "gasket" / "000.jpg"), os.fsencode(folder / "gasket") + b"/\xff.jpg"
    )
    result = train(home, folder)
    assert (result["seen"], result["learned"] + result["skipped"]) == (4, 4)
    assert result["learned"] >= 3


@pytest.mark.parametrize("kind", ["csv", "jsonl", "-"])
def test_a_table_is_learned_in_its_own_order(
    home: Home, parts: Path, tmp_path: Path, kind: str
) -> None:
    rows = [(parts / part / f"{i:03}.jpg", part) for i in range(3) for part in build.PARTS]
    lines = [json.dumps({"path": str(path), "label": part}) for path, part in rows]
    stdin, source = None, tmp_path / f"table.{kind}"
    if kind == "csv":
        text = "path,label\n" + "".join(f"{path},{part}\n" for path, part in rows)
        source.write_text(text, encoding="utf-8")
    elif kind == "jsonl":
        source.write_text("\n".join(lines), encoding="utf-8")
    else:
        stdin = "\n".join(["not json", *lines, '{"label": "washer"}', '{"path": "nowhere.jpg"}'])
    result = train(home, kind if kind == "-" else source, stdin=stdin)
    assert (result["learned"], result["classes"]) == (12, 4)
    assert result["skipped"] == (3 if kind == "-" else 0)
    assert frames(home) == [str(path) for path, _ in rows]
    assert seen(home) == dict.fromkeys(build.PARTS, 3)


def test_an_idx_pair_is_learned_with_its_numbers_as_names(home: Home, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (10, 28, 28), np.uint8)
    y = np.arange(10, dtype=np.uint8) % 2 + 3
    for name, array in (("x.gz", x), ("y.gz", y)):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (tmp_path / name).write_bytes(gzip.compress(header + array.tobytes()))
    result = train(home, f"{tmp_path}/x.gz,{tmp_path}/y.gz")
    assert result["learned"] == 10
    assert seen(home) == {"3": 5, "4": 5}


def test_label_names_the_class_of_all_frames(home: Home, parts: Path) -> None:
    train(home, parts, "--label", "part", "--limit", 5)
    train(home, parts / "washer" / "000.jpg", "--label", "single")
    assert seen(home) == {"part": 5, "single": 1}


@pytest.mark.slow
def test_a_name_is_the_same_class_however_its_accents_are_written(home: Home, parts: Path) -> None:
    for label in ("caf\u00e9", "cafe\u0301", "  caf\u00e9 "):
        train(home, parts / "washer", "--label", label, "--limit", 2)
    assert seen(home) == {"caf\u00e9": 6}


@pytest.mark.slow
def test_shuffled_order_belongs_to_its_seed(home: Home, parts: Path, tmp_path: Path) -> None:
    orders = []
    for number, seed in enumerate((1, 1, 2)):
        shutil.copytree(home.path, tmp_path / f"h{number}")
        one = Home(tmp_path / f"h{number}")
        assert train(one, parts, "--shuffle", "--seed", seed, "--limit", 20)["learned"] == 20
        orders.append(frames(one))
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != pictures(parts)[:20]
    assert len(set(orders[0])) == 20


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--shuffle", "--seed", "3")])
def test_a_resumed_run_learns_each_frame_once_and_ends_bit_for_bit_the_same(
    home: Home, second: Home, parts: Path, options: tuple[str, ...]
) -> None:
    assert train(second, parts, *options)["learned"] == 24
    first = train(home, parts, *options, "--limit", 10)
    rest = train(home, parts, *options, "--resume")
    assert (first["learned"], rest["started_at"], rest["learned"]) == (10, 10, 14)
    assert sorted(frames(home)) == pictures(parts)
    assert frames(home) == frames(second)
    assert weights(home) == weights(second)
    again = train(home, parts, *options, "--resume")
    assert (again["seen"], again["learned"]) == (0, 0)
    assert weights(home) == weights(second)


@pytest.mark.slow
def test_a_resumed_uer_run_ends_bit_for_bit_the_same(home: Home, second: Home, parts: Path) -> None:
    train(second, parts, "--head", "uer")
    train(home, parts, "--head", "uer", "--limit", 10)  # a whole number of the head's batches
    train(home, parts, "--resume")
    assert frames(home) == frames(second)
    # `--head` changed the settings on disk, so they are read anew.
    assert weights(Home(home.path)) == weights(Home(second.path))


def test_lines_on_stdin_are_resumed_behind_the_last_one(home: Home, parts: Path) -> None:
    stdin = "\n".join(
        json.dumps({"path": str(parts / part / f"{i:03}.jpg"), "label": part})
        for i in range(3)
        for part in build.PARTS
    )
    assert train(home, "-", "--limit", 5, stdin=stdin)["learned"] == 5
    assert train(home, "-", "--resume", stdin=stdin)["learned"] == 7
    assert len(set(frames(home))) == len(frames(home)) == 12


@pytest.mark.parametrize("change", ["renamed", "removed"])
def test_resume_is_refused_when_the_learned_beginning_changed(
    home: Home, parts: Path, tmp_path: Path, change: str
) -> None:
    folder = tmp_path / "changing"
    shutil.copytree(parts, folder)
    train(home, folder, "--limit", 10)
    first = folder / "bolt-m4" / "000.jpg"
    if change == "renamed":
        first.rename(first.with_name("aaa.jpg"))
    else:
        first.unlink()
    done = build.run_edgecl("train-stream", folder, "--home", home.path, "--resume", "--json")
    assert build.is_refused(done, 3), done.stderr
    assert "no longer begins with the 10 frames" in done.stderr
    assert sum(seen(home).values()) == 10


def test_pictures_added_at_the_end_are_what_a_resumed_run_learns(
    home: Home, tmp_path: Path
) -> None:
    folder = build.part_folder(tmp_path / "growing", 2, parts=("bracket", "washer"))
    train(home, folder)
    build.part_folder(folder, 1, parts=("washer",), start=7)
    assert train(home, folder, "--resume")["learned"] == 1
    assert frames(home)[-1] == "washer/007.jpg"


def until_learning(home: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while query(home, "SELECT value FROM meta WHERE key = 'step'") == [("0",)]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def start(home: Home) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `train-stream` in the background; it is killed at the end if it still runs."""
    running = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        code = "from edgecl.cli import main; main()"
        words = ("train-stream", *arguments, "--home", home.path, "--json")
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        with process:
            process.kill()


@pytest.mark.slow
def test_an_interrupted_stream_stops_cleanly_and_is_completed_by_resume(
    home: Home, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = build.part_folder(tmp_path / "many", 100)
    process = start(folder)
    until_learning(home.path, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "--resume" in err
    result = json.loads(out.splitlines()[-1])
    assert result["interrupted"] is True
    assert 0 < result["learned"] + n_held_out(home) == len(frames(home)) < 400
    rest = train(home, folder, "--resume")
    assert (rest["started_at"], rest["interrupted"]) == (result["seen"], False)
    assert frames(home) == pictures(folder)


@pytest.mark.slow
def test_a_killed_stream_is_completed_by_resume_without_learning_twice(
    home: Home, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = build.part_folder(tmp_path / "many", 100)
    process = start(folder)
    until_learning(home.path, process)
    process.kill()
    process.communicate()
    n, n_held = len(frames(home)), n_held_out(home)
    assert 0 < n < 400
    learned = train(home, folder, "--resume")["learned"]
    assert learned + n_held_out(home) - n_held == 400 - n
    assert n_held_out(home) == 40
    assert frames(home) == pictures(folder)


def test_an_interrupt_ends_a_stream_whose_input_is_still_open(
    home: Home, parts: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("-")
    assert process.stdin is not None
    for i in range(6):
        line = json.dumps({"path": str(parts / "washer" / f"{i:03}.jpg"), "label": "washer"})
        process.stdin.write(line + "\n")
    process.stdin.flush()
    until_learning(home.path, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 0
    out, err = process.communicate()
    assert json.loads(out.splitlines()[-1])["learned"] == 6
    assert "Fatal" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--no-such-option",), 2, "--no-such-option"),
        (("--head", "forest"), 2, "ridge, uer"),
        (("--limit", "0"), 2, "--limit"),
        (("--seed", "-1", "--shuffle"), 2, "--seed"),
        (("--label", " "), 2, "empty"),
        (("--provider", "cuda"), 3, "cuda"),
        (("--provider", "abacus"), 2, "abacus"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_learned(
    home: Home, parts: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    if arguments[-1] == "cuda":
        from edgecl.runtime.engines.onnx import has_cuda_driver

        if has_cuda_driver():
            pytest.skip("this machine has the NVIDIA driver that must be missing here")
    done = build.run_edgecl("train-stream", parts, "--home", home.path, *arguments)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert seen(home) == {}


def test_standard_input_cannot_be_shuffled(home: Home) -> None:
    done = build.run_edgecl("train-stream", "-", "--shuffle", "--home", home.path, stdin="")
    assert done.returncode == 2
    assert "cannot be shuffled" in done.stderr


@pytest.mark.parametrize("kind", ["missing", "empty folder", "text file", "wrong columns"])
def test_a_source_that_cannot_be_read_is_status_3_and_one_line(
    home: Home, tmp_path: Path, kind: str
) -> None:
    source = tmp_path / "source"
    if kind == "empty folder":
        source.mkdir()
    elif kind == "text file":
        source = tmp_path / "source.txt"
        source.write_text("hello")
    elif kind == "wrong columns":
        source = tmp_path / "source.csv"
        source.write_text("file,class\na.jpg,b\n")
    done = build.run_edgecl("train-stream", source, "--home", home.path, "--json")
    assert build.is_refused(done, 3)
    assert str(source) in done.stderr
    assert "expected" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("first", [True, False])
def test_debug_shows_the_traceback_wherever_it_stands(
    home: Home, tmp_path: Path, first: bool
) -> None:
    words = ["train-stream", str(tmp_path / "missing"), "--home", str(home.path)]
    done = build.run_edgecl(*(["--debug", *words] if first else [*words, "--debug"]))
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "SourceError" in done.stderr


def test_another_head_is_refused_once_something_was_learned(
    taught_home: Path, copy_of: Callable[[Path], Path], parts: Path
) -> None:
    home = copy_of(taught_home)
    done = build.run_edgecl("train-stream", parts, "--head", "uer", "--home", home)
    assert done.returncode == 3
    assert "ridge" in done.stderr
    assert query(home, "SELECT sum(n_seen) FROM classes") == [(32,)]


def test_a_home_that_is_in_use_is_refused(home: Home, parts: Path) -> None:
    with home.lock():
        done = build.run_edgecl("train-stream", parts, "--home", home.path)
    assert done.returncode == 3
    assert "another edgecl process" in done.stderr
    assert seen(home) == {}


def test_a_changed_engine_is_status_4_and_nothing_is_learned(home: Home, parts: Path) -> None:
    engine = home.path / "engine" / "backbone.onnx"
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)
    done = build.run_edgecl("train-stream", parts, "--home", home.path)
    assert done.returncode == 4
    assert "SHA-256" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert seen(home) == {}


def test_a_source_is_the_same_however_its_path_is_spelled(home: Home, parts: Path) -> None:
    assert train(home, f"{parts}/")["learned"] == 24
    link = parts.parent / "link"
    link.symlink_to(parts)
    for spelled in (parts, os.path.relpath(parts), link):
        assert train(home, spelled, "--resume")["seen"] == 0


def test_learning_nothing_of_what_was_seen_is_no_success(home: Home, tmp_path: Path) -> None:
    (tmp_path / "p" / "a").mkdir(parents=True)
    (tmp_path / "p" / "a" / "x.jpg").write_bytes(b"no picture")
    done = build.run_edgecl("train-stream", tmp_path / "p", "--home", home.path)
    assert done.returncode == 3
    assert "none of the 1 frames" in done.stderr
    done = build.run_edgecl("evaluate", tmp_path / "p", "--home", home.path)
    assert done.returncode == 3

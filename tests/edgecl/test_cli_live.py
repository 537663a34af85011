"""`edgecl train-stream` on live sources: keys in a terminal, labels from a file, events."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import build
from edgecl.home import Home
from peers import HEAD, Call, part, peer

NEW_KEYS = {
    "held_out", "unlabelled", "unknown", "duplicates", "stale", "undone", "dropped", "reconnects",
    "stalls", "repeated", "broken", "oversize", "not_pictures", "still", "passed_over", "p50_ms",
    "p99_ms", "same_as",
}  # fmt: skip


def query(home: Home, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{home.database}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def seen(home: Home) -> dict[str, int]:
    return dict(query(home, "SELECT name, n_seen FROM classes"))


class Terminal:
    """A run of `train-stream` whose keyboard and screen are a pseudo-terminal."""

    def __init__(self, home: Home, *arguments: object) -> None:
        self.ours, theirs = pty.openpty()
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        code = "from edgecl.cli import main; main()"
        words = ["train-stream", *map(str, arguments), "--home", str(home.path), "--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: _take_terminal(0),
            env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
        )
        self.screen = ""

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not is_so():
            assert time.monotonic() < deadline, self.screen[-2000:]
            assert self.process.poll() is None, self.screen[-2000:]
            self.read()

    def read(self) -> None:
        if select.select([self.ours], [], [], 0.05)[0]:
            self.screen += os.read(self.ours, 65536).decode(errors="replace")

    def end(self) -> dict[str, Any]:
        deadline = time.monotonic() + 120
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.screen[-2000:]
            self.read()
        out, _ = self.process.communicate()
        self.read()
        assert termios.tcgetattr(self.theirs) == self.before
        if self.process.returncode:
            return {}
        value: dict[str, Any] = json.loads(out.splitlines()[-1])
        return value

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self.ours)
        os.close(self.theirs)


def _take_terminal(fd: int) -> None:
    import fcntl

    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(home: Home) -> Iterator[Callable[..., Terminal]]:
    running = []

    def start(*arguments: object) -> Terminal:
        running.append(Terminal(home, *arguments))
        return running[-1]

    yield start
    for one in running:
        one.close()


def test_a_person_teaches_at_the_keys_and_the_terminal_is_restored(
    home: Home, terminal: Callable[..., Terminal]
) -> None:
    run = terminal("synthetic:labels=0,fps=20,classes=1")
    run.until(lambda: "watching" in run.screen)
    assert seen(home) == {}
    run.press("ncup\n")
    run.until(lambda: seen(home).get("cup", 0) >= 4)
    assert "cup" in run.screen
    run.press("u")
    run.until(lambda: "took back" in run.screen)
    run.press(" ")
    run.until(lambda: "PAUSED" in run.screen)
    run.press("q")
    result = run.end()
    assert run.process.returncode == 0
    assert result["undone"] > 0
    assert result["unlabelled"] > 0
    assert sum(seen(home).values()) == result["learned"] - (
        result["undone"] - (result["held_out"] - query(home, "SELECT count(*) FROM held_out")[0][0])
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_live_stream_and_restore_the_terminal(
    home: Home, terminal: Callable[..., Terminal], number: int
) -> None:
    run = terminal("synthetic:labels=1,fps=20")
    run.until(lambda: "watching" in run.screen and bool(seen(home)))
    run.process.send_signal(number)
    result = run.end()
    assert result["interrupted"] is True
    assert result["learned"] > 0
    assert "--resume" not in run.screen


def test_a_second_signal_ends_at_once_and_restores_the_terminal(
    home: Home, terminal: Callable[..., Terminal]
) -> None:
    run = terminal("synthetic:fps=20")
    run.until(lambda: "watching" in run.screen)
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGTERM)
    run.end()
    assert run.process.returncode in (0, 128 + signal.SIGTERM)


def test_the_pattern_is_learned_and_what_is_seen_is_told(home: Home) -> None:
    spec = "synthetic:fps=25,frames=100,hold=50,classes=2"
    done = build.run_edgecl(
        "train-stream", spec, "--home", home.path, "--json", "--resume", "--events", "-"
    )
    result = build.last_json(done)
    assert result.keys() >= NEW_KEYS
    events = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    assert [e["event"] for e in events] == ["class"] * len(events)
    assert {e["label"] for e in events} <= set(seen(home))
    assert len(events) >= 2
    counted = ("learned", "held_out", "stale", "duplicates", "unlabelled", "skipped")
    assert result["seen"] == sum(result[name] for name in counted)
    assert result["p50_ms"] <= result["p99_ms"]
    assert "begins with what comes now" in done.stderr
    assert "--resume would" not in done.stderr


def test_labels_come_from_a_file_while_it_grows(home: Home, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"label": "cup"}\nnot json\n')
    done = build.run_edgecl(
        "train-stream", "synthetic:labels=0,fps=20,frames=30", "--home", home.path, "--json",
        "--labels", labels,
    )  # fmt: skip
    result = build.last_json(done)
    assert result["learned"] > 0
    assert list(seen(home)) == ["cup"]
    assert "line 2" in done.stderr


@pytest.mark.slow
def test_unknown_frames_go_to_the_review_queue(home: Home) -> None:
    build.last_json(
        build.run_edgecl(
            "train-stream", "synthetic:fps=0,frames=60,hold=15,classes=2", "--home", home.path,
            "--json",
        )
    )  # fmt: skip
    done = build.run_edgecl(
        "train-stream", "synthetic:labels=0,fps=10,frames=30,hold=2,classes=12", "--home",
        home.path, "--json", "--unknown", "--events", "-", "--vote", "1",
    )  # fmt: skip
    result = build.last_json(done)
    assert 0 < result["unknown"] <= result["unlabelled"]
    assert query(home, "SELECT count(*) FROM review")[0][0] > 0
    labels = [json.loads(line)["label"] for line in done.stdout.splitlines()[:-1]]
    assert "unknown" in labels


def test_lines_without_a_label_are_predicted_only(home: Home, tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "parts", 3)
    lines = [
        json.dumps({"path": str(path)} | ({"label": path.parent.name} if i % 2 else {}))
        for i, path in enumerate(sorted(folder.rglob("*.jpg")))
    ]
    result = build.last_json(
        build.run_edgecl("train-stream", "-", "--home", home.path, "--json", stdin="\n".join(lines))
    )
    assert (result["seen"], result["learned"], result["unlabelled"], result["skipped"]) == (
        12, 6, 6, 0,
    )  # fmt: skip
    assert result["p50_ms"] is None


def test_a_password_is_in_no_error(home: Home) -> None:
    picture = build.encode(build.part_picture(build.PARTS[0], 0))
    at = picture.index(b"\xff\xc0") + 5  # height and width
    huge = picture[:at] + b"\xea\x60\xea\x60" + picture[at + 4 :]

    def answer(call: Call) -> None:
        call.send(HEAD.format("frame"))
        while True:
            call.send(part(huge))
            call.wait(0.2)

    with peer(answer) as server:
        url = server.url("/cam", user="admin:s3cret")
        done = build.run_edgecl("train-stream", url, "--limit", "2", "--home", home.path)
    assert done.returncode == 3
    assert "see above" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr


def test_a_run_that_nobody_labels_says_how(home: Home) -> None:
    done = build.run_edgecl(
        "train-stream", "synthetic:labels=0,frames=3", "--home", home.path, "--json"
    )
    assert build.last_json(done)["learned"] == 0
    assert "--label NAME" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--labels", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--events", "pigeon"), "webhook"),
        (("--vote", "0"), "--vote"),
        (("--shuffle",), "cannot be shuffled"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    home: Home, options: tuple[str, ...], words: str
) -> None:
    done = build.run_edgecl("train-stream", "synthetic:frames=3", "--home", home.path, *options)
    assert done.returncode in (2, 3)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert seen(home) == {}

"""A command beside a running stream does what it does without one: output, status, store, head."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import build
from edgecl.cli import run
from edgecl.cli.app import app
from edgecl.cli.handover import _VARIABLES, WRITES, set_runner
from edgecl.cli.running import listening
from edgecl.config import Config, HeadConfig
from edgecl.device import Device
from edgecl.exporters.onnx import init_home
from edgecl.exporters.shipped import shipped
from edgecl.home import SOCKET, Home
from edgecl.learning import Given, learning
from edgecl.serve.socket import CommandSocket, Emit, Line, hand_over, is_served
from edgecl.session import open_predictor
from edgecl.stream.position import start_position
from edgecl.stream.queue import CommandQueue, Work
from edgecl.unlearning.request import writing


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that learned four parts, named one frame late, and has a snapshot."""
    folder = tmp_path_factory.mktemp("handover")
    engine = shipped("tf_efficientnet_lite0", image_size=64)
    assert engine is not None
    init_home(folder / "home", engine, Config(head=HeadConfig("ridge")))
    device = Device.open(folder / "home")
    device.learn(str(build.part_folder(folder / "parts", 6)))
    device.snapshot()
    device.relabel([2], "nut")
    return folder


@contextmanager
def streaming(path: Path) -> Iterator[threading.Thread]:
    """Run a stream on a home in a thread, as `train-stream` does in its process."""
    set_runner(run)
    stopped, started = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with writing(Home(path)) as session, ExitStack() as stack:
                given = Given("synthetic:labels=0,fps=20")
                source = given.open()
                key = given.key(session.home)
                start = start_position(session.home, session.learner, source, key, resume=False)
                queue = stack.enter_context(listening(session.home))
                started.set()
                run_, _ = stack.enter_context(
                    learning(
                        session,
                        source,
                        key=key,
                        start=start,
                        queue=queue,
                        should_stop=stopped.is_set,
                    )
                )
                for _ in run_:
                    pass
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(90)
    try:
        yield thread
    finally:
        stopped.set()
        thread.join(90)
        assert not thread.is_alive()
        assert not failed, failed


def plain(text: str) -> str:
    """Leave out of an output what differs from run to run: times, digests, places."""
    text = re.sub(r"/\S*/(beside|alone)", "HOME", text)
    text = re.sub(r"\b\d+(\.\d+)?(e-?\d+)? (ms|s|min|B|kB|MB)\b", "N", text)
    text = re.sub(r"\d+\.\d+(e-?\d+)?", "N", text)
    text = re.sub(r"[0-9a-f]{16,}|\b\d{10}\b", "DIGEST", text)
    text = re.sub(r"\b\d+e-\d+\b", "N", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?", "TIME", text)
    # Changes are numbered; the stream is one more.
    return re.sub(r"\bc\d+\b", "cN", text)


CASES: dict[str, tuple[str, ...]] = {
    "relabel": ("relabel", "3", "nut", "--json"),
    "relabel to a new name": ("relabel", "3", "4", "rivet"),
    "relabel of nothing": ("relabel", "9999", "nut"),
    "relabel in words": ("relabel", "3", "nut"),
    "a name that looks like another": ("relabel", "3", "nuts"),
    "hold out": ("samples", "hold-out", "3", "--json"),
    "rename": ("rename", "nut", "nuts", "--json"),
    "rename of nothing": ("rename", "cup", "mug"),
    "merge": ("merge-classes", "nut", "washer", "--json"),
    "undo": ("undo", "--yes"),
    "snapshot": ("snapshot", "--json"),
    "rollback": ("rollback", "s1", "--json"),
    "rollback of nothing": ("rollback", "s9"),
    "forget class": ("forget", "class", "washer", "--reason", "asked", "--json"),
    "forget class in words": ("forget", "class", "washer"),
    "forget sample": ("forget", "sample", "5", "--json"),
    "forget source": ("forget", "source", "PARTS", "--json"),
    "forget pending": ("forget", "pending", "--json"),
    "forget of nothing": ("forget", "class", "unicorn", "--json"),
    "forget by age": ("forget", "--older-than", "9000d", "--json"),
    "export of what is stale": ("export", "--rebuild-stale", "--json"),
    "train": ("train-stream", "PARTS", "--limit", "5", "--json"),
    "train from nowhere": ("train-stream", "nowhere"),
    "import": ("import", "PARTS", "--json"),
    "review drop": ("review", "drop", "--all", "--yes"),
    "review label of nothing": ("review", "label", "77", "nut"),
    "confirm": ("review", "confirm", "5"),
    "export": ("export", "onnx", "out", "--json"),
    "consolidate": ("consolidate", "--epochs", "1", "--recipe", "nope"),
    "wrong usage": ("relabel",),
}


QUICK = ("relabel", "forget class", "train", "rollback of nothing")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_a_command_says_and_does_the_same_beside_a_stream(
    name: str, base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    found = []
    for place in ("alone", "beside"):
        folder = tmp_path / place
        shutil.copytree(base / "home", folder / "home")
        words = [str(base / "parts") if word == "PARTS" else word for word in CASES[name]]
        monkeypatch.chdir(folder)
        with ExitStack() as stack:
            if place == "beside":
                stack.enter_context(streaming(folder / "home"))
            status = run([*words, "--home", "home"])
            printed = capfd.readouterr()
        capfd.readouterr()
        home = Home(folder / "home")
        known: Any = None
        if Device(home).samples():
            predictor = open_predictor(home)
            pictures = [np.asarray(build.part_picture(part, 50)) for part in build.PARTS]
            answers = [predictor.predict(picture) for picture in pictures]
            known = [[(n, round(score, 9)) for n, score in a.top] for a in answers]
        samples = [(s.uid, s.label, s.role) for s in Device(home).samples()]
        found.append((status, plain(printed.out), plain(printed.err), known, samples))
    for alone, beside in zip(*found, strict=True):
        assert beside == alone


def test_a_fleet_is_asked_beside_a_stream_as_without_one(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    made, plant, stick = (tmp_path / name for name in ("home", "plant", "stick"))
    shutil.copytree(base / "home", made)
    stick.mkdir()
    serve = ["fleet", "serve", "--once", "--carrier", str(stick), "--fleet", str(plant)]
    assert run(["fleet", "init", "--feature-map-of", str(made), "--fleet", str(plant)]) == 0
    assert run(serve) == 0
    capfd.readouterr()
    join = ["fleet", "join", str(stick / "fleet.json"), "--home", str(made), "--json"]
    assert run(join) == 0
    key = json.loads(capfd.readouterr().out)["key"]
    assert run(["fleet", "add", "press-1", key, "--fleet", str(plant)]) == 0
    assert run(serve) == 0
    assert run(["fleet", "sync", "--carrier", str(stick), "--home", str(made)]) == 0
    found = []
    for place in ("alone", "beside"):
        home = tmp_path / place / "home"
        shutil.copytree(made, home)
        monkeypatch.chdir(home.parent)
        capfd.readouterr()
        with ExitStack() as stack:
            if place == "beside":
                stack.enter_context(streaming(home))
            status = run(["forget", "class", "washer", "--fleet", "--home", "home"])
            printed = capfd.readouterr()
        (path,) = (home / "fleet" / "requests" / "press-1").iterdir()
        ids = json.loads(path.read_text())["body"]["ids"]
        assert path.name.partition("-")[2][:16] in printed.out
        found.append((status, plain(printed.out), plain(printed.err), ids))
    assert found[0] == found[1]
    assert found[0][0] == 0


def test_every_command_that_writes_is_handed_over() -> None:
    # What opens a home to write is looked for in the code, so that a new command is not left out.
    folder = Path(__file__).parents[2] / "edgecl/cli"
    writing_files = {
        path.stem
        for path in folder.glob("*.py")
        if any(
            isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("writing", "unlearn")
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    group = typer.main.get_command(app)
    named: dict[str, str] = {}

    def visit(command: Any, words: tuple[str, ...]) -> None:
        for name, sub in getattr(command, "commands", {}).items():
            visit(sub, (*words, name))
        if words and command.callback is not None:
            named[" ".join(words)] = command.callback.__module__.rsplit(".", 1)[-1]

    visit(group, ())
    reads = {
        "samples", "samples list", "changes", "snapshots", "export list", "export verify", "review",
        "review list", "review mistakes", "receipts", "receipt", "status", "predict", "evaluate",
        "report", "help",
    }  # fmt: skip
    left = {
        words for words, module in named.items() if module in writing_files and words not in WRITES
    }
    assert left <= reads | {"export", "demo", "init", "serve"}, left
    assert set(named) >= WRITES - {"config set"}


def test_who_says_no_changes_nothing(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "home", tmp_path / "home")
    with streaming(tmp_path / "home"):
        line = Line(
            ["rollback", "s1", "--home", "home"], folder=str(tmp_path), asks=True, columns=80
        )
        before = Device.open(tmp_path / "home").samples()
        (asked, ended) = list(hand_over(tmp_path / "home", line) or ())
        assert "goes back to s1" in " ".join(asked["ask"])
        assert ended == {"status": 0}
        assert Device.open(tmp_path / "home").samples() == before


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\n",
        b"nonsense\n",
        b"[1, 2]\n",
        b'{"arguments": []}\n',
        b'{"arguments": ["undo"], "folder": 3}\n',
        b'{"arguments": [1], "folder": "/"}\n',
        b'{"arguments": ["undo"], "folder": "/", "version": 99}\n',
        b'{"arguments": ["undo"], "folder": "/nowhere"}\n',
        b'{"arguments": ["--help"], "folder": "/"}\n',
        b"[" * 100_000 + b"\n",
        b"x" * 2_000_000,
    ],
    ids=range(12),
)
def test_what_a_client_sends_never_stops_the_stream(
    sent: bytes, base: Path, tmp_path: Path
) -> None:
    shutil.copytree(base / "home", tmp_path / "home")
    with streaming(tmp_path / "home") as thread:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "home" / SOCKET))
            client.settimeout(90)
            try:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: client.recv(65_536), b""))
            except OSError:
                answer = b""
        if answer:
            assert "status" in json.loads(answer.splitlines()[-1])
        assert thread.is_alive()
        assert run(["snapshot", "--home", str(tmp_path / "home")]) == 0


def test_a_client_that_never_reads_and_one_that_leaves_hold_nothing_up(
    base: Path, tmp_path: Path
) -> None:
    shutil.copytree(base / "home", tmp_path / "home")
    with streaming(tmp_path / "home") as thread, ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(tmp_path / "home" / SOCKET))
            line = {"arguments": ["snapshots", "--home", "home"], "folder": str(tmp_path)}
            client.sendall(json.dumps(line).encode() + b"\n")
        client.close()
        begin = time.monotonic()
        assert run(["snapshot", "--home", str(tmp_path / "home")]) == 0
        assert time.monotonic() - begin < 35  # and not five clients' ten seconds each
        assert thread.is_alive()


def asked_in(folder: Path, commands: CommandQueue) -> tuple[socket.socket, Work]:
    """Send a line to a socket in a folder; returns the client, and what waits for the stream."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(folder / SOCKET))
    client.sendall(b'{"arguments": ["undo"], "folder": "/"}\n')
    end = time.monotonic() + 90
    while (work := commands.take()) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return client, work


def test_more_than_is_held_for_a_client_never_holds_the_stream(tmp_path: Path) -> None:
    def talks(line: Line, emit: Emit) -> int:
        for _ in range(20_000):
            emit({"out": "x" * 100})
        return 0

    commands = CommandQueue()
    with closing(CommandSocket(tmp_path, commands, talks)):
        client, work = asked_in(tmp_path, commands)
        with client:
            stream = threading.Thread(target=work.do, daemon=True)
            stream.start()
            stream.join(90)
            assert not stream.is_alive()
            assert client.makefile("rb").readlines()[-1] == b'{"status": 0}\n'


def test_a_client_gets_its_answer_though_the_process_ends(tmp_path: Path) -> None:
    commands = CommandQueue()
    served = CommandSocket(tmp_path, commands, lambda line, emit: 7)
    client, work = asked_in(tmp_path, commands)
    with client:
        work.do()
        served.close()
        served.close()
        assert client.recv(100) == b'{"status": 7}\n'


def test_a_process_with_too_many_files_open_listens_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, faults = socket.socket.accept, [OSError(errno.EMFILE, "too many")] * 2

    def fails_first(listener: socket.socket) -> Any:
        if faults:
            raise faults.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", fails_first)
    commands = CommandQueue()
    with closing(CommandSocket(tmp_path, commands, lambda line, emit: 0)):
        client, work = asked_in(tmp_path, commands)
        client.close()
        work.do()
    assert not faults


def test_a_socket_that_was_left_behind_is_no_process(base: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(base / "home", home)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(home / SOCKET))
    assert not is_served(home)
    assert run(["snapshot", "--home", str(home)]) == 0
    with streaming(home):
        assert is_served(home)
        mode = os.stat(home / SOCKET).st_mode & 0o777
        assert mode == 0o600
    assert not (home / SOCKET).exists()


def test_a_home_whose_name_is_longer_than_a_sockets_address(base: Path, tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30) / "home"
    shutil.copytree(base / "home", home)
    with streaming(home):
        assert is_served(home)
        assert run(["snapshot", "--home", str(home)]) == 0


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["train-stream", "-"], 2),
        (["train-stream", "synthetic:", "--limit", "3", "--labels", "-"], 2),
        (["train-stream", "synthetic:", "--limit", "3", "--events", "-"], 0),
        (["rename", "nut", "-"], 0),
    ],
)
def test_only_what_reads_standard_input_cannot_be_handed_over(
    words: list[str],
    status: int,
    base: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(base / "home", tmp_path / "home")
    with streaming(tmp_path / "home"):
        assert run([*words, "--home", str(tmp_path / "home")]) == status
    assert ("cannot read the standard input" in capfd.readouterr().err) == (status == 2)


def test_who_finds_all_places_taken_is_told_so(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    shutil.copytree(base / "home", home)
    with streaming(home), ExitStack() as stack:
        for _ in range(16):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(home / SOCKET))
        assert run(["snapshot", "--home", str(home)]) == 3
    assert "16 commands wait for this home already; try again later" in capfd.readouterr().err


@pytest.mark.parametrize("answer", [b"", b'{"out": "a"}\n', b'{"out": "a"}\n{"ou'])
def test_a_process_that_ends_before_it_answers_is_told(
    answer: bytes, base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    shutil.copytree(base / "home", home)

    def end(listener: socket.socket) -> None:
        listener.accept()[0].close()  # who asks whether anybody listens
        with listener.accept()[0] as client:
            client.sendall(answer)  # what was sent is left unread: its end is a reset

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / SOCKET))
        listener.listen()
        threading.Thread(target=end, args=(listener,), daemon=True).start()
        assert run(["snapshot", "--home", str(home)]) == 3
    assert "ended before it answered" in capfd.readouterr().err


def test_settings_of_who_types_a_line_are_named_as_not_used(base: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(base / "home", home)
    line = ["snapshot", "--home", str(home)]
    with streaming(home):
        env = {"EDGECL_EVALUATION_PROBES": "7", "EDGECL_STORE_CAPACITY_SAMPLES": "50"}
        beside = build.run_edgecl(*line, env=env)
        without = build.run_edgecl(*line)
    assert beside.returncode == without.returncode == 0
    assert "note: " not in without.stderr
    (told,) = [text for text in beside.stderr.splitlines() if text.startswith("note: ")]
    assert "EDGECL_EVALUATION_PROBES, EDGECL_STORE_CAPACITY_SAMPLES" in told
    assert "settings of its own" in told


def test_variables_of_options_are_handed_over() -> None:
    named: set[str] = set()

    def collect(command: Any) -> None:
        for param in command.params:
            named.update([param.envvar] if isinstance(param.envvar, str) else param.envvar or ())
        for inner in getattr(command, "commands", {}).values():
            collect(inner)

    collect(typer.main.get_command(app))
    assert named == set(_VARIABLES)

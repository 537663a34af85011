"""`--log-json` and `--metrics`."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from patience import until
from prometheus_client.parser import text_string_to_metric_families

import build
from edgecl.cli.observe import observing
from edgecl.cli.output import say
from edgecl.errors import MissingPackageError, RequestError, SourceError, UsageError
from edgecl.home import Home
from edgecl.session import open_learner, open_store
from edgecl.stream.events import FrameSkipped, Said, Unlearned
from edgecl.stream.progress import Progress
from peers import free_port

STATE = Progress(
    seen=20, learned=12, n_correct=9, seconds=4.0, n_classes=3, skipped=2, dropped=5, duplicates=4,
    reconnects=1, stalls=1, commits=2,
)  # fmt: skip


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def events(path: Path) -> list[str]:
    return [line["event"] for line in lines(path.read_text())]


def values(text: str) -> dict[str, float]:
    """Return the samples of a metrics page; labels stand in the name."""
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def fetched(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


# Logs


def test_a_log_is_one_object_a_line(tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    with observing(str(log), None, command="train-stream") as observer:
        observer.update(
            Progress(
                seen=3,
                learned=2,
                events=(
                    FrameSkipped("a/1.jpg", "it has no label"),
                    Unlearned("r7", is_barred=True),
                    Said("skipped a/2.jpg: not an event of that kind"),
                ),
            )
        )
        observer.update(STATE)
    found = lines(log.read_text())
    assert [line["event"] for line in found] == [
        "start", "skipped", "unlearned", "message", "progress", "reconnects", "stalls", "end",
    ]  # fmt: skip
    for line in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["level"] in ("info", "warning")
    assert found[0]["command"] == "train-stream"
    assert (found[1]["frame"], found[1]["reason"]) == ("a/1.jpg", "it has no label")
    assert found[2]["receipt"] == "r7"
    end = found[-1]
    assert (end["seen"], end["learned"], end["skipped"], end["dropped"]) == (20, 12, 2, 5)
    assert (end["prequential_accuracy"], end["commits"]) == (0.75, 2)


def test_progress_is_told_every_ten_seconds_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with observing(str(tmp_path / "log"), None, command="x") as observer:
        for _ in range(30):
            now[0] += 1
            observer.update(STATE)
    assert events(tmp_path / "log").count("progress") == 3


def test_of_very_many_messages_only_the_number_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with observing(str(tmp_path / "log"), None, command="x") as observer:
        observer.update(Progress(seen=1))
        for i in range(1000):
            observer.update(Progress(seen=i, events=(FrameSkipped(str(i), "broken"),)))
        now[0] += 11
        observer.update(Progress(seen=1000))
        observer.update(Progress(seen=1001, events=(FrameSkipped("last", "broken"),)))
    found = lines((tmp_path / "log").read_text())
    assert len(found) < 120
    (progress,) = [line for line in found if line.get("lines_hidden")]
    assert progress["lines_hidden"] == 900
    assert found[-2]["frame"] == "last"


def test_a_log_has_no_password(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with observing(str(log), None, command="x") as observer:
        observer.say("rtsp://admin:hunter2@10.0.0.9/live?token=abc: lost; connecting again in 1 s")
        skipped = FrameSkipped("http://me:hunter2@h/1.jpg", "not there")
        observer.update(Progress(events=(skipped,)))
    assert "hunter2" not in log.read_text()
    assert "abc" not in log.read_text()
    assert "10.0.0.9" in log.read_text()


def test_on_stderr_all_that_is_said_becomes_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with observing("-", None, command="x") as observer:
        assert not observer.is_for_people
        say("going on at frame 3")
        say("skipped caf\udce9.jpg: 100 % broken")
    say("and again for people")
    out, err = capsys.readouterr()
    assert out == ""
    *logged, last = err.splitlines()
    assert last == "and again for people"
    found = lines("\n".join(logged))
    assert [line["event"] for line in found] == ["start", "message", "message", "end"]
    assert found[1]["text"] == "going on at frame 3"
    assert found[2]["text"] == "skipped caf\udce9.jpg: 100 % broken"


def test_an_error_is_the_last_line(tmp_path: Path) -> None:
    with (
        pytest.raises(SourceError),
        observing(str(tmp_path / "log"), None, command="x"),
    ):
        raise SourceError("camera http://a:b@c is gone")
    last = lines((tmp_path / "log").read_text())[-1]
    assert (last["level"], last["kind"]) == ("error", "SourceError")
    assert last["text"] == "camera http://***@c is gone"


def test_a_log_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with observing(str(log), None, command="x") as observer:
        log.rename(tmp_path / "log.1")
        observer.say("more")
    assert events(tmp_path / "log.1") == ["start"]
    assert events(log) == ["message", "end"]


def test_a_log_is_added_to(tmp_path: Path) -> None:
    for _ in range(2):
        with observing(str(tmp_path / "log"), None, command="x"):
            pass
    assert events(tmp_path / "log") == ["start", "end"] * 2


def test_a_log_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    with (
        pytest.raises(RequestError, match="cannot be written"),
        observing(str(tmp_path / "no" / "log"), None, command="x"),
    ):
        pass


def test_a_log_on_a_full_disk_does_not_end_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    with observing("/dev/full", None, command="x") as observer:
        observer.say("more")
        observer.update(STATE)
    err = capsys.readouterr().err
    assert err == (
        "the log /dev/full cannot be written (No space left on device); free some disk "
        "space there, then start the command again. Going on without\n"
    )


# Metrics


def test_a_file_of_metrics_is_whole_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "edgecl.prom"
    with observing(None, str(path), command="x") as observer:
        observer.update(STATE)
        assert observer.is_for_people
    found = values(path.read_text())
    assert found["edgecl_frames_seen_total"] == 20
    assert found["edgecl_samples_learned_total"] == 12
    assert found["edgecl_frames_skipped_total"] == 2
    assert found["edgecl_frames_dropped_total"] == 5
    assert found["edgecl_frames_duplicate_total"] == 4
    assert found["edgecl_source_reconnects_total"] == found["edgecl_source_stalls_total"] == 1
    assert found["edgecl_classes"] == 3
    assert found["edgecl_prequential_accuracy_ratio"] == 0.75
    assert [p.name for p in tmp_path.iterdir()] == ["edgecl.prom"]


def test_of_a_run_that_learned_nothing_no_accuracy_is_told(tmp_path: Path) -> None:
    path = tmp_path / "edgecl.prom"
    with observing(None, str(path), command="x") as observer:
        observer.update(Progress(seen=20))
    assert values(path.read_text()).keys() >= {"edgecl_frames_seen_total", "edgecl_drift_ratio"}
    assert "prequential" not in path.read_text()


def test_the_file_is_written_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    path = tmp_path / "a.prom"
    with observing(None, str(path), command="x") as observer:
        observer.update(Progress(seen=1))
        observer.update(Progress(seen=2))
        assert values(path.read_text())["edgecl_frames_seen_total"] == 1
        now[0] += 6
        observer.update(Progress(seen=3))
        assert values(path.read_text())["edgecl_frames_seen_total"] == 3


def test_a_port_is_served_on_this_machine_only_and_closed(tmp_path: Path) -> None:
    port = free_port()
    before = threading.active_count()
    with observing(None, f":{port}", command="x") as observer:
        observer.update(STATE)
        assert values(fetched(port))["edgecl_frames_seen_total"] == 20
        observer.update(Progress(seen=21))
        assert values(fetched(port))["edgecl_frames_seen_total"] == 21
        listening = Path("/proc/net/tcp").read_text()
        assert f"0100007F:{port:04X} 00000000:0000 0A" in listening
        assert f"00000000:{port:04X} 00000000:0000 0A" not in listening
    with pytest.raises(OSError, match="refused"):
        fetched(port)
    assert until(lambda: threading.active_count() <= before)  # others' may end, too


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "{}"])
def test_forms_of_a_port(form: str) -> None:
    port = free_port()
    with observing(None, form.format(port), command="x") as observer:
        observer.update(STATE)
        assert "edgecl_classes 3.0" in fetched(port)


def test_a_port_in_use_is_one_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(RequestError, match=f"served on 127.0.0.1:{port} .*another port"),
            observing(None, f":{port}", command="x"),
        ):
            pass


@pytest.mark.parametrize("place", ["metrics.txt", "a:b", "http://h:9100/", ":123456", ""])
def test_another_place_is_a_usage_error(place: str) -> None:
    with (
        pytest.raises(UsageError, match=r"neither a \.prom file nor a port"),
        observing(None, place, command="x"),
    ):
        pass


def test_a_file_that_cannot_be_written_is_that_error_when_the_store_is_closed(
    tmp_path: Path,
) -> None:
    home = build.tiny_home(tmp_path / "home")
    with (
        pytest.raises(RequestError, match="cannot be written"),
        observing(None, str(tmp_path / "no" / "a.prom"), command="x") as observer,
        open_store(home) as store,
        observer.watching(store),
    ):
        pass


def test_a_port_that_no_machine_has_is_one_error() -> None:
    with (
        pytest.raises(RequestError, match="cannot be served"),
        observing(None, ":70000", command="x"),
    ):
        pass


def test_a_file_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    with (
        pytest.raises(RequestError, match="cannot be written"),
        observing(None, str(tmp_path / "no" / "a.prom"), command="x") as observer,
    ):
        observer.update(STATE)


def test_a_file_that_cannot_be_written_any_more_is_told_once_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    with observing(None, str(folder / "a.prom"), command="x") as observer:
        observer.update(STATE)
        shutil.rmtree(folder)
        observer.end()
        observer.end()
    assert capsys.readouterr().err.count("Going on without") == 1


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with (
        pytest.raises(MissingPackageError, match=r"edgecl\[metrics\]"),
        observing(None, "a.prom", command="x"),
    ):
        pass


def test_what_the_store_says_is_published_without_any_name(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home", commit_every=4, probes=20)
    x, _ = build.features(40, n_classes=2)
    path = tmp_path / "a.prom"
    with open_store(home) as store, observing(None, str(path), command="x") as observer:
        learner = open_learner(home, store)
        with observer.watching(store):
            for i in range(0, 40, 4):
                frames = [build.frame(("secret-a", "secret-b")[j % 2], j) for j in range(i, i + 4)]
                learner.learn_many(frames, x[i : i + 4])
                observer.update(Progress(seen=i + 4, learned=i + 4))
        kept, kept_bytes = store.n_stored_samples, store.stored_bytes
    text = path.read_text()
    found = values(text)
    assert found["edgecl_samples_kept"] == kept > 20
    assert found["edgecl_kept_picture_bytes"] == kept_bytes
    assert found["edgecl_store_bytes"] > 4096
    assert 0 <= found["edgecl_probe_accuracy_ratio"] <= 1
    buckets = [v for k, v in found.items() if k.startswith("edgecl_step_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found["edgecl_step_seconds_count[learn]"] > 0
    assert found["edgecl_step_seconds_sum[learn]"] > 0
    assert "secret" not in text


# systemd


def test_systemd_hears_that_the_run_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(60)
        with observing(None, None, command="x") as observer:
            observer.update(STATE)
        assert [server.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]
    os.unlink(tmp_path / "notify")
    with observing(None, None, command="x") as observer:
        observer.update(STATE)  # nobody hears; nothing breaks


# Commands


def test_a_stream_is_observed(home: Home, tmp_path: Path) -> None:
    parts = build.part_folder(tmp_path / "parts", 6)
    (parts / "washer" / "bad.jpg").write_bytes(b"x")
    prom = tmp_path / "a.prom"
    done = build.run_edgecl(
        "train-stream", parts, "--home", home.path, "--json", "--log-json", "-", "--metrics", prom
    )
    result = build.last_json(done)
    found = lines(done.stderr)
    assert {line["event"] for line in found} >= {"start", "skipped", "progress", "end"}
    assert found[-1]["learned"] == result["learned"]
    page = values(prom.read_text())
    assert page["edgecl_samples_learned_total"] == result["learned"]
    assert page["edgecl_frames_skipped_total"] == 1
    assert page["edgecl_samples_kept"] == result["learned"]
    log = tmp_path / "log"
    done = build.run_edgecl("train-stream", tmp_path / "none", "--log-json", log)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert events(log) == ["start", "end", "error"]


def test_the_source_may_stand_in_the_environment(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = build.run_edgecl(
        "train-stream", "--home", tmp_path / "home", "--log-json", log,
        env={"EDGECL_SOURCE": "nope://me:hunter2@camera/missing"},
    )  # fmt: skip
    assert done.returncode == 3
    assert "nope://***@camera/missing" in done.stderr
    assert "hunter2" not in done.stderr + log.read_text()


def test_predictions_are_observed_too(taught_home: Path, tmp_path: Path) -> None:
    parts = build.part_folder(tmp_path / "parts", 2)
    (parts / "washer" / "bad.jpg").write_bytes(b"x")
    prom, log = tmp_path / "a.prom", tmp_path / "log"
    done = build.run_edgecl(
        "predict", parts, "--home", taught_home, "--json", "--log-json", log, "--metrics", prom
    )
    assert len(lines(done.stdout)) == 8
    page = values(prom.read_text())
    assert (page["edgecl_frames_seen_total"], page["edgecl_frames_skipped_total"]) == (9, 1)
    (skipped,) = [line for line in lines(log.read_text()) if line["event"] == "skipped"]
    assert skipped["frame"] == "washer/bad.jpg"

"""Answers without an end, and what a forgetting does to them."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import pytest
from patience import until
from PIL import Image

pytest.importorskip("uvicorn", reason="the extra web is not installed: uvicorn")
pytest.importorskip("starlette", reason="the extra web is not installed: starlette")

from asking import Site, event, opened, record, waiting

import build
from edgecl.config import Config, HeadConfig
from edgecl.device import Device
from edgecl.exporters.onnx import init_home
from edgecl.exporters.shipped import shipped


def test_a_picture_comes_with_its_own_answer(site: Site):
    response = site.open("GET", "/api/v1/live?source=camera")
    last = 0
    for _ in range(5):
        head, jpeg = record(response)
        assert head["n"] > last
        assert head["source"] == "camera"
        assert head["state"] in ("known", "unsure", "unknown", "nothing")
        assert Image.open(io.BytesIO(jpeg)).size == (64, 64)
        last = head["n"]


def test_pictures_are_at_most_ten_a_second(site: Site):
    begin = time.monotonic()  # before all: what is read late was sent before
    response = site.open("GET", "/api/v1/live")
    for _ in range(11):
        record(response)
    assert time.monotonic() - begin > 0.85


def test_nothing_is_encoded_while_nobody_looks(own_site: Site):
    live = own_site.stream.serving.live
    assert until(lambda: own_site.ask("GET", "/snapshot.jpg").status == 200)
    assert until(lambda: not live.is_looked_at)
    newest = live.newest()
    time.sleep(0.3)
    assert live.newest() is newest


def test_mjpeg_is_pictures_with_their_length(site: Site):
    response = site.open("GET", "/video")
    kind, _, boundary = response.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/x-mixed-replace"
    for _ in range(2):
        assert response.readline() == f"--{boundary}\r\n".encode()
        assert response.readline() == b"Content-Type: image/jpeg\r\n"
        n = int(response.readline().partition(b":")[2])
        assert response.readline() == b"\r\n"
        assert Image.open(io.BytesIO(response.read(n))).format == "JPEG"
        assert response.readline() == b"\r\n"


def test_a_snapshot_is_of_now(site: Site):
    found = site.ask("GET", "/snapshot.jpg?source=camera")
    assert found.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(found.body)).format == "JPEG"


def named(response, kind: str) -> dict[str, str]:
    """Read events until one of a kind."""
    for _ in range(2000):
        found = event(response)
        if found.get("event") == kind:
            return found
    raise AssertionError(kind)


def test_news_go_on_behind_the_last_that_was_seen(site: Site):
    live = site.stream.serving.live
    response = site.open("GET", "/events")
    named(response, "progress")
    live.tell("event", {"n": 1})
    first = named(response, "event")
    assert first["data"] == '{"n":1}'
    response.close()
    live.tell("event", {"n": 2})
    live.tell("event", {"n": 3})
    again = site.open("GET", "/events", headers={"Last-Event-ID": first["id"]})
    assert named(again, "event")["data"] == '{"n":2}'
    assert named(again, "event")["data"] == '{"n":3}'


@pytest.mark.parametrize("last", ["", "0-1", "x", "-", "0-99999999999", "\u00e9"])
def test_who_saw_nothing_that_is_known_gets_the_last_of_each_kind(site: Site, last):
    site.stream.serving.live.tell("event", {"n": 7})
    response = site.open("GET", "/events", headers={"Last-Event-ID": last} if last else {})
    assert named(response, "event")["data"] == '{"n":7}'


def test_a_connection_that_is_quiet_is_kept_alive(toy: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("edgecl.serve.page.news.HEARTBEAT_S", 0.05)
    with opened(toy, tmp_path) as site:
        response = site.open("GET", "/events")
        found = [event(response) for _ in range(12)]
    assert any("still here" in "".join(one.values()) for one in found)


def test_news_that_come_often_are_told_now_and_then(site: Site):
    begin = time.monotonic()
    response = site.open("GET", "/events")
    for _ in range(5):
        named(response, "progress")
    assert time.monotonic() - begin > 0.8


def test_a_hold_teaches_what_is_shown_and_a_release_ends_it(own_site: Site):
    own_site.stream.part = 2

    def is_known() -> bool:  # it is held as a page does, again and again
        assert own_site.post("teach", {"label": "washer"}, 202)["label"] == "washer"
        return "washer" in [one["name"] for one in own_site.get("classes")]

    assert until(is_known)
    assert own_site.get("status")["held"] in ("washer", None)
    own_site.post("teach", {"label": None}, 202)
    assert own_site.get("status")["held"] is None
    response = own_site.open("GET", "/api/v1/live")
    assert until(lambda: record(response)[0]["label"] == "washer")


def test_a_hold_that_is_not_renewed_ends(own_site: Site):
    own_site.post("teach", {"label": "bolt-m4"}, 202)
    assert until(lambda: own_site.get("status")["held"] is None)


def test_a_forgetting_drops_what_was_shown_and_said(own_site: Site):
    live = own_site.stream.serving.live
    response = own_site.open("GET", "/events")
    live.tell("event", {"label": "bracket"})
    seen = named(response, "event")
    assert "bracket" in own_site.ask("GET", "/api/v1/classes").body.decode()
    kept = own_site.get("samples?class=bracket")
    shown: list[object] = []

    def is_shown() -> bool:
        own_site.ask("GET", "/snapshot.jpg")
        shown.append(live.newest())
        return shown[-1] is not None

    assert until(is_shown)
    asked = {"kind": "class", "name": "bracket", "confirm": "bracket"}
    own_site.post("forget", asked, 202)
    came: list[dict[str, str]] = []
    while {"forgotten", "done"} - {one.get("event", "") for one in came}:
        came.append(event(response))
        assert len(came) < 10_000
        if '"state":"done"' in came[-1].get("data", ""):
            came[-1]["event"] = "done"
    phases = [one for one in came if one.get("event") in ("command", "done", "forgotten")]
    assert "bracket" not in str(phases)
    assert live.newest() is not shown[-1]
    again = own_site.open("GET", "/events", headers={"Last-Event-ID": seen["id"]})
    told = [str(event(again)) for _ in range(6)]
    assert "bracket" not in str(told)
    for path in ("classes", "status", "samples", "changes", "runs", "receipts", "review"):
        assert "bracket" not in own_site.ask("GET", f"/api/v1/{path}").body.decode(), path
    for one in kept:
        assert own_site.ask("GET", f"/api/v1/samples/{one['uid']}.jpg").status == 404


def test_a_refused_forgetting_is_told_to_who_asked(own_site: Site, monkeypatch):
    from edgecl.errors import StoreError

    def full(*args: object, **options: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(Device, "forget", full)
    job = own_site.post("forget", {"kind": "class", "name": "bracket", "confirm": "bracket"}, 202)
    assert until(lambda: own_site.get(f"requests/{job['request']}")["state"] == "failed")
    assert own_site.get(f"requests/{job['request']}")["error"] == "the disk is full"


def test_what_two_pages_name_is_learned_once(own_site: Site):
    uids = own_site.stream.serving.do("wait", waiting).result(90)
    assert own_site.post("review", {"uids": uids, "label": "gasket"})["learned"] == 2
    own_site.post("review", {"uids": uids, "label": "nut"}, 404)
    assert "nut" not in [one["name"] for one in own_site.get("classes")]


def test_a_sealed_home_puts_nothing_of_it_on_the_disk(tmp_path: Path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    engine = shipped("tf_efficientnet_lite0", image_size=64)
    assert engine is not None
    init_home(tmp_path / "sealed", engine, Config(head=HeadConfig("ridge")), encrypt=True)
    folder = build.part_folder(tmp_path / "parts", 4, parts=build.PARTS[:2])
    Device.open(tmp_path / "sealed").learn(str(folder))
    shutil.rmtree(folder)
    picture = build.encode(build.part_picture("washer", 7, 64))
    with opened(tmp_path / "sealed", tmp_path / "served") as site:
        assert record(site.open("GET", "/api/v1/live"))[1]
        uid = site.get("samples")[0]["uid"]
        shown = site.ask("GET", f"/api/v1/samples/{uid}.jpg").body
        assert shown[:2] == b"\xff\xd8"
        headers = {"Content-Type": "image/jpeg"}
        site.ask("POST", "/api/v1/frames?label=washer&answer=1", picture, headers=headers)
        site.ask("GET", "/api/v1/report.html")
        files = {p for p in tmp_path.rglob("*") if p.is_file()}
        pictures = (shown[-300:-100], picture[-300:-100])
        assert [p for p in files if any(part in p.read_bytes() for part in pictures)] == []
        assert [p for p in scratch.rglob("*") if p.is_file()] == []

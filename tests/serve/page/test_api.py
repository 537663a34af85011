"""The interface: what the file says of it, and what it does."""

from __future__ import annotations

import re
import sys
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra web is not installed: uvicorn")
pytest.importorskip("starlette", reason="the extra web is not installed: starlette")

from asking import Site, waiting
from patience import until

import build
from edgecl.serve.page.access import hashed
from edgecl.serve.page.app import ENDPOINTS

PAGES = {"/", "/static/{name}", "/favicon.ico"}
"""Of the page itself, so not of the interface."""
PICTURE = build.encode(build.part_picture("washer", 1, 64))
IMAGE = {"Content-Type": "image/jpeg"}
KINDS: dict[str, Any] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list,
    "object": dict, "null": type(None),
}  # fmt: skip


@cache
def described() -> dict[str, Any]:
    import json
    from importlib.resources import files

    return json.loads(files("edgecl.serve.page").joinpath("openapi.json").read_text())


def plain(path: str) -> str:
    return re.sub(r"{(\w+):\w+}", r"{\1}", path)


def check(value: Any, schema: dict[str, Any], where: str = "") -> None:
    """Check a value against the few words of JSON Schema that the file uses."""
    if "$ref" in schema:
        schema = described()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    kinds = schema.get("type", list(KINDS))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    fits = any(isinstance(value, KINDS[k]) for k in kinds)
    assert fits, (where, value, kinds)
    assert "boolean" in kinds or not isinstance(value, bool), where
    if "enum" in schema:
        assert value in schema["enum"], where
    for name in schema.get("required", ()):
        assert name in value, f"{where} lacks {name}"
    for name, part in schema.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            check(value[name], part, f"{where}.{name}")
    if isinstance(value, list):
        for one in value:
            check(one, schema.get("items", {}), f"{where}[]")


def test_the_file_names_all_routes_and_no_other():
    ours = {(plain(e.path), e.method.lower()) for e in ENDPOINTS if plain(e.path) not in PAGES}
    said = {(path, method) for path, one in described()["paths"].items() for method in one}
    assert said == ours


def test_the_file_names_the_roles_and_parameters_of_the_routes():
    for e in ENDPOINTS:
        if plain(e.path) in PAGES:
            continue
        said = described()["paths"][plain(e.path)][e.method.lower()]
        assert said["x-role"] == e.role, e.path
        assert ("security" in said) == (not e.role), e.path
        named = {p["name"] for p in said.get("parameters", ()) if p["in"] == "path"}
        assert named == set(re.findall(r"{(\w+):", e.path)), e.path


def forgotten(site: Site, name: str, **more: Any) -> dict[str, Any]:
    """Forget a class, and return the last state of it."""
    asked = {"kind": "class", "name": name, "confirm": name, **more}
    job = site.post("forget", asked, 202)
    path = f"requests/{job['request']}"
    assert until(lambda: site.get(path)["state"] in ("done", "failed"))
    return site.get(path)


@pytest.mark.slow
def test_answers_hold_what_the_file_says(own_site: Site, tmp_path: Path):
    site = own_site
    uids = site.stream.serving.do("wait", waiting).result(90)
    said = described()["paths"]
    site.stream.serving.do("export", lambda device: device.export(tmp_path / "bundle")).result(90)
    assert [one["state"] for one in site.get("exports")] == ["fresh"]
    samples = site.get("samples")
    site.post("relabel", {"uids": [samples[0]["uid"]], "label": "bolt-m4"})
    done = forgotten(site, "bracket", verify=True, reason="asked for")
    site.post("snapshots", {})
    assert (done["state"], done["error"], done["verified"]) == ("done", None, True)
    assert [one["state"] for one in site.get("exports")] == ["revoked"]
    number = done["receipt"].removeprefix("r")
    fill = {
        "/api/v1/requests/{n}": "/api/v1/requests/1",
        "/api/v1/receipts/r{n}": f"/api/v1/receipts/r{number}",
        "/api/v1/receipts/r{n}.html": f"/api/v1/receipts/r{number}.html",
        "/api/v1/samples/{uid}.jpg": f"/api/v1/samples/{site.get('samples')[0]['uid']}.jpg",
        "/api/v1/review/{uid}.jpg": f"/api/v1/review/{uids[0]}.jpg",
    }
    endless = {"/events", "/video", "/api/v1/live"}
    for path, one in said.items():
        if "get" not in one or path in endless:
            continue
        found = site.ask("GET", fill.get(path, path))
        assert found.status == 200, (path, found.body)
        kind = found.headers["content-type"].partition(";")[0]
        wanted = one["get"]["responses"]["200"]["content"]
        assert kind in wanted, path
        if kind == "application/json":
            check(found.json, wanted[kind]["schema"], path)
            if isinstance(found.json, list) and path not in ("/api/v1/samples", "/api/v1/fleet"):
                assert found.json, f"{path} has nothing to check"


def test_after_a_write_no_older_list_is_shown_however_long_it_took(own_site: Site, monkeypatch):
    monkeypatch.setattr("edgecl.serve.page.context._LIGHT_S", 0.0)
    monkeypatch.setattr("edgecl.serve.page.context._SHARE", 1e-9)  # kept as on a very slow device
    assert "bracket" in [one["name"] for one in own_site.get("classes")]
    own_site.post("rename", {"name": "bracket", "to": "Winkel"})
    assert "Winkel" in [one["name"] for one in own_site.get("classes")]


def post_cases(site: Site) -> dict[str, list[tuple[int, Any]]]:
    """Return bodies of each path that writes, with the status that they get, in this order."""
    second, first = [one["uid"] for one in site.get("samples?role=learned")][-2:]
    uids = site.stream.serving.do("wait", waiting).result(90)
    site.post("relabel", {"uids": [first], "label": "bracket"})  # what is undone
    near, gone = "Bolt-M4", {"uids": [999_999]}
    wrong_uids = [{"uids": u} for u in ([], [0], ["1"], [True], [1.5], "1", list(range(1, 1002)))]
    return {
        "undo": [
            (202, {"n": 3}),
            *((400, body) for body in ({}, {"n": 0}, {"n": 501}, {"n": True}, *wrong_uids[:5])),
            (200, {"run": True}),
            (409, {"run": True}),
        ],
        "teach": [
            (202, {"label": "bolt-m4", "hand": "a"}),
            (409, {"label": "gasket", "hand": "b"}),
            (202, {"label": None, "hand": "b"}),
            (202, {"label": None, "hand": "a"}),
            (409, {"label": near}),
            (202, {"label": None}),
            (202, {"label": "bolt-m4", "source": "camera"}),
            (202, {"label": None}),
            (400, {"label": "bolt-m4", "source": "nobody"}),
            *((400, {"label": label}) for label in ("", "\n", 7, ["x"], "x" * 201)),
        ],
        "relabel": [
            *((400, body | {"label": "x"}) for body in wrong_uids),
            (400, {"uids": [first]}),
            (404, gone | {"label": "x"}),
            (409, {"uids": [first], "label": near}),
            (200, {"uids": [first], "label": near, "new": True}),
            (409, {"uids": [first], "label": near}),
        ],
        "hold-out": [
            *((400, body) for body in wrong_uids),
            (404, gone),
            (409, {"uids": uids}),
            (200, {"uids": [second]}),
            (409, {"uids": [second]}),
        ],
        "review": [
            (400, {"label": "x"}),
            (400, {"uids": uids}),
            (404, gone | {"label": "x"}),
            (404, gone | {"drop": True}),
            (409, {"uids": uids, "label": "BRACKET"}),
            (200, {"uids": uids[:1], "label": "bracket"}),
            (200, {"uids": uids[1:], "drop": True}),
            (404, {"uids": uids, "label": "bracket"}),
        ],
        "rename": [
            (400, {"name": "bracket"}),
            (404, {"name": "nobody", "to": "x"}),
            (409, {"name": "bracket", "to": "bolt m4"}),
            (200, {"name": "bracket", "to": "Bracket"}),
        ],
        "merge": [
            (400, {"of": "bracket"}),
            (404, {"of": "bracket", "to": "nobody"}),
            (409, {"of": "bracket", "to": "bracket"}),
        ],
        "snapshots": [(400, []), (200, {})],  # and 409 below, of a home that knows nothing
        "rollback": [
            (400, {}),
            (400, {"change": "x12"}),
            (409, {"change": "c999"}),
            (409, {"snapshot": 999}),
            (200, {"snapshot": 1}),
        ],
        "config": [
            (400, {"key": "source.gate.crop"}),
            (400, {"key": "head.name", "value": "uer"}),
            (400, {"key": "source.gate.url", "value": "gst:x"}),
            (409, {"key": "source.yard.crop", "value": "0%,0%,50%,50%"}),
            (400, {"key": "source.gate.crop", "value": "90%,0%,50%,50%"}),
            (200, {"key": "source.gate.crop", "value": "0%,0%,50%,50%"}),
        ],
        "password": [
            (400, {}),
            *((400, {"role": role}) for role in ("root", 7)),
            *((400, {"role": "look", "password": word}) for word in ("", "short", 7, "x" * 1001)),
            (409, {"role": "look"}),
            (200, {"role": "look", "password": "long enough"}),
            (200, {"role": "look", "password": None}),
        ],
        "mqtt-test": [(400, {"url": "http://x/y"}), (400, {}), (409, {"url": "mqtt://127.0.0.1:1/x"})],
        "forget": [
            (400, {"kind": "age", "name": "x"}),
            (400, {"kind": "class", "name": "bracket", "confirm": "brackeT"}),
            (400, {"kind": "class", "name": "bracket"}),
            (400, {"kind": "class", "name": "bracket", "confirm": "bracket", "reason": "bracket"}),
            (400, {"kind": "class", "name": "bracket", "reason": "x" * 501}),
            (404, {"kind": "class", "name": "nobody", "dry_run": True}),
            (200, {"kind": "class", "name": "bracket", "dry_run": True}),
        ],
    }  # fmt: skip


@pytest.mark.slow
def test_every_error_that_the_file_names_can_be_had(own_site: Site, monkeypatch):
    """Of 401, 403, 415 and 421 see test_guard.py, for every path."""
    monkeypatch.setattr("edgecl.serve.teacher.HOLD_S", 60.0)  # a hold lasts until it is let go
    site = own_site
    with site.stream.serving.device.home.settings.open("a") as file:
        file.write('\n[[source]]\nname = "gate"\nurl = "camera:0"\n')
    seen: set[tuple[str, str, int]] = set()
    for path, cases in post_cases(site).items():
        said = described()["paths"][f"/api/v1/{path}"]["post"]["responses"]
        for status, body in cases:
            found = site.ask("POST", f"/api/v1/{path}", body)
            assert found.status == status, (path, body, found.body)
            seen.add(("post", f"/api/v1/{path}", status))
            if status < 300:
                check(found.json, said[str(status)]["content"]["application/json"]["schema"], path)
            else:
                assert set(found.json) >= {"error", "exit"}
        for sent, status in ((b"[1]", 400), (b"{", 400), (b"[" * 5000, 400), (b"x" * 65_537, 413)):
            found = site.ask(
                "POST", f"/api/v1/{path}", sent, headers={"Content-Type": "application/json"}
            )
            assert found.status == status, (path, sent[:9])
            seen.add(("post", f"/api/v1/{path}", status))
    done = forgotten(site, "Bracket")
    again = {"kind": "class", "name": "Bracket", "confirm": "Bracket"}
    assert site.post("forget", again, 409)["receipt"] == done["receipt"]
    seen.add(("post", "/api/v1/forget", 409))
    cases = [
        ("get", "/api/v1/samples", "?limit=0", 400), ("get", "/api/v1/samples", "?limit=x", 400),
        ("get", "/api/v1/samples", "?role=x", 400), ("get", "/api/v1/samples", "?class=no", 404),
        ("get", "/api/v1/samples", "?class=no&odd=1", 404),
        ("get", "/api/v1/review", "?limit=1001", 400), ("get", "/api/v1/review", "?limit=-1", 400),
        ("get", "/api/v1/samples/{uid}.jpg", "999999", 404),
        ("get", "/api/v1/review/{uid}.jpg", "1", 404),
        ("get", "/api/v1/requests/{n}", "99", 404), ("get", "/api/v1/receipts/r{n}", "99", 404),
        ("get", "/api/v1/receipts/r{n}.html", "99", 404),
        ("get", "/snapshot.jpg", "?source=none", 404),
        ("post", "/api/v1/frames", "?label=%0a", 400),
        ("post", "/api/v1/frames", "?label=BOLT-M4", 409),
    ]  # fmt: skip
    for method, path, more, status in cases:
        url = re.sub(r"{\w+}", more, path) if "{" in path else path + more
        sent = PICTURE if method == "post" else None
        found = site.ask(method.upper(), url, sent, headers=IMAGE if sent else None)
        assert found.status == status, (url, found.body)
        seen.add((method, path, status))
    for data, status in ((b"no picture", 400), (b"", 400), (b"x" * 64_000_001, 413)):
        assert site.ask("POST", "/api/v1/frames", data, headers=IMAGE).status == status
        seen.add(("post", "/api/v1/frames", status))
    monkeypatch.setattr("edgecl.serve.page.streams.MOST_WATCHERS", 0)
    for path in ("/video", "/api/v1/live"):
        assert site.ask("GET", path).status == 429
        seen.add(("get", path, 429))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    while known := site.get("classes"):
        forgotten(site, known[0]["name"])
    assert site.ask("POST", "/api/v1/snapshots", {}).status == 409
    seen.add(("post", "/api/v1/snapshots", 409))
    assert site.ask("GET", "/api/v1/report.html").status == 409
    seen.add(("get", "/api/v1/report.html", 409))
    assert site.ask("GET", "/api/v1/config", role="teach").status == 403
    site.page.access.passwords["own"] = hashed("long enough")
    for status, body in ((400, {}), (413, {"password": "x" * 70_000}), (401, {"password": "no"})):
        assert site.ask("POST", "/login", body).status == status
        seen.add(("post", "/login", status))
    still = SimpleNamespace(time=time.time, monotonic=lambda: 1000.0)
    monkeypatch.setattr("edgecl.serve.page.access.time", still)  # a wait does not end
    while site.ask("POST", "/login", {"password": "no"}).status == 401:
        pass
    assert site.ask("GET", "/login?token=x").status == 429
    assert site.ask("POST", "/api/v1/password", {"role": "look"}).status == 429
    seen |= {(m, p, 429) for m, p in (
        ("post", "/login"), ("get", "/login"), ("post", "/api/v1/password")
    )}  # fmt: skip
    for path, one in described()["paths"].items():
        for method, said in one.items():
            for status in said["responses"]:
                if int(status) in (401, 403, 415, 421) or int(status) < 300:
                    continue
                assert (method, path, int(status)) in seen, (method, path, status)

from __future__ import annotations

import re
import socket
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import IncompleteRead
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra web is not installed: uvicorn")
pytest.importorskip("starlette", reason="the extra web is not installed: starlette")

from asking import Site, opened

from edgecl.serve.page.access import hashed, load_passwords
from edgecl.serve.page.app import ENDPOINTS
from edgecl.serve.page.guard import CSP, Place

OPEN = ("/login", "/healthz", "/favicon.ico", "/static/app.css")
PICTURES = {"Content-Type": "image/jpeg"}
ALL = [
    (e.method, re.sub(r"{\w+:path}", "app.css", re.sub(r"{\w+:int}", "1", e.path)), e.role)
    for e in ENDPOINTS
]
WRITES = [(path, role) for method, path, role in ALL if method == "POST"]


def kind(path: str) -> dict[str, str]:
    return PICTURES if path.endswith("/frames") else {}


def body(path: str):
    return b"x" if path.endswith("/frames") else {}


@pytest.mark.parametrize(("method", "path", "role"), ALL)
def test_without_a_session_nothing_is_said_but_how_to_log_in(site: Site, method, path, role):
    if path in OPEN:
        return
    sent = body(path) if method == "POST" else None
    for headers in ({}, {"Authorization": "Bearer own.9999999999.x.y"}, {"Cookie": "x=\x01; =;;"}):
        found = site.ask(method, path, sent, headers=kind(path) | headers, role=None)
        assert found.status == 401
        assert set(found.json) == {"error", "exit"}


@pytest.mark.parametrize(("method", "path", "role"), ALL)
def test_another_host_gets_nothing(site: Site, method, path, role):
    sent = body(path) if method == "POST" else None
    for host in ("evil.example", f"evil.example:{site.port}", "127.0.0.1:1", "127.0.0.1", "[", "@"):
        found = site.ask(method, path, sent, headers=kind(path) | {"Host": host})
        assert found.status == 421


@pytest.mark.parametrize(("path", "role"), WRITES)
def test_another_site_does_nothing(site: Site, path, role):
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://127.0.0.1:{site.port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this host
    ):
        found = site.ask("POST", path, body(path), headers=kind(path) | headers)
        assert found.status == 403, headers


@pytest.mark.parametrize(("path", "role"), WRITES)
def test_a_form_does_nothing(site: Site, path, role):
    for given in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""):
        assert site.ask("POST", path, b"{}", headers={"Content-Type": given}).status == 415
    other = "application/json" if path.endswith("/frames") else "image/jpeg"
    assert site.ask("POST", path, b"{}", headers={"Content-Type": other}).status == 415


@pytest.mark.parametrize(("path", "role"), [pair for pair in WRITES if pair[1] in ("teach", "own")])
def test_a_role_that_is_too_low_is_named(site: Site, path, role):
    lower = "look" if role == "teach" else "teach"
    found = site.ask("POST", path, body(path), headers=kind(path), role=lower)
    assert found.status == 403
    assert lower in found.json["error"]
    assert role in found.json["error"]


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/login", "/api/v1/status", "/none", "/static/app.css"]
)
def test_every_answer_carries_what_a_browser_must_know(site: Site, path):
    found = site.ask("GET", path).headers
    assert found["cache-control"] == "no-store"
    assert found["content-security-policy"] == CSP
    assert found["x-content-type-options"] == "nosniff"
    assert found["referrer-policy"] == "no-referrer"
    assert "server" not in found


def test_the_report_runs_nothing_and_may_be_framed_here_only(site: Site):
    found = site.ask("GET", "/api/v1/report.html").headers["content-security-policy"]
    assert "default-src 'none'" in found
    assert "frame-ancestors 'self'" in found
    assert "script" not in found.replace("allow-scripts", "script")
    assert "sandbox" in found


def test_health_says_nothing_else(site: Site):
    found = site.ask("GET", "/healthz", role=None)
    assert (found.status, found.body) == (200, b"ok")


def test_a_browser_without_a_session_is_shown_where_to_log_in(site: Site):
    found = site.ask("GET", "/", headers={"Accept": "text/html,*/*"}, role=None)
    assert (found.status, found.headers["location"]) == (303, "/login")


def test_a_link_lets_one_browser_in(site: Site):
    link = site.page.url.removeprefix(site.page.address)
    found = site.ask("GET", link, role=None)
    assert (found.status, found.headers["location"]) == (303, "/")
    cookie = found.headers["set-cookie"]
    assert f"edgecl_{site.port}=" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    sent = {"Cookie": cookie.partition(";")[0]}
    assert site.ask("GET", "/api/v1/status", headers=sent, role=None).json["role"] == "own"
    again = site.ask("GET", link, role=None)
    assert again.status == 401
    assert "set-cookie" not in again.headers
    gone = site.ask("POST", "/logout", {}, headers=sent, role=None)
    assert "Max-Age=0" in gone.headers["set-cookie"]


def test_passwords_open_roles_and_guessing_costs_time(toy: Path, tmp_path: Path):
    known = {"look": hashed("for guests"), "own": hashed("for the owner")}
    with opened(toy, tmp_path, passwords=known) as site:
        for password, role in (("for guests", "look"), ("for the owner", "own")):
            found = site.ask("POST", "/login", {"password": password}, role=None)
            assert found.json == {"role": role}
            assert "HttpOnly" in found.headers["set-cookie"]
        statuses = [
            site.ask("POST", "/login", {"password": "guess"}, role=None).status for _ in range(6)
        ]
        assert statuses == [401] * 5 + [429]
        refused = site.ask("POST", "/login", {"password": "for the owner"}, role=None)
        assert refused.status == 429
        assert 0 < refused.json["wait"] <= 60
        link = site.page.url.removeprefix(site.page.address)
        assert site.ask("GET", link, role=None).status == 429
        assert site.ask("GET", "/api/v1/status").status == 200  # who is in stays in


def test_many_guesses_at_once_are_no_way_round_the_wait(toy: Path, tmp_path: Path):
    with opened(toy, tmp_path, passwords={"own": hashed("for the owner")}) as site:

        def guess(i: int) -> int:
            return site.ask("POST", "/login", {"password": f"guess {i}"}, role=None).status

        with ThreadPoolExecutor(20) as pool:
            statuses = Counter(pool.map(guess, range(20)))
    assert statuses == {401: 5, 429: 15}


def test_a_password_is_set_here_and_logs_everybody_else_out(own_site: Site, caplog):
    site, path = own_site, "/api/v1/password"
    link, kept = site.page.url.removeprefix(site.page.address), site.stream.serving.device.home
    mine = site.ask("GET", link, role=None).headers["set-cookie"].partition(";")[0]
    other = {"Authorization": f"Bearer {site.page.access.session('own')}"}
    watched = site.open("GET", "/api/v1/live", headers=other, role=None)
    assert watched.read(4)
    sent = {"role": "teach", "password": "ganz geheim"}
    done = site.ask("POST", path, sent, headers={"Cookie": mine}, role=None)
    assert (done.status, done.json) == (200, {"roles": ["teach"]})
    now = {"Cookie": done.headers["set-cookie"].partition(";")[0]}
    for headers, status in ((other, 401), ({"Cookie": mine}, 401), (now, 200)):
        assert site.ask("GET", "/api/v1/status", headers=headers, role=None).status == status
    with pytest.raises(IncompleteRead):  # who watches is put out, too
        watched.read()
    assert (
        site.ask("POST", "/login", {"password": "ganz geheim"}, role=None).json["role"] == "teach"
    )
    assert load_passwords(kept.passwords) == site.page.access.passwords
    assert stat.S_IMODE(kept.passwords.stat().st_mode) == 0o600
    gone = site.ask("POST", path, {"role": "teach"}, headers=now, role=None)
    assert (gone.status, gone.json) == (200, {"roles": []})
    assert site.ask("POST", "/login", {"password": "ganz geheim"}, role=None).status == 401
    assert "geheim" not in caplog.text


def test_a_head_without_end_is_refused_and_costs_no_memory(site: Site):
    with socket.create_connection(("127.0.0.1", site.port), 10) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        try:
            for _ in range(64):
                peer.sendall(b"X-Long: " + b"x" * 4096 + b"\r\n")
            answer = peer.recv(200)
        except OSError:
            answer = b""
        assert not answer or b" 400 " in answer
    assert site.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/static/../guard.py", 404),
        ("/static/%2e%2e/guard.py", 404),
        ("/static/..%2f..%2f..%2f..%2fetc%2fpasswd", 404),
        ("/static//etc/passwd", 404),
        ("/static/app.css%00.js", 404),
        ("/static/", 404),
        ("/api/v1/samples/" + "9" * 500 + ".jpg", 404),
        ("/api/v1/samples/-1.jpg", 404),
        ("/api/v1/requests/" + "9" * 4400, 414),
        ("/" + "x" * 1001, 414),
        ("/api/v1/status/", 404),
        ("//api/v1/status", 404),
    ],
)
def test_a_path_that_is_none_leads_nowhere(site: Site, path, status):
    found = site.ask("GET", path)
    assert found.status == status
    assert b"Traceback" not in found.body
    assert set(found.json) == {"error", "exit"}


def test_a_method_that_is_none_is_said_to_be(site: Site):
    assert site.ask("GET", "/api/v1/teach").status == 405
    assert site.ask("POST", "/api/v1/status", {}).status == 405
    assert site.ask("DELETE", "/api/v1/status", {}).status == 405
    assert site.ask("HEAD", "/healthz").status == 200


LOOPBACK = Place("http", "127.0.0.1", 8765)
SIX = Place("http", "::1", 8765)
PROXIED = Place("https", "127.0.0.1", 8765, "cam.example")
ANYWHERE = Place("https", "0.0.0.0", 8765)
NAMED = Place("https", "192.168.1.9", 443)


@pytest.mark.parametrize(
    ("place", "host", "is_ours"),
    [
        (LOOPBACK, "127.0.0.1:8765", True),
        (LOOPBACK, "localhost:8765", True),
        (LOOPBACK, "LOCALHOST:8765", True),
        (LOOPBACK, "[::1]:8765", True),
        (LOOPBACK, "192.168.1.9:8765", False),
        (LOOPBACK, "localhost.evil.example:8765", False),
        (LOOPBACK, "localhost", False),
        (LOOPBACK, "localhost:08765x", False),
        (LOOPBACK, "", False),
        (SIX, "[::1]:8765", True),
        (PROXIED, "cam.example", True),
        (PROXIED, "CAM.example", True),
        (PROXIED, "cam.example:8765", False),
        (PROXIED, "evil.example", False),
        (ANYWHERE, "192.168.1.9:8765", True),  # an address cannot be given to another
        (ANYWHERE, f"{socket.gethostname()}:8765", True),
        (ANYWHERE, f"{socket.gethostname()}.local:8765", True),
        (ANYWHERE, "evil.example:8765", False),
        (NAMED, "192.168.1.9", True),
        (NAMED, "192.168.1.9:443", True),
        (NAMED, "192.168.1.8", False),
    ],
)
def test_a_host_is_ours_or_not(place: Place, host: str, is_ours: bool):
    assert place.is_ours(host) is is_ours


@pytest.mark.parametrize(
    ("place", "origin", "is_same"),
    [
        (LOOPBACK, "http://127.0.0.1:8765", True),
        (LOOPBACK, "http://localhost:8765", True),
        (LOOPBACK, "https://localhost:8765", False),
        (LOOPBACK, "http://localhost:3000", False),
        (LOOPBACK, "null", False),
        (LOOPBACK, "", False),
        (PROXIED, "https://cam.example", True),
        (PROXIED, "http://cam.example", False),
        (PROXIED, "http://127.0.0.1:8765", True),
        (ANYWHERE, "https://192.168.1.9:8765", True),
        (ANYWHERE, "http://192.168.1.9:8765", False),
    ],
)
def test_an_origin_is_ours_or_not(place: Place, origin: str, is_same: bool):
    assert place.is_same(origin) is is_same


def test_wrong_logins_that_come_at_once_are_as_many_tries(toy: Path, tmp_path: Path):
    with opened(toy, tmp_path, passwords={"own": hashed("for the owner")}) as site:

        def guess(i: int) -> int:
            return site.ask("POST", "/login", {"password": f"guess {i}"}, role=None).status

        with ThreadPoolExecutor(20) as pool:
            statuses = list(pool.map(guess, range(20)))
    assert sorted(statuses) == [401] * 5 + [429] * 15


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/login", {"password": "\ud800"}),
        ("/api/v1/forget", {"kind": "source", "name": "\ud800"}),
        ("/api/v1/teach", {"hand": ["\udfff"]}),
        ("/api/v1/config", {"\ud800": 1}),
    ],
)
def test_half_a_character_is_no_text(site: Site, path: str, body: dict[str, object]):
    assert site.ask("POST", path, body).status == 400

"""No four characters in a row of a password are in anything that edgecl writes.

The words of a message are its own: four characters that stand there for any password are no secret.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import build
from edgecl.cli import _line
from edgecl.cli.metrics import publishing
from edgecl.errors import EdgeclError
from edgecl.runtime.address import split_url
from edgecl.runtime.broker import parse_broker
from edgecl.runtime.redact import redacted
from edgecl.runtime.senders import Webhook
from edgecl.runtime.sources.http import open_http
from edgecl.runtime.sources.labels import open_labels
from peers import Call, peer

SIGNS = "@:/?#[]%&"
# Each is written into an address in place of PW.
ADDRESSES = [
    *(f"{scheme}://admin:PW@10.0.0.9:8554/live?w=640"
      for scheme in ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "mqtt", "mqtts", "HTTP")),
    "http://PW@10.0.0.9/live",
    "rtsp://admin:PW@[::1]/live",
    "http://10.0.0.9/cgi?user=admin&pwd=PW",
    "http://10.0.0.9/cgi?loginuse=admin&loginpas=PW&w=640",
    "http://10.0.0.9/cgi?pswd=PW&w=640",
    "http://10.0.0.9/cgi?u=admin&p=PW&w=640",
    "http://10.0.0.9/api?access_token=PW",
    *(f"https://10.0.0.9/snap?{key}=PW&w=640"
      for key in ("token", "key", "apikey", "passwd", "auth", "sig", "signature",
                  "X-Amz-Signature", "X-Amz-Security-Token", "X-Goog-Credential", "userpwd")),
    "http://10.0.0.9/snap;jsessionid=PW",
    "http://10.0.0.9/view#access_token=PW",
    "rtsp://10.0.0.9/user=admin_password=PW_channel=1.sdp",
    "camera:rtsp://admin:PW@10.0.0.9/live",
    "watch:http://admin:PW@10.0.0.9/live",
    'gst:rtspsrc location=rtsp://10.0.0.9/x user-id=admin user-pw="PW" ! decodebin',
    "gst:rtspsrc location=rtsp://admin:PW@10.0.0.9/x ! decodebin",
]  # fmt: skip


def passwords(n: int) -> Iterator[str]:
    rng = random.Random(14)
    letters = string.ascii_letters + string.digits
    for _ in range(n):
        length = rng.randint(6, 20)
        share = rng.choice([0.2, 0.5, 0.9])
        yield "".join(rng.choice(SIGNS if rng.random() < share else letters) for _ in range(length))


def fours(text: str) -> set[str]:
    return {text[i : i + 4] for i in range(len(text) - 3)}


def said(action: Callable[[], object]) -> str:
    """Return the error of an action, as the command prints it, or what it returned."""
    try:
        return str(action())
    except EdgeclError as error:
        # As the library raises it, and as it is printed.
        return f"{error}\n{_line(str(error))}"


def metrics_of(place: str) -> None:
    with publishing(place):
        pass


def outputs(address: str) -> Iterator[str]:
    """Yield all that is said of an address without asking anybody."""
    yield redacted(address)
    yield redacted(f"skipped 1: source {address} cannot be opened; see 'x@y' and {address}")
    if address.lower().startswith(("http", "rts", "rtmp")):
        yield said(lambda: split_url(address) and "")
        yield said(lambda: open_http(address, label=None, max_bytes=1).name)
    yield said(lambda: parse_broker(address).name)
    yield said(lambda: Webhook(address, {}).name)
    if not address.startswith("mqtt"):  # it would be connected to
        yield said(lambda: open_labels(address))
    yield said(lambda: metrics_of(address.partition("://")[2] or address))


@pytest.mark.parametrize("n", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nothing_that_is_said_of_an_address_holds_four_characters_of_its_password(n: int) -> None:
    own = {
        a: set().union(
            *(fours(t) for p in ("x", "/@", "[", "#") for t in outputs(a.replace("PW", p)))
        )
        for a in ADDRESSES
    }
    shown = []
    for password in passwords(n):
        for address in random.Random(password).sample(ADDRESSES, 4 if n < 1000 else 2):
            for form in {password, quote(password, safe="")}:
                secret = fours(form) - own[address] - fours(address)
                text = "\n".join(outputs(address.replace("PW", form)))
                shown += [(form, address, text) for four in secret if four in text][:1]
    assert shown == []


PASSWORDS = [
    "a/b?c#d@e[f]g%h&i:j",
    *(pytest.param(p, marks=pytest.mark.slow) for p in ("1234/9876@5555", "[Zq8]:x7K%pL2&")),
]


def door(password: str) -> Callable[[Call], None]:
    """Show pictures to who proves the password with Digest, or has it in the query."""

    def answer(call: Call) -> None:
        picture = build.encode(build.part_picture("washer", call.number, 48))
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', call.head.partition("Digest ")[2]))

        def digest(*texts: str) -> str:
            return hashlib.md5(":".join(texts).encode()).hexdigest()

        want = digest(digest("admin", "cam", password), "n", digest("GET", given.get("uri", "")))
        if given.get("response") == want or "loginpas=" in call.head:
            call.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(picture)}\r\n\r\n")
            return call.send(picture)
        asked = 'WWW-Authenticate: Basic realm="x", Digest realm="cam", nonce="n"'
        return call.send(f"HTTP/1.1 401 {password}\r\n{asked}\r\nContent-Length: 0\r\n\r\n")

    return answer


@pytest.mark.parametrize("password", PASSWORDS)
def test_output_log_metrics_store_and_export_hold_no_password(
    password: str, taught_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home = copy_of(taught_home)
    log, metrics = tmp_path / "log.jsonl", tmp_path / "m.prom"
    common = ["--label", "cup", "--home", home, "--limit", 2, "--log-json", log, "--json"]
    texts = []
    with peer(door(password)) as server:
        escaped = quote(password, safe="")
        query = password.replace("@", "%40").replace("#", "%23")
        for url, status in (
            (server.url("/a", user=f"admin:{escaped}"), 0),
            (server.url(f"/a?loginuse=admin&loginpas={query}"), 0),
            (server.url("/a", user=f"admin:{escaped}x"), 3),
            (f"rtsp://admin:{password}/x@127.0.0.1/a", 3),
        ):
            done = build.run_edgecl("train-stream", url, "--metrics", metrics, *common)
            assert done.returncode == status, (url, done.stderr)
            texts += [done.stdout, done.stderr]
    for command in (
        ["export", "dataset", "--output", tmp_path / "dataset"],
        ["report", "--output", tmp_path / "report.html"],
        ["status"],
    ):
        done = build.run_edgecl(*command, "--home", home, "--json")
        assert done.returncode == 0, done.stderr
        texts += [done.stdout, done.stderr]
    learned = json.loads(texts[0].splitlines()[-1])
    assert learned["seen"] == 2
    files = [p for p in tmp_path.rglob("*") if p.is_file()] + list(home.rglob("*"))
    data = b"\n".join(p.read_bytes() for p in files if p.is_file() and "engine" not in p.parts)
    data += "\n".join(texts).encode()
    # Four digits alone may be part of any number, as of a time; with the sign beside them they are
    # looked for among the fives.
    secret = {four for four in fours(password) | fours(escaped) if not four.isdigit()}
    # Four characters that stand in any bytes by chance, as a picture's, are no finding; five are.
    longer = {password[i : i + 5] for i in range(len(password) - 4)}
    assert not [four for four in secret if four in "\n".join(texts)]
    assert not [four for four in secret if four.encode() in log.read_bytes() + metrics.read_bytes()]
    assert not [five for five in longer if five.encode() in data]


@pytest.mark.parametrize("command", ["train-stream", "evaluate", "predict"])
def test_an_address_in_a_table_is_told_without_its_password(
    command: str, taught_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    address = "https://admin:S3CRET@h/1.jpg?token=S3CRET"
    build.part_picture("washer", 0, 48).save(tmp_path / "1.png")
    table.write_text(f"path,label\n{address},washer\n1.png,washer\n")
    done = build.run_edgecl(command, table, "--home", copy_of(taught_home))
    assert "skipped https://***@h/1.jpg?token=***: " in done.stderr
    assert "S3CRET" not in done.stdout + done.stderr

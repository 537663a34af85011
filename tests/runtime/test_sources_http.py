"""Habits of real web cameras: what they send is used or told, what they refuse is understood."""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import build
from edgecl.errors import SourceError, UsageError
from edgecl.runtime.address import split_url
from edgecl.runtime.password import is_readable_by_all
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.headers import read_headers
from edgecl.runtime.sources.http import open_http
from edgecl.runtime.sources.live import LiveSource
from edgecl.runtime.sources.login import Credentials, parse_challenges
from edgecl.types import Frame
from peers import HEAD, Call, part, peer

PICTURES = [build.encode(build.part_picture("bolt-m4", i, 16)) for i in range(12)]
PNGS = [build.encode(build.part_picture("bolt-m4", i, 16), "PNG") for i in range(12)]
MJPEG = HEAD.format("frame")
SECRET = "S3CRET"


def opened(url: str, **options: object) -> LiveSource:
    """Open a source with waits that a test can afford."""
    source = open_http(url, label="x", max_bytes=50_000, poll_s=0.02, **options)  # type: ignore[arg-type]
    source.first_wait_s = source.longest_wait_s = source.refused_wait_s = 0.02
    source.stall_s = 0.5
    return source


def take(source: LiveSource, n: int) -> list[bytes | None]:
    frames = source.frames()
    out = [f.encoded for f in itertools.islice(frames, n) if isinstance(f, Frame)]
    frames.close()
    return out


def told(source: LiveSource, pattern: str) -> str:
    """Return the first line that a source tells which holds a pattern; none of its frames."""
    lines: list[str] = []
    found = threading.Event()

    def listen(text: str) -> None:
        lines.append(text)
        if re.search(pattern, text):
            found.set()

    source.on_news = listen
    frames = source.frames()
    taking = threading.Thread(target=lambda: list(frames), daemon=True)
    taking.start()
    assert found.wait(90), lines
    frames.close()
    taking.join(90)
    return next(line for line in lines if re.search(pattern, line))


def body(data: bytes, kind: str = "image/jpeg", *, has_length: bool = True) -> bytes:
    lines = ["HTTP/1.1 200 OK", *([f"Content-Type: {kind}"] if kind else [])]
    lines += [f"Content-Length: {len(data)}"] if has_length else ["Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode() + data


def snapshots(kind: str, data: Callable[[int], bytes], *, has_length: bool = True) -> object:
    return lambda call: call.send(body(data(call.number), kind, has_length=has_length))


# What is used


@pytest.mark.parametrize("pictures", [PICTURES, PNGS], ids=["jpeg", "png"])
@pytest.mark.parametrize(
    "kind", ["image/jpeg", "application/octet-stream", "", "text/plain", "jpeg", "image/jpg; x=1"]
)
@pytest.mark.parametrize("has_length", [True, False])
def test_a_snapshot_is_known_by_its_bytes(
    kind: str, pictures: list[bytes], has_length: bool
) -> None:
    answer = snapshots(kind, lambda n: pictures[n % 12], has_length=has_length)
    with peer(answer) as server:  # type: ignore[arg-type]
        assert set(take(opened(server.url()), 3)) <= set(pictures)


@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize(
    "change", [lambda p: p[:-2], lambda p: b"\r\n" + p], ids=["no end", "lead"]
)
def test_a_snapshot_without_its_end_or_behind_a_line_break(
    change: Callable[[bytes], bytes], has_length: bool
) -> None:
    answer = snapshots("image/jpeg", lambda n: change(PICTURES[n % 12]), has_length=has_length)
    with peer(answer) as server:  # type: ignore[arg-type]
        source = opened(server.url())
        assert set(take(source, 2)) <= set(PICTURES)
    assert source.counts.broken == 0


def slowly(*pieces: bytes, gap_s: float = 0.05) -> Callable[[Call], None]:
    def answer(call: Call) -> None:
        for piece in pieces:
            call.send(piece)
            call.wait(gap_s)
        call.until_closed()

    return answer


ENDLESS = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [ENDLESS.format("image/jpeg").encode(), *PICTURES],
        [ENDLESS.format("image/jpeg").encode(), *(p[:-2] for p in PICTURES)],
        [ENDLESS.format("application/octet-stream").encode(), *PICTURES],
        [MJPEG.encode(), *PICTURES],
        [ENDLESS.format("image/jpeg").encode(), *map(part, PICTURES)],
        [ENDLESS.format("application/octet-stream").encode(), *map(part, PICTURES)],
        [b"HTTP/1.1 200 OK\r\n\r\n", *map(part, PICTURES)],
        [MJPEG.encode(), *(part(b"\r\n" + p[:-2]) for p in PICTURES)],
        [MJPEG.encode(), *(part(p).replace(b"image/jpeg", b"jpeg") for p in PICTURES)],
        [MJPEG.encode(), *(part(p).replace(b"image/jpeg", b"binary/x") for p in PICTURES)],
    ],
    ids=[
        "endless picture", "endless without ends", "endless and untyped", "no boundary",
        "parts called a picture", "parts called octets", "parts without a type",
        "line break, no end", "part called jpeg", "part of another type",
    ],
)  # fmt: skip
def test_a_stream_is_known_by_its_bytes(pieces: list[bytes]) -> None:
    with peer(slowly(*pieces)) as server:
        source = opened(server.url())
        assert take(source, 4) == PICTURES[:4]
    assert source.counts.broken == 0


# What is thrown away is told


@pytest.mark.parametrize(
    ("pieces", "line", "count"),
    [
        ([part(p[: len(p) // 2]) for p in PICTURES],
         r"12 parts came in 0.5 s, none is a whole JPEG \(end missing\)", "broken"),
        ([part(b"<alert/>").replace(b"image/jpeg", b"text/xml")] * 4,
         r"4 parts came in 0.5 s, none is a picture \(text/xml\)", "not_pictures"),
        ([part(b"<alert/>")] * 3,
         r"3 parts came in 0.5 s, none is a whole JPEG \(it is called image/jpeg", "broken"),
        ([part(bytes(60_000))],
         r"1 part came in 0.5 s, none is small enough \(more than 0.05 MB\)", "oversize"),
        ([b"x" * 5000], r"5.0 kB came in 0.5 s and no picture in them", ""),
        ([b""], "nothing came for 0.5 s", ""),
    ],
    ids=["cut", "text", "no jpeg", "large", "noise", "nothing"],
)  # fmt: skip
def test_what_came_and_was_thrown_away_is_told(pieces: list[bytes], line: str, count: str) -> None:
    with peer(slowly(MJPEG.encode(), *pieces, gap_s=0.01)) as server:
        source = opened(server.url())
        assert "connecting again" in told(source, line)
    if count:
        assert getattr(source.counts, count) >= len(pieces)
    assert source.counts.stalls >= 1
    assert source.counts.received == 0


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (PICTURES[0][:300], r"parts? came in 0.5 s, none is a whole JPEG \(end missing\)"),
        (b"", r"parts? came in 0.5 s, none is a whole JPEG \(empty\)"),
        (bytes(60_000), "none is small enough"),
    ],
)
def test_snapshots_that_are_thrown_away_are_told(data: bytes, line: str) -> None:
    with peer(snapshots("image/jpeg", lambda n: data)) as server:  # type: ignore[arg-type]
        assert told(opened(server.url()), line)


def test_the_first_picture_that_is_left_out_is_told_at_once_and_only_it() -> None:
    pieces = [
        part(PICTURES[0][:300]),
        part(PICTURES[1]),
        part(PICTURES[2][:300]),
        part(PICTURES[3]),
    ]
    with peer(slowly(MJPEG.encode(), *pieces)) as server:
        source = opened(server.url())
        lines: list[str] = []
        source.on_news = lines.append
        assert take(source, 2) == [PICTURES[1], PICTURES[3]]
    assert [line for line in lines if "left out" in line] == [
        f"{source.name}: a picture was left out (end missing); more of them are counted as `broken`"
    ]
    assert source.counts.broken == 2


# Logins


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Basic realm="a"'], [("basic", {"realm": "a"})]),
        (['Basic realm="a, b", Digest realm="c", nonce="n", qop="auth,auth-int"'],
         [("basic", {"realm": "a, b"}),
          ("digest", {"realm": "c", "nonce": "n", "qop": "auth,auth-int"})]),
        (['Digest realm="c", nonce="n", algorithm=MD5-sess, Basic realm="a"'],
         [("digest", {"realm": "c", "nonce": "n", "algorithm": "MD5-sess"}),
          ("basic", {"realm": "a"})]),
        (['Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"'],
         [("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
          ("basic", {"realm": "simple"})]),
        (["Negotiate, NTLM, Basic realm=x"],
         [("negotiate", {}), ("ntlm", {}), ("basic", {"realm": "x"})]),
        (["Negotiate a87421000492aa874209af8bc028=="], [("negotiate", {})]),
        (["DIGEST realm = c ,nonce = n"], [("digest", {"realm": "c", "nonce": "n"})]),
        (['Digest realm="c" , , nonce="n",'], [("digest", {"realm": "c", "nonce": "n"})]),
        (['Digest realm=My Camera, nonce="n"'], [("digest", {"realm": "My Camera", "nonce": "n"})]),
        (["Bearer", 'Digest nonce="open'], [("bearer", {}), ("digest", {"nonce": "open"})]),
        (["", ",,;;", "="], []),
    ],
)  # fmt: skip
def test_challenges_are_parsed(
    headers: list[str], expected: list[tuple[str, dict[str, str]]]
) -> None:
    assert parse_challenges(headers) == [{"scheme": s} | values for s, values in expected]


class Door:
    """A server that asks for Digest as cameras do, and shows pictures to who proves the password.

    Args:
        offer: Makes the WWW-Authenticate headers from a new nonce.
        uses: Answers that a nonce is good for.
    """

    def __init__(self, offer: Callable[[str], list[str]], *, uses: int = 1) -> None:
        self.offer = offer
        self.uses = uses
        self.left: dict[str, int] = {}
        self.sessions: dict[str, str] = {}
        self.n_proofs = self.n_shown = 0
        self.seen = ""

    def __call__(self, call: Call) -> None:
        self.seen += call.head
        found = re.search(r"^Authorization: Digest (.*)\r$", call.head, re.MULTILINE)
        if found is not None:
            self.n_proofs += 1
            given = {k: v.strip('"') for k, v in re.findall(r'(\w+)=("[^"]*"|[^,\s]+)', found[1])}
            if self.left.get(given["nonce"], 0) > 0 and self.is_right(given):
                self.left[given["nonce"]] -= 1
                self.n_shown += 1
                return call.send(body(PICTURES[self.n_shown % 12]))
        nonce = secrets.token_hex(6)
        self.left[nonce] = self.uses
        asked = "".join(f"WWW-Authenticate: {c}\r\n" for c in self.offer(nonce))
        return call.send(f"HTTP/1.1 401 Unauthorized\r\n{asked}Content-Length: 0\r\n\r\n")

    def is_right(self, given: dict[str, str]) -> bool:
        name = given.get("algorithm", "MD5")
        make = hashlib.sha256 if name.startswith("SHA-256") else hashlib.md5

        def digest(*texts: str) -> str:
            return make(":".join(texts).encode()).hexdigest()

        proof = digest("me", "cam", SECRET)
        if name.endswith("-sess"):  # counted once for a nonce, as RFC 7616 has it
            proof = self.sessions.setdefault(
                given["nonce"], digest(proof, given["nonce"], given["cnonce"])
            )
        what = ["GET", given["uri"], *([digest("")] if given.get("qop") == "auth-int" else [])]
        middle = [given[k] for k in ("nc", "cnonce", "qop")] if "qop" in given else []
        return digest(proof, given["nonce"], *middle, digest(*what)) == given["response"]


def offer(text: str, *more: str) -> Callable[[str], list[str]]:
    return lambda nonce: [t.replace("NONCE", f'nonce="{nonce}"') for t in (text, *more)]


DIGEST = 'Digest realm="cam", NONCE, qop="auth"'
OFFERS = {
    "one-time": offer(DIGEST),
    "old": offer('Digest realm="cam", NONCE'),
    "MD5-sess": offer(DIGEST + ", algorithm=MD5-sess"),
    "MD5-sess without qop": offer('Digest realm="cam", NONCE, algorithm=MD5-sess'),
    "SHA-256-sess": offer(DIGEST + ", algorithm=SHA-256-sess"),
    "auth-int": offer('Digest realm="cam", NONCE, qop="auth-int"'),
    "both in one": offer('Basic realm="cam", ' + DIGEST),
    "both in one, turned": offer(DIGEST + ', Basic realm="cam"'),
    "in two": offer('Basic realm="cam"', DIGEST),
    "unknown first": offer('Digest realm="cam", NONCE, algorithm=SHA-512-256', DIGEST),
    "with stale=false": offer(DIGEST + ", stale=FALSE"),
}


@pytest.mark.parametrize("uses", [1, 3])
@pytest.mark.parametrize("name", OFFERS)
def test_every_picture_is_had_with_the_proof_that_is_asked_for(name: str, uses: int) -> None:
    door = Door(OFFERS[name], uses=uses)
    with peer(door) as server:
        source = opened(server.url("/a?b=1", user=f"me:{SECRET}"))
        source.stall_s = 90  # a machine that stands still is no stall
        lines: list[str] = []
        source.on_news = lines.append
        assert len(take(source, 5)) == 5
    assert source.counts.reconnects == 0
    assert lines == [f"{source.name}: connected"]
    assert "Authorization: Basic" not in door.seen


@pytest.mark.parametrize(
    ("headers", "line"),
    [
        (['Digest realm="c", nonce="n", algorithm=SHA-512-256', 'Basic realm="c"'],
         "asks for Digest with SHA-512-256, which is not known; known: MD5"),
        (['Basic realm="c", Digest realm="c", nonce="n", algorithm=X'], "Digest with X, which"),
        (["Negotiate"], r"refuses this user or password \(401\)"),
        ([], r"refuses this user or password \(401\)"),
    ],
)  # fmt: skip
def test_a_password_is_not_sent_where_it_need_not_be(headers: list[str], line: str) -> None:
    with peer(Door(lambda nonce: headers)) as server:
        with pytest.raises(SourceError, match=line):
            next(opened(server.url(user=f"me:{SECRET}")).frames())
        assert len(server.calls) == 1


@pytest.mark.parametrize("name", ["one-time", "MD5-sess", "both in one"])
def test_a_wrong_password_costs_two_proofs_at_most(name: str) -> None:
    door = Door(OFFERS[name])
    with peer(door) as server:
        with pytest.raises(SourceError, match=r"refuses this user or password \(401\)"):
            next(opened(server.url(user="me:wrong")).frames())
    assert door.n_proofs <= 2


def test_a_server_that_calls_every_proof_old_is_not_asked_without_a_pause() -> None:
    door = Door(offer(DIGEST + ", stale=true"), uses=0)
    with peer(door) as server:
        source = opened(server.url(user=f"me:{SECRET}"))
        assert "connecting again" in told(source, "every proof of the password out of date")
        assert door.n_proofs <= 4


def test_a_login_that_is_refused_again_and_again_is_tried_after_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    def uniform(low: float, high: float) -> float:
        waits.append(high)
        return 0.0

    monkeypatch.setattr("random.uniform", uniform)

    def answer(call: Call) -> None:
        if call.number in (0, 6):
            call.send(body(PICTURES[call.number]))
        elif call.number == 4:
            call.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        elif call.number > 9:
            call.until_closed()
        else:
            call.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    with peer(answer) as server:
        source = opened(server.url())
        source.stall_s = 20
        source.first_wait_s, source.refused_wait_s = 0.5, 120.0
        source.longest_wait_s = 30.0
        lines: list[str] = []
        source.on_news = lines.append
        assert take(source, 2) == [PICTURES[0], PICTURES[6]]
    assert waits[:5] == [0.5, 120, 240, 480, 960]
    assert "asks for a user and a password" in lines[1]

    monkeypatch.undo()
    frames = source.frames()
    source.refused_wait_s = 1000
    begin = time.monotonic()
    frames.close()
    assert time.monotonic() - begin < 90


def test_a_wait_of_minutes_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
    with peer(lambda call: call.send(refusal if call.number else body(PICTURES[0]))) as server:
        source = opened(server.url())
        source.refused_wait_s = 300
        line = told(source, "min")
    assert re.search(r"connecting again in \d min, since more refused logins may lock", line)


# A header file


def test_a_token_of_a_header_file_is_sent_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    path.write_text(f"# of Home Assistant\n\nAuthorization: Bearer {SECRET}\nx-api-key:k\n")
    headers = read_headers(path)
    assert headers == {"Authorization": f"Bearer {SECRET}", "X-Api-Key": "k"}
    heads: list[str] = []

    def answer(call: Call) -> None:
        heads.append(call.head)
        if call.number < 2:
            return call.send(body(PICTURES[call.number]))
        return call.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    with peer(answer) as server:
        source = opened(server.url(), headers=headers)
        lines: list[str] = []
        source.on_news = lines.append
        assert take(source, 2) == PICTURES[:2]
        with pytest.raises(SourceError, match="refuses the Authorization of the header") as caught:
            next(opened(server.url(), headers=headers).frames())
    assert all(f"Authorization: Bearer {SECRET}\r\n" in h for h in heads)
    assert SECRET not in str(caught.value) + "".join(lines)


def test_a_token_of_an_address_that_has_ended_is_told_as_that() -> None:
    refusal = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
    with peer(lambda call: call.send(refusal)) as server:
        with pytest.raises(SourceError, match=r"token in its address .* --header-file") as caught:
            next(opened(server.url(f"/api/camera_proxy/x?token={SECRET}")).frames())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing", f"Authorization {SECRET}", f"Bad Name: {SECRET}", f"A: {SECRET}\x00",
        f"A: {SECRET}\x1b[0m", f"A: {SECRET}é", f": {SECRET}", "A:", f"Host: {SECRET}",
        f"content-length: {SECRET}", f"A: {SECRET}" + "x" * 70_000,
    ],
)  # fmt: skip
def test_a_header_file_that_cannot_be_meant_is_one_line_without_its_text(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "headers"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"header file .*headers") as caught:
        read_headers(path)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_who_can_read_a_header_file(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    with pytest.raises(SourceError, match="cannot be read"):
        read_headers(path)
    path.touch()
    for mode, is_open in ((0o600, False), (0o640, False), (0o644, True), (0o604, True)):
        path.chmod(mode)
        assert is_readable_by_all(path) == is_open


@pytest.mark.parametrize("spec", ["parts", "-", "rtsp://h/x", "synthetic:", f"ftp://u:{SECRET}@h"])
def test_headers_for_what_takes_none_are_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError, match="a header file is for http:// and https://") as caught:
        open_source(spec, headers={"A": "b"})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("user", "headers", "is_followed"),
    [("", None, True), (f"me:{SECRET}", None, False), ("", {"Authorization": SECRET}, False)],
)
def test_what_proves_us_is_not_sent_to_another_port(
    user: str, headers: dict[str, str] | None, is_followed: bool
) -> None:
    with peer(lambda call: call.send(body(PICTURES[0]))) as other:
        text = f"HTTP/1.1 302 Found\r\nLocation: {other.url()}\r\n\r\n"
        with peer(lambda call: call.send(text)) as server:
            source = opened(server.url(user=user), headers=headers)
            if is_followed:
                assert take(source, 1) == PICTURES[:1]
            else:
                with pytest.raises(SourceError, match="redirects to http://127"):
                    next(source.frames())
        assert bool(other.calls) == is_followed


# What a server writes reaches no terminal


@pytest.mark.parametrize(
    "answer",
    [
        "HTTP/1.1 404 \x1b]0;EVIL\x07\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 401 \x1b]0;EVIL\r\nWWW-Authenticate: Digest algorithm=\x1b]0;EVIL\r\n"
        "Content-Length: 0\r\n\r\n",
        "HTTP/1.1 401 no\r\nWWW-Authenticate: \x1b]0;EVIL a=b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/\x1b]0;EVIL\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 302 OK\r\nLocation: http://\x1b]0;EVIL/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 OK\r\nLocation: http://[EVIL/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 OK\r\nLocation: http://h:EVIL/\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_no_text_of_a_server_is_in_a_message(answer: str) -> None:
    with peer(lambda call: call.send(answer)) as server:
        with pytest.raises(SourceError) as caught:
            next(opened(server.url(user="me:x")).frames())
    assert "\x1b" not in str(caught.value)
    assert "EVIL" not in str(caught.value).replace("\\x1b]0;evil", "")


@pytest.mark.parametrize("answer", [f"{SECRET}\x1b[31m\r\n\r\n", f"HTTP/1.1 2x0 {SECRET}\r\n\r\n"])
def test_what_is_no_http_is_not_repeated(answer: str) -> None:
    with peer(lambda call: call.send(answer)) as server:
        line = told(opened(server.url(f"/{SECRET}")), "what is no HTTP")
    assert SECRET not in line.removeprefix(f"http://127.0.0.1:{server.port}/{SECRET}")


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        f"http://u:{SECRET}@x#y@127.0.0.1:1/", f"http://u:{SECRET}@x/y@127.0.0.1:1/",
        f"http://u:12/{SECRET}@h/", f"http://u:{SECRET}?x@h/", f"http://u:{SECRET}#",
        f"http://u:{SECRET}/h", f"http://h/?pwd=a@{SECRET}", f"http://u:x@h:{SECRET}/",
        f"http://[{SECRET}/", f"http://u:{SECRET}@[::1/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "HTTP"])
def test_an_address_that_needs_escapes_says_so_before_any_name_is_asked(
    url: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(*args: object) -> None:
        pytest.fail(f"asked for {args}")

    monkeypatch.setattr("socket.getaddrinfo", lookup)
    with pytest.raises(SourceError) as caught:
        split_url(url.replace("http", scheme, 1))
    assert SECRET not in str(caught.value)
    assert "/ as %2F" in str(caught.value)


@pytest.mark.parametrize("password", ["a@b", "a:b", "[x]", "50%", "a&b", "%2F%23", "a%", "é", ""])
def test_all_other_signs_of_a_password_are_taken_as_they_stand(password: str) -> None:
    parts = split_url(f"http://me:{password}@[::1]:80/a")
    seen = Credentials(parts)
    assert (seen._user, seen._password) == ("me", "/#" if password == "%2F%23" else password)
    assert (parts.hostname, parts.port) == ("::1", 80)

"""Live sources give the newest frame, come back after a loss, and end when they are told to."""

from __future__ import annotations

import base64
import gc
import hashlib
import itertools
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import patience
import pytest
from needs import require_opencv
from patience import PATIENCE_S, until

import build
from edgecl.errors import MissingPackageError, SourceError, UsageError
from edgecl.runtime.preprocess import picture_of
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.live import Connection, Counters, LiveSource, Lost, Shot
from edgecl.types import Frame, Skipped
from peers import HEAD, Call, certificate, part, peer

PICTURES = [build.encode(build.part_picture("bolt-m4", i, 16)) for i in range(40)]
MJPEG = HEAD.format("frame")


class Pause:
    """A step that waits until the frame before it was taken, so that none is dropped."""

    def __init__(self) -> None:
        self.taken = threading.Semaphore(0)


PAUSE = Pause()
Step = bytes | float | Exception | Pause | None


@pytest.fixture(autouse=True)
def _nothing_taken_yet() -> None:
    PAUSE.taken = threading.Semaphore(0)


class Scripted:
    """A connection that does what a test says, and hangs when it is told to."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Shot | None]:
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, Pause):
                assert step.taken.acquire(timeout=PATIENCE_S)
                continue
            if isinstance(step, float):
                if self.closed.wait(step):
                    raise Lost("closed")
            else:
                yield None if step is None else Shot(encoded=step)

    def close(self) -> None:
        self.closed.set()


HANG = 600.0
GONE = Lost("it went away")


def scripted(*connections: list[Step], **options: object) -> LiveSource:
    scripts = iter(connections)

    def connect(counters: Counters) -> Connection:
        return Scripted(next(scripts, [HANG]))

    return quick(LiveSource("rtsp://me:S3CRET@host/live", connect, **options))  # type: ignore[arg-type]


def quick(source: object) -> LiveSource:
    """Return it with waits that a test can afford."""
    assert isinstance(source, LiveSource)
    source.first_wait_s = source.longest_wait_s = 0.02
    return source


def take(source: LiveSource, n: int) -> list[bytes]:
    """Return what the next n frames hold."""
    frames = source.frames()
    out = []
    for item in itertools.islice(frames, n):
        PAUSE.taken.release()
        assert isinstance(item, Frame), item
        assert item.encoded is not None
        out.append(item.encoded)
    frames.close()
    return out


def no_thread_is_left() -> bool:
    return patience.no_thread_is_left("live", "capture", "gst")


# The base


def test_a_frame_says_when_and_where_it_was_taken_and_holds_no_secret() -> None:
    before = time.time(), time.monotonic()
    source = scripted([b"a", PAUSE, b"b", HANG], label="cup")
    frames = []
    for frame in itertools.islice(source.frames(), 2):
        frames.append(frame)
        PAUSE.taken.release()
    assert [f.encoded for f in frames if isinstance(f, Frame)] == [b"a", b"b"]
    for frame in frames:
        assert isinstance(frame, Frame)
        assert (frame.source, frame.label) == ("rtsp://***@host/live", "cup")
        assert before[0] <= frame.time <= time.time()
        assert before[1] <= frame.monotonic <= time.monotonic()
    other = next(scripted([b"a", HANG]).frames())
    assert len({f.id for f in [*frames, other]}) == 3
    assert (source.is_live, len(source), list(source.ids(5))) == (True, 0, [])
    assert source.name == "rtsp://***@host/live"


def test_the_newest_frame_is_taken_and_older_ones_are_counted() -> None:
    source = scripted([b"0", PAUSE, *(b"%d" % i for i in range(1, 10)), HANG])
    frames = source.frames()
    assert isinstance(next(frames), Frame)
    PAUSE.taken.release()
    assert until(lambda: source.counts.dropped == 8)
    newest = next(frames)
    assert isinstance(newest, Frame)
    assert newest.encoded == b"9"
    assert (source.counts.received, source.counts.dropped) == (10, 8)
    frames.close()


@pytest.mark.parametrize("how", ["source", "frames"])
@pytest.mark.parametrize(
    "script", [[HANG], [b"a", HANG], [GONE]], ids=["never came", "hangs", "waits to connect"]
)
def test_closing_wakes_who_waits(script: list[Step], how: str) -> None:
    source = scripted(script)
    source.first_wait_s = source.longest_wait_s = 1000
    frames = source.frames()
    got: list[object] = []
    waiting = threading.Thread(target=lambda: got.extend(frames))
    waiting.start()
    time.sleep(0.1)
    (source if how == "source" else frames).close()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    assert no_thread_is_left()
    assert list(frames) == []


def test_closing_before_the_first_frame_was_asked_for_connects_to_nobody() -> None:
    source = scripted([RuntimeError("connected")])
    frames = source.frames()
    source.close()
    assert list(frames) == []


def test_frames_may_be_asked_for_again_after_closing() -> None:
    source = scripted([b"a", HANG], [b"b", HANG])
    assert take(source, 1) == [b"a"]
    source.close()
    assert take(source, 1) == [b"b"]


def test_a_loop_that_is_left_ends_its_connection() -> None:
    source = scripted([b"a", HANG])
    for _ in source.frames():
        break
    gc.collect()
    assert no_thread_is_left()


def test_a_lost_connection_is_made_anew_and_told_without_secrets() -> None:
    lost = Lost("rtsp://me:S3CRET@host/live: broken")
    source = scripted([b"a", PAUSE, lost], [OSError(111, "Connection refused")], [b"b", HANG])
    news: list[str] = []
    source.on_news = news.append
    assert take(source, 2) == [b"a", b"b"]
    assert source.counts.reconnects == 1
    assert [re.sub(r"\d\.\d", "N", line) for line in news] == [
        "rtsp://***@host/live: connected",
        "rtsp://***@host/live: rtsp://***@host/live: broken; connecting again in N s",
        "rtsp://***@host/live: Connection refused; connecting again in N s",
        "rtsp://***@host/live: connected",
    ]


def test_a_frame_that_is_sent_once_more_is_not_given_twice() -> None:
    first: list[Step] = [b"a", PAUSE, b"b", PAUSE, b"c", PAUSE, GONE]
    again: list[Step] = [b"b", b"c", b"d", PAUSE, GONE]
    source = scripted(first, again, [b"d", b"e", HANG])
    assert take(source, 5) == [b"a", b"b", b"c", b"d", b"e"]
    assert source.counts.repeated == 3


def test_a_still_picture_is_given_again_and_again_on_one_connection() -> None:
    source = scripted([b"a", PAUSE, b"a", PAUSE, b"a", HANG])
    assert take(source, 3) == [b"a"] * 3


def test_a_peer_that_stalls_is_connected_again() -> None:
    source = scripted([b"a", HANG], [b"b", HANG], [HANG], [b"c", HANG])
    source.stall_s = 1.0
    news: list[str] = []
    source.on_news = news.append
    assert take(source, 3) == [b"a", b"b", b"c"]
    assert source.counts.stalls == 3
    assert "nothing came for 1 s" in news[1]


@pytest.mark.parametrize("stall_s", [1.0, None])
def test_a_peer_that_shows_it_is_alive_or_may_be_silent_does_not_stall(
    stall_s: float | None,
) -> None:
    signs: list[Step] = [0.15, None] * 8 if stall_s else [0.4]

    def goes_on() -> bool:
        source = scripted([b"a", *signs, b"b", HANG], [b"b", HANG])
        source.stall_s = stall_s
        assert take(source, 2) == [b"a", b"b"]
        return source.counts.stalls == 0

    assert any(goes_on() for _ in range(6))  # a machine that stands still for long is a stall


def test_what_cannot_be_mended_is_an_error_at_first_and_tried_again_later() -> None:
    refusal = SourceError("http://u:S3CRET@h answered 404")
    with pytest.raises(SourceError, match=r"http://\*\*\*@h answered 404"):
        next(scripted([refusal]).frames())
    assert take(scripted([b"a", PAUSE, GONE], [refusal], [b"b", HANG]), 2) == [b"a", b"b"]


def test_a_missing_package_is_an_error_at_any_time() -> None:
    frames = scripted([b"a", PAUSE, GONE], [MissingPackageError("install it")]).frames()
    assert isinstance(next(frames), Frame)
    PAUSE.taken.release()
    with pytest.raises(MissingPackageError):
        next(frames)
    assert list(frames) == []


def test_a_stream_that_is_over_ends() -> None:
    assert take(scripted([b"a", PAUSE, b"b", PAUSE]), 3) == [b"a", b"b"]


def test_waits_double_up_to_the_longest_and_begin_anew_after_a_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    def uniform(low: float, high: float) -> float:
        waits.append(high)
        return low

    monkeypatch.setattr("random.uniform", uniform)
    source = scripted([GONE], [GONE], [GONE], [GONE], [b"a", PAUSE, GONE], [GONE], [b"b", HANG])
    source.first_wait_s, source.longest_wait_s = 0.5, 3
    assert take(source, 2) == [b"a", b"b"]
    assert waits == [0.5, 1, 2, 3, 0.5, 1]


def test_a_label_that_cannot_be_one_skips_its_frame_only() -> None:
    class Labelled(Scripted):
        def __iter__(self) -> Iterator[Shot | None]:
            for label in ("", "cup"):
                yield Shot(encoded=b"a", label=label, id=f"own {label}")
                assert PAUSE.taken.acquire(timeout=PATIENCE_S)

    items = []
    for item in LiveSource("x", lambda counters: Labelled([])).frames():
        items.append(item)
        PAUSE.taken.release()
    assert isinstance(items[0], Skipped)
    assert isinstance(items[1], Frame)
    assert [i.id for i in items] == ["own ", "own cup"]


# HTTP


def serve(*answers: Callable[[Call], None]) -> Callable[[Call], None]:
    """Answer the first call with the first, and all after the last with the last."""
    return lambda call: answers[min(call.number, len(answers) - 1)](call)


def mjpeg(*steps: Step, head: str = MJPEG) -> Callable[[Call], None]:
    def answer(call: Call) -> None:
        call.send(head)
        for step in steps:
            if isinstance(step, float):
                call.wait(step)
            elif isinstance(step, Pause):
                assert step.taken.acquire(timeout=PATIENCE_S)
            else:
                assert isinstance(step, bytes)
                call.send(step)

    return answer


def parts(*pictures: bytes) -> list[Step]:
    return [step for picture in pictures for step in (part(picture), PAUSE)]


def test_mjpeg_frames_come_in_order_over_a_connection_that_breaks_in_half_a_picture() -> None:
    half = part(PICTURES[2])[:200]
    first = mjpeg(*parts(*PICTURES[:2]), half)
    second = mjpeg(part(PICTURES[1]), *parts(*PICTURES[2:5]), HANG)
    with peer(serve(first, second)) as server:
        source = quick(open_source(server.url("/live"), label="bolt"))
        assert take(source, 5) == PICTURES[:5]
    counts = source.counts
    assert (counts.broken, counts.repeated, counts.reconnects) == (1, 1, 1)
    assert no_thread_is_left()


def test_chunked_answers_are_put_together() -> None:
    head = MJPEG.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n")
    steps: list[Step] = []
    for piece in map(part, PICTURES[:3]):
        chunks = [piece[i : i + 100] for i in range(0, len(piece), 100)]
        steps += [*(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks), PAUSE]
    with peer(mjpeg(*steps, HANG, head=head)) as server:
        assert take(quick(open_source(server.url())), 3) == PICTURES[:3]


def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    with peer(mjpeg()) as server:
        port = server.port
    source = quick(open_source(f"http://127.0.0.1:{port}/"))
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.extend(take(source, 2)))
    waiting.start()
    time.sleep(0.2)
    with peer(mjpeg(*parts(*PICTURES[:2]), HANG), port=port):
        waiting.join(PATIENCE_S)
    assert got == PICTURES[:2]


def test_closing_a_stream_whose_server_hangs_takes_no_time() -> None:
    for answer in (Call.until_closed, mjpeg(HANG)):
        with peer(answer) as server:
            source = quick(open_source(server.url()))
            frames = source.frames()
            waiting = threading.Thread(target=lambda it: list(it), args=(frames,))
            waiting.start()
            time.sleep(0.15)
            source.close()
            waiting.join(PATIENCE_S)
            assert not waiting.is_alive()


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("404 Not Found\r\n", "answered 404 Not Found; check the address"),
        ("401 Unauthorized\r\n", "asks for a user and a password; write USER:PASSWORD@ before"),
        ("200 OK\r\nContent-Type: text/html\r\n", r"sends text/html; expected multipart"),
        ("302 Found\r\nLocation: http://elsewhere.invalid/\r\n", "redirects to http://elsewhere"),
        ("302 Found\r\nLocation: ftp://127.0.0.1/\r\n", "redirects to ftp://127"),
        ("302 Found\r\nLocation: /again\r\n", "answered 302"),
    ],
)
def test_what_a_server_refuses_is_one_line(head: str, message: str) -> None:
    with peer(lambda call: call.send(f"HTTP/1.1 {head}Content-Length: 0\r\n\r\n")) as server:
        with pytest.raises(SourceError, match=message):
            next(quick(open_source(server.url("/live"))).frames())
    assert no_thread_is_left()


@pytest.mark.parametrize("head", ["503 Busy\r\n", "429 Later\r\n", None])
def test_what_a_server_cannot_do_now_is_tried_again(head: str | None) -> None:
    text = f"HTTP/1.1 {head}Content-Length: 0\r\n\r\n" if head else "what?\r\n\r\n"
    with peer(serve(lambda call: call.send(text), mjpeg(*parts(PICTURES[0]), HANG))) as server:
        assert take(quick(open_source(server.url())), 1) == PICTURES[:1]


def test_a_redirect_on_the_same_host_is_followed() -> None:
    with peer(mjpeg(*parts(PICTURES[0]), HANG)) as other:
        text = f"HTTP/1.1 302 Found\r\nLocation: {other.url('/b?c=1')}\r\n\r\n"
        with peer(lambda call: call.send(text)) as server:
            assert take(quick(open_source(server.url("/a"))), 1) == PICTURES[:1]
        assert other.calls[0].head.startswith("GET /b?c=1 HTTP/1.1\r\n")


def asks_for(challenges: list[str], is_right: Callable[[str], bool]) -> Callable[[Call], None]:
    """Ask for a proof and show pictures to who gives the right one."""

    def answer(call: Call) -> None:
        found = re.search(r"^Authorization: (.*)\r$", call.head, re.MULTILINE)
        if found is not None and is_right(found[1]):
            mjpeg(*parts(PICTURES[0]), HANG)(call)
        else:
            asked = "".join(f"WWW-Authenticate: {c}\r\n" for c in challenges)
            call.send(f"HTTP/1.1 401 Unauthorized\r\n{asked}Content-Length: 0\r\n\r\n")

    return answer


def is_basic(header: str) -> bool:
    return header == "Basic " + base64.b64encode(b"me:p@ss").decode()


def is_digest(header: str, algorithm: str = "MD5") -> bool:
    if not header.startswith("Digest "):
        return False
    given = dict(re.findall(r'(\w+)="?([^",]*)"?', header))
    make = hashlib.md5 if algorithm == "MD5" else hashlib.sha256

    def digest(text: str) -> str:
        return make(text.encode()).hexdigest()

    middle = f"{given['nc']}:{given['cnonce']}:auth:" if "qop" in given else ""
    proof = digest(
        f"{digest('me:cam:p@ss')}:n0nce:{middle}{digest('GET:' + given['uri'])}",
    )
    return proof == given["response"] and given["opaque"] == "o"


QOP = 'Digest realm="cam", nonce="n0nce", opaque="o", qop="auth,auth-int"'
OLD = 'Digest realm="cam", nonce="n0nce", opaque="o"'
SHA = QOP + ", algorithm=SHA-256"


@pytest.mark.parametrize(
    ("challenges", "is_right"),
    [
        (['Basic realm="cam"'], is_basic),
        ([QOP], is_digest),
        ([OLD], is_digest),
        ([SHA], lambda header: is_digest(header, "SHA-256")),
        (['Basic realm="cam"', QOP], is_digest),
    ],
    ids=["basic", "digest", "old digest", "sha", "the stronger of two"],
)
def test_user_and_password_are_proved_as_the_server_asks(
    challenges: list[str], is_right: Callable[[str], bool]
) -> None:
    with peer(asks_for(challenges, is_right)) as server:
        source = quick(open_source(server.url("/ä/a?b=1", user="me:p%40ss")))
        assert take(source, 1) == PICTURES[:1]
        assert "Authorization" not in server.calls[0].head


@pytest.mark.parametrize("challenge", ['Basic realm="cam"', QOP, "Negotiate"])
@pytest.mark.parametrize("user", ["me", "m€"])
def test_a_wrong_password_is_told_once_and_not_shown(challenge: str, user: str) -> None:
    with peer(asks_for([challenge], lambda header: False)) as server:
        with pytest.raises(SourceError, match="refuses this user or password") as caught:
            next(quick(open_source(server.url(user=f"{user}:S3CRET"))).frames())
        assert len(server.calls) <= 2
    assert "S3CRET" not in str(caught.value)


def test_https_takes_a_certificate_that_is_trusted_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path)
    with peer(mjpeg(part(PICTURES[0]), HANG), tls=tls) as server:
        url = server.url("/live", user="me:S3CRET", scheme="https")
        with pytest.raises(SourceError, match="certificate that cannot be trusted") as caught:
            next(quick(open_source(url)).frames())
        assert "S3CRET" not in str(caught.value)
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        source = quick(open_source(url))
        frames = source.frames()
        frame = next(frames)
        assert isinstance(frame, Frame)
        assert frame.encoded == PICTURES[0]
        waiting = threading.Thread(target=lambda: list(frames))
        waiting.start()
        time.sleep(0.1)
        source.close()
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()
    assert no_thread_is_left()


def image(data: bytes, *headers: str) -> str:
    lines = ["HTTP/1.1 200 OK", "Content-Type: image/jpeg", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""])


def test_a_single_picture_is_asked_for_again_and_given_when_it_is_another_one() -> None:
    def answer(call: Call) -> None:
        n = call.number
        if n == 1:  # the server says so
            assert "If-None-Match: W/0" in call.head
            assert "If-Modified-Since: then" in call.head
            call.send("HTTP/1.1 304 Not Modified\r\n\r\n")
            return
        if n in (3, 6):  # the one before was taken
            assert PAUSE.taken.acquire(timeout=PATIENCE_S)
        if n > 6:
            call.until_closed()
        picture = PICTURES[min(n // 3, 2)]  # the server sends it once more
        data = picture[:-9] if n == 5 else picture
        call.send(image(picture, f"ETag: W/{n}", "Last-Modified: then"))
        call.send(data)

    from edgecl.runtime.sources.http import open_http

    with peer(answer) as server:
        source = quick(
            open_http(server.url("/snap.jpg"), label=None, max_bytes=50_000, poll_s=0.02)
        )
        assert take(source, 3) == PICTURES[:3]
    counts = source.counts
    assert (counts.received, counts.broken, counts.stalls) == (3, 1, 0)
    assert counts.repeated == 2


@pytest.mark.parametrize("has_length", [True, False])
def test_a_single_picture_that_is_too_large_is_counted(has_length: bool) -> None:
    from edgecl.runtime.sources.http import open_http

    def answer(call: Call) -> None:
        data = PICTURES[0] if call.number else b"\xff\xd8" + bytes(100_000)
        call.send(
            image(data) if has_length else "HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\n\r\n"
        )
        call.send(data)

    with peer(answer) as server:
        source = quick(open_http(server.url(), label=None, max_bytes=50_000, poll_s=0.02))
        assert take(source, 1) == PICTURES[:1]
    assert source.counts.oversize == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///live",
        "http://u:S3CRET@",
        "http://h:port/",
        "http://h/a b",
        "rtsp://h:x/",
        "http://u:S3CRET%0a@h/",
    ],
)
def test_an_address_that_cannot_be_one_is_an_error_at_once(url: str) -> None:
    with pytest.raises(SourceError, match=r"is no address .*; expected \w+://HOST") as caught:
        open_source(url)
    assert "S3CRET" not in str(caught.value)


def test_live_sources_cannot_be_shuffled_and_unknown_ones_hide_their_password() -> None:
    with pytest.raises(UsageError, match="is live and cannot be shuffled"):
        open_source("http://127.0.0.1/", shuffle_seed=1)
    with pytest.raises(SourceError, match=r"ftp://\*\*\*@h/x does not exist; expected .*camera:N"):
        open_source("ftp://u:S3CRET@h/x")


# OpenCV


class FakeCapture:
    """Stands where `cv2.VideoCapture` would: this machine has no camera."""

    def __init__(self, pictures: list[np.ndarray | None], hang: threading.Event) -> None:
        self.pictures = pictures
        self.hang = hang
        self.settings: dict[int, float] = {}
        self.is_released = False

    def isOpened(self) -> bool:
        return True

    def set(self, key: int, value: float) -> bool:
        self.settings[key] = value
        return True

    def get(self, key: int) -> float:
        return self.settings.get(key, 0.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.3)  # the picture before is taken meanwhile
        if not self.pictures:
            self.hang.wait()
            return False, None
        picture = self.pictures.pop(0)
        return picture is not None, picture

    def release(self) -> None:
        self.is_released = True


@pytest.fixture
def cameras(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> Iterator[tuple[list[FakeCapture], list[tuple[object, ...]], threading.Event]]:
    """Captures that are opened one after the other, and what they were opened with."""
    require_opencv()
    waiting: list[FakeCapture] = []
    opened: list[tuple[object, ...]] = []
    hang = threading.Event()

    def open_capture(*arguments: object) -> FakeCapture:
        opened.append(arguments)
        return waiting.pop(0)

    monkeypatch.setattr("edgecl.runtime.sources.opencv.open_capture", open_capture)
    yield waiting, opened, hang
    hang.set()
    assert no_thread_is_left()


BLUE = np.zeros((4, 6, 3), np.uint8) + np.array([200, 10, 30], np.uint8)  # as OpenCV has it


def test_a_camera_gives_rgb_and_comes_back_after_a_read_that_failed_or_hangs(
    cameras: tuple[list[FakeCapture], list[tuple[object, ...]], threading.Event],
) -> None:
    cv2 = require_opencv()
    waiting, opened, hang = cameras
    waiting += [FakeCapture([BLUE, None], hang), FakeCapture([BLUE + 1], hang)]
    waiting += [FakeCapture([BLUE + 2], hang)]
    captures = list(waiting)
    source = quick(open_source("camera:/dev/null"))  # it has to be there
    source.stall_s = 2
    frames = source.frames()
    got = list(itertools.islice(frames, 3))
    frames.close()  # or it would never end
    pixels = [f.pixels for f in got if isinstance(f, Frame)]
    assert [p[0, 0].tolist() for p in pixels if p is not None] == [
        [30, 10, 200],
        [31, 11, 201],
        [32, 12, 202],
    ]
    assert (source.counts.reconnects, source.counts.stalls) == (2, 1)
    assert opened[0] == ("/dev/null", cv2.CAP_V4L2, {})
    assert captures[0].settings[cv2.CAP_PROP_BUFFERSIZE] == 1
    assert captures[0].settings[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")
    assert captures[0].is_released
    hang.set()
    assert no_thread_is_left()
    assert all(c.is_released for c in captures)


def test_a_camera_gives_its_jpeg_as_it_came_or_is_decoded_where_it_gives_other_bytes(
    cameras: tuple[list[FakeCapture], list[tuple[object, ...]], threading.Event],
) -> None:
    cv2 = require_opencv()
    waiting, _, hang = cameras
    jpeg = build.encode(build.part_picture("washer", 0, 48))
    padded = np.frombuffer(jpeg + bytes(60), np.uint8)[None]
    raw = np.tile(np.array([[16, 128]], np.uint8), (1, 40))  # YUYV under another name
    capture = FakeCapture([padded, raw, BLUE], hang)
    waiting.append(capture)
    frames = quick(open_source("camera:/dev/null")).frames()
    first = next(frames)
    assert isinstance(first, Frame)
    assert first.encoded == jpeg
    assert picture_of(first).size == (48, 48)
    second = next(frames)
    assert isinstance(second, Frame)
    assert second.pixels is not None
    assert second.pixels[0, 0].tolist() == [30, 10, 200]
    assert capture.settings[cv2.CAP_PROP_CONVERT_RGB] == 1
    frames.close()
    hang.set()


def test_a_camera_without_jpegs_is_decoded(
    cameras: tuple[list[FakeCapture], list[tuple[object, ...]], threading.Event],
) -> None:
    cv2 = require_opencv()
    waiting, _, hang = cameras

    class Raw(FakeCapture):
        def get(self, key: int) -> float:
            return float(cv2.VideoWriter.fourcc(*"YUYV"))

    capture = Raw([BLUE], hang)
    waiting.append(capture)
    frames = quick(open_source("camera:/dev/null")).frames()
    frame = next(frames)
    assert isinstance(frame, Frame)
    assert frame.pixels is not None
    assert cv2.CAP_PROP_CONVERT_RGB not in capture.settings
    frames.close()
    hang.set()


def test_what_an_rtsp_stream_had_saved_up_is_passed_over(
    cameras: tuple[list[FakeCapture], list[tuple[object, ...]], threading.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting, opened, hang = cameras
    # A machine that is busy pauses for longer than the time between two frames.
    monkeypatch.setattr("edgecl.runtime.sources.opencv._SAVED_S", 0.25)
    monkeypatch.setattr("edgecl.runtime.sources.opencv._SETTLE_S", 30.0)

    class Saved(FakeCapture):
        """Gives five pictures at once, and the others as they come."""

        def grab(self) -> bool:
            if len(self.pictures) <= 3:
                time.sleep(0.5)
            return bool(self.pictures) and self.pictures.pop(0) is not None

    waiting.append(Saved([BLUE + i for i in range(8)], hang))
    with peer(lambda call: call.send("RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n")) as server:
        source = quick(open_source(server.url("/live", user="me:p", scheme="rtsp")))
        frame = next(source.frames())
        assert isinstance(frame, Frame)
        assert frame.pixels is not None
        assert frame.pixels[0, 0, 2] == 206
        assert server.calls[0].head.startswith(f"DESCRIBE {server.url('/live', scheme='rtsp')} ")
    assert opened[0][0] == server.url("/live", user="me:p", scheme="rtsp")
    hang.set()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("RTSP/1.0 404 Not Found\r\n\r\n", "answered 404; check the address"),
        ("RTSP/1.0 401 Unauthorized\r\n\r\n", "refuses this user or password"),
        ("RTSP/1.0 503 Busy\r\n\r\n", "the server answered 503; connecting again"),
        ("HTTP/1.1 200 OK\r\n\r\n", "what is no RTSP; connecting again"),
        ("", "the server hung up; connecting again"),
    ],
)
def test_what_an_rtsp_server_answers_is_told(answer: str, message: str) -> None:
    require_opencv()
    with peer(lambda call: call.send(answer)) as server:
        source = quick(open_source(server.url(user="me:S3CRET", scheme="rtsp")))
        told: list[str] = []

        def tell(text: str) -> None:
            told.append(text)
            source.close()

        source.on_news = tell
        try:
            assert list(source.frames()) == []
        except SourceError as error:
            told.append(str(error))
    assert message in told[0]
    assert "S3CRET" not in "".join(told)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("camera:77", "there is no camera /dev/video77"),
        ("camera:/dev/video77", "there is no camera /dev/video77"),
        ("camera:", "is no camera; expected camera:0"),
        ("camera:front", "is no camera; expected camera:0"),
        ("camera:/etc/passwd", "is no camera; expected camera:0"),
    ],
)
def test_a_camera_that_is_not_there_is_an_error_at_once(spec: str, message: str) -> None:
    require_opencv()
    with pytest.raises(SourceError, match=message):
        open_source(spec)


@pytest.mark.parametrize("spec", ["camera:0", "rtsp://127.0.0.1/x"])
def test_without_opencv_the_extra_is_named(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingPackageError, match=r"edgecl\[camera\]"):
        open_source(spec)


# GStreamer


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gst:", "needs a pipeline"),
        ("gst:--gst-plugin-load=x videotestsrc", "without options"),
        ('gst:videotestsrc pattern="', "No closing quotation"),
    ],
)
def test_a_pipeline_that_cannot_be_one_is_an_error_at_once(spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(spec)


def test_without_gstreamer_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingPackageError, match=r"gstreamer1\.0-tools"):
        open_source("gst:videotestsrc")

"""What OpenCV reads: cameras (V4L2), RTSP streams (its FFmpeg), and video files.

OpenCV and FFmpeg print addresses with their passwords when something fails, so both are silenced.
A read that hangs cannot be broken off; it runs in a thread of its own, which is left to its
time limit while the source goes on or ends. Only the end of the process waits for it: a thread that
comes back from C++ into an interpreter that has gone aborts the process.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

from edgecl.errors import MissingPackageError, SourceError
from edgecl.types import Frame, Pixels, Skipped

from ..address import shut, split_url
from ..faults import telling
from ..redact import redacted
from .base import Source
from .jpeg import JPEG_START
from .live import LiveSource, Lost, Shot
from .rtsp import connect, describe, trust_certificates

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .h264 .h265 .hevc .m2t .m2ts .m2v .m4v .mjpeg .mjpg "
    ".mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .qt .ts .vob .webm .wmv".split()
)

_OPEN_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 5.0
_NO_PACKAGE = (
    "cameras, RTSP and video files need OpenCV, which is not installed; "
    "run `pip install 'edgecl[camera]'`"
)
# For so long after it was opened a stream may give what came while FFmpeg looked what it is. What
# comes sooner than this (half the time between frames at 30 a second) was not just taken.
_SETTLE_S = 1.0
_SAVED_S = 1 / 60
# Of films; what some files say is a time base and no rate.
_FASTEST = 2000.0
# Threads of H.264 decode one picture each, and every one delays the picture by a frame time.
_DECODER_THREADS = 1


def open_camera(spec: str, *, label: str | None, max_bytes: int) -> LiveSource:
    """Open `camera:N` or `camera:/dev/videoN`.

    Args:
        spec: The source as the user names it.
        label: Class of all frames.
        max_bytes: Not used; the camera sets the size of a picture.

    Raises:
        SourceError: No such device.
        MissingPackageError: OpenCV is not installed.
    """
    device = spec.partition(":")[2]
    if not re.fullmatch(r"\d{1,3}|/dev/\S+", device):
        raise SourceError(
            f"source {redacted(spec)} is no camera; expected camera:0 or camera:/dev/video0"
        )
    path = Path(f"/dev/video{device}") if device.isdigit() else Path(device)
    import_cv2()

    def open_it(_: Callable[[], bool]) -> Any:
        if not path.exists():
            raise SourceError(f"{_no_camera(path)}")
        if not os.access(path, os.R_OK | os.W_OK):
            raise SourceError(
                f"{path} may not be used by this user; add it to the device's group (`sudo usermod "
                "-aG video USER`) and log in again"
            )
        cv2 = import_cv2()
        capture = open_capture(str(path), cv2.CAP_V4L2, {})
        if not capture.isOpened():
            raise Lost(f"{path} cannot be opened; another program may use it")
        # Compressed by the camera: raw pictures of 1280 x 720 fill USB 2 at 10 a second.
        jpeg = cv2.VideoWriter.fourcc(*"MJPG")
        capture.set(cv2.CAP_PROP_FOURCC, jpeg)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if capture.get(cv2.CAP_PROP_FOURCC) == jpeg:
            # And given as it came: stored so, and decoded as the home decodes, if at all.
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        return capture

    if not path.exists():
        raise SourceError(_no_camera(path))
    return LiveSource(spec, lambda _: _Capture(open_it), label=label)


def open_rtsp(url: str, /, *, label: str | None, max_bytes: int) -> LiveSource:
    """Open an RTSP or RTMP stream, also over TLS; nothing is sent before its first frame.

    Args:
        url: Address, with user and password if it needs them.
        label: Class of all frames.
        max_bytes: Not used; the stream sets the size of a picture.

    Raises:
        SourceError: No address that could be one.
        MissingPackageError: OpenCV is not installed.
    """
    address = split_url(url)
    _check_ffmpeg()
    if address.scheme in ("rtsps", "rtmps"):
        trust_certificates()
    return LiveSource(url, lambda _: _Rtsp(address), label=label)


class VideoSource(Source):
    """The frames of a video file, in order: every one once, or one every so many seconds.

    Args:
        path: The file.
        label: Class of all frames.

    Raises:
        SourceError: It cannot be opened.
        MissingPackageError: OpenCV is not installed.
    """

    is_film = True

    def __init__(self, path: Path, *, label: str | None = None) -> None:
        self.name = str(path)
        self._step = 1.0
        self._path = path
        self._label = label
        _check_ffmpeg()
        capture = self._open()
        # Some files do not say, and then OpenCV answers with a negative number.
        self._n = max(0, int(capture.get(import_cv2().CAP_PROP_FRAME_COUNT)))
        self._rate = float(capture.get(import_cv2().CAP_PROP_FPS))
        self.kind = "finite" if self._n else "stream"
        is_film = capture.grab()
        capture.release()
        if not is_film:
            raise SourceError(self._refusal())

    def __len__(self) -> int:
        return math.ceil(self._n / self._step)

    def take_every(self, seconds: float) -> None:
        """Give a frame only every so many seconds of the film.

        Raises:
            SourceError: The film does not say how many frames a second has.
        """
        if not (math.isfinite(self._rate) and 0 < self._rate <= _FASTEST):
            raise SourceError(
                f"video {self.name} does not say how many frames a second has; leave --every out"
            )
        self._step = max(1.0, seconds * self._rate)

    def ids(self, stop: int) -> Iterator[str]:
        """Yield the ids of the first `stop` frames that are taken: their numbers in the film."""
        return (_number(self._place(k)) for k in range(stop))

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        """Yield the frames that are taken, from the one at position `start` on.

        The frames before it are decoded too: a jump in a compressed file is only nearly exact.
        """
        capture = self._open()
        try:
            i, k = 0, start
            while True:
                while i < self._place(k):
                    if not capture.grab():
                        return
                    i += 1
                is_there, picture = capture.read()
                if not is_there:
                    return
                yield Frame(
                    id=_number(i), pixels=_rgb(picture), label=self._label, source=self.name
                )
                i, k = i + 1, k + 1
        finally:
            capture.release()

    def _place(self, k: int) -> int:
        """Return the number in the film of the k-th frame that is taken."""
        return math.ceil(k * self._step)

    def _open(self) -> Any:
        with telling(f"video {self.name} cannot be read", SourceError):  # which OpenCV never says
            self._path.open("rb").close()
        capture = open_capture(str(self._path), import_cv2().CAP_FFMPEG, {})
        if not capture.isOpened():
            raise SourceError(self._refusal())
        return capture

    def _refusal(self) -> str:
        return (
            f"video {self.name} cannot be opened; it is damaged, or of a kind that OpenCV's FFmpeg "
            "does not know"
        )


def open_capture(target: str, backend: int, settings: dict[int, int]) -> Any:
    """Return `cv2.VideoCapture`; the one place where a device, stream or file is opened.

    Args:
        target: Path or address.
        backend: One of `cv2.CAP_*`.
        settings: Values by `cv2.CAP_PROP_*`.
    """
    return import_cv2().VideoCapture(
        target, backend, [n for pair in settings.items() for n in pair]
    )


class _Capture:
    """A connection that reads a capture in a thread which may hang.

    Args:
        open_it: Makes the capture; gets a function that says whether it is still wanted.
    """

    def __init__(self, open_it: Callable[[Callable[[], bool]], Any]) -> None:
        self._open_it = open_it
        self._changed = threading.Condition()
        self._shot: Shot | None = None
        self._error: Exception | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._read, name="capture", daemon=True)
        _captures.add(self)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until the last read has ended, as long as it may take."""
        if self._thread.is_alive():
            self._thread.join(_OPEN_TIMEOUT_S + _READ_TIMEOUT_S)

    def __iter__(self) -> Iterator[Shot]:
        self._thread.start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._shot or self._error or self._is_closed)
                shot, self._shot = self._shot, None
                self._changed.notify_all()
            if shot is None:
                raise self._error or Lost("closed")
            yield shot

    def _read(self) -> None:
        capture = None
        try:
            capture = self._open_it(lambda: not self._is_closed)
            while not self._is_closed:
                is_there, picture = capture.read()
                if not is_there:
                    raise Lost("no more pictures came")
                shot = _shot(picture)
                if shot is None:  # a driver that names one format and sends another
                    capture.set(import_cv2().CAP_PROP_CONVERT_RGB, 1)
                    continue
                with self._changed:
                    self._changed.wait_for(lambda: self._shot is None or self._is_closed)
                    self._shot = shot
                    self._changed.notify_all()
        except Exception as error:  # raised where the connection is iterated
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            if capture is not None:
                capture.release()


_captures: weakref.WeakSet[_Capture] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End every capture before the interpreter ends."""
    captures = list(_captures)
    for capture in captures:
        capture.close()
    for capture in captures:
        capture.wait()


class _Rtsp(_Capture):
    """A stream whose server is asked by hand first: OpenCV does not say why it cannot open one."""

    def __init__(self, url: SplitResult) -> None:
        super().__init__(self._open)
        self._url = url
        self._socket: socket.socket | None = None

    def close(self) -> None:
        super().close()
        if (sock := self._socket) is not None:
            shut(sock)

    def _open(self, is_wanted: Callable[[], bool]) -> Any:
        with connect(self._url, _OPEN_TIMEOUT_S) as sock:
            self._socket = sock
            if self._url.scheme.startswith("rtsp"):
                describe(sock, self._url)
        self._socket = None
        if not is_wanted():
            raise Lost("closed")
        cv2 = import_cv2()
        settings = {
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: int(_OPEN_TIMEOUT_S * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC: int(_READ_TIMEOUT_S * 1000),
        }
        if hasattr(cv2, "CAP_PROP_N_THREADS"):  # an unknown setting would fail the opening
            settings[cv2.CAP_PROP_N_THREADS] = _DECODER_THREADS
        capture = open_capture(self._url.geturl(), cv2.CAP_FFMPEG, settings)
        if not capture.isOpened():
            raise Lost("the stream cannot be opened")
        try:
            _skip_saved(capture, is_wanted)
        except Lost:
            capture.release()
            raise
        return capture


def _skip_saved(capture: Any, is_wanted: Callable[[], bool]) -> None:
    """Pass over the frames of a stream that are old already; ends with the first it waits for."""
    end = time.monotonic() + _SETTLE_S
    begin = time.monotonic()
    while is_wanted() and begin < end:
        if not capture.grab():
            raise Lost("no more pictures came")
        now = time.monotonic()
        if now - begin > _SAVED_S:
            return
        begin = now


def import_cv2() -> Any:
    """Return OpenCV, silent unless the program has used it before.

    Raises:
        MissingPackageError: Not installed.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(int(_READ_TIMEOUT_S)))
    try:
        import cv2
    except ImportError as error:
        raise MissingPackageError(_NO_PACKAGE) from error
    return cv2


def _check_ffmpeg() -> None:
    """Raise where OpenCV was built without FFmpeg, as in some systems' packages."""
    cv2 = import_cv2()
    if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
        raise MissingPackageError(
            "this OpenCV was built without FFmpeg, which RTSP and video files need; "
            "use a gst: source, or run `pip install 'edgecl[camera]'`"
        )


def _shot(picture: Any) -> Shot | None:
    """Return a picture that OpenCV decoded, or the JPEG of a camera; None where bytes are none."""
    if picture.ndim != 2 or len(picture) != 1:
        return Shot(pixels=_rgb(picture))
    data = picture.tobytes().rstrip(b"\0")  # buffers are padded
    return Shot(encoded=data) if data.startswith(JPEG_START) else None


def _rgb(picture: Any) -> Pixels:
    cv2 = import_cv2()
    pixels: Pixels = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return pixels


def _no_camera(path: Path) -> str:
    return f"there is no camera {path}; `ls /dev/video*` lists those that are there"


def _number(i: int) -> str:
    return f"{i:06}"

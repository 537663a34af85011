"""GStreamer pipelines, `gst:...`, run by `gst-launch-1.0` in a process of its own.

The OpenCV of PyPI is built without GStreamer, and the tool comes with every JetPack. The pipeline
is written as for the tool, without a sink; raw pictures come back through a pipe as YUV4MPEG2, of
which every stream says its size. Planes are 4:4:4 with full range, so that colours are those of the
picture whatever the camera sends.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import Image

from edgecl.errors import MissingPackageError, SourceError
from edgecl.types import Pixels

from .live import Counters, LiveSource, Lost, Shot

TOOL = "gst-launch-1.0"
_NO_TOOL = (
    f"gst: sources need {TOOL}, which is not installed; "
    "run `apt install gstreamer1.0-tools gstreamer1.0-plugins-good`"
)
# ITU-R BT.601 with full range, as in JPEG: what Pillow's YCbCr is.
_CAPS = "video/x-raw,format=(string)Y444,colorimetry=(string)1:4:0:0"
_MAX_LINE = 1024
# A pipeline that does not end by itself in this time after an interrupt is killed.
_END_S = 0.5
# What the tool says about a pipeline that can never run.
_WRONG = re.compile(
    r"erroneous pipeline|no element|could not link|could not construct|no property|syntax error"
    r"|cannot identify device|no such file|\b40[134]\b|unauthorized|not found",
    re.IGNORECASE,
)


def open_gst(spec: str, *, label: str | None, max_bytes: int) -> LiveSource:
    """Open a GStreamer pipeline; its process starts with the first frame that is asked for.

    Args:
        spec: `gst:` and a pipeline without sink, written as in a shell; no shell sees it.
        label: Class of all frames.
        max_bytes: Larger pictures (width x height x 3) end the pipeline.

    Raises:
        SourceError: No pipeline, or quotes that do not close.
        MissingPackageError: GStreamer's tool is not installed.
    """
    try:
        pipeline = shlex.split(spec.partition(":")[2])
    except ValueError as error:
        raise SourceError(f"the gst: pipeline cannot be read ({error})") from None
    # An option of the tool (to write a file, to load a plugin) is no part of a pipeline.
    if not pipeline or any(word.startswith("-") for word in pipeline):
        raise SourceError(
            "a gst: source needs a pipeline without options and without sink, for example "
            "'gst:v4l2src device=/dev/video0 ! videoconvert'"
        )
    tool = shutil.which(TOOL)
    if tool is None:
        raise MissingPackageError(_NO_TOOL)
    command = [tool, "-q", *pipeline, "!", "videoconvert", "!", _CAPS, "!", "y4menc", "!"]
    return LiveSource(spec, lambda counters: _Gst(command, counters, max_bytes), label=label)


class _Gst:
    def __init__(self, command: list[str], counters: Counters, max_bytes: int) -> None:
        self._command = command
        self._counters = counters
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            process = self._process
            if process is None or process.returncode is not None:
                return
            # An interrupt lets a camera's service (nvargus-daemon) take leave of its client.
            for number, wait in ((signal.SIGINT, _END_S), (signal.SIGKILL, _END_S)):
                try:
                    os.killpg(process.pid, number)
                    process.wait(wait)
                    return
                except ProcessLookupError:
                    return
                except subprocess.TimeoutExpired:
                    continue

    def __iter__(self) -> Iterator[Shot]:
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as pictures:
            try:
                with self._lock:
                    if self._is_closed:
                        raise Lost("closed")
                    # A group of its own: Ctrl-C in the terminal is ours to pass on.
                    self._process = subprocess.Popen(
                        [*self._command, "fdsink", f"fd={writer}", "sync=false"],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        pass_fds=[writer],
                        start_new_session=True,
                    )
            finally:
                os.close(writer)
            process = self._process
            assert process.stderr is not None  # it is a pipe
            said: deque[str] = deque(maxlen=20)
            listener = threading.Thread(
                target=_listen, args=(process.stderr, said), name="gst", daemon=True
            )
            listener.start()
            try:
                yield from self._shots(pictures)
                if not self._is_closed:
                    self._end(process, listener, said)
            finally:
                self.close()
                listener.join(_END_S)

    def _end(
        self, process: subprocess.Popen[bytes], listener: threading.Thread, said: deque[str]
    ) -> None:
        """Return if the pipeline came to its end, or raise what it died of."""
        try:
            status = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise Lost("the pipeline closed its output") from None
        listener.join(_END_S)
        if status == 0:
            return
        told = [line for line in said if re.search("error|warning", line, re.IGNORECASE)]
        text = (told or [*said] or [f"it ended with status {status}"])[0]
        if any(_WRONG.search(line) for line in said):
            raise SourceError(f"the gst: pipeline cannot run: {text}")
        raise Lost(text)

    def _shots(self, pictures: io.BufferedReader) -> Iterator[Shot]:
        head = pictures.readline(_MAX_LINE)
        if not head:
            return
        size = re.match(rb"YUV4MPEG2(?=.* C444).* W(\d+) H(\d+)", head)
        if size is None:
            raise SourceError("the gst: pipeline gives no raw video; leave its sink out")
        width, height = int(size[1]), int(size[2])
        n = width * height * 3
        if n > self._max_bytes:
            self._counters.add("oversize")
            raise SourceError(
                f"the gst: pipeline gives pictures of {width} x {height}, {n / 1e6:.0f} MB each; "
                f"the limit is {self._max_bytes / 1e6:g} MB"
            )
        # Some releases of GStreamer pad rows to four bytes; which it is shows at the next head.
        stride, is_sure = width, width % 4 == 0
        while pictures.readline(_MAX_LINE).startswith(b"FRAME"):
            data = pictures.read(stride * height * 3)
            if not is_sure and len(data) == n:
                is_sure = True
                if not b"FRAME".startswith(pictures.peek(5)[:5]):
                    stride = -(-width // 4) * 4
                    data += pictures.read(stride * height * 3 - n)
            if len(data) < stride * height * 3:
                if not self._is_closed:
                    self._counters.add("broken")
                return
            planes = np.frombuffer(data, np.uint8).reshape(3, height, stride)
            yield Shot(pixels=_rgb(planes[:, :, :width]))


def _rgb(planes: Pixels) -> Pixels:
    """Return (3, H, W) of Y, Cb, Cr as (H, W, 3)."""
    image = Image.merge("YCbCr", [Image.fromarray(np.ascontiguousarray(p)) for p in planes])
    return np.asarray(image.convert("RGB"))


def _listen(stderr: IO[bytes], said: deque[str]) -> None:
    with stderr:
        while line := stderr.readline(_MAX_LINE):
            said.append(line.decode("utf-8", "replace").strip())

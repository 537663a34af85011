"""A home that is served: for tests of the page, and to look at: `python tests/support/served.py`.

Its camera sees drawn parts: two are known, four are shown.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

import build
from edgecl.config import Config, HeadConfig
from edgecl.device import Device
from edgecl.exporters.onnx import init_home
from edgecl.exporters.shipped import shipped
from edgecl.runtime.options import Part
from edgecl.runtime.sources.live import LiveBase
from edgecl.runtime.sources.several import Several
from edgecl.serve.browser import ADDRESS, NAME
from edgecl.serve.live import Live
from edgecl.serve.run import served
from edgecl.serve.serving import Serving
from edgecl.serve.teacher import Teacher
from edgecl.stream.labeller import Labeller
from edgecl.stream.queue import CommandQueue
from edgecl.stream.run import StreamOptions
from edgecl.types import Frame, Skipped
from edgecl.unlearning.request import writing


def toy_home(path: Path, per_class: int = 6, parts: tuple[str, ...] = build.PARTS[:2]) -> Device:
    """Make a home that learned a few parts; some seconds."""
    engine = shipped("tf_efficientnet_lite0", image_size=64)
    assert engine is not None
    init_home(path, engine, Config(head=HeadConfig("ridge")))
    device = Device.open(path)
    with tempfile.TemporaryDirectory() as folder:
        device.learn(str(build.part_folder(Path(folder), per_class, parts=parts)))
    return device


class PartCamera(LiveBase):
    """A camera that sees drawn parts; four after each other, or the one that a test names."""

    def __init__(self, fps: float) -> None:
        super().__init__("camera")
        self.part = 0
        self.is_closed = threading.Event()
        self._fps = fps

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        for i in count(1):
            if self.is_closed.wait(1 / self._fps):
                return
            name = build.PARTS[self.part % 4 if self.part else (i // 40) % 4]
            pixels = np.asarray(build.part_picture(name, i, 64))
            yield Frame(id=str(i), pixels=pixels, source="camera", time=time.time())

    def close(self) -> None:
        self.is_closed.set()


class ToyStream:
    """A thread that shows, learns and obeys; it is the only one that writes to the home."""

    def __init__(self, device: Device, fps: float = 8.0, *, finds_unknown: bool = True) -> None:
        self.camera = PartCamera(fps)
        self._finds_unknown = finds_unknown
        self.serving = Serving(device, CommandQueue(), Live(), Teacher(), sources=("camera", NAME))
        self._thread = threading.Thread(target=self._run, name="stream")

    def __enter__(self) -> ToyStream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.camera.close()
        self._thread.join()

    @property
    def part(self) -> int:
        """Number of the part that the camera sees; 0 lets it see four in turn."""
        return self.camera.part

    @part.setter
    def part(self, part: int) -> None:
        self.camera.part = part

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        serving = self.serving
        parts = [Part("camera", "camera:"), Part(NAME, ADDRESS)]
        source = Several(parts, lambda url: serving.browser if url == ADDRESS else self.camera)
        with writing(serving.device.home) as session:
            options = StreamOptions(
                labeller=Labeller(
                    lambda: session.learner.labels, feed=serving.teacher, sources=[*source.parts]
                ),
                emit=lambda event: serving.live.tell("seen", event),
                show=serving.live.show,
                finds_unknown=self._finds_unknown,
                meant=serving.meant,
            )
            with served(
                session, serving, source, options,
                should_stop=self.camera.is_closed.is_set, tell=lambda text: None,
            ) as run:  # fmt: skip
                deque(run, maxlen=0)
            serving.queue.close()


def main() -> None:
    """Serve a toy home on the port that is given, or 8765, until Ctrl-C."""
    from edgecl.serve.page.server import Page, Wire

    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765
    folder = Path(tempfile.mkdtemp(prefix="served-"))
    try:
        device = toy_home(folder / "home")
        with ToyStream(device) as stream:
            page = Page(stream.serving, Wire(f"127.0.0.1:{port}"))
            page.start()
            print(page.url, page.url, sep="\n", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                page.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

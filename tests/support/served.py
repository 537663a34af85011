"""A home that is served: for tests of the page, and to look at: `python tests/support/served.py`.

The loop here does what that of `edgecl serve` does, on pictures that are drawn: it shows them,
learns what is held, and empties the queue of commands. Two parts are known, four are shown.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import build
from edgecl.config import Config, HeadConfig
from edgecl.device import Device
from edgecl.errors import EdgeclError
from edgecl.exporters.onnx import init_home
from edgecl.exporters.shipped import shipped
from edgecl.runtime.sources.messages import LabelWindow
from edgecl.serve.live import Live
from edgecl.serve.serving import Serving
from edgecl.serve.teacher import Teacher
from edgecl.session import open_predictor
from edgecl.stream.queue import CommandQueue
from edgecl.stream.view import Sight
from edgecl.types import Frame
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


class ToyStream:
    """A thread that shows, learns and obeys; it is the only one that writes to the home."""

    def __init__(self, device: Device, fps: float = 8.0) -> None:
        self.lessons: list[int] = []
        self.serving = Serving(
            device, CommandQueue(), Live(), Teacher(), self._take_back, ("camera",)
        )
        self.label: str | None = None
        self.part = 0
        self._fps = fps
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream")

    def __enter__(self) -> ToyStream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.serving.queue.close()
        self.serving.live.tell("stopped", {"restarting": False})

    def _run(self) -> None:
        i, learned = 0, 0
        predictor = open_predictor(self.serving.device.home)
        while not self._stopped.wait(1 / self._fps):
            while (work := self.serving.queue.take()) is not None:
                work.do()
                predictor = open_predictor(self.serving.device.home)
            for message in self.serving.teacher.poll():
                if isinstance(message, LabelWindow):
                    self.label = message.label
            i += 1
            name = build.PARTS[self.part % 4 if self.part else (i // 40) % 4]
            picture = build.part_picture(name, i, 64)
            frame = Frame(
                id=str(i),
                pixels=np.asarray(picture),
                source="camera",
                time=time.time(),
                label=self.label,
            )
            _, x = predictor.embed(np.asarray(picture))
            found = predictor.predict_features([frame.id], x, top=3)[0]
            state = "known" if found.score > 0.6 else "unsure"
            self.serving.live.show(
                Sight(frame, found.label, found.score, state, tuple(found.top), found.label)
            )
            if self.label is not None:
                learned += 1
                with writing(self.serving.device.home) as session:
                    session.learner.learn_many([frame], x)
                    session.learner.settle()
                predictor = open_predictor(self.serving.device.home)
            if i % 8 == 0:
                self.serving.live.tell("progress", {"seen": i, "learned": learned})

    def _take_back(self, uids: object) -> int:
        raise EdgeclError("the toy stream takes nothing back")


@contextmanager
def served(path: Path) -> Iterator[Serving]:
    """Serve a home by a stream of drawn pictures."""
    with ToyStream(Device.open(path)) as stream:
        yield stream.serving


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

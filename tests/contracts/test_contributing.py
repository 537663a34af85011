"""What CONTRIBUTING says is all that a new source, recipe, command or event needs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl import Device
from edgecl.home import Home
from edgecl.runtime.sources import OPENERS, open_source
from edgecl.runtime.sources.base import ListSource, Source
from edgecl.stream.commands import Command, Stop
from edgecl.stream.events import Event
from edgecl.stream.labeller import Labeller
from edgecl.stream.position import source_key, start_position
from edgecl.stream.run import StreamOptions, learn_stream
from edgecl.stream.state import Stream
from edgecl.unlearning.request import writing


def open_parts(spec: str, /, *, label: str | None, max_bytes: int) -> Source:
    """A source of generated parts: `parts:6` gives six of each."""
    frames = [build.part_frame(p, i) for i in range(int(spec[6:])) for p in build.PARTS]
    items = [(frame.id, lambda frame=frame: frame) for frame in frames]
    return ListSource(spec, items, labels=build.PARTS)


@pytest.fixture(autouse=True)
def with_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPENERS, "parts:", open_parts)


@pytest.fixture
def home(adapted_home: Path, copy_of: Callable[[Path], Path]) -> Home:
    return Home(copy_of(adapted_home))


def test_a_source_is_a_class_and_a_line(home: Home) -> None:
    device = Device(home)
    done = device.learn("parts:4")
    assert (done.seen, done.n_classes) == (4 * len(build.PARTS), len(build.PARTS))
    assert device.learn("parts:4", resume=True).learned == 0
    assert device.evaluate("parts:2").n == 2 * len(build.PARTS)


@dataclass(frozen=True, slots=True)
class Counted(Event):
    """How many samples were learned so far."""

    name = "counted"
    n: int

    def text(self) -> str:
        return f"{self.n} so far"


@dataclass(frozen=True, slots=True)
class Count(Command):
    """Say how many samples were learned."""

    def run(self, stream: Stream) -> None:
        stream.events.append(Counted(len(stream.lessons)))


class Counting(Labeller):
    """Asks for a count before every group, and stops at the third."""

    n = 0

    def poll(self) -> list[Command]:
        self.n += 1
        return [Count(), Stop()] if self.n == 3 else [Count()]


def test_a_command_and_its_event_are_a_class_each(home: Home) -> None:
    source = open_source("parts:40")
    told: list[Event] = []
    with writing(home) as session:
        key = source_key(home, "parts:40", None, None)
        start = start_position(home, session.learner, source, key, resume=False)
        options = StreamOptions(labeller=Counting(lambda: ()))
        run = learn_stream(
            home, session.learner, session.engine, source, key=key, start=start, options=options
        )
        with closing(run):
            for progress in run:
                told += progress.events
    counts = [event for event in told if isinstance(event, Counted)]
    assert len(counts) >= 3
    assert counts[0].fields() == {"text": counts[0].text()}
    assert [event.n for event in counts] == sorted(event.n for event in counts)


def test_a_recipe_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="an adapter trains with torch")
    from edgecl.adapters.bottleneck import adapt
    from edgecl.adapters.recipes import RECIPES, Recipe, recipe_of
    from edgecl.adapters.scene import Scene
    from edgecl.adapters.training import Training, train_adapter
    from edgecl.backbones import load_backbone

    heard: list[int] = []

    def nothing(scene: Scene):  # type: ignore[no-untyped-def]
        """A term that only counts its batches."""
        return lambda batch: heard.append(len(batch.rows)) or batch.z.sum() * 0

    monkeypatch.setitem(RECIPES, "mine", Recipe(anchors=(nothing,)))
    backbone = load_backbone("vit_tiny_patch16_224", weights="random", image_size=32)
    x = np.random.default_rng(0).uniform(-0.3, 0.3, (8, 3, 32, 32)).astype(np.float32)
    trained = train_adapter(
        adapt(backbone, rank=4),
        lambda i, view: x[i],
        np.arange(8) % 2,
        recipe=recipe_of("mine"),
        training=Training(epochs=1, views=1, batch_size=4, learning_rate=1e-3),
        seed=0,
    )
    assert trained.adapter
    assert heard

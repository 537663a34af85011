"""A candidate is answered beside what is served, on live frames, and is taken or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workloads

import build
from build import answer
from edgecl.config import GovernorConfig, LiveConfig
from edgecl.governed import take_back
from edgecl.governor.record import note_consolidated
from edgecl.home import Home
from edgecl.runtime.sources import Source
from edgecl.session import Session, open_learner, open_store, reading
from edgecl.store.adapters import Shadowed, adapter_rows, note_shadow
from edgecl.store.changes import changes_of
from edgecl.store.novel import entries
from edgecl.store.progress import Position
from edgecl.stream.events import ShadowEnded
from edgecl.stream.run import StreamOptions, learn_stream
from edgecl.types import Frame, Skipped
from edgecl.unlearning.request import writing

N = 12


class Camera(Source):
    """A live source of parts, a frame a second by its clock."""

    name, kind = "camera", "live"

    def __init__(self, labels: list[str | None], *, per_s: int = 1) -> None:
        self._labels, self._per_s = labels, per_s

    def __len__(self) -> int:
        return 0

    def ids(self, stop: int) -> Iterator[str]:
        return iter(())

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        for i, label in enumerate(self._labels):
            part = build.PARTS[i % 3]
            pixels = np.asarray(build.part_picture(part, 50 + i, 32))
            yield Frame(
                id=str(i), pixels=pixels, label=label, source=self.name, time=1e9 + i / self._per_s
            )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of three parts with a candidate, random and heard alone."""
    home = workloads.small_home(tmp_path / "home", capacity=100)
    workloads.teach_pictures(home.path)
    home.save_config(
        replace(
            home.config,
            governor=GovernorConfig(shadow_frames=N),
            live=LiveConfig(duplicate_cosine=1.0),
        )
    )
    with writing(home) as session, session.store.transaction(changes_head=False):
        uid = build.add_adapters(home, session.store, 1)
        # Heard alone, so that it says other things.
        session.store.connection.execute("UPDATE adapters SET body = json_set(body, '$.share', 1)")
        note_shadow(session.store, uid, Shadowed())
        note_consolidated(home, session.store, uid, (), 0.0)
    return home


def run(home: Home, labels: list[str | None], *, per_s: int = 1) -> list[Any]:
    with home.lock(), open_store(home) as store:
        source = Camera(labels, per_s=per_s)
        steps = learn_stream(
            home, open_learner(home, store), home.engine(), source, key="k",
            start=Position(0, b"", False), options=StreamOptions(emit=lambda event: None),
        )  # fmt: skip
        with closing(steps):
            return [event for step in steps for event in step.events]


def said(home: Home) -> tuple[str, Shadowed | None, int]:
    """Return the state of the consolidation, how far it is, and how many adapters are heard."""
    with reading(home) as session:
        (row,) = adapter_rows(session.store) or [None]
        change = next(c for c in changes_of(session.store) if c.kind == "consolidate")
        n_heard = len(session.served()[1])
    return change.state, None if row is None else row.shadow, n_heard


def test_a_candidate_is_not_heard_and_status_tells_of_it(home: Home) -> None:
    assert said(home) == ("candidate", Shadowed(), 0)
    status = answer("status", "--home", home.path)
    assert status["adapters"] == 0
    assert status["candidate"].startswith("0 of 0 live frames answered alike")


def test_after_so_many_frames_it_is_taken_unless_it_is_proved_worse(home: Home) -> None:
    events = run(home, [None] * N)
    (ended,) = [event for event in events if isinstance(event, ShadowEnded)]
    assert ended.is_taken
    assert said(home) == ("serving", None, 1)
    (change,) = [
        c for c in answer("changes", "--home", home.path)["changes"] if c["kind"] == "consolidate"
    ]
    assert change["shadow"]["frames"] == N
    assert change["shadow"]["named"] == 0
    assert f"of {N} live frames answered alike" in ended.text()


def test_one_that_named_frames_prove_worse_is_dropped(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = workloads.LABELS.values()
    wrong = {first: second, second: first}

    def answers(self: object, item: Any, candidate: object) -> list[tuple[str, float]]:
        truth = item.frame.label
        return [(truth, 1.0), (wrong[truth], 1.0)]

    monkeypatch.setattr("edgecl.stream.shadow.Shadow._answers", answers)
    events = run(home, [first if i % 2 else second for i in range(N)])
    (ended,) = [event for event in events if isinstance(event, ShadowEnded)]
    assert not ended.is_taken
    assert "is proved worse, and not taken" in ended.text()
    assert said(home) == ("refused", None, 0)
    with reading(home) as session:
        change = next(c for c in changes_of(session.store) if c.kind == "consolidate")
    assert change.body["shadow"] == {"frames": N, "agreed": 0, "named": N, "lost": N, "won": 0}


def test_the_answers_compared_are_those_that_are_and_would_be_served(home: Home) -> None:
    seen: list[tuple[str, str]] = []
    plain = Shadowed.plus

    def noted(self: Shadowed, served: str, new: str, truth: str | None) -> Shadowed:
        seen.append((served, new))
        return plain(self, served, new, truth)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shadowed, "plus", noted)
        run(home, [None] * (N - 1))
    with open_store(home) as store:
        (row,) = adapter_rows(store)
        with store.transaction(changes_head=False):
            note_shadow(store, row.uid, None)
        taken = Session(home, store).predictor()
        with store.transaction(changes_head=False):
            note_shadow(store, row.uid, Shadowed())
        before = Session(home, store).predictor()
        pictures = [f.pixels for f in Camera([None] * (N - 1)).frames() if isinstance(f, Frame)]
        wanted = [
            (before.predict(p).label, taken.predict(p).label) for p in pictures if p is not None
        ]
    assert seen == wanted
    assert any(a != b for a, b in wanted)


def test_what_is_answered_differently_waits_for_a_name(home: Home) -> None:
    run(home, [None] * (N - 1))
    _, shadow, _ = said(home)
    assert shadow is not None
    assert shadow.frames == 10  # what was committed
    with reading(home) as session:
        waiting = entries(session.store)
    assert 0 < len(waiting) <= N - 1 - shadow.agreed + 1


def test_one_frame_a_second_is_asked(home: Home) -> None:
    run(home, [None] * 40, per_s=4)
    _, shadow, n_heard = said(home)
    assert shadow == replace(shadow, frames=10)  # type: ignore[type-var]
    assert n_heard == 0


def test_a_candidate_can_be_dropped(home: Home) -> None:
    with writing(home) as session:
        change = next(c for c in changes_of(session.store) if c.kind == "consolidate")
        take_back(session, change.uid)
        assert not adapter_rows(session.store)
    assert said(home)[0] == "rolled_back"

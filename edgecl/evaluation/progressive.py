"""Test-then-train over a source: every frame is predicted before it is learned.

Reference: Gama, Sebastiao and Rodrigues 2013, "On evaluating stream learning algorithms".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType

import numpy as np

from edgecl.errors import RequestError
from edgecl.evaluation.metrics import Evaluation, evaluate
from edgecl.home import Home
from edgecl.learner import Learner, chain, open_engine, position_key
from edgecl.replay.store import Position, plain_text
from edgecl.runtime.engines.base import Engine
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.runtime.predictor import Predictor
from edgecl.runtime.sources import Source
from edgecl.types import Frame, Skipped, UpdateReport
from edgecl.unlearning.receipt import find_tombstone
from edgecl.unlearning.request import finish_requests


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after one commit.

    Args:
        start: Position of the source at which the run began.
        seen: Frames taken from the source by this run.
        learned: Frames learned.
        n_correct: Learned frames that were predicted rightly before.
        seconds: Time since the run began.
        n_classes: Classes that the head knows.
        skipped: Frames that could not be used, in this run.
        news: What to tell since the last commit: frames skipped, classes learned again.
        is_interrupted: Whether the run was asked to stop before the end.
        held_out: Frames held out as probes, and not learned (edgecl/replay/probes.py).
    """

    start: int = 0
    seen: int = 0
    learned: int = 0
    n_correct: int = 0
    seconds: float = 0.0
    n_classes: int = 0
    skipped: int = 0
    news: tuple[str, ...] = ()
    is_interrupted: bool = False
    held_out: int = 0

    @property
    def prequential_accuracy(self) -> float:
        """Share of the learned frames that were predicted rightly before; 0 without any."""
        return self.n_correct / self.learned if self.learned else 0.0

    @property
    def samples_per_second(self) -> float:
        """Frames taken a second."""
        return self.seen / self.seconds if self.seconds else 0.0


def start_position(
    home: Home, learner: Learner, source: Source, key: str, *, resume: bool
) -> Position:
    """Return where a run begins.

    Raises:
        RequestError: The source no longer begins with the frames that were learned.
    """
    beginning = Position(0, b"", False)
    if not resume:
        return beginning
    kept = learner.store.position(key) or beginning
    digest = b""
    n = 0
    for frame_id in source.ids(kept.n):
        digest = chain(home.key, digest, frame_id)
        n += 1
    if n != kept.n or digest != kept.digest:
        raise RequestError(
            f"source {source.name} no longer begins with the {kept.n} frames that were learned "
            "from it; name only the new pictures, or learn all again with --no-resume"
        )
    return kept


def source_key(home: Home, spec: str, label: str | None, shuffle_seed: int | None) -> str:
    """Return the key of a source's position; however a path is spelled, the key is the same."""
    place = spec if spec == "-" else ",".join(os.path.realpath(part) for part in spec.split(","))
    return position_key(home, "position", place, label, shuffle_seed)


def learn_stream(
    home: Home,
    learner: Learner,
    engine: Engine,
    source: Source,
    *,
    key: str,
    start: Position,
    limit: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    renew: Callable[[str | None], Engine | None] | None = None,
    reopen: Callable[[], Engine] | None = None,
) -> Iterator[Progress]:
    """Learn a source from a position on; yields after every commit, the last time at the end.

    An unlearning that another process asks for meanwhile is carried out between two commits; later
    frames of such a class or source are skipped, since the request came after they were on their
    way.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        engine: Its engine.
        source: Labelled frames.
        key: Key of the source's position.
        start: Where to begin.
        limit: Most frames to take.
        should_stop: Asked after every group of frames. Frames since the last commit are left to
            the run that resumes, so that a stopped stream ends in the head of one that was not.
        renew: Called before the first frame of a new class, with its name, and with None at the
            end; all before is committed. May put the home under another feature map, and then
            returns the engine that goes on from there.
        reopen: Gives the engine of the home's map after an unlearning has changed it; None opens
            it with the settings of the home.
    """
    begin = time.monotonic()
    config = home.config
    preprocessing = home.manifest.preprocessing
    learner.embed_views = lambda pictures: engine.run(
        np.stack([preprocessing.tensor(picture) for picture in pictures])
    )
    progress = Progress(start=start.n, n_classes=len(learner.head.classes))
    position = start
    waiting: list[Embedded] = []
    news: list[str] = []
    committed = progress
    # Whole batches of the head in every commit: a resumed stream then has the same batches.
    n_step = -(-config.store.commit_every // learner.head.batch_size) * learner.head.batch_size

    def commit(*, is_finished: bool = False) -> Progress:
        nonlocal position, committed
        for name in dict.fromkeys(item.frame.label or "" for item in waiting):
            news.extend(_relearned(home, learner, name))
        position = replace(position, is_finished=is_finished)
        width = learner.head.num_features
        x = np.array([item.feature for item in waiting], np.float32).reshape(-1, width)
        reports: list[UpdateReport] = learner.learn_many(
            [item.frame for item in waiting], x, position=(key, position)
        )
        committed = replace(
            progress,
            learned=progress.learned + sum(not r.is_held_out for r in reports),
            held_out=progress.held_out + sum(r.is_held_out for r in reports),
            n_correct=progress.n_correct + sum(r.is_correct and not r.is_held_out for r in reports),
            n_classes=len(learner.head.classes),
            seconds=time.monotonic() - begin,
            news=tuple(news),
        )
        waiting.clear()
        news.clear()
        return committed

    def embedded() -> Generator[list[Embedded | Skipped]]:
        return embed(
            _limited(source, position.n, None if limit is None else limit - progress.seen),
            preprocessing,
            engine,
            batch_size=config.engine.batch_size,
            max_pixels=home.max_pixels,
        )

    def is_new(item: Embedded | Skipped) -> bool:
        name = _label(item)
        if name is None or _unusable(item):
            return False
        return not learner.store.has_class(name) and name not in map(_label, waiting)

    unlearned: set[str] = set()
    closed: set[str] = set()

    def obey() -> Engine | None:
        """Carry out what another process asked for; returns the engine if the map changed."""
        store = learner.store
        if not store.has_requests():
            return None
        names = {uid: store.names_of(uid) for uid in store.names}
        sources = store.sources()
        before = store.feature_map
        for done in finish_requests(home, store, learner):
            body = done.receipt.body
            news.append(
                f"unlearned as another process asked (receipt {done.receipt.receipt_id})"
                + ("" if body["what"] == "sample" else "; its frames are skipped from here on")
            )
            unlearned.update(names.get(body.get("class_uid", 0), ()))
            closed.add(sources.get(body.get("source_uid", 0), ""))
        closed.discard("")
        if store.feature_map == before:
            return None
        return reopen() if reopen is not None else open_engine(home, store)

    is_stopped = False
    is_open = True
    while is_open:
        is_open = False
        with closing(embedded()) as groups:
            for group in groups:
                for item in group:
                    if renew is not None and is_new(item):
                        if waiting:
                            progress = commit()
                            yield progress
                        renewed = renew(_label(item))
                        if renewed is not None:  # this frame and those behind it are embedded anew
                            engine, is_open = renewed, True
                            break
                    name = item.id if isinstance(item, Skipped) else item.frame.id
                    position = Position(
                        position.n + 1, chain(home.key, position.digest, name), False
                    )
                    progress = replace(progress, seen=progress.seen + 1)
                    reason = _unusable(item)
                    if not reason and _label(item) in unlearned:
                        reason = "its class was unlearned while this source was learned"
                    if not reason and closed and _source(item) in closed:
                        reason = "its source was unlearned while it was learned"
                    if reason:
                        news.append(f"skipped {name}: {reason}")
                        progress = replace(progress, skipped=progress.skipped + 1)
                    elif isinstance(item, Embedded):
                        waiting.append(item)
                    if len(waiting) >= n_step:
                        progress = commit()
                        yield progress
                        renewed = obey()
                        if renewed is not None:
                            engine, is_open = renewed, True
                            break
                if is_open:
                    break
                # A live source is not waited for; one that can be read again keeps whole batches.
                if not group and len(source) == 0 and progress.seen > committed.seen:
                    progress = commit()
                    yield progress
                    renewed = obey()
                    if renewed is not None:
                        engine, is_open = renewed, True
                        break
                # Where every frame is skipped nothing is committed, and requests still come.
                if group and not waiting:
                    renewed = obey()
                    if renewed is not None:
                        engine, is_open = renewed, True
                        break
                if should_stop():
                    is_stopped = True
                    break
    if not is_stopped:
        is_finished = limit is None or position.n == len(source)
        commit(is_finished=is_finished)
        # A limit ends the run, not the stream: what it cut is consolidated when it is whole.
        if renew is not None and is_finished:
            renew(None)
    learner.settle()
    yield replace(committed, is_interrupted=is_stopped, seconds=time.monotonic() - begin)


def evaluate_stream(
    predictor: Predictor,
    source: Source,
    *,
    batch_size: int = 8,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> Evaluation:
    """Score a source's labelled frames; nothing is learned.

    Args:
        predictor: What is scored.
        source: Labelled frames.
        batch_size: Pictures in one call of the engine.
        aliases: Names of classes by the other names that labels may use.
    """
    pairs: list[tuple[str, str]] = []
    skipped: list[Skipped] = []
    groups = embed(
        source.frames(),
        predictor.preprocessing,
        predictor.engine,
        batch_size=batch_size,
        max_pixels=predictor.max_pixels,
    )
    with closing(groups):
        for group in groups:
            usable = [item for item in group if isinstance(item, Embedded) and item.frame.label]
            for item in group:
                if isinstance(item, Skipped):
                    skipped.append(item)
                elif not item.frame.label:
                    skipped.append(Skipped(item.frame.id, "it has no label"))
            if not usable:
                continue
            x = np.array([item.feature for item in usable])
            guesses = predictor.predict_features([item.frame.id for item in usable], x, top=1)
            for item, guess in zip(usable, guesses, strict=True):
                label = item.frame.label or ""
                pairs.append((aliases.get(label, label), guess.label))
    return evaluate(pairs, skipped=skipped)


def _limited(source: Source, start: int, limit: int | None) -> Iterator[Frame | Skipped]:
    return islice(source.frames(start), limit)


def _unusable(item: Embedded | Skipped) -> str:
    if isinstance(item, Skipped):
        return item.reason
    if item.frame.label is None:
        return "it has no label; put it into a sub-folder or name its class with --label"
    if not np.isfinite(item.feature).all():
        return "its feature is not finite"
    return ""


def _label(item: Embedded | Skipped) -> str | None:
    return item.frame.label if isinstance(item, Embedded) else None


def _source(item: Embedded | Skipped) -> str | None:
    return plain_text(item.frame.source) if isinstance(item, Embedded) else None


def _relearned(home: Home, learner: Learner, name: str) -> list[str]:
    if learner.store.has_class(name):
        return []
    found = find_tombstone(home, learner.store, "class", name)
    if found is None:
        return []
    return [
        f"class {name!r} was unlearned (receipt {found[1]}) and is now learned again, under a new "
        "uid"
    ]

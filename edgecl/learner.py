"""The learner: predict, store, sample, update, report. Read this file first.

`Learner.learn_many` is the whole of online learning: for each batch that the head wants, the head
predicts (the prequential score), stored samples are drawn, the new ones are written, the head is
updated, and everything commits in one transaction with the position in the source. If anything
fails, the store is as before and the head is taken back from it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from edgecl.calibration import save_scorer
from edgecl.errors import UsageError
from edgecl.heads.base import Head
from edgecl.home import Home
from edgecl.runtime.grid import quantise
from edgecl.runtime.preprocess import encode_png, picture_of, shrink
from edgecl.store.adapters import adapter_rows, descending, drop_adapters
from edgecl.store.erasure import delete_held_out, take_back
from edgecl.store.held_out import Probes
from edgecl.store.live_answers import LiveAnswer, note_answers
from edgecl.store.novel import entry_of, take
from edgecl.store.progress import Position
from edgecl.store.runs import Start, begin_run, note_reviewed
from edgecl.store.snapshots import snapshots_with
from edgecl.store.store import Store
from edgecl.store.text import name_bytes
from edgecl.store.view_batch import rest_of, views_of
from edgecl.types import Float16, Float32, Float64, Frame, Labels, UpdateReport

EmbedViews = Callable[[Sequence[Image.Image]], Float32]
Replay = tuple[Float16, Labels]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What must be known of a learned sample so that it can be taken back.

    Args:
        uid: Its uid.
        class_uid: Its class.
        source: Where it came from, as the store keeps it.
        x: Its quantised feature (D,), under the map that the store has.
        is_held_out: Whether it is a probe.
    """

    uid: int
    class_uid: int
    source: str
    x: Float16
    is_held_out: bool = False


class Learner:
    """A head and the store that it learns into.

    Args:
        store: Open store; its classes and statistics are taken over.
        head: Head of the store's feature width.
        seed: Seed of what is kept and replayed.
        shrink_to: Re-encode kept pictures whose shorter side is longer than this, pixels; None
            keeps the bytes as they came.
        max_pixels: Limit for decoding a picture again when it is re-encoded or viewed.
        embed_views: Gives the features (N, D) of N pictures; without it a kept sample has no
            views but its own feature.
        probes: Samples of each class that are held out for continual evaluation; with 0 a head in
            closed form is asked for kept ones. None switches it off, as 0 does with other heads.
        probe_side: Re-encode pictures of probes whose shorter side is longer than this, pixels:
            they stand beside the store's capacity, so they are kept small whatever it keeps.
        least_side: As `decode` has it, for what is decoded again.
    """

    def __init__(
        self,
        store: Store,
        head: Head,
        *,
        seed: int = 0,
        shrink_to: int | None = None,
        max_pixels: int = 50_000_000,
        embed_views: EmbedViews | None = None,
        probes: int | None = None,
        probe_side: int | None = None,
        least_side: int = 0,
    ) -> None:
        self.embed_views = embed_views
        self._is_left_out = probes == 0 and head.left_out_cost is not None
        self.probes = Probes(store, probes or 0) if probes or self._is_left_out else None
        self._probe_side = probe_side or shrink_to
        self.store = store
        self.head = head
        self._seed = seed
        self.shrink_to = shrink_to
        self._max_pixels, self._least_side = max_pixels, least_side
        self._start: Start | None = Start()
        self.reload()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the head's columns."""
        return tuple(self.store.names[uid] for uid in self.head.classes)

    def predict_many(self, x: Float32) -> Float64:
        """Return the head's scores (N, K) of features (N, D), columns as `labels`."""
        return self.head.predict_many(x)

    def begin(self, start: Start) -> None:
        """Let what is learned from here on be a run, which `edgecl undo` takes back as a whole.

        It begins with the first commit that learns; until then the run before it is the last one.
        """
        self._start = start

    def learn_one(self, frame: Frame, x: Float32) -> UpdateReport:
        """Learn one labelled frame with its feature (D,); one transaction."""
        return self.learn_many([frame], x[None])[0]

    def learn_many(
        self,
        frames: Sequence[Frame],
        x: Float32 | Float16,
        *,
        position: tuple[str, Position] | None = None,
        reviewed: Sequence[int] = (),
        answers: Sequence[LiveAnswer] = (),
    ) -> list[UpdateReport]:
        """Learn labelled frames with their features (N, D); one transaction.

        Some are held out instead: see edgecl/store/held_out.py.

        Args:
            frames: Frames with labels, in the order of the stream.
            x: Features of the store's frozen map; float16 are taken to be quantised already.
            position: Key and position of the source after these frames, committed with them.
            reviewed: For each frame the entry of the review queue that it was, which leaves the
                queue, or 0; empty if none was in it.
            answers: What was served of live ones among them.

        Raises:
            UsageError: A frame has no label.
            ShapeError: x is not (N, D) or not finite.
            StoreError: The store cannot be written; nothing was learned.
        """
        begin = time.perf_counter()
        reports: list[UpdateReport] = []
        features = quantise(x)
        try:
            with self.store.transaction():
                if frames and self._start is not None:
                    begin_run(self.store, self._start)
                if len(frames) > 1:
                    self.head.expect(features)
                for first in range(0, len(frames), self.head.batch_size):
                    part = slice(first, first + self.head.batch_size)
                    reports += self._learn_batch(frames[part], features[part])
                if self.probes is not None and frames:
                    self.probes.end_step(self.head, len(frames))
                if position is not None:
                    self.store.set_position(*position)
                for entry, report, frame in zip(reviewed, reports, frames, strict=False):
                    if entry:
                        note_reviewed(self.store, report.uid, entry_of(self.store, entry))
                        take(self.store, entry, self.store.class_uid(_label(frame)))
                if answers:
                    note_answers(self.store, answers)
                self.save_state()
        except BaseException:
            self.reload()
            raise
        if frames:
            self._start = None
            self.note_latency("learn", (time.perf_counter() - begin) / len(frames))
        return reports

    def undo(self, lessons: Sequence[Lesson], also: Callable[[], None] = lambda: None) -> None:
        """Take back samples that were just learned, in one transaction; changes the head.

        They leave the store, the statistics and the head, and a class of which nothing is left goes
        with them. A head in closed form is then bit for bit what it would be had it never learned
        them. A head by gradient learns anew from the kept samples, as after an unlearning. Kept
        pictures that they displaced do not come back. This mends a slip: there is no receipt, and
        copies made since are not looked for, nor adapters but those that know a class of which
        nothing is left; for that there is `edgecl forget`.

        Args:
            lessons: Samples that are still there, all learned under the store's feature map.
            also: Done in the same transaction.

        Raises:
            RequestError: One was never learned or is gone already; nothing was changed.
        """
        store, before = self.store, set(self.store.names)
        try:
            with store.transaction():
                learned = [lesson for lesson in lessons if not lesson.is_held_out]
                taken = store.whole_of_learned({o.uid: (o.class_uid, o.x) for o in learned})
                for lesson in learned:
                    take_back(store, lesson.uid, lesson.class_uid, lesson.source, lesson.x)
                delete_held_out(store, [item.uid for item in lessons if item.is_held_out])
                gone = before - set(store.names)
                if gone:  # what names a class that is not there cannot be served
                    adapters = adapter_rows(store)
                    saw = [row.uid for row in adapters if gone & set(row.saw)]
                    drop_adapters(store, descending(adapters, saw))
                self.head.take_off(taken, store, store.n_seen())
                self.save_state()
                also()
        except BaseException:
            self.reload()
            raise
        for uid in [uid for uid in gone if not snapshots_with(store, [uid], ())]:
            store.destroy_key(uid)

    def encoded(self, frame: Frame) -> bytes:
        """Return the picture of a frame as it is kept for replay."""
        return self._encoded(frame, self.shrink_to)

    def small(self, frame: Frame) -> Frame:
        """Return a frame with its picture as it is kept for replay, instead of pixels."""
        return replace(frame, encoded=self.encoded(frame), pixels=None)

    def note_latency(self, stage: str, seconds: float) -> None:
        """Count how long a stage took, for `edgecl report`; written with the next scores.

        Nothing is counted where continual evaluation is off.

        Args:
            stage: Its name. `learn` is a frame's share of one `learn_many`, commit included.
            seconds: How long it took.
        """
        if self.probes is not None:
            self.probes.note_latency(stage, seconds)

    def settle(self, *, anew: bool = False) -> None:
        """Make the head fit to be deployed, and keep what it then serves at hand.

        Args:
            anew: Also if that is kept already: more is known of how far it can be believed.
        """
        self.head.settle(self.store)
        if anew or self.store.load_head("scorer", self.head.name) is None:
            with self.store.transaction(changes_head=False):
                save_scorer(self.store, self.head)
                self.save_state(at_end=True)
                if self.probes is not None:
                    self.probes.flush()

    def save_state(self, *, at_end: bool = False) -> None:
        """Write what the head learned and the statistics do not hold; inside a transaction.

        And their total, when that pays.

        Args:
            at_end: Whether nothing more is learned for now.
        """
        state = self.head.state()
        if state is not None:
            self.store.save_head("state", self.head.name, state)
        if self.store.total_is_due(at_end=at_end) and (whole := self.head.whole()) is not None:
            self.store.save_total(whole)

    def reload(self) -> None:
        """Take the head back from the store, as after the last commit."""
        if self.store.lost_classes():
            # What was committed also knows classes that nobody can read any more.
            self.head.rebuild(self.store)
            return
        state = self.store.load_head("state", self.head.name)
        self.head.restore(self.store.all_moments(), state)

    def _learn_batch(self, frames: Sequence[Frame], features: Float16) -> list[UpdateReport]:
        begin = time.perf_counter()
        store, head = self.store, self.head
        names = [store.canonical(_label(frame)) for frame in frames]
        # As it is learned, so that a head need not score it twice.
        predicted = self._predicted(features.astype(np.float32))
        is_held = [False] * len(frames)
        if self.probes is not None:
            is_held = self.probes.choose(names, features)
        n_new = is_held.count(False)
        rng = np.random.default_rng([self._seed, store.step])
        replay = self._draw(n_new, rng) if n_new else None

        written = []
        y = []
        rows = zip(frames, features, names, predicted, is_held, strict=True)
        for frame, row, name, guess, held in rows:
            is_new = not store.has_class(name)
            class_uid = store.add_class(name)
            y.append(class_uid)
            if self.probes is not None:
                self.probes.note_prediction(class_uid, is_right=guess == name, is_new=is_new)
            if self.probes is not None and held:
                small = self._encoded(frame, self._probe_side)
                uid = self.probes.add(class_uid, row, small, frame, is_right=guess == name)
            said = float(guess == name) if self._is_left_out else None
            written.append((uid, False) if held else self._write(frame, row, class_uid, rng, said))
        self._add_views([uid for uid, is_stored in written if is_stored])

        if n_new:
            learned = np.flatnonzero(~np.array(is_held))
            head.learn_many(features[learned], np.array(y, dtype=np.int64)[learned], replay)

        latency_ms = (time.perf_counter() - begin) * 1e3 / len(frames)
        return [
            UpdateReport(uid, guess, guess == name, len(head.classes), is_stored, latency_ms, held)
            for (uid, is_stored), guess, name, held in zip(
                written, predicted, names, is_held, strict=True
            )
        ]

    def _predicted(self, x: Float32) -> list[str | None]:
        """Return the class that the head takes each feature (N, D) for; None while it has none."""
        head = self.head
        if not head.classes:
            return [None] * len(x)
        best = head.predict_many(x).argmax(axis=1)
        return [self.store.names[head.classes[i]] for i in best]

    def _write(
        self,
        frame: Frame,
        row: Float16,
        class_uid: int,
        rng: np.random.Generator,
        said: float | None,
    ) -> tuple[int, bool]:
        """Store a sample; returns its uid and whether its picture is kept for replay."""
        return self.store.add_sample(
            class_uid,
            row,
            lambda: self.encoded(frame),
            source=frame.source,
            frame=frame.id,
            time=frame.time or time.time(),
            rng=rng,
            score=said,
        )

    def _draw(self, n_new: int, rng: np.random.Generator) -> Replay | None:
        """Draw what the head's profile wants beside so many new samples."""
        store, profile, n = self.store, self.head.profile, self.head.n_replay
        if not n or self.embed_views is None or profile.n_views == 1:
            return store.draw(n, rng)
        rest = rest_of(store.n_stored_samples, n_new, n, profile.n_views)
        return store.draw_due(max(1, n // profile.n_views), rest=rest, n_views=profile.n_views)

    def _add_views(self, uids: Sequence[int]) -> None:
        """Embed strong views of new samples, drawn from the pictures as they are kept."""
        n_views = self.head.profile.n_views
        uids = [uid for uid in uids if self.store.is_stored(uid)]
        if self.embed_views is None or n_views == 1 or not uids:
            return
        drawn = views_of(
            self.store, uids, n_views=n_views, seed=self._seed, max_pixels=self._max_pixels,
            least_side=self._least_side,
        )  # fmt: skip
        x = self.embed_views([image for _, view, image in drawn if view])
        for uid, own in zip(uids, quantise(x).reshape(len(uids), n_views - 1, -1), strict=True):
            self.store.add_views(uid, own)

    def _encoded(self, frame: Frame, side: int | None) -> bytes:
        """Return the picture as it is kept, smaller if its shorter side is longer than `side`."""
        if side is not None and not 0 < frame.side <= side:
            image = picture_of(frame, max_pixels=self._max_pixels, least_side=self._least_side)
            if min(image.size) > side:
                return shrink(image, side)
        if frame.encoded is not None:
            return frame.encoded
        assert frame.pixels is not None
        return encode_png(frame.pixels)


def _label(frame: Frame) -> str:
    if frame.label is None:
        raise UsageError(f"frame {frame.id} has no label; give one, or name a class with --label")
    return frame.label


def position_key(home: Home, *parts: object) -> str:
    """Return the key under which a source's position is kept.

    A keyed hash: a path may name a class, and must not survive its unlearning.
    """
    text = "\0".join(str(part) for part in parts)
    return hmac.new(home.key, name_bytes(text), hashlib.sha256).hexdigest()


def chain(key: bytes, digest: bytes, frame_id: str) -> bytes:
    """Return the digest of a position one frame further; keyed, since an id may name a class."""
    return hmac.new(key, digest + name_bytes(frame_id), hashlib.sha256).digest()

"""Consolidation: the slow path, which trains an adapter on the kept pictures.

What a session taught is trained into a new adapter (edgecl/adapters/training.py), which becomes
part of the feature map; every kept picture is embedded anew, the head learns them from nothing, and
all of it commits in one transaction with the record of which classes the adapter saw.
Before that, old and new map are compared on pictures that neither the adapter nor the two compared
heads saw; if accuracy on them falls, nothing is taken.

Method: MOS (Sun et al. 2025, arXiv:2412.09441). Departures, by measurement (docs/decisions/0009):
kept pictures of earlier classes are trained on too, without MOS's merge, and what predicts is the
online head on the newest adapter, one forward pass. MOS as published is a matter of settings.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from edgecl.adapters.bank import bank_scorer
from edgecl.adapters.bottleneck import adapt, new_adapter
from edgecl.adapters.training import Training, train_adapter
from edgecl.backbones import Backbone
from edgecl.errors import DecodeError, IntegrityError, RequestError
from edgecl.heads import make_head_of
from edgecl.heads.base import Head, Memory
from edgecl.heads.statistics import Kind, Moments
from edgecl.home import Home
from edgecl.learner import (
    Learner,
    Say,
    change_map,
    embed_probes,
    embed_stored,
    keep_scorer,
)
from edgecl.replay.adapters import add_adapter, first_that_saw, mean_adapter, task_adapters
from edgecl.replay.store import Store
from edgecl.runtime.adapters import Adapter, digest_of, mean_of
from edgecl.runtime.augment import strong_view
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.preprocess import decode
from edgecl.runtime.scoring import BankScorer
from edgecl.types import Float16, Float32

Labels = npt.NDArray[np.int64]
# Of a class's kept pictures this share, at most so many, judges an adapter and trains none.
_PROBE_SHARE = 0.1
_PROBE_MOST = 100
_PROBE_LEAST = 2
_GOLDEN = 2_654_435_761


@dataclass(frozen=True, slots=True)
class Consolidated:
    """What a consolidation did.

    Args:
        accepted: Whether the new adapter was taken.
        adapter: Its uid, or None.
        classes: Names of the classes of the session.
        samples: Pictures that it was trained on.
        n_probe: Pictures that judged it.
        accuracy_before: Share of those that were right under the old map.
        accuracy_after: And under the new one.
        seconds: Time of the whole.
        parts: Seconds of its parts.
    """

    accepted: bool
    adapter: int | None
    classes: tuple[str, ...]
    samples: int
    n_probe: int
    accuracy_before: float
    accuracy_after: float
    seconds: float
    parts: dict[str, float]


def consolidate(
    home: Home,
    learner: Learner,
    backbone: Backbone,
    engine: OnnxEngine,
    *,
    training: Training | None = None,
    say: Say = lambda what, done, of: None,
) -> Consolidated:
    """Train an adapter on what the last session taught, and take it if it does not harm.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        backbone: The backbone that the home's engine was made from.
        engine: The home's engine, which must take adapters.
        training: Settings; None takes the home's.
        say: Told about progress.

    Raises:
        IntegrityError: Another backbone than the engine's, or a kept picture cannot be decoded.
        RequestError: See `plan_of`, or the features of the trained adapter are not finite.
    """
    begin = time.perf_counter()
    store, config = learner.store, home.config.consolidation
    check_backbone(home, backbone)
    training = training or Training(epochs=config.epochs, views=config.views, merge=config.merge)
    bank = task_adapters(store)
    plan = plan_of(home, store)
    session, probe, trained_on = plan.session, plan.probe, plan.trained_on
    network = adapt(backbone, rank=home.manifest.adapter_rank)
    owned = {c for task in bank for c in task.task}
    y = np.array([c for _, c in trained_on], dtype=np.int64)
    pictures = [store.picture(uid) for uid, _ in trained_on]

    def pixels(i: int, view: int) -> Float32:
        try:
            image = decode(pictures[i], max_pixels=home.max_pixels)
        except DecodeError as error:
            raise IntegrityError(
                f"the kept picture of sample {trained_on[i][0]} cannot be used ({error}); restore "
                "the home from a backup"
            ) from error
        changed = strong_view(image, seed=config.seed, uid=trained_on[i][0], view=view)
        return home.manifest.preprocessing.tensor(changed)

    say("training", 0, training.epochs)
    trained = train_adapter(
        network,
        pixels,
        y,
        start=bank[-1].adapter if bank else new_adapter(network.shapes, seed=config.seed),
        earlier_mean=mean_adapter(bank),
        class_means=_class_means(store, [c for c in store.names if c not in session]),
        training=training,
        seed=config.seed + len(bank),
        on_epoch=lambda epoch: say("training", epoch, training.epochs),
    )
    training_seconds = time.perf_counter() - begin
    adapters = [*(task.adapter for task in bank), trained.adapter]
    active = trained.adapter if config.bank == "last" else mean_of(adapters)
    features = embed_stored(home, store, engine.with_adapters(active), say=say)
    embedding_seconds = time.perf_counter() - begin - training_seconds
    if not all(np.isfinite(x).all() for x in features.values()):
        raise RequestError(
            "the training came to an adapter whose features are not finite; nothing was taken; try "
            "other [consolidation] settings"
        )

    before, after = _judge(home, store, probe, features)
    scorer = None
    if config.bank in ("two", "all"):
        tasks = [*(task.task for task in bank), session]
        built = _Bank(home, store, engine, adapters, tasks, features)
        after, scorer = built.accuracy(probe), built.scorer(frozenset())
    seconds = {**asdict(trained.seconds), "training": training_seconds}
    seconds["embedding"] = embedding_seconds
    accepted = after >= before
    probes = embed_probes(home, store, engine.with_adapters(active)) if accepted else {}
    adapter = None
    saw = {int(c): int(n) for c, n in zip(*np.unique(y, return_counts=True), strict=True)}
    # A class may stand in the judgement or in the spreading term alone: the adapter depends on it
    # all the same, and goes with it unless an earlier one goes already.
    saw |= {c: 0 for c in store.names if c not in saw and first_that_saw(store, c) is None}
    try:
        with store.transaction(changes_head=accepted):
            if accepted:
                adapter = add_adapter(
                    store,
                    trained.adapter,
                    saw=saw,
                    task=tuple(c for c in session if c not in owned),
                    body={
                        "feature_map": home.manifest.feature_map,
                        "training": asdict(training),
                        "replay": config.replay,
                        "n_probe": len(probe),
                        "newest_sample": max(uid for uid, _ in trained_on),
                        "sources": store.sources_of([uid for uid, _ in trained_on]),
                        "accuracy_before": before,
                        "accuracy_after": after,
                        "step_before": store.consolidated_step,
                        "class_before": store.attempted_class,
                    },
                )
                change_map(home, learner, digest_of(active), features, probes)
                if scorer is not None:
                    keep_scorer(store, learner.head, scorer, bank=config.bank)
                store.note_consolidation(store.step)
            store.note_attempt(max(store.names))
    except BaseException:
        learner.reload()
        raise
    return Consolidated(
        accepted=accepted,
        adapter=adapter,
        classes=tuple(store.names[c] for c in session),
        samples=len(trained_on),
        n_probe=len(probe),
        accuracy_before=before,
        accuracy_after=after,
        seconds=time.perf_counter() - begin,
        parts={name: round(value, 3) for name, value in seconds.items()},
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a consolidation would train on.

    Args:
        session: Uids of the classes that were learned since the last one.
        probe: Uids of the pictures that judge.
        trained_on: uid and class uid of the pictures that train.
    """

    session: tuple[int, ...]
    probe: frozenset[int]
    trained_on: list[tuple[int, int]]


def plan_of(home: Home, store: Store) -> Plan:
    """Return what a consolidation would train on; needs no backbone, so ask it first.

    Raises:
        RequestError: Nothing new since the last consolidation, or too few kept pictures.
    """
    session = store.classes_since(store.consolidated_step)
    if not session:
        raise RequestError(
            "nothing was learned since the last consolidation; learn first with "
            "`edgecl train-stream SOURCE`"
        )
    rows = store.stored_samples()
    lost = set(store.names) - {c for _, c in rows}
    if lost:
        raise RequestError(
            f"no picture of {', '.join(store.names[c] for c in sorted(lost))} is kept, so a new "
            "feature map would lose it; learn some again, or forget it"
        )
    probe = probe_of(rows)
    replay = home.config.consolidation.replay
    trained_on = [(uid, c) for uid, c in rows if uid not in probe and (replay or c in session)]
    n_classes = len({c for _, c in trained_on})
    if n_classes < 2 or len(probe) < _PROBE_LEAST:
        raise RequestError(
            f"{len(trained_on)} kept pictures to train on (classes: {n_classes}) and {len(probe)} "
            "to judge by are too few to train an adapter; expected two classes at least and some "
            "ten pictures of each"
        )
    return Plan(session, probe, trained_on)


def is_due(store: Store, every: int, name: str | None) -> bool:
    """Whether a consolidation comes before a class of this name is learned.

    Args:
        store: The store.
        every: New classes between two consolidations.
        name: The class about to be learned; None asks at the end of a stream.
    """
    if name is not None and store.has_class(name):
        return False
    return sum(uid > store.attempted_class for uid in store.names) >= every


def check_backbone(home: Home, backbone: Backbone) -> None:
    """Check that a backbone is the one that the home's engine was made from.

    Raises:
        IntegrityError: It is another, or has other weights.
    """
    manifest = home.manifest
    ours = (backbone.name, backbone.weights_sha256, backbone.taps, backbone.preprocessing)
    theirs = (manifest.backbone, manifest.weights_sha256, manifest.taps, manifest.preprocessing)
    if ours != theirs:
        raise IntegrityError(
            f"the home was made from {manifest.backbone} with weights "
            f"{manifest.weights_sha256[:12]}... ({manifest.weights_source}), given is "
            f"{backbone.name} with {backbone.weights_sha256[:12]}...; name the same weights with "
            "--weights FILE"
        )


def probe_of(rows: list[tuple[int, int]]) -> frozenset[int]:
    """Choose the pictures that judge: about a tenth of each class's, at most 100.

    A function of the uid alone, so that a picture that judges never trains in a later task.

    Args:
        rows: uid and class uid of all kept samples, oldest first.
    """
    n_of: Counter[int] = Counter()
    chosen = set()
    for uid, c in rows:
        # Multiples of the golden ratio: spread evenly over the uids, every tenth or so.
        if (uid * _GOLDEN) % 2**32 < _PROBE_SHARE * 2**32 and n_of[c] < _PROBE_MOST:
            chosen.add(uid)
            n_of[c] += 1
    return frozenset(chosen)


class _Bank:
    """MOS's classifier on the kept pictures, under every adapter that it wants."""

    def __init__(
        self,
        home: Home,
        store: Store,
        engine: OnnxEngine,
        adapters: list[Adapter],
        tasks: list[tuple[int, ...]],
        features: Mapping[int, Float16],
    ) -> None:
        self._seed = home.config.consolidation.seed
        self._names = dict(store.names)
        self._rows = store.stored_samples()
        is_pair = home.config.consolidation.bank == "two"
        self._maps: list[Mapping[int, Float16]] = [
            embed_stored(home, store, engine.with_adapters(adapter))
            for adapter in (adapters[:1] if is_pair else adapters)
        ]
        if is_pair:
            self._maps.append(features)
        self._task_of = dict.fromkeys(store.names, 0)
        for number, task in reversed(list(enumerate(tasks))):
            for c in task:
                self._task_of[c] = min(number, len(self._maps) - 1)

    def scorer(self, but: frozenset[int]) -> BankScorer:
        """Build the classifier without some pictures; a class of only those keeps them."""
        kept: dict[int, list[int]] = {c: [] for c in self._names}
        for uid, c in self._rows:
            kept[c].append(uid)
        kept = {c: [u for u in uids if u not in but] or uids for c, uids in kept.items()}
        first, own = (
            {c: np.array([self._maps[number(c)][uid] for uid in uids]) for c, uids in kept.items()}
            for number in (lambda c: 0, self._task_of.__getitem__)
        )
        return bank_scorer(
            first, own, self._task_of, self._names, n_maps=len(self._maps), seed=self._seed
        )

    def accuracy(self, probe: frozenset[int]) -> float:
        """Return the accuracy on pictures of a classifier built without them."""
        scorer = self.scorer(probe)
        held_out = [(uid, c) for uid, c in self._rows if uid in probe]
        x = np.array([np.concatenate([of[uid] for of in self._maps]) for uid, _ in held_out])
        best = scorer.scores(x.astype(np.float32)).argmax(axis=1)
        right = [
            scorer.labels[i] == self._names[c] for i, (_, c) in zip(best, held_out, strict=True)
        ]
        return float(np.mean(right))


def _judge(
    home: Home, store: Store, probe: frozenset[int], features: Mapping[int, Float16]
) -> tuple[float, float]:
    """Return the accuracy on the probe under the old and the new map, heads without the probe."""
    rows = store.stored_samples()
    old = {uid: x for (uid, _), x in zip(rows, store.stored_rows()[0], strict=True)}
    held_out = [(uid, c) for uid, c in rows if uid in probe]
    kept = [(uid, c) for uid, c in rows if uid not in probe]
    before = Without(store, old, held_out)
    after = Rows(store.statistic, features, kept)
    accuracies = []
    for memory, by_uid in ((before, old), (after, features)):
        head = make_head_of(home.config.head, store.num_features, codebook=store.codebook)
        head.rebuild(memory)
        head.settle(memory)
        accuracies.append(_accuracy(head, by_uid, held_out))
    return accuracies[0], accuracies[1]


def _accuracy(head: Head, features: Mapping[int, Float16], rows: list[tuple[int, int]]) -> float:
    x = np.array([features[uid] for uid, _ in rows], dtype=np.float32)
    best = np.array(head.classes)[head.predict_many(x).argmax(axis=1)]
    return float((best == [c for _, c in rows]).mean())


class Rows(Memory):
    """Kept samples under another map, as a head's memory."""

    def __init__(
        self, kind: Kind, features: Mapping[int, Float16], rows: list[tuple[int, int]]
    ) -> None:
        self._kind = kind
        self._x = np.array([features[uid] for uid, _ in rows])
        self._y = np.array([c for _, c in rows], dtype=np.int64)

    @property
    def classes(self) -> tuple[int, ...]:
        """Uids of the classes, in the order in which they came."""
        return tuple(sorted(set(self._y.tolist())))

    def moments(self, y: int) -> Moments:
        """Return the statistics of class y."""
        return Moments.of(self._x[self._y == y], self._kind)

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of every class; each is made when it is asked for."""
        return _Lazy(self.classes, self.moments)

    def stored_rows(self) -> tuple[Float16, Labels]:
        """Return all rows."""
        return self._x, self._y


class Without(Memory):
    """A store's memory without some of its kept samples."""

    def __init__(
        self, store: Store, features: Mapping[int, Float16], but: list[tuple[int, int]]
    ) -> None:
        self._store = store
        self._but = Rows(store.statistic, features, but)
        self._uids = {uid for uid, _ in but}

    def moments(self, y: int) -> Moments:
        """Return the statistics of class y."""
        whole = self._store.moments(y)
        return whole.minus(self._but.moments(y)) if y in self._but.classes else whole

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of every class; each is made when it is asked for."""
        return _Lazy(tuple(self._store.names), self.moments)

    def stored_rows(self) -> tuple[Float16, Labels]:
        """Return the kept samples but those."""
        x, y = self._store.stored_rows()
        kept = np.array([uid not in self._uids for uid, _ in self._store.stored_samples()])
        return x[kept], y[kept]


class _Lazy(Mapping[int, Moments]):
    """Statistics by class that are made one at a time: a Gram matrix is 25 MB."""

    def __init__(self, classes: tuple[int, ...], of: Callable[[int], Moments]) -> None:
        self._classes, self._of = classes, of

    def __getitem__(self, uid: int) -> Moments:
        return self._of(uid)

    def __iter__(self) -> Iterator[int]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


def _class_means(store: Store, classes: list[int]) -> Float32:
    """Return the mean features (M, D) of classes under the store's map."""
    means = [m.total / m.n for m in map(store.moments, classes) if m.n]
    return np.array(means, dtype=np.float32).reshape(-1, store.num_features)

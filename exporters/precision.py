"""What a bundle holds at a precision: engine, head, and a fused file if asked for.

    fp32    the home's engine and head, as they are
    fp16    the engine with float16 inside, and the home's head
    int8    the engine quantised on pictures, and a head for its features (exporters/resolve.py)

Whatever is made is compared with the home's own on pictures before it is written, and refused
beyond the limit of its precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecl.errors import RequestError, UsageError
from edgecl.home import Home
from edgecl.runtime.adapters import Adapter
from edgecl.runtime.engines.onnx import OnnxEngine, open_session
from edgecl.runtime.grid import quantise
from edgecl.runtime.manifest import Manifest
from edgecl.runtime.mixture import plain_of
from edgecl.runtime.scoring import Scorer
from edgecl.session import Session
from edgecl.store.store import Store
from edgecl.types import Float16, Float32, Say

from .fused import fuse
from .graph import to_half, versions
from .parity import (
    LEAST_AGREEMENT_FUSED,
    LEAST_AGREEMENT_INT8,
    LEAST_COSINE_FP16,
    batches_of,
    best_labels,
    check_parity,
    features_of,
    parity_of,
)
from .pictures import N_CALIBRATED, Pictures, from_folder
from .quantize import RECIPES, calibrate, quantise_model, worst_nodes
from .resolve import Verdict, beside_opinions, candidates, choose, judge_of

PRECISIONS = ("fp32", "fp16", "int8")
# Of the nodes that can be quantised these shares, the worst ones, stay float32 in turn until the
# parity is within its limit.
_FALLBACK_SHARES = (0.0, 0.04, 0.1, 0.25)


@dataclass(frozen=True, slots=True)
class Options:
    """How a bundle is made; kept in the registry, so that it can be made anew.

    Args:
        precision: `fp32`, `fp16` or `int8`.
        recipe: Of int8: `cpu` or `trt`; None takes `cpu`.
        fused: Also write one ONNX file from picture to scores.
        calibration: Of int8: a folder of pictures to calibrate on; None takes kept ones.
        allow_parity_loss: Write also what is beyond the limit of its precision.

    Raises:
        UsageError: An unknown word, or an option that needs int8.
    """

    precision: str = "fp32"
    recipe: str | None = None
    fused: bool = False
    calibration: Path | None = None
    allow_parity_loss: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"precision {self.precision!r} is unknown; expected {', '.join(PRECISIONS)}"
            )
        if self.recipe not in (None, *RECIPES):
            raise UsageError(f"recipe {self.recipe!r} is unknown; expected {', '.join(RECIPES)}")
        if self.precision != "int8" and (self.recipe or self.calibration):
            raise UsageError(
                f"--recipe and --calibration belong to int8, not to {self.precision}; leave them "
                "out, or say --precision int8"
            )

    def as_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` reads back."""
        return {
            "precision": self.precision,
            "recipe": self.recipe,
            "fused": self.fused,
            "calibration": None if self.calibration is None else str(self.calibration),
            "allow_parity_loss": self.allow_parity_loss,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Options:
        """Read what `as_json` returned, also without what an older edgecl did not know."""
        folder = values.get("calibration")
        return cls(
            precision=str(values["precision"]),
            recipe=values.get("recipe"),
            fused=bool(values.get("fused", False)),
            calibration=None if folder is None else Path(folder),
            allow_parity_loss=bool(values.get("allow_parity_loss", False)),
        )


@dataclass(frozen=True, slots=True)
class Content:
    """What goes into a bundle.

    Args:
        manifest: Of the engine.
        model: The engine file.
        scorer: The head for its features.
        fused: The fused file, or None.
        calibrated_on: Uids of the classes whose pictures the engine was calibrated on.
        report: JSON values for people: how it was made and judged.
    """

    manifest: Manifest
    model: bytes
    scorer: Scorer
    fused: bytes | None = None
    calibrated_on: tuple[int, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)


def content_of(
    home: Home,
    store: Store,
    scorer: Scorer,
    adapters: Sequence[Adapter],
    options: Options,
    say: Say = lambda what, done, of: None,
) -> Content:
    """Make what goes into a bundle and check it.

    Args:
        home: The home, whose lock the caller holds.
        store: Its open store.
        scorer: What predicts in it.
        adapters: What makes the scorer's features, as `learner.served` gives them.
        options: How it is made.
        say: Told about progress.

    Raises:
        IntegrityError: The engine was changed, a class is blocked, or a kept picture is broken.
        MissingPackageError: onnx is not installed and another precision than fp32, or a fused
            file, was asked for.
        ParityError: What was made is beyond the limit of its precision.
        RequestError: The home does not have what this needs.
        SourceError: The calibration folder cannot be read.
    """
    scorer.arrays()  # raises when a class is blocked, before anything is made of its pictures
    has_adapters = bool(adapters)
    model = home.engine_bytes(has_adapters=has_adapters)
    content = Content(home.engine_manifest(has_adapters=has_adapters), model, scorer)
    if options.precision == "fp16":
        content = _half(home, store, content, adapters, options)
    elif options.precision == "int8":
        content = _Int8(home, store, content, adapters, options, say).made()
    return _with_fused(home, store, content, adapters, options) if options.fused else content


def _half(
    home: Home, store: Store, own: Content, adapters: Sequence[Adapter], options: Options
) -> Content:
    model = to_half(own.model)
    pictures = Pictures(home, store)
    how = home.manifest.preprocessing
    ours, theirs = (
        features_of(_engine(home, m, adapters), pictures.take(pictures.order), how)
        for m in (model, own.model)
    )
    is_same = best_labels(own.scorer, ours) == best_labels(own.scorer, theirs)
    parity = parity_of(ours, theirs, float(is_same.mean()))
    check_parity(
        "the smallest cosine of fp16 features to fp32 ones",
        parity.cosine,
        LEAST_COSINE_FP16,
        allow_loss=options.allow_parity_loss,
    )
    manifest = _manifest(own.manifest, model, "fp16", parity.as_json(), ("onnx",))
    return replace(own, manifest=manifest, model=model)


@dataclass(frozen=True, slots=True)
class _Quantised:
    """A try: the model, its nodes in float32, and kept and held out features (N, D) of it."""

    model: bytes
    excluded: list[str]
    features: Float16
    judging: Float32
    verdict: Verdict


class _Int8:
    """The making of an int8 bundle: calibrate, quantise, give it a head, judge, perhaps again."""

    def __init__(
        self,
        home: Home,
        store: Store,
        own: Content,
        adapters: Sequence[Adapter],
        options: Options,
        say: Say,
    ) -> None:
        self.home, self.store, self.own, self.adapters = home, store, own, adapters
        self.options, self.say = options, say
        self.recipe = options.recipe or RECIPES[0]
        self.rows = store.stored_samples()
        self._check_rows()
        self.pictures = Pictures(home, store)
        self.held_out = self.pictures.held_out()
        if not self.held_out:
            raise RequestError(
                "one kept picture a class is too little to judge an int8 engine by; learn more, or "
                "take --precision fp16"
            )
        judging = set(self.held_out)
        order = [sample for sample in self.pictures.order if sample not in judging]
        self.chosen = order[:N_CALIBRATED] if options.calibration is None else []
        self.engine = _engine(home, own.model, adapters)
        self.features = store.stored_rows()[0]
        self.judge = judge_of(home, store, self.held_out, self._run(self.engine))

    def made(self) -> Content:
        """Return what is within its limit; with all nodes in int8 if a loss is allowed."""
        made = self._within_limit()
        verdict = made.verdict
        check_parity(
            f"top-1 agreement of int8 with fp32 (head {verdict.head}, {len(made.excluded)} nodes "
            "in fp32)",
            verdict.agreement,
            LEAST_AGREEMENT_INT8,
            allow_loss=self.options.allow_parity_loss,
        )
        every = np.ones(len(self.rows), dtype=np.bool_)
        learned = plain_of(self.own.scorer)
        scorers = candidates(self.home, self.store, every, learned, self.features, made.features)
        parity = parity_of(made.judging, self.judge.reference_features, verdict.agreement)
        made_with = ("onnx", "onnxruntime")
        name = f"int8-{self.recipe}"
        return Content(
            manifest=_manifest(self.own.manifest, made.model, name, parity.as_json(), made_with),
            model=made.model,
            scorer=beside_opinions(self.own.scorer, scorers[verdict.head]),
            calibrated_on=tuple(sorted({c for _, c in self.chosen})),
            report={
                "recipe": self.recipe,
                "head": verdict.head,
                "accuracy": verdict.accuracy,
                "nodes_fp32": made.excluded,
            },
        )

    def _within_limit(self) -> _Quantised:
        """Quantise with ever more nodes in float32 until it agrees; returns the last try."""
        self.say("calibrating", 0, 1)
        how = self.home.manifest.preprocessing
        calibrated = calibrate(
            self.own.model, lambda: batches_of(self._calibration(), how), self.adapters
        )
        worst: list[str] = []
        # Who insists wants the engine as fast as it gets.
        tries = 1 if self.options.allow_parity_loss else len(_FALLBACK_SHARES)
        for share in _FALLBACK_SHARES[:tries]:
            if share and not worst:
                self.say("looking for the worst nodes", 0, 1)
                some = next(batches_of(self._calibration(), how))
                worst = worst_nodes(calibrated, self.recipe, self.engine, some)
            excluded = worst[: round(share * len(worst))]
            model = quantise_model(calibrated, self.recipe, exclude=excluded)
            engine = _engine(self.home, model, self.adapters)
            uids = [uid for uid, _ in self.rows]
            both = Session(self.home, self.store).embed(engine, uids, self.store.picture, self.say)
            features = quantise(both[:, : self.store.num_features])
            judging = self._run(engine)
            verdict = choose(
                self.home, self.store, self.judge, self.own.scorer, self.features, features, judging
            )
            found = _Quantised(model, excluded, features, judging, verdict)
            if verdict.agreement >= LEAST_AGREEMENT_INT8:
                break
        return found

    def _calibration(self) -> Iterator[Image.Image]:
        if self.options.calibration is not None:
            return from_folder(self.home, self.options.calibration)
        return (self.pictures.picture(uid) for uid, _ in self.chosen)

    def _run(self, engine: OnnxEngine) -> Float32:
        images = self.pictures.take(self.held_out)
        return features_of(engine, images, self.home.manifest.preprocessing)

    def _check_rows(self) -> None:
        names = self.store.names
        lost = set(names) - {c for _, c in self.rows}
        if lost:
            raise RequestError(
                f"no picture of {', '.join(names[c] for c in sorted(lost))} is kept, so there is "
                "nothing to make an int8 head of; learn some again, or take --precision fp16"
            )


def _with_fused(
    home: Home, store: Store, content: Content, adapters: Sequence[Adapter], options: Options
) -> Content:
    how = home.manifest.preprocessing
    fused = fuse(content.model, how, content.scorer, adapters)
    pictures = Pictures(home, store)
    engine = _engine(home, content.model, adapters)
    features = features_of(engine, pictures.take(pictures.order), how)
    theirs = content.scorer.scores(features)
    session, _ = open_session(fused, "cpu", home.config.engine.threads, False)
    ours = np.concatenate(
        [
            session.run(["scores"], {"picture": np.asarray(image)[None]})[0]
            for image in pictures.take(pictures.order)
        ]
    )
    agreement = float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    check_parity(
        "top-1 agreement of the fused file with the bundle",
        agreement,
        LEAST_AGREEMENT_FUSED,
        allow_loss=options.allow_parity_loss,
    )
    gap = np.abs(ours - theirs)
    found = {
        "max_abs": float(gap.max()),
        "mean_abs": float(gap.mean()),
        "agreement": agreement,
        "n": float(len(ours)),
    }
    return replace(content, fused=fused, report=content.report | {"fused": found})


def _engine(home: Home, model: bytes, adapters: Sequence[Adapter]) -> OnnxEngine:
    """Open a model on the CPU, where every precision runs."""
    engine = OnnxEngine(model, provider="cpu", threads=home.config.engine.threads)
    return engine.with_adapters(*adapters) if adapters else engine


def _manifest(
    own: Manifest, model: bytes, precision: str, parity: dict[str, float], made_with: Sequence[str]
) -> Manifest:
    return replace(
        own,
        engine=f"backbone.{precision}.onnx",
        engine_sha256=hashlib.sha256(model).hexdigest(),
        precision=precision,
        parity=parity,
        made_with=own.made_with | versions(made_with),
    )

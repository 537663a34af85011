"""Settings of a device home as frozen dataclasses; settings.py reads and writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecl.errors import ConfigError, UsageError
from edgecl.runtime.options import Options, parse_options, split_options

DEFAULT_HOME = "edgecl-home"


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Replay store.

    Args:
        capacity_samples: Most pictures kept for replay.
        capacity_mb: Most megabytes (10^6 bytes) of kept pictures.
        picture: `original` keeps the bytes as they came; `backbone` re-encodes a picture that is
            larger than what the backbone looks at, as JPEG of that size.
        commit_every: Samples learned in one transaction on sources that can wait.
        snapshots: Most snapshots kept; the oldest goes when one more is taken.
    """

    capacity_samples: int = 2000
    capacity_mb: float = 200.0
    picture: str = "backbone"
    commit_every: int = 16
    snapshots: int = 3

    def __post_init__(self) -> None:
        _positive("store", self, "capacity_samples", "capacity_mb", "commit_every")
        if self.snapshots < 0:
            raise ConfigError(f"store.snapshots = {self.snapshots} must be a number from 0 on")
        _one_of("store.picture", self.picture, ("original", "backbone"))


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Engine of the frozen backbone.

    Args:
        provider: `auto`, `cpu`, `cuda` or `tensorrt`; `auto` takes the first that makes a session.
        threads: CPU threads of one engine.
        batch_size: Pictures in the engine at once on sources that can wait.
    """

    provider: str = "auto"
    threads: int = 1
    batch_size: int = 8

    def __post_init__(self) -> None:
        _positive("engine", self, "threads", "batch_size")
        _one_of("engine.provider", self.provider, ("auto", "cpu", "cuda", "tensorrt"))


@dataclass(frozen=True, slots=True)
class PictureConfig:
    """Limits on what is decoded.

    Args:
        max_megapixels: A picture with more pixels (millions) is skipped before it is decoded.
        max_megabytes: A file with more bytes (10^6) is skipped unread.
    """

    max_megapixels: float = 50.0
    max_megabytes: float = 64.0

    def __post_init__(self) -> None:
        _positive("picture", self, "max_megapixels", "max_megabytes")

    @property
    def max_pixels(self) -> int:
        """Most pixels of a picture that is decoded."""
        return int(self.max_megapixels * 1e6)

    @property
    def max_bytes(self) -> int:
        """Most bytes of a picture file that is read."""
        return int(self.max_megabytes * 1e6)


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Head that learns; `HEADS` in edgecl/heads says which there are and what they take.

    Args:
        name: Its name.
        seed: Seed of all random choices (which samples are kept, replayed, how rows start).
        options: All other keys of the section, checked when the home is opened.
        pretrained: Let the classes that the backbone's weights came with answer where nothing that
            was taught comes near.
    """

    name: str = "ridge"
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"head.seed = {self.seed} must be 0 or more")


@dataclass(frozen=True, slots=True)
class ConsolidationConfig:
    """Training of adapters on the kept pictures.

    Args:
        recipe: How an adapter is trained, a name of edgecl/adapters/recipes.py.
        epochs: Times that every kept picture is looked at.
        views: Views of a picture, which stand in one batch; 1 is the picture alone, 2 adds its
            mirror image.
        replay: Train on kept pictures of earlier classes too, not of the session's only.
        bank: What reads the adapted features: `last` (the head that was trained with the newest
            adapter, one pass), or MOS's classifier on the `mean` of all adapters (one pass), on
            `two` (the first adapter and the mean) or on `all` of them (one pass each).
        seed: Seed of how an adapter starts and of the order of the pictures.
    """

    recipe: str = "plain"
    epochs: int = 8
    views: int = 2
    replay: bool = True
    bank: str = "last"
    seed: int = 0

    def __post_init__(self) -> None:
        _positive("consolidation", self, "epochs", "views")
        _one_of("consolidation.bank", self.bank, ("last", "mean", "two", "all"))
        if self.seed < 0:
            raise ConfigError(f"consolidation.seed = {self.seed} must be 0 or more")


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """Scores while the stream runs (edgecl/store/held_out.py).

    Args:
        probes: Labelled samples of each class that are held out and never learned, every tenth
            until there are so many. With 0 a head in closed form is asked for kept ones, as if it
            had not learned them; other heads are not scored.
    """

    probes: int = 20

    def __post_init__(self) -> None:
        if self.probes < 0:
            raise ConfigError(f"evaluation.probes = {self.probes} must be a number from 0 on")


@dataclass(frozen=True, slots=True)
class GovernorConfig:
    """How changes are judged (edgecl/governor).

    Args:
        mode: `off` keeps no record; `record` judges and tells; `gate` also takes back what is
            proved worse.
        worst_drop: Tolerated loss of a class, as a share of its pictures.
        mean_drop: Tolerated loss of all pictures together.
        alpha: How unlikely a loss must be by chance to be proof.
        min_probes: A class of fewer pictures is not judged by itself.
        keep_changes: Most changes that are kept on record.
        shadow_frames: Live frames that a new adapter answers beside what is served, one a second,
            before it is taken; 0 takes it at once.
    """

    mode: str = "record"
    worst_drop: float = 0.10
    mean_drop: float = 0.02
    alpha: float = 0.05
    min_probes: int = 10
    keep_changes: int = 200
    shadow_frames: int = 0

    def __post_init__(self) -> None:
        _positive(
            "governor", self, "worst_drop", "mean_drop", "alpha", "min_probes", "keep_changes"
        )
        if self.shadow_frames < 0:
            raise ConfigError(
                f"governor.shadow_frames = {self.shadow_frames} must be a number from 0 on"
            )
        _one_of("governor.mode", self.mode, ("off", "record", "gate"))
        for name in ("worst_drop", "mean_drop", "alpha"):
            if (value := getattr(self, name)) >= 1:
                raise ConfigError(f"governor.{name} = {value} must be above 0 and below 1")


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """Live sources.

    Args:
        duplicate_cosine: A labelled frame whose feature is nearer than this to one of the newest 64
            of its class is not learned; 1 learns every frame.
        vote: How many frames vote on what is seen, before an event is emitted.
        ring_mb: Most megabytes (10^6 bytes) of recent frames that wait for a label.
        min_score: An answer that is less sure is told as `unsure`; by its probability where the
            home has a calibration, else by its score. 0 tells every answer.
    """

    duplicate_cosine: float = 0.99
    vote: int = 5
    ring_mb: float = 64.0
    min_score: float = 0.0

    def __post_init__(self) -> None:
        _positive("live", self, "duplicate_cosine", "vote", "ring_mb")
        if self.duplicate_cosine > 1:
            raise ConfigError(
                f"live.duplicate_cosine = {self.duplicate_cosine} must be above 0 and at most 1"
            )
        if not 0 <= self.min_score < 1:
            raise ConfigError(f"live.min_score = {self.min_score} must be from 0 on and below 1")


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The page of `edgecl serve`.

    Args:
        listen: Where it is, HOST:PORT.
    """

    listen: str = "127.0.0.1:8765"


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One live source of several, a table `[[source]]`.

    Args:
        name: What frames, events and `forget source` call it.
        url: Its address, as `train-stream` takes it, without options of ours.
        crop: Part of the picture, `x,y,w,h`; empty takes all.
        rotate: Degrees by which the picture is turned before, clockwise.
        mask: Boxes that are blacked out, with `;` between them.
        motion: Share of changed pixels from which on a frame counts; 0 takes all.
        interval: Longest time without a frame where `motion` is set, as `10s`.
        threshold: Least score of an answer that is told; 0 takes the stream's own.
        vote: How many of its frames vote; 0 takes `live.vote`.
        labels: Where labels of this source alone come from, as `--labels`.
        label: Class of all its frames.
        password_file: File whose first line is the password of `url`, which then holds the user.
    """

    name: str = ""
    url: str = ""
    crop: str = ""
    rotate: int = 0
    mask: str = ""
    motion: float = 0.0
    interval: str = ""
    threshold: float = 0.0
    vote: int = 0
    labels: str = ""
    label: str = ""
    password_file: str = ""

    def __post_init__(self) -> None:
        where = f"source {self.name or '(without name)'}"
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise ConfigError(f"{where}: name must be 1 to 64 of A-Z, a-z, 0-9, _ and -")
        if not self.url:
            raise ConfigError(f"{where}: url is missing; give its address, as camera:0")
        if not (0 <= self.threshold < 1 and self.vote >= 0):
            raise ConfigError(f"{where}: threshold must be from 0 to below 1, vote from 0 on")
        try:
            if split_options(self.url)[1]:
                raise UsageError("url holds options of ours; write them as keys of the table")
            _ = self.options
        except UsageError as error:
            raise ConfigError(f"{where}: {error}") from error

    @property
    def options(self) -> Options:
        """What of its frames counts."""
        return parse_options(
            self.crop,
            str(self.rotate or ""),
            self.mask,
            f"{self.motion:f}" if self.motion else "",
            self.interval,
        )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a home, one section each; of sources there may be several."""

    store: StoreConfig = field(default_factory=StoreConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    picture: PictureConfig = field(default_factory=PictureConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    consolidation: ConsolidationConfig = field(default_factory=ConsolidationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    governor: GovernorConfig = field(default_factory=GovernorConfig)
    live: LiveConfig = field(default_factory=LiveConfig)
    web: WebConfig = field(default_factory=WebConfig)
    source: tuple[SourceConfig, ...] = ()

    def __post_init__(self) -> None:
        names = [source.name for source in self.source]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two sources are called {name}; each needs a name of its own")


def _positive(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{section}.{name} = {value} must be a number above 0")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} = {value!r} is unknown; expected one of {', '.join(known)}")

"""Settings of a device home: a TOML file read into frozen dataclasses."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgecl.errors import ConfigError
from edgecl.runtime.faults import in_words
from edgecl.runtime.files import read_own, write_whole

_MOST_BYTES = 2**20

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_HOME = "edgecl-home"
# Field of a section that takes the keys which are not known here.
_REST = "options"


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
        batch_size: Pictures in one call on sources that can wait.
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
            until there are so many; 0 switches continual evaluation off.
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
    """

    mode: str = "record"
    worst_drop: float = 0.10
    mean_drop: float = 0.02
    alpha: float = 0.05
    min_probes: int = 10
    keep_changes: int = 200

    def __post_init__(self) -> None:
        _positive(
            "governor", self, "worst_drop", "mean_drop", "alpha", "min_probes", "keep_changes"
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
class Config:
    """All settings of a home, one section each."""

    store: StoreConfig = field(default_factory=StoreConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    picture: PictureConfig = field(default_factory=PictureConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    consolidation: ConsolidationConfig = field(default_factory=ConsolidationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    governor: GovernorConfig = field(default_factory=GovernorConfig)
    live: LiveConfig = field(default_factory=LiveConfig)


def load_config(path: Path) -> Config:
    """Read settings; what the file leaves out has its default.

    Raises:
        ConfigError: Not TOML, an unknown section or key, a wrong type or a value out of range.
    """
    try:
        raw = tomllib.loads(read_own(path, _MOST_BYTES).decode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read {in_words(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML ({error}); mend that line") from error
    sections = {f.name: f for f in fields(Config)}
    parts: dict[str, Any] = {}
    for name, values in raw.items():
        if name not in sections:
            raise ConfigError(_unknown(str(path), "section", name, sections))
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {name} is a value; expected a section [{name}]")
        parts[name] = _section(path, name, values)
    return Config(**parts)


def save_config(config: Config, path: Path) -> None:
    """Write settings as TOML, in one step."""
    lines = ["# Settings of this edgecl home; see docs/configuration.md", ""]
    for section, values in asdict(config).items():
        values |= values.pop(_REST, {})
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
        lines.append("")
    write_whole(path, "\n".join(lines).encode(), mode=0o600)


def _section(path: Path, name: str, values: dict[str, Any]) -> Any:
    kind: Any = {f.name: f.default_factory for f in fields(Config)}[name]
    known = {f.name: f for f in fields(kind)}
    checked: dict[str, Any] = {}
    if known.pop(_REST, None):
        checked[_REST] = {key: value for key, value in values.items() if key not in known}
    for key, value in values.items():
        if key in checked.get(_REST, ()):
            continue
        if key not in known:
            raise ConfigError(_unknown(str(path), f"key in [{name}]", key, known))
        expected = type(known[key].default)
        fits = isinstance(value, expected) and isinstance(value, bool) is (expected is bool)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value, fits = float(value), True
        if not fits:
            raise ConfigError(
                f"{path}: {name}.{key} = {value!r} is {type(value).__name__}; "
                f"expected {expected.__name__}"
            )
        checked[key] = value
    try:
        return kind(**checked)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _unknown(where: str, what: str, given: str, known: dict[str, Any]) -> str:
    near = get_close_matches(given, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"{where}: unknown {what} {given!r}; {hint}"


def _positive(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{section}.{name} = {value} must be a number above 0")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} = {value!r} is unknown; expected one of {', '.join(known)}")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)

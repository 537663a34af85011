"""Online heads: from features to classes, learned one sample at a time.

`HEADS` is the whole list. A head's module loads when the head is made, so naming heads costs
nothing; `prototype` with a relation needs torch to learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgecl.config import HeadConfig
from edgecl.errors import ConfigError, UsageError
from edgecl.heads.profile import PROFILES
from edgecl.heads.statistics import Diagonal, Gram, KeyCounts, Statistic

if TYPE_CHECKING:
    from edgecl.heads.base import Head
    from edgecl.runtime.codebook import Keys


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """Where a head lives, what the store must keep for it, and what it can be told.

    Args:
        module: Module that defines it.
        class_name: Its class there.
        statistic: What the store keeps of every class.
        options: Words that its constructor takes beside the seed, and their values, the default
            first.
        takes_keys: Whether pictures without labels can make something frozen for it: keys, or the
            map that goes before class means.
    """

    module: str
    class_name: str
    statistic: type[Statistic]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    takes_keys: bool = False


HEADS = {
    "ridge": HeadSpec("edgecl.heads.ridge", "RidgeHead", Gram),
    "uer": HeadSpec("edgecl.heads.cosine", "UerHead", Diagonal, {"profile": tuple(PROFILES)}),
    "prototype": HeadSpec(
        "edgecl.heads.prototype",
        "PrototypeHead",
        Diagonal,
        {"relation": ("none", "samples", "classes")},
        takes_keys=True,
    ),
    "key-value": HeadSpec(
        "edgecl.heads.key_value",
        "KeyValueHead",
        KeyCounts,
        {"values": ("counts", "sgd")},
        takes_keys=True,
    ),
}


def spec_of(name: str) -> HeadSpec:
    """Return the entry of a head.

    Raises:
        UsageError: No such head.
    """
    if name not in HEADS:
        raise UsageError(f"head {name!r} is unknown; expected one of {', '.join(HEADS)}")
    return HEADS[name]


def head_config(name: str, *, seed: int = 0, **options: str | None) -> HeadConfig:
    """Return the settings of a head, its options written out.

    Args:
        name: One of `HEADS`.
        seed: Seed of all random choices.
        options: Those that shall not have their default; None says nothing.

    Raises:
        UsageError: No such head, an option that it does not take, or another value.
    """
    spec = spec_of(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in spec.options:
            takers = [n for n, other in HEADS.items() if option in other.options]
            raise UsageError(
                f"{option} is an option of {' and '.join(takers) or 'no head'}, not of {name}; "
                "leave it out"
            )
        _check_value(f"{option} {value!r}", value, spec.options[option])
    return HeadConfig(name, seed, {o: values[0] for o, values in spec.options.items()} | given)


def check_head(config: HeadConfig, path: Path) -> None:
    """Check the section `[head]` of a settings file; options of other heads may stand there.

    Raises:
        ConfigError: No such head or option, or an option with another value.
    """
    known = {option: values for spec in HEADS.values() for option, values in spec.options.items()}
    try:
        _check_value(f"head.name = {config.name!r}", config.name, tuple(HEADS))
        for option, value in config.options.items():
            if option not in known:
                names = ("name", "seed", *known)
                near = get_close_matches(option, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
                raise UsageError(f"unknown key in [head] {option!r}; {hint}")
            _check_value(f"head.{option} = {value!r}", value, known[option])
    except UsageError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_value(what: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{what} is unknown; expected one of {', '.join(known)}")


def make_head(name: str, num_features: int, *, seed: int = 0, **options: object) -> Head:
    """Make an empty head.

    Args:
        name: One of `HEADS`.
        num_features: Width D of the features.
        seed: Seed of the head's random choices.
        options: What the head takes beside it; see `HeadSpec.options`.

    Raises:
        UsageError: No such head, or an option with a word that it does not know.
        MissingPackageError: The head needs a package that is not installed.

    Example:
        >>> import numpy as np
        >>> head = make_head("ridge", num_features=2)
        >>> head.learn_one(np.array([1.0, 0.0], dtype=np.float32), 7)
        >>> head.classes
        (7,)
    """
    spec = spec_of(name)
    for option, value in options.items():
        if isinstance(value, str) and option in spec.options:
            _check_value(f"{option} {value!r}", value, spec.options[option])
    return cast(
        "Head",
        getattr(import_module(spec.module), spec.class_name)(num_features, seed=seed, **options),
    )


def make_head_of(config: HeadConfig, num_features: int, *, codebook: Keys | None = None) -> Head:
    """Make an empty head from settings; see `make_head`.

    Args:
        config: Settings.
        num_features: Width D of the features.
        codebook: Keys or map of the store, for a head that takes them (`HeadSpec.takes_keys`).
    """
    spec = spec_of(config.name)
    options: dict[str, object] = {k: v for k, v in config.options.items() if k in spec.options}
    if spec.takes_keys:
        options["codebook"] = codebook
    return make_head(config.name, num_features, seed=config.seed, **options)

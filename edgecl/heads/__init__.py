"""Online heads: from features to classes, learned one sample at a time.

`HEADS` is the whole list. A head's module loads when the head is made, so naming heads costs
nothing; `uer` needs torch to learn, and so does `prototype` with a relation.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from edgecl.config import HeadConfig
from edgecl.errors import UsageError

if TYPE_CHECKING:
    from edgecl.heads.base import Head
    from edgecl.runtime.codebook import Keys


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """Where a head lives and what the store must keep for it.

    Args:
        module: Module that defines it.
        class_name: Its class there.
        second_moment: `full` (Gram matrix), `diagonal` or `counts` (of keys): the statistic kept
            for every class.
        options: Settings of `HeadConfig` that it takes beside the seed.
        takes_keys: Whether pictures without labels can make something frozen for it: keys, or the
            map that goes before class means.
    """

    module: str
    class_name: str
    second_moment: str
    options: tuple[str, ...] = ()
    takes_keys: bool = False


HEADS = {
    "ridge": HeadSpec("edgecl.heads.ridge", "RidgeHead", "full"),
    "uer": HeadSpec("edgecl.heads.cosine", "UerHead", "diagonal", ("profile",)),
    "prototype": HeadSpec(
        "edgecl.heads.prototype", "PrototypeHead", "diagonal", ("relation",), takes_keys=True
    ),
    "key-value": HeadSpec(
        "edgecl.heads.key_value", "KeyValueHead", "counts", ("values",), takes_keys=True
    ),
}


def make_head(name: str, num_features: int, *, seed: int = 0, **options: object) -> Head:
    """Make an empty head.

    Args:
        name: One of `HEADS`.
        num_features: Width D of the features.
        seed: Seed of the head's random choices.
        options: What the head takes beside it; see `HeadSpec.options`.

    Raises:
        UsageError: No such head.
        MissingPackageError: The head needs a package that is not installed.

    Example:
        >>> import numpy as np
        >>> head = make_head("ridge", num_features=2)
        >>> head.learn_one(np.array([1.0, 0.0], dtype=np.float32), 7)
        >>> head.classes
        (7,)
    """
    if name not in HEADS:
        raise UsageError(f"head {name!r} is unknown; expected one of {', '.join(HEADS)}")
    spec = HEADS[name]
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
    options = {name: getattr(config, name) for name in HEADS[config.name].options}
    if HEADS[config.name].takes_keys:
        options["codebook"] = codebook
    return make_head(config.name, num_features, seed=config.seed, **options)

"""What a contribution says of itself: values, checked, and the canonical text that is signed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgecl.errors import IntegrityError
from edgecl.fleet.sums import Layout
from edgecl.store.text import dump_json
from edgecl.types import clean_label

FORMAT = 1
_MOST_NUMBER = 2**53
_HEX = re.compile(r"[0-9a-f]{64}")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Form = Literal["rows", "gram", "sum"]


@dataclass(frozen=True, slots=True)
class Part:
    """A class of a contribution.

    Args:
        id: What the class is in the fleet, hex; outside one `names.plain_id`.
        name: What it is called, NFC.
        count: Samples.
        form: `rows`, `gram` (its sums) or `sum` (of the features only, in the `total` form).
        digest: SHA-256 of its bytes, hex.
    """

    id: str
    name: str
    count: int
    form: Form
    digest: str


@dataclass(frozen=True, slots=True)
class Contribution:
    """A contribution without its bodies.

    Args:
        fleet: The fleet; '' outside one.
        device: Name of the device.
        key: Public key of the device, hex.
        generation: Larger ones replace smaller ones.
        order: Number of the last order of the fleet that the device applied, 0 for none.
        receipt: Digest of the receipt of that order, '' for none.
        feature_map: Hash of the frozen map whose features these are.
        head: Name of the head that they are kept for.
        layout: What is summed.
        parts: The classes, by id.
        total: Digest of what all classes have beside the sums of the features, in the `total` form;
            '' in the other.
        path: The file; None before it is written.
        spans: In which file, from where to where, the bytes of each digest are.
    """

    fleet: str
    device: str
    key: str
    generation: int
    order: int
    receipt: str
    feature_map: str
    head: str
    layout: Layout
    parts: tuple[Part, ...]
    total: str = ""
    path: Path | None = field(default=None, compare=False)
    spans: Mapping[str, tuple[Path, int, int]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def dim(self) -> int:
        """Width D of the features."""
        return self.layout.dim

    @property
    def count(self) -> int:
        """Samples of all classes."""
        return sum(part.count for part in self.parts)


def digest(contribution: Contribution) -> str:
    """Return the SHA-256 of all that is signed, which names every part by its own."""
    return hashlib.sha256(text_of(contribution).encode()).hexdigest()


def text_of(contribution: Contribution) -> str:
    """Return what is signed."""
    c, layout = contribution, contribution.layout
    return dump_json(
        {
            "format": FORMAT,
            "fleet": c.fleet,
            "device": c.device,
            "key": c.key,
            "generation": c.generation,
            "order": c.order,
            "receipt": c.receipt,
            "feature_map": c.feature_map,
            "head": c.head,
            "statistic": layout.statistic,
            "dim": layout.dim,
            "width": layout.width,
            "second": layout.n_second,
            "keys": layout.keys,
            "classes": [[p.id, p.name, p.count, p.form, p.digest] for p in c.parts],
            "total": c.total,
        }
    )


def parsed(said: dict[str, Any]) -> Contribution:
    """Return what the signed text says, after every value was checked."""
    if said["format"] != FORMAT:
        raise IntegrityError(f"it has format {said['format']!r}; this edgecl reads {FORMAT}")
    layout = Layout(
        said["statistic"],
        _number(said["dim"]),
        _number(said["width"]),
        _number(said["second"]),
        _hash(said["keys"], may_lack=True),
    )
    layout.check()
    parts = tuple(
        Part(_hash(i), clean_label(name), _number(n), form, _hash(d))
        for i, name, n, form, d in said["classes"]
    )
    if [p.id for p in parts] != sorted({p.id for p in parts}):
        raise IntegrityError("its classes are not in order, or one stands there twice")
    for part in parts:
        _check_part(part, layout, ("sum",) if said["total"] else ("rows", "gram"))
    for name in ("fleet", "device"):
        if not isinstance(said[name], str) or not (name == "fleet" and not said[name]):
            check_device(said[name])
    if not isinstance(said["head"], str):
        raise IntegrityError("its head is no word")
    return Contribution(
        said["fleet"],
        said["device"],
        _hash(said["key"]),
        _number(said["generation"]),
        _number(said["order"]),
        _hash(said["receipt"], may_lack=True),
        _hash(said["feature_map"]),
        said["head"],
        layout,
        parts,
        _hash(said["total"], may_lack=True),
    )


def _check_part(part: Part, layout: Layout, forms: tuple[str, ...]) -> None:
    if part.form not in forms or not part.count:
        raise IntegrityError(f"a class has {part.count} samples as {part.form!r}")
    if part.form == "rows" and part.count > layout.most_rows:
        raise IntegrityError(
            f"a class has {part.count} rows; at most {layout.most_rows} are kept as rows"
        )


def check_device(name: object) -> str:
    """Return the name of a device or fleet when it is one.

    Raises:
        IntegrityError: It is none.
    """
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        raise IntegrityError(
            f"{str(name)[:70]!r} is no name of a device; expected 1 to 64 letters, digits, '.', "
            "'_' or '-', the first one a letter or digit"
        )
    return name


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MOST_NUMBER:
        raise IntegrityError(f"{str(value)[:30]!r} stands where a number was expected")
    return value


def _hash(value: object, *, may_lack: bool = False) -> str:
    if not isinstance(value, str) or not (_HEX.fullmatch(value) or (may_lack and not value)):
        raise IntegrityError(f"{str(value)[:70]!r} stands where a hash was expected")
    return value

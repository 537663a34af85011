"""Values that cross module borders: frozen, and checked when they are made."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import ShapeError, UsageError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Float16 = npt.NDArray[np.float16]

Say = Callable[[str, int, int], None]
"""Told what is going on, how far it is, and of how much."""
Labels = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

MAX_LABEL_LENGTH = 200
# Of a uid: what SQLite can hold.
MAX_DIGITS = 18

# Not of the category Cf, and as invisible: fillers, joiners and selectors.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_ZWNJ, _ZWJ, _EMOJI_STYLE, _BLACK_FLAG = "\u200c", "\u200d", "\ufe0f", "\U0001f3f4"
# Scripts whose letters join or stack, and emoji, begin here: U+200C and U+200D count there.
_FIRST_JOINING = "\u0590"
# Letters of other scripts that look like a Latin one, small and capital.
_ALIKE = str.maketrans(
    "авекмнорстухіјѕԁԛԝһӏαβεικνορτυχηγωϲıℓǃ|",
    "abekmhopctyxijsdqwhlabeikvoptuxnywcilll",
)

# How much of a mistyped name has to be right, as difflib measures it.
_CLOSE = 0.75


def clean_label(label: object) -> str:
    """Return a class name as it is stored: NFC, without white space around it.

    What cannot be seen is taken out, since names that look the same would be different classes;
    joiners stay where a script or an emoji needs them. Spaces of every width are a space.

    Args:
        label: What the source or the user gave; numbers become their decimal text.

    Returns:
        The name, 1 to `MAX_LABEL_LENGTH` characters.

    Raises:
        UsageError: The name is empty, too long or holds a control character.
    """
    return _checked(_visible(str(label)))


def looks_like(name: str) -> str:
    """Return what a class name looks like: names with the same result are easily confused.

    Case, width, spaces, hyphens and underscores do not count, nor do letters of other scripts that
    look like a Latin one (a subset of Unicode's confusables, UTS 39).
    """
    text = unicodedata.normalize("NFKC", _visible(name)).casefold().translate(_ALIKE)
    return re.sub(r"[\s_\u2010-\u2015-]+", " ", text).strip()


def alike(name: str, known: Iterable[str]) -> str | None:
    """Return the known class name that a new one is easily confused with, or None."""
    looks = looks_like(name)
    return next((other for other in known if other != name and looks_like(other) == looks), None)


def meant(name: str, known: Iterable[str]) -> str:
    """Return the question whether a known name is meant by one that is not, or nothing."""
    by_looks = {looks_like(other): other for other in known}
    near = get_close_matches(looks_like(name), by_looks, n=1, cutoff=_CLOSE)
    return f"did you mean {by_looks[near[0]]!r}? " if near else ""


def _visible(text: str) -> str:
    """Return a text without its invisible characters."""
    kept: list[str] = []
    for i, c in enumerate(text):
        before, after = kept[-1] if kept else "", text[i + 1 : i + 2]
        if unicodedata.category(c) == "Zs":
            c = " "
        is_tag = "\U000e0020" <= c <= "\U000e007f" and before >= "\U000e0020"
        if c in (_ZWNJ, _ZWJ):
            is_kept = before >= _FIRST_JOINING and after >= _FIRST_JOINING
        elif c == _EMOJI_STYLE:
            is_kept = before >= "\u2000" or after == "\u20e3"  # a keycap
        elif is_tag or "\U000e0020" <= c <= "\U000e007f":
            is_kept = is_tag or before == _BLACK_FLAG  # flags of regions
        else:
            is_selector = "\ufe00" <= c <= "\ufe0e" or "\U000e0100" <= c <= "\U000e01ef"
            is_mark = (
                unicodedata.category(c) == "Cf" or c in _INVISIBLE or "\u180b" <= c <= "\u180f"
            )
            is_kept = not is_selector and not is_mark
        if is_kept:
            kept.append(c)
    return "".join(kept)


def _checked(text: str) -> str:
    """Return a class name in NFC, without white space around it, as `clean_label` checks it."""
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise UsageError("a class name is empty; give at least one character")
    if len(name) > MAX_LABEL_LENGTH:
        raise UsageError(
            f"a class name has {len(name)} characters; at most {MAX_LABEL_LENGTH} are allowed"
        )
    if any(unicodedata.category(c) in {"Cc", "Cs"} for c in name):
        if any("\udc80" <= c <= "\udcff" for c in name):  # bytes, as Python reads them
            raise UsageError(f"the class name {name!r} is not UTF-8; rename its folder or file")
        raise UsageError(f"the class name {name!r} holds a control character; take it out")
    return name


def check_reason(reason: str, name: str) -> None:
    """Check that the text of a receipt does not hold a class name, in a longer word neither.

    A name of one or two characters counts as a word of its own only: it stands in every text.

    Raises:
        UsageError: It does.
    """
    text = unicodedata.normalize("NFC", reason).casefold()
    found = unicodedata.normalize("NFC", name).casefold()
    is_there = found in text
    if len(found) < 3:
        is_there = bool(re.search(rf"(?<!\w){re.escape(found)}(?!\w)", text))
    if is_there:
        raise UsageError(
            f"the reason holds the class name {name!r}, which a receipt must not keep; reword it"
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a source, encoded or as pixels, with or without a label.

    Args:
        id: Name inside the source (a path relative to a folder, an index), never empty.
        encoded: The bytes of a picture file, or None.
        pixels: RGB picture, shape (H, W, 3), uint8, or None. One of the two must be there.
        label: Class name, or None.
        source: The source as the user named it, without secrets.
        time: Wall clock, seconds since the epoch, or 0 when the source has none.
        monotonic: `time.monotonic()` when it was taken, seconds, or 0 for what is not live.
        thing: Frames that say the same show one thing, and are voted on by themselves; or empty.
        cut: Makes of the decoded picture the one that counts (runtime/region.py); None: all of it.
        side: The shorter side of the decoded picture, pixels, or 0 while nobody decoded it.
    """

    id: str
    encoded: bytes | None = None
    pixels: Pixels | None = None
    label: str | None = None
    source: str = ""
    time: float = 0.0
    monotonic: float = 0.0
    thing: str = ""
    cut: Callable[[Pixels], Pixels] | None = None
    side: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.id:
            raise UsageError("a frame needs an id; give the name it has in its source")
        if (self.encoded is None) == (self.pixels is None):
            raise UsageError(f"frame {self.id} needs either encoded bytes or pixels, not both")
        if self.pixels is not None:
            p = self.pixels
            if p.dtype != np.uint8 or p.ndim != 3 or p.shape[2] != 3 or 0 in p.shape:
                raise ShapeError(
                    f"frame {self.id} has pixels {p.shape} {p.dtype}; expected (H, W, 3) uint8"
                )
        if self.label is not None:
            object.__setattr__(self, "label", clean_label(self.label))


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture of a source that could not be used; the stream goes on.

    Args:
        id: Name inside the source.
        reason: One line that says why.
    """

    id: str
    reason: str


def state_of(sure: float, min_score: float, *, is_unknown: bool = False) -> str:
    """Return `known`, `unknown`, or `unsure` for an answer that is not as sure as asked for."""
    return "unknown" if is_unknown else "unsure" if sure < min_score else "known"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the head says of one picture.

    Args:
        path: The picture's id or path.
        label: The best class.
        score: Estimated probability of `label`, 0 to 1.
        top: The best classes with their scores, best first.
        probabilities: How often such an answer is right, for each of `top`: calibrated by samples
            that the head did not learn; the scores where nothing calibrates them.
        labels: Labels that hold the truth as often as was asked, best first; may be empty. None
            where nobody asked.
    """

    path: str
    label: str
    score: float
    top: tuple[tuple[str, float], ...]
    probabilities: tuple[float, ...] = ()
    labels: tuple[str, ...] | None = None

    @property
    def probability(self) -> float:
        """How often such an answer is right, 0 to 1."""
        return self.probabilities[0] if self.probabilities else self.score

    def as_json(self) -> dict[str, Any]:
        """Return the object that `edgecl predict --json` prints."""
        shares = self.probabilities or tuple(score for _, score in self.top)
        values = {
            "path": self.path,
            "label": self.label,
            "score": self.score,
            "probability": self.probability,
            "top": [
                {"label": label, "score": score, "probability": share}
                for (label, score), share in zip(self.top, shares, strict=True)
            ],
        }
        return values if self.labels is None else values | {"set": list(self.labels)}


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one labelled frame did: a sample that was learned, or one that was held out.

    Args:
        uid: The sample's uid in the store; of a frame that was held out, the uid of its probe.
        predicted: The class that the head named before it learned the sample, None for the first.
        is_correct: Whether that was the label.
        n_classes: Classes that the head knows after the update.
        is_stored: Whether the sample's picture was kept for replay.
        latency_ms: Time of predict, store and update, milliseconds.
        is_held_out: Whether it became a probe (edgecl/store/held_out.py) and was not learned.
    """

    uid: int
    predicted: str | None
    is_correct: bool
    n_classes: int
    is_stored: bool
    latency_ms: float
    is_held_out: bool = False


class Kind(str, Enum):
    """What a request to unlearn names."""

    CLASS = "class"
    SAMPLE = "sample"
    SOURCE = "source"
    AGE = "age"
    """All that is older than a time; what stands for the uid is that, seconds since the epoch."""

    __str__ = str.__str__

    @property
    def key(self) -> str:
        """Under which its uid stands in receipts and results."""
        return "before" if self is Kind.AGE else f"{self}_uid"

    @property
    def table(self) -> str:
        """Table of the store in which its uid is the key."""
        return {Kind.CLASS: "classes", Kind.AGE: "samples"}.get(self, f"{self}s")

    @property
    def condition(self) -> str:
        """Which rows of `samples` are of it (?1), SQL."""
        if self is Kind.AGE:
            return "time < ?1"
        return f"{'uid' if self is Kind.SAMPLE else self.key} = ?1"


APPROXIMATE = ("ssd", "gu", "gs-lora", "iau")
ADAPTER_METHODS = ("drop", "retrain", *APPROXIMATE)


class Mode(str, Enum):
    """How something was unlearned, as receipts and results say it."""

    EXACT_HEAD = "exact_head"
    EXACT_RETRAIN = "exact_retrain"
    STORE_ONLY = "store_only"
    SSD = "approximate:ssd"
    GU = "approximate:gu"
    GS_LORA = "approximate:gs-lora"
    IAU = "approximate:iau"
    ALREADY_FORGOTTEN = "already_forgotten"

    __str__ = str.__str__

    @property
    def is_exact(self) -> bool:
        """Whether nothing of it is left in what is served; False where an adapter was changed."""
        return self not in (Mode.SSD, Mode.GU, Mode.GS_LORA, Mode.IAU)

    @staticmethod
    def of_method(method: str) -> Mode:
        """Return the mode of an approximate method for adapters."""
        return Mode(f"approximate:{method}")


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """A request to unlearn one class, one sample or all samples of a source.

    Args:
        name: Name or alias of the class, uid of the sample, the source as it was learned, or the
            time before which all is to go, seconds since the epoch.
        reason: Free text for the receipt; must not name the class or source.
        kind: `class`, `sample`, `source` or `age`.
        adapter_method: What happens to adapters that saw it. `drop` and `retrain` delete them, and
            the caller trains anew later or at once; the others change them in place, which is
            approximate, and are for classes only.
    """

    name: str
    reason: str = ""
    kind: Kind = Kind.CLASS
    adapter_method: str = "drop"

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "kind", Kind(self.kind))  # a text is taken, too
        except ValueError:
            raise UsageError(f"kind {self.kind!r} is unknown; expected {', '.join(Kind)}") from None
        if self.adapter_method not in ADAPTER_METHODS:
            raise UsageError(
                f"adapter method {self.adapter_method!r} is unknown; expected one of "
                f"{', '.join(ADAPTER_METHODS)}"
            )
        if self.kind is not Kind.CLASS and self.adapter_method in APPROXIMATE:
            raise UsageError(
                f"the adapter method {self.adapter_method} unlearns classes; for a {self.kind} "
                "use retrain or drop"
            )
        if self.kind is Kind.CLASS:
            # As it is: a class of an older home may have invisible characters in its name.
            object.__setattr__(self, "name", _checked(self.name))
        if self.kind in (Kind.SAMPLE, Kind.AGE):
            if not (self.name.isascii() and self.name.isdigit() and len(self.name) <= MAX_DIGITS):
                what = (
                    "sample is named by its uid" if self.kind is Kind.SAMPLE else "time is seconds"
                )
                raise UsageError(f"a {what}, a whole number, not {self.name!r}")
            object.__setattr__(self, "name", str(int(self.name)))
        if any(unicodedata.category(c) in {"Cc", "Cs"} for c in self.reason):
            raise UsageError("the reason holds a control character; write it on one line")
        if not self.name:
            raise UsageError(f"the {self.kind} to forget is empty; name one")
        if self.kind in (Kind.CLASS, Kind.SOURCE):
            check_reason(self.reason, self.name)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of one unlearning, as it stands in the store's chain.

    Args:
        receipt_id: Its name, `r` and a running number.
        body: What was done: JSON values only, no class name, no picture, no feature.
        previous: Hash of the receipt before it, hex.
        digest: SHA-256 over `previous` and the body, hex.
        signature: Ed25519 signature of the device over the digest, hex.
    """

    receipt_id: str
    body: dict[str, Any] = field(hash=False)
    previous: str
    digest: str
    signature: str

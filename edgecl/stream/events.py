"""What happens in a stream beside learning, as values.

An event has a level, a text for people, and a name with fields for logs. Nobody reads it back from
its text.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from edgecl.runtime.redact import redacted_id


class Event:
    """What happened; a subclass says what."""

    level: ClassVar[Literal["info", "warning"]] = "info"
    name: ClassVar[str] = "message"
    """What a log calls it."""

    def text(self) -> str:
        """Return one line for a person."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """Return what a log says of it, JSON values."""
        return {"text": self.text()}


@dataclass(frozen=True, slots=True)
class FrameSkipped(Event):
    """A frame could not be used."""

    level = "warning"
    name = "skipped"
    frame: str
    reason: str

    def text(self) -> str:
        """Return one line for a person."""
        return f"skipped {redacted_id(self.frame)}: {self.reason}"

    def fields(self) -> dict[str, Any]:
        """Return the frame and the reason."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class NotLearned(Event):
    """A frame whose label came late cannot be learned any more."""

    frame: str
    reason: str

    def text(self) -> str:
        """Return one line for a person."""
        return f"not learned {self.frame}: {self.reason}"


@dataclass(frozen=True, slots=True)
class LooksAlike(Event):
    """A new class has nearly the name of another one."""

    new: str
    known: str

    def text(self) -> str:
        """Return one line for a person."""
        return f"class {self.new!r} is new and looks like {self.known!r}, another class"


@dataclass(frozen=True, slots=True)
class SamePicture(Event):
    """A picture that one class has is learned as another; told once for two classes."""

    level = "warning"
    frame: str
    label: str
    other: str

    def text(self) -> str:
        """Return one line for a person."""
        return (
            f"{self.frame}, learned as {self.label}, looks exactly like a picture of {self.other}"
        )


@dataclass(frozen=True, slots=True)
class Relearned(Event):
    """A class that was unlearned is learned again."""

    label: str
    receipt: str

    def text(self) -> str:
        """Return one line for a person."""
        return (
            f"class {self.label!r} was unlearned (receipt {self.receipt}) and is now learned "
            "again, under a new uid"
        )


@dataclass(frozen=True, slots=True)
class MadeKeys(Event):
    """A picture that is learned made the keys of the home, which outlive an unlearning."""

    frame: str
    label: str

    def text(self) -> str:
        """Return one line for a person."""
        return (
            f"warning: {self.frame}, learned as {self.label}, is one of the pictures of --keys: "
            "what the keys hold of it outlives an unlearning; make the home with other pictures "
            f"if {self.label} may have to be forgotten"
        )


@dataclass(frozen=True, slots=True)
class Unlearned(Event):
    """What another process asked to forget is forgotten.

    Args:
        receipt: Id of the receipt.
        is_barred: Whether later frames of it are skipped: those of a class or source are.
    """

    name = "unlearned"
    receipt: str
    is_barred: bool

    def text(self) -> str:
        """Return one line for a person."""
        return f"unlearned as another process asked (receipt {self.receipt})" + (
            "; its frames are skipped from here on" if self.is_barred else ""
        )

    def fields(self) -> dict[str, Any]:
        """Return the receipt."""
        return {"receipt": self.receipt}


@dataclass(frozen=True, slots=True)
class Undone(Event):
    """The newest samples were taken back; none is left where `n` is 0."""

    n: int
    labels: tuple[str, ...]

    def text(self) -> str:
        """Return one line for a person."""
        if not self.n:
            return "nothing to take back"
        return f"took back the last {self.n} samples of {', '.join(self.labels)}"


@dataclass(frozen=True, slots=True)
class NotConsolidated(Event):
    """No adapter could be trained now."""

    reason: str

    def text(self) -> str:
        """Return one line for a person."""
        return f"not consolidated: {self.reason}"


@dataclass(frozen=True, slots=True)
class Drifted(Event):
    """Frames have moved away from what was learned, or are again as they were.

    Args:
        ratio: How far, over the threshold.
        cause: What has moved.
        is_over: Whether they are as they were.
    """

    level = "warning"
    name = "drift"
    ratio: float
    cause: str
    is_over: bool

    def text(self) -> str:
        """Return one line for a person."""
        if self.is_over:
            return f"frames are again like what was learned ({self.ratio:.1f} of the threshold)"
        return (
            f"warning: frames have moved away from what was learned, {self.ratio:.1f} times the "
            f"threshold; most: {self.cause}"
        )

    def fields(self) -> dict[str, Any]:
        """Return how far, and what."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ShadowEnded(Event):
    """Live frames judged a candidate.

    Args:
        adapter: Its uid.
        is_taken: Whether it answers from now on.
        seen: How its answers went.
    """

    name = "shadow"
    adapter: int
    is_taken: bool
    seen: str

    def text(self) -> str:
        """Return one line for a person."""
        end = "answers from now on" if self.is_taken else "is proved worse, and not taken"
        return f"adapter {self.adapter} {end}: {self.seen}"

    def fields(self) -> dict[str, Any]:
        """Return the adapter and what became of it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Said(Event):
    """One line that a source, a label feed or the keys say, without secrets."""

    line: str

    def text(self) -> str:
        """Return the line."""
        return self.line

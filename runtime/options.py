"""What an address says to edgecl and not to its peer: `camera:0?crop=10%,20%,30%,40%`.

`split_options` takes these keys out of the query of every source, whatever its kind; the rest goes
to the peer as it stands. A peer's own key of the same name is written with one letter escaped
(`%63rop=`), which means the same to it and nothing here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from edgecl.errors import UsageError

from .region import Region, parse_region

KEYS = ("crop", "rotate", "mask", "motion", "interval")
_DAY_S = 86400.0
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
# A query at the end of an address; those of pipelines and paths hold no space.
_QUERY = re.compile(r"\?([^?\s]*)$")


@dataclass(frozen=True, slots=True)
class Options:
    """What of a source's frames counts.

    Args:
        region: Part of its pictures.
        motion: Share of changed pixels from which on a live frame is no still one, 0 to 1; 0 takes
            all.
        interval_s: Longest time without a frame, however still, seconds; 0 is for ever.
    """

    region: Region = field(default_factory=Region)
    motion: float = 0.0
    interval_s: float = 0.0

    def __bool__(self) -> bool:
        return self != Options()


@dataclass(frozen=True, slots=True)
class Part:
    """One source of several.

    Args:
        name: What its frames call their source; no two have the same.
        url: Address of a live source, without options of ours.
        options: What of its frames counts.
        label: Class of all its frames, or None.
        labels: Where labels of this source alone come from, or None.
        vote: How many of its frames vote; None takes what all others take.
        threshold: Least score of an answer that is told; None takes what all others take.
    """

    name: str
    url: str = field(repr=False)
    options: Options = field(default_factory=Options)
    label: str | None = None
    labels: str | None = None
    vote: int | None = None
    threshold: float | None = None


def split_options(spec: str) -> tuple[str, Options]:
    """Return an address without our own options, and these.

    Raises:
        UsageError: An option that cannot be meant.
    """
    found = _QUERY.search(spec)
    if found is None:
        return spec, Options()
    theirs, ours = [], {}
    for part in found[1].split("&"):
        key, equals, value = part.partition("=")
        if key not in KEYS or not equals:
            theirs.append(part)
        elif key in ours and key != "mask":
            raise UsageError(f"{key}= is given twice")
        else:
            ours[key] = ";".join(filter(None, (ours.get(key, ""), unquote(value))))
    if not ours:
        return spec, Options()
    query = f"?{'&'.join(theirs)}" if theirs else ""
    return spec[: found.start()] + query, parse_options(**ours)


def parse_options(
    crop: str = "", rotate: str = "", mask: str = "", motion: str = "", interval: str = ""
) -> Options:
    """Read options as they are written in an address; an empty one asks for nothing.

    Raises:
        UsageError: One of them cannot be meant.
    """
    share, seconds = 0.0, 0.0
    if motion:
        number = re.fullmatch(r"[01]?\.?[0-9]{0,9}", motion) if motion != "." else None
        share = float(motion) if number else 0.0
        if not 0 < share < 1:
            raise UsageError(
                f"motion={motion[:60]} is no share of changed pixels above 0 and below 1, as 0.02"
            )
    if interval:
        found = duration(interval, default="s")
        if found is None or not 0 < found <= _DAY_S:
            raise UsageError(
                f"interval={interval[:60]} is no time; write it as 10s, 500ms or 2m, at most a day"
            )
        seconds = found
        if not share:
            raise UsageError(
                f"interval={interval[:60]} is the longest time between frames where motion= leaves "
                "still ones out; give both, or --every for a frame every so often"
            )
    return Options(parse_region(crop, rotate, mask), share, seconds)


def duration(text: str, default: str | None = None) -> float | None:
    """Return how many seconds `0.5s`, `500ms` or `2m` are; None if the text is no duration.

    Args:
        text: As a person writes it.
        default: Unit of a number alone; None takes none.
    """
    found = re.fullmatch(
        r"([0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})\s?(ms|[smhdw])?", text.strip()
    )
    unit = found and (found[2] or default)
    return float(found[1]) * _UNITS[unit] if found and unit else None

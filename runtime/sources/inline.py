"""A picture inside a JSON object, as lines of standard input and MQTT messages carry it.

{"image": BASE64 or data: URL, "label": "cup", "id": "cam1-17", "time": 1764000000.0}
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from edgecl.errors import UsageError

from .messages import moment_of
from .table import label_of

MAX_ID_LENGTH = 1_000
# What a message may hold beside the picture.
SPARE_BYTES = 65_536
_MAX_PARTS = 1_000


@dataclass(frozen=True, slots=True)
class InlinePicture:
    """What such an object says.

    Args:
        encoded: Bytes of the picture file; not yet decoded, so they may be anything.
        label: Class name as the sender wrote it, or None.
        id: Its name, or None.
        time: Wall clock, seconds since the epoch, or None.
    """

    encoded: bytes
    label: str | None = None
    id: str | None = None
    time: float | None = None


def largest_message(max_bytes: int) -> int:
    """Return how long the text of an object can be whose picture has `max_bytes`."""
    return -(-max_bytes // 3) * 4 + SPARE_BYTES


def loads(text: str) -> Any:
    """Parse JSON that may hold a picture; None if it is none.

    Parsed, a long text of many small parts takes fifty times its size. Base64 has no brackets and
    commas, so a text with a picture has few, and one that has many is not parsed.
    """
    if len(text) > SPARE_BYTES and sum(map(text.count, "[{,")) > _MAX_PARTS:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def inline_picture(value: Any, max_bytes: int) -> InlinePicture | None:
    """Read the picture of a parsed JSON object; None if it has no `image`.

    Args:
        value: What `json.loads` gave.
        max_bytes: Larger pictures are refused before they are decoded.

    Raises:
        UsageError: It has an `image` that is none, or an `id` or `time` that cannot be used.
    """
    if not isinstance(value, dict) or "image" not in value:
        return None
    name = value.get("id")
    if name is not None and (
        not isinstance(name, str | int) or not 0 < len(str(name)) <= MAX_ID_LENGTH
    ):
        raise UsageError(f"`id` must be text of 1 to {MAX_ID_LENGTH} characters")
    return InlinePicture(
        encoded=_decoded(value["image"], max_bytes),
        label=label_of(value),
        id=None if name is None else str(name),
        time=moment_of(value.get("time"), "time"),
    )


def _decoded(image: Any, max_bytes: int) -> bytes:
    if not isinstance(image, str):
        raise UsageError("`image` must be a picture file in base64")
    if image.startswith("data:"):
        head, comma, image = image.partition(",")
        if not comma or not head.endswith(";base64"):
            raise UsageError("`image` is a data: URL without ;base64; expected base64")
    image = "".join(image.split())  # some encoders break their lines
    if len(image) * 3 // 4 > max_bytes + 2:
        raise UsageError(
            f"{len(image) * 3 / 4e6:.1f} MB are more than the limit of {max_bytes / 1e6:g} MB"
        )
    try:
        data = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("`image` is not base64") from error
    if not data:
        raise UsageError("`image` is empty")
    return data

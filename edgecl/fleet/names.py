"""What a class is called across devices."""

from __future__ import annotations

import hashlib

from edgecl.types import clean_label


def plain_id(name: str) -> str:
    """Return what a class is outside a fleet: the SHA-256 of its name as it is stored (NFC)."""
    return hashlib.sha256(clean_label(name).encode()).hexdigest()

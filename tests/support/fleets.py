"""What tests of a fleet need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from edgecl.fleet.identity import DeviceKeys


def device_keys(i: int) -> DeviceKeys:
    """Return the keys of the i-th device, without a home."""
    home: Any = SimpleNamespace(key=bytes([i]) * 32)
    return DeviceKeys.of(cast(Any, home))

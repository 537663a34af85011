"""What a device keeps of its fleet beside what is signed, and what an exchange did."""

from __future__ import annotations

from dataclasses import dataclass

from edgecl.fleet.merged import Merged


@dataclass(frozen=True)
class Kept:
    """What device.json says.

    Args:
        base: What is added to the store's version.
        order: Number of the last order that was applied.
        receipt: Digest of the receipt of that order; '' if nothing of it was here.
        sent: Digest of what was sent last, without its generation.
        sealed: The fleet's key, sealed to this device: one that was forgotten itself still has to
            know what else it was ordered to forget.
    """

    base: int = 0
    order: int = 0
    receipt: str = ""
    sent: str = ""
    sealed: str = ""


@dataclass(frozen=True)
class Synced:
    """What `sync` did.

    Args:
        orders: Numbers of the orders that were applied now, with the ids of their receipts.
        sent: Generation that was sent; None if the carrier has it already.
        merged: The merged head that is here; None if there is none.
        is_new: Whether it came now.
        is_out: Whether an order took this device out of the fleet.
        waiting: How many requests of this device no order has answered yet.
        refused: How many were refused, as is known from now on.
    """

    orders: tuple[tuple[int, str], ...]
    sent: int | None
    merged: Merged | None
    is_new: bool
    is_out: bool
    waiting: int = 0
    refused: int = 0

"""Exact pairwise masks: whoever adds up the sums of a fleet sees the whole and no single device.

Every two devices of a round agree on a stream of 64-bit words; one adds it to its values, the other
subtracts it, modulo 2^64. What a device sends is then uniformly distributed, alone and together
with that of any others short of all, and the sum over all is the sum of the values, bit for bit:
they are integers (value x 2^24), so nothing is rounded or clipped.

A round: everybody takes a seat (`sit`), whose ephemeral key is signed with the member's key; the
list of all seats goes back to everybody, who then masks once (`Turn.mask`); `unmask` adds up. Who
drops out after the list was made is missing from the sum, so that round is given up, and a new one
begins with new keys.

Secure against a merger that keeps all and lies about the list, as long as two members beside it are
honest: it then learns no more than the sum of those. Not hidden: the sum itself, the names of the
members and what is summed; and of two rounds that end, one with a member and one without, the
difference (so who is late sends nothing into a round that was begun anew without it).

Paper: Bonawitz and others, Practical Secure Aggregation for Privacy-Preserving Machine Learning,
2017 (CCS); without its Shamir shares of the keys, for few devices that come back.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgecl.errors import IntegrityError, RequestError, ShapeError
from edgecl.store.text import dump_json

UInt64 = npt.NDArray[np.uint64]

FEWEST = 3
"""Members of a round: of two, each could subtract itself from the sum and see the other."""
_MOST = 1000
_MOST_VALUES = 1 << 28
_LABEL = b"edgecl fleet mask 1\0"
_SIGNED = b"edgecl fleet seat 1\0"
_HEX = {"round": 32, "about": 64, "key": 64, "signature": 128}
# Words of a stream that are made at a time, so that a mask needs no memory of its own.
_BLOCK = 1 << 17


@dataclass(frozen=True, slots=True)
class Seat:
    """What one member says when it takes part in a round.

    Args:
        fleet: Id of the fleet.
        round: Id of the round, 32 hexadecimal digits.
        device: Name of the member.
        about: SHA-256, hex, of what the values are: their classes in order, feature map, head.
        n_values: How many values are summed.
        key: X25519 key of this member for this round only, hex.
        signature: Ed25519 by the member's own key over all of this, hex.
    """

    fleet: str
    round: str
    device: str
    about: str
    n_values: int
    key: str
    signature: str = ""

    @property
    def signed(self) -> bytes:
        """The bytes under the signature."""
        values = asdict(self)
        del values["signature"]
        return _SIGNED + dump_json(values).encode()

    @classmethod
    def from_json(cls, values: Any) -> Seat:
        """Take a seat from what a file says; who signed it is checked with the list.

        Raises:
            IntegrityError: Another field, type or form than a seat has.
        """
        fields = cls.__slots__
        if not isinstance(values, dict) or set(values) != set(fields):
            raise IntegrityError(f"a seat of a round has the fields {', '.join(fields)}")
        for name, value in values.items():
            digits = _HEX.get(name)
            if name == "n_values":
                is_right = type(value) is int and 0 < value <= _MOST_VALUES
            else:
                pattern = (
                    f"[0-9a-f]{{{digits}}}"
                    if digits
                    else r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,200}"
                )
                is_right = isinstance(value, str) and re.fullmatch(pattern, value) is not None
            if not is_right:
                raise IntegrityError(f"a seat of a round names as {name} {str(value)[:40]!r}")
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Turn:
    """What a device keeps of the round that it takes part in; secret.

    Args:
        seat: What it said.
        secret: The other half of `seat.key`, hex.
        used: Digest of what was masked and for whom; empty as long as nothing was.
    """

    seat: Seat
    secret: str
    used: str = ""

    def mask(
        self, seats: Sequence[Seat], members: Mapping[str, str], values: UInt64
    ) -> tuple[Turn, UInt64]:
        """Mask the values of this device, once.

        Keep the turn that comes back before what was masked leaves the device: two different
        arrays under one mask would give away their difference. The same once more is no harm.

        Args:
            seats: The list of the round, as it came back; in any order.
            members: Public key of each member, Ed25519, hex.
            values: Shape (n_values,), uint64: value x 2^24, negative ones modulo 2^64.

        Returns:
            The turn to keep, and the masked values, shape (n_values,), uint64.

        Raises:
            IntegrityError: The list is not in order, or this device stands otherwise in it.
            RequestError: Something else was masked in this round already.
            ShapeError: `values` has another shape or dtype.
        """
        digest = check_seats(seats, members)
        if self.seat not in seats:
            raise IntegrityError(
                f"the list of round {self.seat.round} does not have {self.seat.device} as it sat "
                "down; take a seat in a new round"
            )
        _check_values(values, self.seat)
        what = np.ascontiguousarray(values, "<u8")
        used = hashlib.sha256(digest.encode() + what.tobytes()).hexdigest()
        if self.used not in ("", used):
            raise RequestError(
                f"{self.seat.device} has masked in round {self.seat.round} already, and a mask "
                "hides one array only; take a seat in a new round"
            )
        out = what.astype(np.uint64)
        for other in seats:
            if other.device != self.seat.device:
                _add_stream(out, self._key_with(other, digest), self.seat.device > other.device)
        return replace(self, used=used), out

    def _key_with(self, other: Seat, digest: str) -> bytes:
        """Return the key of the stream that this device shares with another."""
        own = X25519PrivateKey.from_private_bytes(bytes.fromhex(self.secret))
        try:
            shared = own.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other.key)))
        except ValueError:  # A point of low order: the result would be known to all.
            raise IntegrityError(f"the key of {other.device} in the round is no key") from None
        pair = sorted((self.seat.device, other.device))
        info = _LABEL + dump_json([self.seat.fleet, self.seat.round, digest, *pair]).encode()
        return HKDF(SHA256(), 32, salt=None, info=info).derive(shared)


def sit(
    fleet: str, round_id: str, device: str, about: str, n_values: int, key: Ed25519PrivateKey
) -> Turn:
    """Take a seat in a round, with a key made for it; `key` signs it. See `Seat` for the rest."""
    own = X25519PrivateKey.generate()
    public = own.public_key().public_bytes_raw().hex()
    seat = Seat(fleet, round_id, device, about, n_values, public)
    seat = Seat.from_json(asdict(replace(seat, signature=key.sign(seat.signed).hex())))
    return Turn(seat, own.private_bytes_raw().hex())


def new_round() -> str:
    """Return the id of a new round, 32 hexadecimal digits."""
    return secrets.token_hex(16)


def check_seats(seats: Sequence[Seat], members: Mapping[str, str]) -> str:
    """Check the list of a round; return its digest, SHA-256, hex, which no order changes.

    Raises:
        IntegrityError: A seat of somebody who is no member, not signed by that member, twice, or of
            another round, fleet or kind of values than the rest; the message names it.
        RequestError: Fewer than three members, or more than a thousand.
    """
    if not FEWEST <= len(seats) <= _MOST:
        raise RequestError(f"a round has {FEWEST} to {_MOST} members, this one {len(seats)}")
    first = seats[0]
    for seat in seats:
        if seat.device not in members:
            raise IntegrityError(f"{seat.device} sits in the round and is no member of the fleet")
        if replace(seat, device="", key="", signature="") != replace(
            first, device="", key="", signature=""
        ):
            raise IntegrityError(
                f"{seat.device} and {first.device} do not sit in the same round of the same values"
            )
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(members[seat.device]))
            public.verify(bytes.fromhex(seat.signature), seat.signed)
        except (InvalidSignature, ValueError):
            raise IntegrityError(f"{seat.device} did not sign its seat in the round") from None
    if len({s.device for s in seats}) < len(seats) or len({s.key for s in seats}) < len(seats):
        raise IntegrityError("a member or a key sits in the round twice")
    listed = sorted((asdict(s) for s in seats), key=lambda s: str(s["device"]))
    return hashlib.sha256(dump_json(listed).encode()).hexdigest()


def unmask(seats: Sequence[Seat], masked: Mapping[str, UInt64]) -> npt.NDArray[np.int64]:
    """Return the sum over all members, shape (n_values,), int64: value x 2^24.

    Args:
        seats: The list of the round, checked.
        masked: What each member sent.

    Raises:
        RequestError: Somebody is missing; the message names them.
        ShapeError: Values of another shape or dtype.
    """
    missing = sorted({s.device for s in seats} - set(masked))
    if missing:
        raise RequestError(
            f"the round lacks the values of {', '.join(missing)}, and without them the rest is "
            "noise; begin a new round without them"
        )
    out = np.zeros(seats[0].n_values, np.uint64)
    for seat in seats:
        _check_values(masked[seat.device], seat)
        out += masked[seat.device]
    return out.view(np.int64)


def _check_values(values: UInt64, seat: Seat) -> None:
    if values.dtype != np.uint64 or values.shape != (seat.n_values,):
        raise ShapeError(
            f"{seat.device} has {values.dtype} {values.shape}, the round sums uint64 "
            f"({seat.n_values},)"
        )


def _add_stream(out: UInt64, key: bytes, is_subtracted: bool) -> None:
    """Add AES-CTR words to an array, or subtract them; each key makes one stream, so no nonce."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    nothing = bytes(8 * _BLOCK)
    for at in range(0, len(out), _BLOCK):
        part = out[at : at + _BLOCK]
        words = np.frombuffer(stream.update(nothing[: part.nbytes]), "<u8")
        (np.subtract if is_subtracted else np.add)(part, words, out=part)

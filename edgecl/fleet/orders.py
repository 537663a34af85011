"""Orders of a fleet's admin: numbered, signed, each with the digest of the one before it.

The chain has the form of receipts.jsonl (edgecl/unlearning/chain.py), so an order that was changed,
left out, moved or invented is found. No order holds a class's name: it lists ids. What an order
means is a pure function of the chain: closed ids, epochs, aliases, who is out, what was admitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgecl.errors import EdgeclError, IntegrityError, RequestError
from edgecl.fleet.identity import check_device_name, class_id, is_hex, is_signed
from edgecl.runtime.files import loads
from edgecl.store.text import dump_json
from edgecl.types import Receipt
from edgecl.unlearning.chain import START, digest_of, has_its_digest

CLASS, DEVICE, ALIAS, ADMIT, REFUSE = "forget class", "forget device", "alias", "admit", "refuse"
# What a body must say beside its kind, time and reason.
_FIELDS: dict[str, tuple[str, ...]] = {
    CLASS: ("ids",),
    DEVICE: ("key", "name"),
    ALIAS: ("ids", "to"),
    ADMIT: ("key", "digest"),
    REFUSE: ("key", "digest"),
}
_MOST_IDS = 10_000


@dataclass(frozen=True)
class Order:
    """One order.

    Args:
        number: From 1 on.
        body: `kind`, its target, `time` (seconds since the epoch) and `reason`.
        previous: Digest of the one before it.
        digest: Its own.
        signature: The admin's, over the digest.
    """

    number: int
    body: dict[str, Any]
    previous: str
    digest: str
    signature: str

    @property
    def kind(self) -> str:
        """One of the five kinds."""
        return str(self.body["kind"])

    @property
    def ids(self) -> frozenset[str]:
        """Ids of the classes that it is about; empty for an order about a device."""
        return frozenset(self.body.get("ids", ()))

    def line(self) -> bytes:
        """Return it as a line, in the one form in which it is read."""
        return dump_json(vars(self)).encode() + b"\n"


@dataclass(frozen=True)
class Orders:
    """A checked chain of orders, oldest first."""

    entries: tuple[Order, ...] = ()

    @property
    def last(self) -> int:
        """Number of the newest order; 0 if there is none."""
        return len(self.entries)

    @cached_property
    def closed(self) -> frozenset[str]:
        """Ids that no contribution may bring any more."""
        return frozenset(i for order in self.entries if order.kind == CLASS for i in order.ids)

    @cached_property
    def out(self) -> frozenset[str]:
        """Keys of the devices that were forgotten: nothing of theirs counts again."""
        return self._of(DEVICE, "key")

    @cached_property
    def admitted(self) -> frozenset[str]:
        """Digests of contributions that count although something was doubtful."""
        return self._of(ADMIT, "digest") - self.refused

    @cached_property
    def refused(self) -> frozenset[str]:
        """Digests of contributions that never count."""
        return self._of(REFUSE, "digest")

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Ids whose sums are added to those of another id."""
        found: dict[str, str] = {}
        for order in self.entries:
            if order.kind == ALIAS:
                found |= dict.fromkeys(order.ids, order.body["to"])
        return found

    def canonical(self, class_: str) -> str:
        """Return the id under which a class counts."""
        aliases = self.aliases
        for _ in aliases:
            if class_ not in aliases:
                break
            class_ = aliases[class_]
        return class_

    def until(self, number: int) -> Orders:
        """Return the chain as it was at an order."""
        return Orders(self.entries[:number])

    def epoch(self, fleet_key: bytes, name: str) -> int:
        """Return how often this name was forgotten."""
        closed, epoch = self.closed, 0
        while class_id(fleet_key, name, epoch) in closed:
            epoch += 1
        return epoch

    def id_of(self, fleet_key: bytes, name: str) -> str:
        """Return the id that this name has now."""
        return class_id(fleet_key, name, self.epoch(fleet_key, name))

    def all_of(self, class_: str) -> list[str]:
        """Return the ids that count as the same class as this one, itself among them, sorted."""
        meant = self.canonical(class_)
        same = {other for other in self.aliases if self.canonical(other) == meant}
        return sorted({class_, meant, *same} - self.closed)

    def add(self, body: dict[str, Any], key: Ed25519PrivateKey) -> Orders:
        """Return the chain with one more order, signed with the admin's key."""
        _check_body(body)
        previous = self.entries[-1].digest if self.entries else START
        digest = digest_of(previous, dump_json(body))
        signature = key.sign(digest.encode()).hex()
        return Orders((*self.entries, Order(self.last + 1, body, previous, digest, signature)))

    def extended(self, found: Iterable[Order], admin: str) -> Orders:
        """Return the chain with what others found of it, in any order, also more than once.

        Args:
            found: Orders; those that are known must be the same.
            admin: The public key that must have signed them, hex.

        Raises:
            IntegrityError: One was changed or invented, the admin signed two of one number, or one
                is missing before another.
        """
        entries = list(self.entries)
        for order in sorted(found, key=lambda order: order.number):
            _check_order(order, admin)
            if order.number <= len(entries):
                if entries[order.number - 1].digest != order.digest:
                    raise IntegrityError(
                        f"there are two orders {order.number} of this fleet: the admin's key was "
                        "copied or stolen; make a new fleet (`edgecl fleet init`) and join it"
                    )
                continue
            if order.number != len(entries) + 1:
                raise IntegrityError(
                    f"order {len(entries) + 1} is missing before order {order.number}; copy all of "
                    "the carrier's folder `orders`"
                )
            if order.previous != (entries[-1].digest if entries else START):
                raise IntegrityError(
                    f"order {order.number} does not follow the one before it: one was changed"
                )
            entries.append(order)
        return Orders(tuple(entries))

    def _of(self, kind: str, field: str) -> frozenset[str]:
        return frozenset(str(o.body[field]) for o in self.entries if o.kind == kind)


def read_order(data: bytes, what: str) -> Order:
    """Read what `Order.line` wrote; its place in the chain is checked by `Orders.extended`.

    Raises:
        IntegrityError: It is none.
    """
    try:
        values = loads(data)
        order = Order(**values)
        if order.line() != data or type(order.number) is not int or order.number < 1:
            raise ValueError("it is not in the form in which it was written")
        _check_body(order.body)
    except (ValueError, TypeError, LookupError, EdgeclError) as error:
        raise IntegrityError(f"{what} is no order of a fleet, or damaged ({error})") from error
    return order


def _check_order(order: Order, admin: str) -> None:
    receipt = Receipt("", order.body, order.previous, order.digest, order.signature)
    if not has_its_digest(receipt) or not is_signed(order.digest, order.signature, admin):
        raise IntegrityError(
            f"order {order.number} was changed, or is not from this fleet's admin; nothing of it "
            "was done"
        )


def _check_body(body: dict[str, Any]) -> None:
    fields = _FIELDS.get(str(body.get("kind")))
    if fields is None or set(body) != {"kind", "time", "reason", *fields}:
        raise RequestError(f"an order of kind {body.get('kind')!r} says {', '.join(sorted(body))}")
    if "name" in fields:
        check_device_name(str(body["name"]))
    texts: Sequence[Any] = [body[field] for field in fields if field not in ("ids", "name")]
    texts = [*texts, *(body["ids"] if "ids" in fields else ())]
    if not texts or len(texts) > _MOST_IDS or not all(is_hex(text, 64) for text in texts):
        raise RequestError(f"an order of kind {body['kind']!r} has a target that is no id")
    if type(body["time"]) is not int or not isinstance(body["reason"], str):
        raise RequestError("an order has a time that is no whole number, or a reason that is none")

"""Asking a home to unlearn something: done here, or by the process that works on the home."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from edgecl.errors import HomeLockedError, RequestError, UsageError
from edgecl.heads import make_head_of
from edgecl.home import Home
from edgecl.lending import lent
from edgecl.session import open_learner, open_store
from edgecl.store.exports import finish_exports
from edgecl.store.requests import record
from edgecl.store.retention import has_older
from edgecl.store.snapshots import snapshots_of
from edgecl.store.store import Store
from edgecl.types import ForgetRequest, Mode, Receipt, Say
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.lookup import find, look_up, receipt_of
from edgecl.unlearning.plan import Plan, Target, make_plan
from edgecl.unlearning.receipt import Refused, Verified
from edgecl.unlearning.request import Unlearned, finish_requests, forget_found, writing_chain

# How long a request that another process carries out is waited for.
_PATIENCE_S = 10.0
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A request that was left to the process that writes to the home.

    Args:
        receipt_id: Its receipt; None when that process did not come to it in time.
        mode: The receipt's mode, `already_forgotten`, or None without a receipt.
        verified: Whether its check passed; None when there was none, or an incomplete one.
    """

    receipt_id: str | None
    mode: Mode | None
    verified: bool | None = None


def unlearn(
    home: Home,
    asked: ForgetRequest,
    *,
    verify: bool = False,
    weights: str | None = None,
    say: Say = lambda what, done, of: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Unlearned | HandedOver:
    """Remove a class, a sample or a source from a home for good; see `request.forget`.

    Args:
        home: The home; its lock is taken, or the request is left to the process that has it.
        asked: What, why, and what happens to adapters.
        verify: Audit the result and look for its bytes in every file of the home.
        weights: The file that the backbone was made from, if it was a file.
        say: Told about progress, as soon as it is known that the request can be carried out.
        tell: Told when it is left to another process.

    Raises:
        UnknownClassError: No such class.
        RequestError: What `forget` raises; or the other process refused it.
    """
    try:
        with writing_chain(home) as chain:
            finish_exports(chain.store)
            found = find(chain, asked)  # what cannot be done is refused before the rest is loaded
            say("unlearning", 0, 1)
            session = lent(home)
            learner = open_learner(home, chain.store) if session is None else session.learner
            return forget_found(
                chain, learner, found, asked, verify=verify, weights=weights, say=say
            )
    except HomeLockedError:
        with open_store(home) as store:
            return _hand_over(home, store, asked, verify=verify, weights=weights, tell=tell)


def time_before(age: str) -> int:
    """Return the time that is so long ago, seconds since the epoch.

    Args:
        age: A whole number and h, d or w, as in `30d`.

    Raises:
        UsageError: It is none of these.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", age.strip())
    if found is None:
        raise UsageError(
            f"{age!r} is no age; expected a whole number from 1 on with h, d or w, as in 30d"
        )
    return int(time.time()) - int(found[1]) * _SECONDS[found[2]]


def is_due(home: Home, before: int) -> bool:
    """Whether a home holds anything that is or may be older than a time, snapshots too."""
    with open_store(home, read_only=True) as store:
        return has_older(store, before) or any(s.created < before for s in snapshots_of(store))


def plan_of(home: Home, asked: ForgetRequest) -> Plan | Receipt:
    """Return what `unlearn` would do, or the receipt of what it did before; changes nothing."""
    with open_store(home, read_only=True) as store, store.snapshot():
        found = look_up(Chain(home, store), asked)
        if isinstance(found, Receipt):
            return found
        # An empty head: to ask is no reason to read what was learned, and to solve.
        head = make_head_of(home.config.head, store.num_features, codebook=store.codebook)
        return make_plan(store, head, found, asked.adapter_method)


def _hand_over(
    home: Home,
    store: Store,
    asked: ForgetRequest,
    *,
    verify: bool,
    weights: str | None,
    tell: Callable[[str], None],
) -> HandedOver:
    """Leave a request to the process that writes to the home, and wait a while for its receipt."""
    found = look_up(Chain(home, store), asked)
    if isinstance(found, Receipt):
        return HandedOver(found.receipt_id, Mode.ALREADY_FORGOTTEN)
    number = record(store, found, asked, verify=verify, weights=weights)
    tell("another edgecl process writes to this home; it carries the request out")
    receipt_id = _awaited(home, store, number, found)
    if receipt_id is None:
        return HandedOver(None, None)
    chain = Chain(home, store)
    body = chain.find(receipt_id).body
    if body["kind"] == Refused.kind:
        raise RequestError(f"the request was refused: {body['why']}; see {receipt_id}")
    checks = [
        check.status == "verified"
        for _, check in chain.of(Verified)
        if check.of == receipt_id and check.status != "incomplete"
    ]
    return HandedOver(receipt_id, Mode(body["mode"]), all(checks) if checks else None)


def _awaited(home: Home, store: Store, number: int, target: Target) -> str | None:
    """Return the receipt of a request as soon as there is one, None after a while."""
    deadline = time.monotonic() + _PATIENCE_S
    while (receipt_id := receipt_of(store, number, target)) is None:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
        # That process may have ended, or never look for requests.
        with suppress(HomeLockedError), home.lock(), open_store(home) as own:
            finish_requests(home, own)
    return receipt_id

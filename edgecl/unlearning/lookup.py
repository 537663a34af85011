"""What a request means: once, before anything is done, and with each snapshot read once.

The answer is a target, which is handed on to plan, phases and receipt; or the receipt under which
the same was unlearned before.
"""

from __future__ import annotations

import time
from dataclasses import replace

from edgecl.errors import RequestError, UnknownClassError
from edgecl.runtime.redact import redacted
from edgecl.store.copies import Aside
from edgecl.store.erasure import is_there
from edgecl.store.receipts import receipt_for
from edgecl.store.requests import Request, request_of
from edgecl.store.store import Store
from edgecl.types import APPROXIMATE, ForgetRequest, Kind, Receipt, check_reason
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.plan import Target, resolve, target_of
from edgecl.unlearning.receipt import Forgotten, Refused, find_tombstone, tombstone_tag


def find(chain: Chain, request: ForgetRequest) -> Target | Receipt:
    """Return what a request means, or the receipt under which it was carried out before.

    Raises:
        UnknownClassError: No such class; the chain gets an entry that does not name it.
        RequestError: No such sample or source.
        UsageError: The reason names a class.
    """
    try:
        return look_up(chain, request)
    except UnknownClassError:
        with chain.store.transaction(changes_head=False):
            chain.append(Refused("unknown class", time.time()))
        chain.settle()
        raise


def look_up(chain: Chain, request: ForgetRequest) -> Target | Receipt:
    """Do what `find` does and write nothing.

    Raises:
        UnknownClassError: No such class.
        RequestError: No such sample or source.
        UsageError: The reason names a class.
    """
    store = chain.store
    for name in (*store.names.values(), *store.aliases()):
        check_reason(request.reason, name)
    found = _look_up(chain, request, Aside(store))
    if isinstance(found, Target):
        for name in found.names:
            check_reason(request.reason, name)
    return found


def _look_up(chain: Chain, request: ForgetRequest, aside: Aside) -> Target | Receipt:
    home, store = chain.home, chain.store
    try:
        return resolve(store, request, aside)
    except RequestError:
        before = find_tombstone(home, store, request.kind, request.name)
        if before is None:
            # What a camera's address is kept as, without its account.
            kept_as = redacted(request.name)
            if request.kind is Kind.SOURCE and kept_as != request.name:
                return _look_up(chain, replace(request, name=kept_as), aside)
            raise
        receipt = chain.find(before[1])
        if _is_enough(receipt, request.adapter_method):
            return receipt
        # What was only approximate is made exact: the adapters that saw it are still there.
        return target_of(store, request.kind, before[0], aside)


def look_up_again(chain: Chain, request: Request) -> Target | Receipt:
    """Return what a request on the list means, whose command is gone or is another process.

    Raises:
        RequestError: There is no sample of this uid any more.
    """
    store, kind, uid = chain.store, request.kind, request.uid
    receipt_id = None if is_there(store, kind, uid) else receipt_for(store, kind, uid)
    if receipt_id is not None:
        receipt = chain.find(receipt_id)
        if _is_enough(receipt, request.adapter_method):
            return receipt
    return target_of(store, kind, uid)


def receipt_of(store: Store, number: int, target: Target) -> str | None:
    """Return the receipt of a request that is done, or None.

    Of one that another had made superfluous, that one's; of one that was refused, the refusal.
    """
    with store.errors():
        if request_of(store, number) is not None:
            return None
        return store.receipt_of_request(number) or receipt_for(store, target.kind, target.uid)


def receipts_of_name(chain: Chain, name: str) -> set[str]:
    """Return the receipts under which what had a name was unlearned, by its keyed hash.

    Args:
        chain: The chain of the home.
        name: Of a class, a source, or the number of a sample.
    """
    tags = {
        tombstone_tag(chain.home, kind, text) for kind in Kind for text in {name, redacted(name)}
    }
    return {
        receipt.receipt_id
        for receipt, entry in chain.of(Forgotten)
        if tags & {tag for _, _, tag in entry.tombstones}
    }


def _is_enough(receipt: Receipt, method: str) -> bool:
    """Whether nothing is left to do for a request: an exact method makes exact what was not."""
    return Forgotten.from_json(receipt.body).mode.is_exact or method in APPROXIMATE

"""Samples of which a person said that their class is right, whatever the others say."""

from __future__ import annotations

from collections.abc import Sequence

from edgecl.store.erasure import unknown_sample
from edgecl.store.store import Store


def confirmed_samples(store: Store) -> frozenset[int]:
    """Return uids of the samples that were confirmed as what they are."""
    rows = store.connection.execute(
        "SELECT c.uid FROM confirmed c JOIN replay r ON r.uid = c.uid "
        "WHERE r.class_uid = c.class_uid"  # given another class since, it is asked again
    )
    return frozenset(int(uid) for (uid,) in rows)


def confirm_samples(store: Store, uids: Sequence[int]) -> None:
    """Note that the classes of kept samples are right; inside a transaction.

    Raises:
        RequestError: One of them is not kept.
    """
    for uid in uids:
        done = store.connection.execute(
            "INSERT OR REPLACE INTO confirmed(uid, class_uid) "
            "SELECT uid, class_uid FROM replay WHERE uid = ? AND is_stored",
            (uid,),
        )
        if not done.rowcount:
            raise unknown_sample(uid)

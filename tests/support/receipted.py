"""A home that lives through all that writes a receipt; golden/receipts.jsonl is its ledger."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import build
from edgecl import snapshots
from edgecl.errors import UnknownClassError
from edgecl.home import Home
from edgecl.learner import open_learner
from edgecl.types import ForgetRequest
from edgecl.unlearning.request import forget, writing

LABELS = ("purple bracket", "brass washer", "steel gasket", "iron clamp")


def history(home: Home, folder: Path) -> None:
    """Let a home of 12 features live through all that writes a receipt."""
    (home.path / "device.key").write_bytes(build.DEVICE_KEY)
    home = Home(home.path)
    with writing(home) as store:
        learner = open_learner(home, store)
        x, y = build.features(60, store.num_features, len(LABELS))
        frames = [
            replace(build.frame(LABELS[c - 1], i), source=f"day {i % 3}") for i, c in enumerate(y)
        ]
        learner.learn_many(frames, x)
        learner.settle()
        snapshots.take(home, store)
        snapshots.rollback(home, learner, 1)
    shutil.copy(home.database, folder / "old.db")
    with writing(home) as store:
        learner = open_learner(home, store)
        forget(home, learner, ForgetRequest(LABELS[1], "asked to"), verify=True)
        forget(home, learner, ForgetRequest(str(store.stored_samples()[0][0]), kind="sample"))
        forget(home, learner, ForgetRequest("day 1", kind="source"))
        with suppress(UnknownClassError):
            forget(home, learner, ForgetRequest("never heard of"))
    for file in home.path.glob("device.db*"):
        file.unlink()
    shutil.copy(folder / "old.db", home.database)
    with writing(home) as store:
        # Asked for by another process, and gone when this one came to it.
        store.connection.execute(
            "INSERT INTO requests(kind, target, phase, created, body) "
            "VALUES ('sample', 999, 'PENDING', 1e9, ?)",
            ('{"adapter_method":"drop","reason":"","verify":false,"weights":null}',),
        )

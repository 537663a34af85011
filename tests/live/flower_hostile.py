"""Devices that lie, before a fake of Flower's grid; run in the carrier's own environment.

Usage: flower_hostile.py CARRIER; what the server logs goes to standard error.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from edgecl_flower.server import Exchange

DATA = b"a file"
DIGEST = hashlib.sha256(DATA).hexdigest()[:16]
GOOD = f"contributions/good/g1-{DIGEST}.efc"


def lists(**changes: Any) -> ConfigRecord:
    return ConfigRecord({"inbox": [], "tried": [], "left": [], "refused": [], **changes})


def content(record: ConfigRecord | None, **files: bytes) -> RecordDict:
    arrays = {n: Array("uint8", (len(d),), "edgecl.file", d) for n, d in files.items()}
    return RecordDict({"files": ArrayRecord(arrays), **({"list": record} if record else {})})


# Of each device; a list: one after another.
ANSWERS: list[Any] = [
    content(lists(), **{GOOD: DATA}),
    content(lists(), **{"../../evil": DATA, f"orders/000009-{DIGEST}.json": DATA, GOOD: b"other"}),
    content(lists(), **{f"contributions/a\x1b[2J/g1-{DIGEST}.efc": DATA}),
    content(lists(), **{GOOD.replace("g1", "g2"): bytes(2000)}),
    content(None),
    content(ConfigRecord({"inbox": "x", "tried": [], "left": [], "refused": []})),
    content(lists(left=["for ever"], tried=["x"])),
    content(lists(inbox=["../../etc/passwd x"] * 3, refused=["\x1b[2J" + "x" * 9999] * 5000)),
    RecordDict(),
    None,
    [content(lists()), RecordDict()],
]


class Grid:
    """Answers as each device of the list above does."""

    n_asked = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float
    ) -> Iterable[SimpleNamespace]:
        for message in messages:
            self.n_asked += 1
            node = message.metadata.dst_node_id
            answer: Any = ANSWERS[node - 1]
            if isinstance(answer, list):
                answer = answer.pop(0)
            if answer is not None:
                yield SimpleNamespace(
                    metadata=SimpleNamespace(src_node_id=node),
                    has_error=lambda: False,
                    content=answer,
                )
        yield SimpleNamespace(
            metadata=SimpleNamespace(src_node_id=77), has_error=lambda: False, content=RecordDict()
        )


# What Flower sets where it starts an app.
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
grid = Grid()
exchange = Exchange(grid, Path(sys.argv[1]), 1000, 1.0)  # type: ignore[arg-type]
exchange.serve(list(range(1, len(ANSWERS) + 1)))
print(exchange.n_served, grid.n_asked)

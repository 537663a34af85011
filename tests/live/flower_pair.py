"""Both sides of the carrier on Flower in one process: what is between them is a fake of its grid.

Usage: flower_pair.py LIMIT CARRIER DEVICE...; run in the carrier's own environment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from edgecl_flower.client import app
from edgecl_flower.server import Exchange


class Grid:
    """Hands each message to the app of a device."""

    def __init__(self, folders: list[str]) -> None:
        self.folders, self.n_asked = folders, 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float) -> Iterator[Message]:
        for message in messages:
            self.n_asked += 1
            node = message.metadata.dst_node_id
            folder = self.folders[node - 1]
            config = {"outbox": f"{folder}/outbox", "inbox": f"{folder}/inbox"}
            yield app(message, Context(1, node, config, RecordDict(), {}))


# What Flower sets where it starts an app.
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
grid = Grid(sys.argv[3:])
exchange = Exchange(grid, Path(sys.argv[2]), int(sys.argv[1]), 1.0)  # type: ignore[arg-type]
exchange.serve(list(range(1, len(grid.folders) + 1)))
print(exchange.n_served, grid.n_asked)

"""Writes receipts.jsonl: a ledger with a receipt of every kind, and `again` and `weights` once.

Run `PYTHONPATH=tests/support python tests/golden/make_receipts.py` in the repository root, and only
when the receipts were changed on purpose. A test lives `receipted.history` once more.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import receipted
import workloads

import build
from edgecl.exporters.bundle import export_bundle
from edgecl.home import Home
from edgecl.learner import open_learner, served
from edgecl.store.adapters import TaskAdapter, task_adapters
from edgecl.types import ForgetRequest
from edgecl.unlearning import request as unlearning
from edgecl.unlearning.approximate.report import UnlearnedAdapter, WeightsReport
from edgecl.unlearning.audit.verify import Audit
from edgecl.unlearning.request import forget, writing


def approximate(path: Path) -> list[bytes]:
    """Unlearn a class in an adapter, its training replaced, and export a bundle before."""
    home = workloads.small_home(path, capacity=100)
    (home.path / "device.key").write_bytes(build.DEVICE_KEY)
    home = Home(home.path)
    workloads.teach_pictures(home.path)
    workloads.consolidate(home.path)
    with writing(home) as store:
        scorer, adapters = served(home, store)
        export_bundle(home, store, scorer, adapters, path.parent / "bundle")
        report = WeightsReport(
            "iau", {"learning_rate": 0.01}, 6, 18, 84, 80, 1.0, 0.0, 1.0, 1.0, 100.0,
            0.5, 1.0, 0.5, 1.0, 1.0, {}, 0.25,
        )  # fmt: skip
        learner = open_learner(home, store)

        def changed(*given: Any) -> list[tuple[TaskAdapter, UnlearnedAdapter]]:
            tasks = task_adapters(store)
            return [(task, UnlearnedAdapter(task.adapter, report)) for task in tasks]

        name = next(iter(store.names.values()))
        with mock.patch.object(unlearning, "changed_adapters", changed):
            forget(home, learner, ForgetRequest(name, adapter_method="iau"))
    return home.ledger.read_bytes().splitlines(keepends=True)


def main() -> None:
    """Write the ledger."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("time.time", return_value=1.7e9),
        mock.patch("edgecl.unlearning.evidence.audit", return_value=Audit({"n_classes": 3}, ())),
    ):
        home = build.tiny_home(Path(folder) / "home")
        receipted.history(home, Path(folder))
        text = home.ledger.read_bytes()
        with_weights = b"".join(approximate(Path(folder) / "adapted"))
    here = Path(__file__).parent
    (here / "receipts.jsonl").write_bytes(text)
    (here / "receipts_adapted.jsonl").write_bytes(with_weights)
    print(text.decode(), with_weights.decode())


if __name__ == "__main__":
    main()

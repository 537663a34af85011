"""A small home without torch, and what may be killed while it works on it (see crash.py).

The engine is made by hand: mean colours of the four quarters of a picture, 12 features, and a place
for an adapter of rank 2. Workloads that learn take generated features, so that only those that
embed load the engine; the store, the head and the transactions are the real ones.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import build
from edgecl import mending, snapshots
from edgecl.config import Config, HeadConfig, StoreConfig
from edgecl.exporters.bundle import export_bundle
from edgecl.home import ADAPTED_FOLDER, Home, make_home
from edgecl.learner import position_key
from edgecl.review import label_entries
from edgecl.runtime.adapters import Adapter
from edgecl.runtime.grid import quantise
from edgecl.runtime.manifest import Manifest
from edgecl.runtime.preprocess import Preprocessing, picture_of
from edgecl.session import Session, open_learner, open_store
from edgecl.store import novel
from edgecl.store.adapters import task_adapters
from edgecl.store.exports import exports_of, finish_exports
from edgecl.store.moves import sums_of_run
from edgecl.store.progress import Position
from edgecl.store.runs import last_run
from edgecl.store.store import Store, create_store
from edgecl.store.table import Role
from edgecl.store.tables import TABLES
from edgecl.types import ForgetRequest, Frame
from edgecl.unlearning import evidence
from edgecl.unlearning import request as unlearning
from edgecl.unlearning.audit.verify import Audit
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.request import writing

D = 12
CAPACITY = 15
# More than 64 samples of some class, so that its statistics are folded on the way.
N_STREAM, N_COMMIT = 200, 20
FORGOTTEN = "part-2 of the stream"
# Every tenth of a class is held out, so that the newest sample has this uid.
N_LEARNED = N_STREAM - sum(np.bincount(build.features(N_STREAM, D)[1]) // 10)
LABELS = {1: "part-1 of the stream", 2: FORGOTTEN, 3: "part-3 of the stream"}
_RIGHT = "part-4, as it should be"
_SIDE, _RANK = 16, 2
_SHAPES = {"down": (_RANK, D), "down_bias": (_RANK,), "up": (D, _RANK), "up_bias": (D,)}
_SOURCE = "by the gate"
# What the clock says, hashes over it, and numbers that a repeated step may take twice.
_CLOCK = {
    "classes": {"created"},
    "adapters": {"created", "uid"},
    "opinions": {"adapter"},
    "adapter_classes": {"adapter_uid"},
    "receipts": {"number", "previous", "digest", "signature"},
    "tombstones": {"receipt_id"},
    "snapshots": {"created", "digest", "size_bytes"},
    "exports": {"uid", "created", "digest", "path"},
    "evaluations": {"time"},
    "latencies": {"bucket", "n"},
}
_OF_RUNS = ("last_run", "run_stats", "changes", "change_classes")
# Encrypted in a sealed store, with keys and nonces of chance.
_SEALED = {table.name for table in TABLES if table.sealed}
_CLOCK_IN_BODY = {"time", "requested", "of", "request", "bytes_before", "bytes_after"}
# What a check lost with the process that had it in memory.
_CLOCK_IN_BODY |= {
    "exports",
    "exports_stale",
    "snapshot_files",
    "receipt",
    "metrics",
    "status",
    "copies",
}


def small_home(path: Path, *, capacity: int = CAPACITY, sealed: bool = False) -> Home:
    """Make a home that learned nothing."""
    data, adapted = _engine(), _engine(has_adapter=True)
    manifest = Manifest(
        backbone="by-hand",
        weights_sha256="0" * 64,
        weights_source="none",
        weights_licence="none",
        taps=(),
        num_features=D,
        preprocessing=Preprocessing(_SIDE, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3),
        engine_sha256=hashlib.sha256(data).hexdigest(),
        opset=18,
        parity={},
    )
    digest = hashlib.sha256(adapted).hexdigest()
    with_adapter = replace(manifest, engine_sha256=digest, adapter_rank=_RANK)

    def fill(folder: Path, database: Path) -> None:
        (folder / manifest.engine).write_bytes(data)
        manifest.save(folder)
        (folder / ADAPTED_FOLDER).mkdir()
        (folder / ADAPTED_FOLDER / manifest.engine).write_bytes(adapted)
        with_adapter.save(folder / ADAPTED_FOLDER)
        create_store(
            database,
            feature_map=manifest.feature_map,
            num_features=D,
            second_moment="full",
            sealed=sealed,
        )

    config = Config(store=StoreConfig(capacity), head=HeadConfig("ridge"))
    return make_home(path, config, fill, encrypt=sealed)


def learn(path: Path, *, stop: int = N_STREAM, reopen: bool = False) -> None:
    """Learn a stream of 200 frames from where it stands, 20 a commit; more than are kept."""
    home = Home(path)
    x, y = build.features(N_STREAM, D, len(LABELS))
    key = position_key(home, "stream")
    is_done = False
    while not is_done:
        with writing(home) as session:
            store = session.store
            learner = open_learner(home, store)
            while not is_done:
                at = store.position(key) or Position(0, b"", False)
                is_done = at.n >= stop
                if is_done:
                    learner.settle()
                    break
                part = slice(at.n, at.n + N_COMMIT)
                frames = [
                    Frame(
                        f"{i}",
                        encoded=_PICTURES[i % 7],
                        label=LABELS[int(c)],
                        source=_SOURCE,
                        time=1e9 + i,
                    )
                    for i, c in enumerate(y[part], at.n)
                ]
                learner.learn_many(frames, x[part], position=(key, Position(part.stop, b"", False)))
                if reopen:
                    break


def reopen(path: Path) -> None:
    """Learn the stream, closing the store after every commit, which empties its log."""
    learn(path, reopen=True)


def forget(path: Path) -> None:
    """Forget a class, unless that was done; and finish what an earlier run left.

    The audit writes nothing, so a fixed one stands for it; every phase is real.
    """
    home = Home(path)
    with (
        mock.patch.object(evidence, "audit", return_value=Audit({}, ())),
        writing(home) as session,
    ):
        store = session.store
        if FORGOTTEN in store.names.values():
            request = ForgetRequest(FORGOTTEN, "asked to")
            unlearning.forget(home, open_learner(home, store), request, verify=True)


def forget_sources(path: Path) -> None:
    """Forget a sample and then its source, unless that was done."""
    home = Home(path)
    with (
        mock.patch.object(evidence, "audit", return_value=Audit({}, ())),
        writing(home) as session,
    ):
        store = session.store
        learner = open_learner(home, store)
        for request in (
            ForgetRequest(str(N_LEARNED), kind="sample"),
            ForgetRequest(_SOURCE, kind="source"),
        ):
            if store.names:
                unlearning.forget(home, learner, request, verify=True)


def offer_frames(path: Path) -> None:
    """Put six frames that nobody named into the review queue."""
    home = Home(path)
    with writing(home) as session, session.store.transaction(changes_head=False):
        store = session.store
        for i, row in enumerate(quantise(np.eye(6, D, dtype=np.float32))):
            novel.offer(
                store,
                picture=_PICTURES[i],
                x=row,
                guess=i % len(LABELS) + 1,
                score=2.0 + i,
                source=_SOURCE,
                frame=f"unknown {i}",
                time=2e9 + i,
            )


def review(path: Path) -> None:
    """Name four frames of the review queue in two steps and drop one, unless that was done.

    A frame that still waits though it was learned is learned twice, one that does neither is
    missing at the end; `state` tells both.
    """
    home = Home(path)
    for step in ((1, 4), (2, 3)):
        with writing(home) as session:
            store = session.store
            waiting = _waiting(store)
            if waiting.keys() >= set(step):
                uids = [waiting[n] for n in step]
                label_entries(open_learner(home, store), uids, LABELS[step[0]])
            else:
                assert waiting.keys().isdisjoint(step)
    with writing(home) as session:
        store = session.store
        if 6 in (waiting := _waiting(store)):
            with store.transaction(changes_head=False):
                novel.drop(store, [waiting[6]])
        open_learner(home, store).settle()


def mend(path: Path) -> None:
    """Relabel samples, take that back, merge two classes, and relabel again; each once."""
    home = Home(path)
    for step, work in enumerate(
        (
            lambda learner: mending.relabel(home, learner, [N_LEARNED - 1, N_LEARNED], _RIGHT),
            lambda learner: mending.undo(home, learner),
            lambda learner: mending.merge_classes(home, learner, LABELS[1], LABELS[3]),
            lambda learner: mending.relabel(home, learner, [N_LEARNED], _RIGHT),
        ),
        1,
    ):
        with writing(home) as session:
            if len(Chain(home, session.store).receipts) < step:
                work(session.learner)
    with writing(home) as session:
        session.learner.settle()


def _waiting(store: Store) -> dict[int, int]:
    """Return the uids of what waits, by its number from 1 on, in the order of `offer_frames`."""
    return {int(e.frame.split()[1]) + 1: e.uid for e in novel.entries(store)}


def versions(path: Path) -> None:
    """Learn half of a stream, keep that, learn the rest, and go back; each unless it was done."""
    home = Home(path)
    learn(path, stop=N_STREAM // 2)
    with writing(home) as session:
        store = session.store
        if any(r.body["kind"] == "rollback" for r in Chain(home, store).receipts):
            return
        if not snapshots.snapshots_of(store):
            snapshots.take(home, store)
    learn(path)
    with writing(home) as session:
        store = session.store
        snapshots.rollback(home, open_learner(home, store), 1)


def export(path: Path) -> None:
    """Write a bundle into the home's folder, unless that was done; and settle what was cut off."""
    home = Home(path)
    with writing(home) as session:
        store = session.store
        finish_exports(store)
        if not exports_of(store):
            with store.snapshot():
                scorer, adapters = Session(home, store).served()
            export_bundle(home, store, scorer, adapters, home.path / "bundle")


def export_and_forget(path: Path) -> None:
    """Write a bundle and forget a class that it holds."""
    with open_store(Home(path), read_only=True) as store:
        is_asked = FORGOTTEN not in store.names.values() or store.has_requests()
    if not is_asked:
        export(path)
    forget(path)


def forget_and_go_on(path: Path) -> None:
    """Learn half of a stream, forget a class, and learn the rest, where the class comes again."""
    home = Home(path)
    with open_store(home, read_only=True) as store:
        is_forgotten = any(r.body["kind"] == "forget" for r in Chain(home, store).receipts)
    if not is_forgotten:
        learn(path, stop=N_STREAM // 2)
        forget(path)
    learn(path)


def consolidate(path: Path) -> None:
    """Train an adapter, unless that was done.

    Fixed numbers stand for the arithmetic of two epochs; what is kept of them, and all that
    follows, is real.
    """
    from edgecl.adapters.prefix import Seconds
    from edgecl.adapters.training import Progress, Trained
    from edgecl.consolidation import judge, run, train

    def trained(
        network: object, pixels: object, y: np.ndarray, *, tell: Any, **_: object
    ) -> Trained:
        classes = np.unique(y)
        rng = np.random.default_rng(4)
        weights = rng.normal(0, 0.1, (D, len(classes))).astype(np.float32)
        state: dict[str, Any] = {"at": np.array([1, 2]), "now.0": weights}
        tell(Progress(1, 2, 0.0, state))
        bias = np.zeros(len(classes), np.float32)
        return Trained(_adapter(), weights, bias, tuple(map(int, classes)), Seconds(), [1.0, 0.5])

    verdict = judge.Verdict(True, 4, (0.5, 0.5), (0.5, 0.5), 0.0)
    home = Home(path)
    with (
        mock.patch.object(run, "check_backbone"),
        mock.patch.object(train, "adapt"),
        mock.patch.object(train, "train_adapter", trained),
        mock.patch.object(judge, "judged", return_value=verdict),
        home.lock(),
        open_store(home) as store,
    ):
        if not task_adapters(store):
            assert run.consolidate(Session(home, store), mock.Mock()).accepted


def teach_pictures(path: Path, n: int = 48) -> None:
    """Learn pictures with the features that the engine gives."""
    home = Home(path)
    with home.lock(), open_store(home) as store:
        learner, engine = open_learner(home, store), home.engine()
        frames = [
            Frame(
                f"{i}",
                encoded=build.encode(build.part_picture(build.PARTS[i % 3], i, _SIDE), "PNG"),
                label=LABELS[i % 3 + 1],
                time=1e9 + i,
            )
            for i in range(n)
        ]
        pixels = [home.manifest.preprocessing.tensor(picture_of(frame)) for frame in frames]
        learner.learn_many(frames, engine.run(np.stack(pixels)))
        learner.settle()


def state_with_run(path: Path) -> dict[str, Any]:
    """Return `state`, and what an undo would take back."""
    found = state(path)
    with open_store(Home(path), read_only=True) as store:
        run = last_run(store)
        assert run is not None
        found["run"] = (run.kind, run.first, run.body)
        found["sums of the run"] = [
            (c, s, m.n, m.total.tobytes(), m.second.tobytes()) for c, s, m in sums_of_run(store)
        ]
    return found


def state(path: Path) -> dict[str, Any]:
    """Return all that must not depend on where a run was killed: every table, and the head.

    A run that was killed and the one that goes on are two, so what an undo knows is left out, and
    the record of changes but for classes that it must not name.
    """
    home = Home(path)
    found: dict[str, Any] = {}
    with open_store(home, read_only=True) as store:
        query = store.connection.execute
        tables = query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        for (table,) in tables.fetchall():
            if (table in _SEALED and store.is_sealed) or table in _OF_RUNS:
                continue
            cursor = query(f"SELECT * FROM {table} ORDER BY 1, 2")
            columns = [c[0] for c in cursor.description]
            found[table] = [
                {c: v for c, v in zip(columns, row, strict=True) if c not in _CLOCK.get(table, ())}
                for row in cursor
            ]
        for table in ("receipts", "exports"):
            for row in found[table]:
                body = json.loads(row["body"])
                row["body"] = {k: v for k, v in body.items() if k not in _CLOCK_IN_BODY}
        # An erasure that was cut off is repeated, and both are told.
        found["receipts"] = [
            row
            for before, row in zip([None, *found["receipts"]], found["receipts"], strict=False)
            if row != before
        ]
        found["sqlite_sequence"] = [
            row
            for row in found["sqlite_sequence"]
            if row["name"] not in ("receipts", "exports", "adapters", "last_run", "changes")
        ]
        found["gone classes in changes"] = query(
            "SELECT DISTINCT class_uid FROM change_classes EXCEPT SELECT uid FROM classes"
        ).fetchall()
        x, y = store.stored_rows()
        found["rows"] = (x.tobytes(), y.tobytes())
        found["latencies"] = sorted({row["stage"] for row in found["latencies"]})
        held = store.rows(Role.HELD_OUT)
        found["held out"] = (held.x.tobytes(), held.classes.tobytes())
        found["probe pictures"] = [store.picture(uid) for uid in held.uids.tolist()]
        found["kept pictures"] = [store.picture(uid) for uid, _ in store.stored_samples()]
        heads = {"kept": Session(home, store).exact_scorer()}
    with open_store(home) as store:
        heads["built"] = open_learner(home, store).head.scorer(store.names)
    for name, scorer in heads.items():
        found[name] = {part: array.tobytes() for part, array in scorer.arrays().items()}
        found[name]["labels"] = scorer.labels
    return found


def state_without_traces(path: Path) -> dict[str, Any]:
    """Return `state`, after checking that no file holds the name of the forgotten class."""
    for file in (p for p in path.rglob("*") if p.is_file()):
        assert FORGOTTEN.encode() not in file.read_bytes(), f"{file} names the forgotten class"
    return state(path)


def _adapter() -> Adapter:
    rng = np.random.default_rng(3)
    return {f"adapter.{k}": (rng.normal(0, 0.05, s)).astype(np.float32) for k, s in _SHAPES.items()}


def _engine(*, has_adapter: bool = False) -> bytes:
    from onnx import TensorProto, checker, helper

    f32 = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("pixels", f32, ["batch", 3, _SIDE, _SIDE])]
    if has_adapter:
        inputs += [
            helper.make_tensor_value_info(f"adapter.{k}", f32, list(s)) for k, s in _SHAPES.items()
        ]
    plain = "f" if has_adapter else "features"
    half = _SIDE // 2
    nodes = [
        helper.make_node(
            "AveragePool", ["pixels"], ["p"], kernel_shape=[half] * 2, strides=[half] * 2
        ),
        helper.make_node("Flatten", ["p"], ["flat"]),
        helper.make_node("Add", ["flat", "one"], [plain]),
    ]
    if has_adapter:
        nodes += [
            helper.make_node("Gemm", ["f", "adapter.down", "adapter.down_bias"], ["d"], transB=1),
            helper.make_node("Relu", ["d"], ["r"]),
            helper.make_node("Gemm", ["r", "adapter.up", "adapter.up_bias"], ["u"], transB=1),
            helper.make_node("Add", ["f", "u"], ["adapted"]),
            helper.make_node("Concat", ["f", "adapted"], ["features"], axis=1),
        ]
    graph = helper.make_graph(
        nodes,
        "by-hand",
        inputs,
        [helper.make_tensor_value_info("features", f32, ["batch", D * (1 + has_adapter)])],
        [helper.make_tensor("one", f32, [1], [1.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


_PICTURES = [build.frame("part", i).encoded for i in range(7)]

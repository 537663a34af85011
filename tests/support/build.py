"""The one place where tests build what they need."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecl.config import Config, EvaluationConfig, HeadConfig, StoreConfig
from edgecl.errors import MissingPackageError
from edgecl.heads import HEADS
from edgecl.heads.base import Head
from edgecl.heads.codebook import default_codebook
from edgecl.heads.statistics import KeyCounts, Moments, statistic_of
from edgecl.home import Home, make_home
from edgecl.learner import Learner, Lesson
from edgecl.runtime.bank import BankScorer
from edgecl.runtime.codebook import Keys
from edgecl.runtime.grid import quantise
from edgecl.runtime.manifest import Manifest
from edgecl.runtime.preprocess import Preprocessing, picture_of
from edgecl.runtime.scoring import LinearScorer, Scorer
from edgecl.session import open_store
from edgecl.store.adapters import add_adapter
from edgecl.store.changes import newest_sample
from edgecl.store.store import Store, create_store
from edgecl.store.vault import Vault
from edgecl.types import Frame

# Four parts that even a small picture tells apart, and that differ from sample to sample.
PARTS = ("bolt-m4", "bracket", "washer", "gasket")
FEATURE_MAP = "f" * 64
DEVICE_KEY = bytes(range(32))
COMMAND = "from edgecl.cli import main; main()"


def part_picture(part: str, i: int, size: int = 48) -> Image.Image:
    """Draw a noisy stripe pattern whose direction and colour belong to the part."""
    k = PARTS.index(part)
    rng = np.random.default_rng([k, i])
    y, x = np.mgrid[:size, :size]
    angle = k * np.pi / len(PARTS) + rng.normal(0, 0.05)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.6 + rng.uniform(0, 6))
    colour = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [190, 190, 60]])[k]
    noise = rng.normal(0, 12, (size, size, 3))
    pixels = np.clip((wave[:, :, None] * 0.5 + 0.5) * colour + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """Return a picture as file bytes."""
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def part_folder(
    folder: Path, per_class: int = 6, *, parts: tuple[str, ...] = PARTS, start: int = 0
) -> Path:
    """Write a folder with a sub-folder a part."""
    for part in parts:
        (folder / part).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + per_class):
            (folder / part / f"{i:03}.jpg").write_bytes(encode(part_picture(part, i)))
    return folder


def part_frame(part: str, i: int) -> Frame:
    """Return a labelled frame of a part."""
    return Frame(id=f"{part}/{i}", encoded=encode(part_picture(part, i)), label=part)


def tensor_of(home: Home, frame: Frame) -> np.ndarray:
    """Return the input (3, S, S) of a home's engine."""
    tensor = home.manifest.preprocessing.tensor
    return tensor(picture_of(frame))


def adapt_home(home: Home, n: int, bank: str = "last") -> int:
    """Give a home random adapters with random heads, without the time of a training."""
    with open_store(home) as store, store.transaction(changes_head=False):
        return add_adapters(home, store, n, bank)


def add_adapters(home: Home, store: Store, n: int, bank: str = "last") -> int:
    """Do what `adapt_home` does, inside a transaction; returns the uid of the last adapter."""
    rng = np.random.default_rng(0)
    names = tuple(store.names.values())
    d, k = store.num_features, len(names)
    shapes = home.engine(takes_adapters=True).adapter_shapes
    n_maps = {"last": 1, "mean": 1, "two": 2, "all": n}[bank]
    head: LinearScorer | BankScorer = BankScorer(
        weights=rng.normal(size=(d, k)),
        bias=rng.normal(size=k),
        prototypes=rng.normal(size=(d, k)),
        task_of=np.arange(k) % n_maps,
        n_maps=n_maps,
        labels=names,
    )
    if bank == "last":
        head = LinearScorer(rng.normal(0, 0.1, (d, k)), rng.normal(size=k), names, "logits")
    body = {"blend": "newest", "bank": bank, "share": 0.7, "temperature": 10.0, "parents": []}
    body["newest_sample"] = newest_sample(store)
    uid = 0
    for _ in range(n):
        adapter = {key: rng.normal(0, 0.05, s).astype(np.float32) for key, s in shapes.items()}
        saw = dict.fromkeys(store.names, 1)
        uid = add_adapter(store, adapter, head, tuple(store.names), saw=saw, task=(), body=body)
    return uid


def features(
    n: int, num_features: int = 12, n_classes: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return non-negative features (n, D) in clusters and their classes (n,), all classes early."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 3, (n_classes, num_features))
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n)])[:n] + 1
    x = np.maximum(centres[y - 1] + rng.normal(0, 0.3, (n, num_features)), 0)
    return x.astype(np.float32), y


def store(
    path: Path,
    num_features: int = 12,
    *,
    second_moment: str = "full",
    codebook: Keys | None = None,
    sealed: bool = False,
    **options: Any,
) -> Store:
    """Return an open, empty store; a sealed one has its keys beside it."""
    create_store(
        path,
        feature_map=FEATURE_MAP,
        num_features=num_features,
        second_moment=second_moment,
        codebook=default_codebook(num_features)
        if codebook is None and second_moment == KeyCounts.name
        else codebook,
        sealed=sealed,
    )
    if sealed:
        keys_of(path).touch()
        options["vault"] = vault(path)
    return Store(path, **options)


def keys_of(path: Path) -> Path:
    """Return the key file of a sealed store."""
    return path.with_suffix(".keys")


def vault(path: Path, device_key: bytes = DEVICE_KEY) -> Vault:
    """Return the keys of a sealed store."""
    return Vault(keys_of(path), device_key)


def assert_same(a: Scorer, b: Scorer) -> None:
    """Check that two scorers are the same bit by bit."""
    ours, theirs = a.arrays(), b.arrays()
    assert a.labels == b.labels
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[part], theirs[part]) for part in theirs)


def frame(label: str, i: int) -> Frame:
    """Return a labelled frame with a small encoded picture of its own."""
    pixels = np.random.default_rng([i, len(label)]).integers(0, 255, (8, 8, 3), np.uint8)
    return Frame(id=f"{label}/{i}.png", encoded=encode(Image.fromarray(pixels), "PNG"), label=label)


def lessons_of(learner: Learner, frames: list[Frame], x: np.ndarray) -> list[Lesson]:
    """Learn frames; returns what takes them back."""
    reports = learner.learn_many(frames, x)
    return [
        Lesson(r.uid, learner.store.class_uid(f.label or ""), f.source, row, r.is_held_out)
        for r, f, row in zip(reports, frames, quantise(x), strict=True)
    ]


def tiny_home(
    path: Path,
    head: str = "ridge",
    num_features: int = 12,
    *,
    sealed: bool = False,
    probes: int = 0,
    **store: Any,
) -> Home:
    """Make a home for features that come from elsewhere: it has a manifest and no engine.

    Args:
        path: Where it will be.
        head: Name of its head.
        num_features: Width of the features.
        sealed: Whether its store is encrypted.
        probes: Samples of a class that are held out; without them all that comes is learned.
        store: Entries of its `[store]` settings.
    """
    manifest = Manifest(
        backbone="none",
        weights_sha256="0" * 64,
        weights_source="none",
        weights_licence="unknown",
        taps=(),
        num_features=num_features,
        preprocessing=Preprocessing(32, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        engine_sha256="0" * 64,
        opset=18,
        parity={"max_abs": 0.0},
    )
    statistic = HEADS[head].statistic

    def fill(engine_folder: Path, database: Path) -> None:
        manifest.save(engine_folder)
        create_store(
            database,
            feature_map=manifest.feature_map,
            num_features=num_features,
            second_moment=statistic.name,
            codebook=default_codebook(num_features) if statistic.needs_keys else None,
            sealed=sealed,
        )

    config = Config(
        head=HeadConfig(head), store=StoreConfig(**store), evaluation=EvaluationConfig(probes)
    )
    return make_home(path, config, fill, encrypt=sealed)


def change_head(home: Home, name: str, *, sealed: bool = False) -> None:
    """Let a home that learned nothing learn with another head; its config is saved."""
    statistic = HEADS[name].statistic
    home.database.unlink()
    width = home.manifest.num_features
    create_store(
        home.database,
        feature_map=home.manifest.feature_map,
        num_features=width,
        second_moment=statistic.name,
        codebook=default_codebook(width) if statistic.needs_keys else None,
        sealed=sealed,
    )
    home.save_config(replace(home.config, head=replace(home.config.head, name=name)))


def learned(head: Head) -> dict[str, np.ndarray]:
    """Return all that a head learned, as arrays: what it serves, and what it commits."""
    scorer = head.scorer({uid: str(uid) for uid in head.classes})
    arrays = {f"served {name}": array for name, array in scorer.arrays().items()}
    return arrays | (head.state() or {}) | {"classes": np.array(head.classes)}


def assert_learned_same(a: Head, b: Head) -> None:
    """Check that two heads learned the same, bit by bit."""
    ours, theirs = learned(a), learned(b)
    assert ours.keys() == theirs.keys()
    for part, value in theirs.items():
        assert np.array_equal(ours[part], value), part


class ListMemory:
    """What a head may ask of the store, held in a list."""

    def __init__(self, kind: str, num_features: int = 12) -> None:
        keys = default_codebook(num_features) if kind == KeyCounts.name else None
        self.statistic = statistic_of(kind, num_features, keys)
        self.x: list[np.ndarray] = []
        self.y: list[int] = []

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Remember learned samples."""
        self.x += list(quantise(x))
        self.y += [int(v) for v in y]

    def drop(self, y: int) -> None:
        """Forget a class, as the store does after the head did."""
        kept = [(x, label) for x, label in zip(self.x, self.y, strict=True) if label != y]
        self.x, self.y = [x for x, _ in kept], [label for _, label in kept]

    def moments(self, y: int) -> Moments:
        """Return the statistics of class y."""
        rows = np.array([x for x, label in zip(self.x, self.y, strict=True) if label == y])
        return self.statistic.of(rows)

    def all_moments(self) -> dict[int, Moments]:
        """Return the statistics of every class."""
        return {y: self.moments(y) for y in dict.fromkeys(self.y)}

    def stored_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return everything."""
        return np.array(self.x), np.array(self.y, dtype=np.int64)


def invoke(*arguments: object) -> Any:
    """Run a command in this process; errors of edgecl come as exceptions."""
    from typer.testing import CliRunner

    from edgecl.cli.app import app

    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answer(*arguments: object) -> dict[str, Any]:
    """Run a command in this process with `--json`; returns its object."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return value


def run_edgecl(
    *arguments: object,
    env: dict[str, str] | None = None,
    stdin: str | None = None,
    code: str = COMMAND,
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        input=stdin,
        env={**os.environ, **(env or {})},
        timeout=900,
        check=False,
    )
    if code == COMMAND and "'edgecl[torch]'" in done.stderr and find_spec("torch") is None:
        raise MissingPackageError(done.stderr.splitlines()[-1])  # skipped with `--device`
    return done


def is_refused(done: subprocess.CompletedProcess[str], status: int) -> bool:
    """Whether a command ended with a status and printed no result; `--json` tells the error."""
    if done.returncode != status:
        return False
    if "--json" not in done.args:
        return done.stdout == ""
    values = json.loads(done.stdout)
    return set(values) == {"error", "exit"} and values["exit"] == status


def last_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON object on the last line of stdout."""
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return value

"""Rows of an adapter that choose themselves by picture: worked numbers, the graph, a home."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import build
from edgecl.adapters.atoms import ACTIVE, row_factors, row_weights
from edgecl.adapters.bottleneck import adapt, new_adapter
from edgecl.adapters.training import Training
from edgecl.backbones import Backbone, load_backbone
from edgecl.config import Config, ConsolidationConfig, EvaluationConfig
from edgecl.consolidation.judge import Verdict
from edgecl.consolidation.plan import plan_of
from edgecl.consolidation.run import consolidate
from edgecl.errors import FeatureMapError, RequestError, UsageError
from edgecl.exporters.adapting import backbone_to_train
from edgecl.exporters.bundle import export_bundle
from edgecl.exporters.onnx import add_adapter_inputs, init_home
from edgecl.exporters.precision import Options
from edgecl.home import Home
from edgecl.runtime import Predictor
from edgecl.runtime.adapters import GATE, Adapter, padded
from edgecl.runtime.manifest import ENGINE_NAME, Manifest
from edgecl.session import Session, open_store
from edgecl.store.adapters import task_adapters
from edgecl.store.store import Store
from edgecl.types import ForgetRequest
from edgecl.unlearning.request import forget

RANK = 20
NAME = "test_efficientnet"
VERDICT = Verdict(True, 4, (0.9, 0.9), (0.1, 0.1), 0.01)


def hidden_of(*h: float) -> torch.Tensor:
    rows = torch.tensor([[1.0, 0], [0, 1], [1, 1]], dtype=torch.float64)
    return torch.relu(torch.tensor([[h]], dtype=torch.float64) @ rows.T)


def test_weights_equal_the_worked_numbers() -> None:
    hidden = hidden_of(2, 1)
    score = hidden[:, 0] / hidden[:, 0].norm()
    assert score[0].tolist() == pytest.approx([0.5345225, 0.2672612, 0.8017837], abs=1e-7)
    found = row_weights(hidden, 2)
    assert found[0].tolist() == pytest.approx([0.0646089, 0, 0.9353911], abs=1e-7)
    assert row_weights(hidden, 2, least=0.6)[0].tolist() == pytest.approx(
        [0, 0, 0.9353911], abs=1e-7
    )
    assert row_factors(hidden, 2)[0].tolist() == pytest.approx([0.1292178, 0, 1.8707822], abs=1e-6)


def test_where_no_row_fits_nothing_is_added() -> None:
    assert not row_weights(torch.zeros(3, 4, 5), 2).any()
    assert not row_factors(torch.zeros(3, 4, 5), 2).any()


def test_rows_that_fit_alike_count_1_and_silent_ones_take_no_part() -> None:
    hidden = torch.tensor([[[1.0, 1, 0, 1, 0]]])
    assert row_factors(hidden, 5)[0].tolist() == pytest.approx([1, 1, 0, 1, 0])
    padded = torch.cat([hidden, torch.zeros(1, 1, 11)], dim=2)
    assert torch.equal(row_factors(padded, 5)[:, :5], row_factors(hidden, 5))


def test_a_picture_chooses_by_the_mean_of_its_tokens_and_not_by_its_neighbours() -> None:
    hidden = torch.rand(4, 6, 8, generator=torch.Generator().manual_seed(0))
    whole = row_factors(hidden, 3)
    assert ((whole > 0).sum(dim=1) == 3).all()
    for one in range(4):
        assert torch.allclose(row_factors(hidden[one : one + 1], 3), whole[one : one + 1])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(load_backbone(NAME, weights="random", image_size=32).model.model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def small(weights: Path) -> Backbone:
    return load_backbone(NAME, weights=str(weights), image_size=32)


def settings(recipe: str) -> Config:
    return Config(
        consolidation=ConsolidationConfig(recipe=recipe), evaluation=EvaluationConfig(probes=0)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small: Backbone) -> dict[str, Path]:
    """Homes whose engines have gates and have none."""
    place = tmp_path_factory.mktemp("homes")
    init_home(place / "plain", small, settings("plain"), adapter_rank=RANK)
    shutil.copytree(place / "plain", place / "atoms")
    home = Home(place / "atoms")
    add_adapter_inputs(home, small, rank=RANK, active=ACTIVE)
    home.save_config(settings("atoms"))
    return {recipe: place / recipe for recipe in ("atoms", "plain")}


@pytest.fixture
def home_of(made: dict[str, Path], tmp_path: Path) -> Callable[[str], Home]:
    def home_of(recipe: str) -> Home:
        shutil.copytree(made[recipe], tmp_path / recipe)
        return Home(tmp_path / recipe)

    return home_of


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecl.consolidation.judge.judged", lambda *_, **__: VERDICT)


def random_adapter(network: object, gate: float | None) -> Adapter:
    rng = np.random.default_rng(1)
    shapes = network.shapes  # type: ignore[attr-defined]
    adapter = {k: rng.normal(0, 0.3, s).astype(np.float32) for k, s in shapes.items() if k != GATE}
    return adapter if gate is None else {**adapter, GATE: np.full(1, gate, np.float32)}


def consolidated(
    home: Home, store: Store, backbone: Backbone, parts: tuple[str, ...], start: int = 0
) -> Session:
    session = Session(home, store)
    frames = [build.part_frame(part, i) for part in parts for i in range(start, start + 12)]
    x = home.engine().run(np.stack([build.tensor_of(home, frame) for frame in frames]))
    session.learner.learn_many(frames, x)
    consolidate(session, backbone, training=Training(epochs=1, batch_size=16))
    return session


def test_a_shut_gate_changes_no_bit_and_an_open_one_does(small: Backbone) -> None:
    plain, gated = adapt(small, rank=RANK), adapt(small, rank=RANK, active=ACTIVE)
    assert [*plain.shapes, GATE] == list(gated.shapes)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32))

    def features(network: object, adapter: Adapter) -> torch.Tensor:
        with torch.inference_mode():
            return network(x, [torch.from_numpy(a) for a in adapter.values()])  # type: ignore[operator,no-any-return]

    wanted = features(plain, random_adapter(plain, None))
    assert torch.equal(features(gated, random_adapter(gated, 0)), wanted)
    assert not torch.allclose(features(gated, random_adapter(gated, 1)), wanted, atol=1e-3)
    fewer = adapt(small, rank=RANK + 7, active=ACTIVE)
    longer = padded(random_adapter(gated, 1), fewer.shapes)
    assert torch.allclose(
        features(fewer, longer), features(gated, random_adapter(gated, 1)), atol=1e-5
    )


@pytest.mark.slow
def test_the_engine_chooses_rows_as_torch_does(
    home_of: Callable[[str], Home], small: Backbone
) -> None:
    home = home_of("atoms")
    manifest = home.engine_manifest(has_adapters=True)
    assert (manifest.adapter_rank, manifest.adapter_active) == (RANK, ACTIVE)
    assert manifest.parity["max_abs"] < 1e-4 * max(1.0, manifest.parity["rms"])
    network = adapt(small, rank=RANK, active=ACTIVE)
    x = np.random.default_rng(0).uniform(-1, 1, (5, 3, 32, 32)).astype(np.float32)
    for gate in (0, 1):
        adapter = random_adapter(network, gate)
        with torch.inference_mode():
            tensors = [torch.from_numpy(a) for a in adapter.values()]
            wanted = network(torch.from_numpy(x), tensors).numpy()
        found = home.engine([adapter]).run(x)
        assert np.abs(found - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max())


@pytest.mark.slow
def test_a_session_alone_trains_its_rows_and_a_forget_drops_it_alone(
    home_of: Callable[[str], Home], small: Backbone, always: None, tmp_path: Path
) -> None:
    home = home_of("atoms")
    with open_store(home) as store:
        consolidated(home, store, small, build.PARTS[:2])
        session = consolidated(home, store, small, build.PARTS[2:])
        first, second = task_adapters(store)
        assert (first.body["parents"], second.body["parents"]) == ([], [])
        for task in (first, second):
            assert task.adapter[GATE].tolist() == [1]
            assert any(a.any() for name, a in task.adapter.items() if name.endswith(".up"))
            assert not any(a.any() for name, a in task.adapter.items() if "up_bias" in name)
        scorer, adapters = session.served()
        assert (scorer.n_maps, len(adapters)) == (3, 2)
        x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
        for precision, most in (("fp32", 0.0), ("fp16", 0.02), ("int8", 1.0)):
            options = Options(precision, allow_parity_loss=True)
            export_bundle(home, store, scorer, adapters, tmp_path / precision, options)
            ours, theirs = (
                home.engine(adapters).run(x),
                Predictor(tmp_path / precision).engine.run(x),
            )
            assert np.abs(ours - theirs).max() <= most * np.abs(ours).max(), precision
        method = ForgetRequest(build.PARTS[0], adapter_method="ssd")
        with pytest.raises(RequestError, match=r"rows choose themselves .* adapter 1;"):
            forget(home, session.learner, method, weights=str(tmp_path / "small.pth"))
        done = forget(home, session.learner, ForgetRequest(build.PARTS[0]), verify=True)
        assert done.verified, done.faults
        (left,) = task_adapters(store)
        assert all(np.array_equal(a, second.adapter[name]) for name, a in left.adapter.items())


@pytest.mark.slow
def test_an_engine_without_gates_is_replaced_and_serves_what_it_did(
    home_of: Callable[[str], Home],
    made: dict[str, Path],
    small: Backbone,
    always: None,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = home_of("plain")
    with open_store(home) as store:
        session = consolidated(home, store, small, build.PARTS[:2])
        before = session.served()[1]
        x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
        was = home.engine(before).run(x)
        home.save_config(settings("atoms"))
        with pytest.raises(RequestError, match="engine has no gates"):
            consolidated(home, store, small, build.PARTS[2:])
        with pytest.raises(FeatureMapError, match="the engine takes"):
            home.engine([{**before[0], GATE: np.ones(1, np.float32)}])

        def exported(of: Backbone, folder: Path, **options: object) -> Manifest:
            """Give what was exported already: it takes some twenty seconds."""
            assert (options["adapter_rank"], options["active"]) == (RANK, ACTIVE)
            there = Home(made["atoms"])
            data = there.engine_bytes(has_adapters=True)
            (folder / ENGINE_NAME).write_bytes(data)
            return there.engine_manifest(has_adapters=True)

        monkeypatch.setattr("edgecl.exporters.onnx.export_backbone", exported)
        backbone = backbone_to_train(Session(home, store), str(weights))
        assert home.engine_manifest(has_adapters=True).adapter_active == ACTIVE
        assert len(list(home.adapted_folder.iterdir())) == 2
        assert np.abs(home.engine(before).run(x) - was).max() < 1e-5 * np.abs(was).max()
        consolidate(Session(home, store), backbone, training=Training(epochs=1, batch_size=16))
        assert Session(home, store).served()[0].n_maps == 3
        # What chooses its rows is no start for what does not, and is in no mean.
        home.save_config(settings("plain"))
        consolidated(home, store, small, build.PARTS[:1])
        assert task_adapters(store)[-1].body["parents"] == [1]
        config = settings("mos")
        home.save_config(replace(config, consolidation=replace(config.consolidation, bank="mean")))
        with pytest.raises(UsageError, match='set bank = "last"'):
            plan_of(Session(home, store))


def test_a_new_adapter_is_the_plain_backbone_whatever_the_gate(small: Backbone) -> None:
    network = adapt(small, rank=RANK, active=ACTIVE)
    x = torch.zeros(1, 3, 32, 32)
    adapter = {**new_adapter(network.shapes), GATE: np.ones(1, np.float32)}
    with torch.inference_mode():
        both = network(x, [torch.from_numpy(a) for a in adapter.values()])
    plain, adapted = both.chunk(2, dim=1)
    assert torch.equal(plain, adapted)


@pytest.mark.slow
def test_no_bit_of_a_session_alone_is_of_another_class(
    home_of: Callable[[str], Home], small: Backbone, always: None, tmp_path: Path
) -> None:
    """Two homes that differ in every picture of the first session, and in nothing of the second."""
    kept = []
    for start in (0, 40):
        home = home_of("atoms")
        with open_store(home) as store:
            consolidated(home, store, small, build.PARTS[:2], start)
            consolidated(home, store, small, build.PARTS[2:])
            kept.append(task_adapters(store))
        shutil.rmtree(home.path)
    (first, second), (other, same) = kept
    assert not all(np.array_equal(a, other.adapter[name]) for name, a in first.adapter.items())
    for ours, theirs in ((second.adapter, same.adapter), (second.head, same.head)):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(a, theirs[name]) for name, a in ours.items())

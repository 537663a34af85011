"""Approximate unlearning: the arithmetic against known numbers, and the door's behaviour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl.adapters.bottleneck import adapt, new_adapter
from edgecl.backbones import Backbone, load_backbone
from edgecl.errors import FeatureMapError, RequestError, ShapeError, UsageError
from edgecl.runtime.adapters import Adapter, digest_of
from edgecl.unlearning.approximate import weights
from edgecl.unlearning.approximate.local import Local
from edgecl.unlearning.approximate.report import UnlearnedAdapter
from edgecl.unlearning.approximate.steps import (
    bounded_forget_loss,
    capped_forget_loss,
    covector,
    dampen,
    group_norms,
    iau_step,
    importance,
    project_step,
    prototype_divergence,
    scaled_alpha,
)
from edgecl.unlearning.approximate.weights import (
    METHODS,
    GsLora,
    Gu,
    Iau,
    Ssd,
    unlearn_adapter,
)

# --- SSD


def test_dampening_equals_the_official_numbers() -> None:
    """Numeric check of the official code: 10 is not above 10, and no importance zeroes a weight."""
    theta = np.array([1, 2, 3, 4, 5, -6], np.float32)
    f_all = np.array([1, 1, 1, 1, 0, 2], np.float32)
    f_forget = np.array([5, 10, 20, 100, 3, 40], np.float32)
    out, selected = dampen(theta, f_all, f_forget, alpha=10)
    assert out == pytest.approx([1, 2, 0.15, 0.04, 0, -0.3], rel=1e-6)
    assert selected.tolist() == [False, False, True, True, True, True]
    assert theta[2] == 3, "the given parameters are not written to"
    halved, _ = dampen(theta, f_all, f_forget, alpha=10, lambda_=0.5)
    assert halved == pytest.approx([1, 2, 0.075, 0.02, 0, -0.15], rel=1e-6)


def softmax_gradients(
    theta: np.ndarray, x: np.ndarray, y: np.ndarray, size: int = 1
) -> list[np.ndarray]:
    """Per-sample gradients of the cross-entropy of a linear softmax classifier, in blocks."""
    logits = x @ theta.reshape(10, -1).T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True) - np.eye(10)[y]
    rows = (p[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def ten_classes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(10), 20)
    x = rng.normal(0, 1, (200, 8)) + 2 * rng.normal(0, 1, (10, 8))[y]
    theta = rng.normal(0, 0.3, 80)
    for _ in range(50):
        theta -= 0.2 * np.concatenate(softmax_gradients(theta, x, y)).mean(axis=0)
    return theta.astype(np.float32), x, y


def test_the_published_threshold_is_silent_on_ten_balanced_classes_and_the_scaled_one_is_not() -> (
    None
):
    """Numeric check of the official code: per-sample importances, alpha 10, nothing changes."""
    theta, x, y = ten_classes()
    f_all = importance(softmax_gradients(theta, x, y))
    f_forget = importance(softmax_gradients(theta, x[y == 3], y[y == 3]))
    same, selected = dampen(theta, f_all, f_forget, alpha=10)
    assert same.tobytes() == theta.tobytes()
    assert not selected.any()
    assert scaled_alpha(10, 0.1) == 5
    assert scaled_alpha(10, 0.01) == 10
    changed, selected = dampen(theta, f_all, f_forget, alpha=scaled_alpha(10, 0.1))
    assert selected.any()
    assert not selected.all()
    before, after = ((x[y == 3] @ t.reshape(10, -1).T).argmax(axis=1) for t in (theta, changed))
    assert (after == 3).mean() < (before == 3).mean()


def test_importances_do_not_depend_on_blocks_or_order() -> None:
    theta, x, y = ten_classes()
    ones = importance(softmax_gradients(theta, x, y))
    assert importance(softmax_gradients(theta, x, y, 64)) == pytest.approx(ones, rel=1e-12)
    assert importance(softmax_gradients(theta, x[::-1], y[::-1], 7)) == pytest.approx(
        ones, rel=1e-9
    )
    with pytest.raises(ShapeError, match="no samples"):
        importance([])


# --- GU


@pytest.mark.parametrize(
    ("metric", "step", "multiplier"),
    [((1, 2), (-0.235294, 0.176471), 2.058824), ((1, 1), (0.16, -0.12), 1.4)],
)
def test_one_conflict_equals_the_known_step(
    metric: tuple[float, float], step: tuple[float, float], multiplier: float
) -> None:
    """Numeric check: D0 = (1, 1) against the covector (.6, .8)."""
    d, lam = project_step(np.ones(2), np.array([[0.6, 0.8]]), np.array(metric))
    assert d == pytest.approx(step, abs=1e-6)
    assert lam == pytest.approx([multiplier], abs=1e-6)


def test_a_safe_step_is_left_as_it_is() -> None:
    d, lam = project_step(-np.ones(2), np.array([[0.6, 0.8]]), np.array([1.0, 2.0]))
    assert d.tolist() == [-1, -1]
    assert lam.tolist() == [0]


def test_two_opposite_covectors_give_the_equality_form() -> None:
    """Numeric check: H = diag(1, 2, 4), u = (1, 1, 1), g = (3, 4, 5); u' H g is 0 afterwards."""
    h, u = np.array([1.0, 2, 4]), np.ones(3)
    d, _ = project_step(np.array([3.0, 4, 5]), np.array([h * u, -h * u]), h)
    assert d == pytest.approx([-1.428571, -0.428571, 0.571429], abs=1e-6)
    assert u @ (h * d) == pytest.approx(0, abs=1e-9)


def test_one_coefficient_serves_all_tensors() -> None:
    """Numeric check of the official surgery test: block by block, the first would keep 2."""
    forget, retain = np.array([2.0, 1]), np.array([-1.0, -3])
    d, lam = project_step(-forget, retain[None], np.ones(2))
    assert -d == pytest.approx([1.5, -0.5])
    assert lam == pytest.approx([0.5])


@pytest.mark.parametrize(("dot", "multiplier"), [(-2, 0.5), (2, 0.0)])
def test_only_conflicts_are_blocked(dot: float, multiplier: float) -> None:
    """Numeric check of the official surgery test: |r|^2 = 4; agreement is let through."""
    retain = np.array([2.0, 0])
    forget = np.array([dot / 2, 1.0])
    _, lam = project_step(-forget, retain[None], np.ones(2))
    assert lam == pytest.approx([multiplier])


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 12))
@settings(max_examples=60)
def test_steps_meet_the_conditions_of_an_optimum(seed: int, m: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    g = rng.normal(0, 1, (m, p))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    metric = rng.uniform(0.01, 2, p)
    d0 = rng.normal(0, 1, p)
    d, lam = project_step(d0, g, metric)
    size = max(1.0, float((g @ d0).max()))
    assert (lam >= 0).all()
    assert (g @ d <= 1e-5 * size).all(), "no retained loss rises"
    assert metric * (d - d0) == pytest.approx(-lam @ g, abs=1e-6)
    assert np.abs(lam * (g @ d)).max() <= 1e-4 * size * (1 + lam.max()), "complementary"


def test_equal_covectors_are_no_trouble() -> None:
    g = np.tile([[0.6, 0.8]], (9, 1))
    d, _ = project_step(np.ones(2), g, np.ones(2))
    assert d == pytest.approx([0.16, -0.12])


def test_what_cannot_guard_a_step_is_refused() -> None:
    with pytest.raises(RequestError, match="guards nothing"):
        covector(np.zeros(3))
    with pytest.raises(RequestError, match="guards nothing"):
        covector(np.array([1.0, np.nan]))
    assert np.linalg.norm(covector(np.array([3.0, 4]))) == pytest.approx(1)
    with pytest.raises(ShapeError, match="1 to 9 rows"):
        project_step(np.ones(2), np.ones((10, 2)), np.ones(2))
    with pytest.raises(ShapeError, match="1 to 9 rows"):
        project_step(np.ones(2), np.ones((1, 3)), np.ones(2))
    for bad in (np.array([np.inf, 1]), np.array([np.nan, 1])):
        with pytest.raises(RequestError, match="not finite"):
            project_step(bad, np.ones((1, 2)), np.ones(2))


def test_the_bounded_loss_ends_where_the_class_is_no_longer_predicted() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    p = logits.detach().softmax(dim=1)[0, 0]
    loss = bounded_forget_loss(logits, 0)
    assert loss.item() == pytest.approx(-np.log(1 - float(p)), rel=1e-5)
    gone = torch.tensor([[-40.0, 0.0, 1.0]], requires_grad=True)
    ended = bounded_forget_loss(gone, 0)
    ended.backward()
    assert ended.item() == 0
    assert gone.grad is not None
    assert gone.grad.abs().max() < 1e-12


# --- IAU


def test_the_step_is_that_of_a_fresh_adam_and_not_of_sgd() -> None:
    """Numeric check: (0.5, -2, 1e-9, 0) moves by (-1e-3, 1e-3, -9.09e-5, 0)."""
    g = np.array([0.5, -2, 1e-9, 0])
    zero = np.zeros(4, np.float32)
    moved = iau_step(zero, g, np.zeros(4))
    assert moved == pytest.approx([-1e-3, 1e-3, -9.09e-5, 0], rel=1e-3)
    now = torch.zeros(4, requires_grad=True)
    now.grad = torch.from_numpy(g.astype(np.float32))
    torch.optim.Adam([now], lr=1e-3).step()
    assert moved == pytest.approx(now.detach().numpy(), rel=1e-4)
    assert np.sign(iau_step(zero, np.zeros(4), g)).tolist() == [1, -1, 1, 0]


# --- GS-LoRA


def test_losses_equal_the_known_numbers() -> None:
    """Numeric checks: a group of 3 and 4 has norm 5; a KL of 0.982577."""
    patch = torch.tensor([3.0, 0, 4, 0])
    assert group_norms(patch, [slice(0, 4)]).item() == pytest.approx(5)
    assert group_norms(patch, [slice(0, 2), slice(2, 4)]).item() == pytest.approx(7)
    kl = prototype_divergence(torch.tensor([[0.0, 1, 0]]), torch.tensor([[2.0, 0, -1]]))
    assert kl.item() == pytest.approx(0.982577, abs=1e-6)


def test_an_empty_group_has_a_gradient() -> None:
    patch = torch.zeros(3, requires_grad=True)
    group_norms(patch, [slice(0, 3)]).backward()
    assert patch.grad is not None
    assert patch.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("n_classes", "bound"), [(2, 9.0), (1000, 13.815511)])
def test_the_capped_loss_ends_at_its_bound(n_classes: int, bound: float) -> None:
    logits = torch.zeros(3, n_classes, requires_grad=True)
    loss = capped_forget_loss(logits, 1)
    assert loss.item() == pytest.approx(bound - np.log(n_classes), abs=1e-4)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0
    beyond = torch.zeros(3, n_classes)
    beyond[:, 1] = -20
    beyond.requires_grad_(True)
    ended = capped_forget_loss(beyond, 1)
    ended.backward()
    assert ended.item() == 0
    assert beyond.grad is not None
    assert beyond.grad.abs().max() == 0


# --- the door

N_CLASSES = 3
QUICK = {"ssd": Ssd(), "gu": Gu(steps=12), "gs-lora": GsLora(epochs=2), "iau": Iau()}


@pytest.fixture(scope="module")
def vit() -> Backbone:
    return load_backbone("vit_tiny_patch16_224", weights="random", image_size=32)


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (30, 3, 32, 32) of three colours, and their class uids 4, 7 and 9."""
    rng = np.random.default_rng(2)
    y = np.arange(30) % N_CLASSES
    x = rng.uniform(-0.3, 0.3, (30, 3, 32, 32)).astype(np.float32)
    x[np.arange(30), y] += 0.2
    return x, np.array([4, 7, 9])[y]


@pytest.fixture(scope="module")
def adapter(vit: Backbone) -> Adapter:
    rng = np.random.default_rng(1)
    shapes = adapt(vit, rank=4).shapes
    return {k: rng.normal(0, 0.1, s).astype(np.float32) for k, s in shapes.items()}


def unlearned(
    vit: Backbone,
    adapter: Adapter,
    pictures: tuple[np.ndarray, np.ndarray],
    method: str,
    **options: object,
) -> UnlearnedAdapter:
    x, y = pictures
    options.setdefault("settings", QUICK.get(method))
    return unlearn_adapter(vit, adapter, x.__getitem__, y, forget=7, method=method, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_changes_the_adapter_only_and_repeats_bit_for_bit(
    method: str, vit: Backbone, adapter: Adapter, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    before = digest_of(adapter)
    weights = {k: v.clone() for k, v in vit.model.state_dict().items()}
    told: list[str] = []
    done = unlearned(vit, adapter, pictures, method, say=lambda what, *_: told.append(what))
    assert digest_of(adapter) == before
    assert all(torch.equal(v, weights[k]) for k, v in vit.model.state_dict().items())
    assert {k: a.shape for k, a in done.adapter.items()} == {k: a.shape for k, a in adapter.items()}
    assert all(a.dtype == np.float32 for a in done.adapter.values())
    assert digest_of(done.adapter) != before
    assert method in told
    report = done.report
    assert report.method == method
    assert (report.n_forget, report.n_retain) == (10, 20)
    assert 0 < report.n_changed <= report.n_parameters == sum(a.size for a in adapter.values())
    assert report.forget_after <= report.forget_before
    again = unlearned(vit, adapter, pictures, method)
    assert digest_of(again.adapter) == digest_of(done.adapter)
    assert again.report.details == report.details


def test_a_second_run_changes_it_again(
    vit: Backbone, adapter: Adapter, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    once = unlearned(vit, adapter, pictures, "ssd").adapter
    twice = unlearned(vit, once, pictures, "ssd").adapter
    assert digest_of(twice) != digest_of(once)


def test_dampening_moves_towards_the_plain_backbone_and_only_where_selected(
    vit: Backbone, adapter: Adapter, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    done = unlearned(vit, adapter, pictures, "ssd")
    assert done.report.details["alpha"] == pytest.approx(1.5)  # a third of the pictures
    assert done.report.n_changed <= done.report.details["n_selected"]
    for name, array in done.adapter.items():
        assert (np.abs(array) <= np.abs(adapter[name])).all()
    untouched = unlearned(vit, adapter, pictures, "ssd", settings=Ssd(alpha=1.5, lambda_=1e9))
    assert digest_of(untouched.adapter) == digest_of(adapter)
    assert untouched.report.n_changed == 0
    assert "ssd changed no parameter" in untouched.report.faults()


def test_the_one_step_moves_no_parameter_farther_than_its_rate(
    vit: Backbone, adapter: Adapter, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    done = unlearned(vit, adapter, pictures, "iau", settings=Iau(learning_rate=1e-2)).adapter
    # The residual's scale, 0.1, is part of what is stored of `up`.
    for name, array in done.items():
        most = 1e-2 * (0.1 if name.endswith((".up", ".up_bias")) else 1)
        moved = np.abs(array - adapter[name])
        assert 0 < moved.max() <= most * 1.001


def test_importances_are_those_of_single_pictures(
    vit: Backbone, adapter: Adapter, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    """Gradients of batches would make the threshold depend on batch size and order."""
    network = adapt(vit, rank=4)
    local = Local(network, pictures[0].__getitem__, np.arange(30) % N_CLASSES, 1)
    theta = local.flat(adapter)
    local.fit(local.features(theta, local.all))
    rows = local.forgotten[:4]
    wanted = np.mean([local.mean_gradient(theta, rows[i : i + 1]) ** 2 for i in range(4)], axis=0)
    assert importance(local.sample_gradients(theta, rows)) == pytest.approx(wanted, rel=1e-6)


def test_a_step_is_corrected_over_all_parameters_at_once(
    vit: Backbone,
    adapter: Adapter,
    pictures: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One coefficient of each tensor would be another method."""
    sizes = []

    def noted(proposal: np.ndarray, *rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(proposal))
        return project_step(proposal, *rest)

    monkeypatch.setattr(weights, "project_step", noted)
    report = unlearned(vit, adapter, pictures, "gu", settings=Gu(steps=2)).report
    assert sizes == [report.n_parameters] * 2


def test_the_corrected_steps_lower_the_class_and_spare_the_others(
    vit: Backbone, adapter: Adapter, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    report = unlearned(vit, adapter, pictures, "gu", settings=Gu(steps=40)).report
    assert report.details["n_corrected"] > 0
    assert report.forget_before - report.forget_after >= 0.5
    assert report.retain_after >= report.retain_before - 0.1


def test_a_report_tells_what_speaks_against_the_adapter(
    vit: Backbone, adapter: Adapter, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    report = unlearned(vit, adapter, pictures, "iau").report
    good = replace(
        report, probe_plain=0.9, probe_after=0.91, kept_before=0.9, kept_after=0.9, n_changed=1
    )
    assert good.faults() == ()
    (found,) = replace(good, probe_after=0.93).faults()
    assert found == "a probe finds 0.930 of the class, without the adapter 0.900"
    (lost,) = replace(good, kept_after=0.89).faults()
    assert lost == "accuracy on the retained classes fell from 0.900 to 0.890"


def test_a_convolutional_backbone_takes_them_too(backbone: Backbone) -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (6, 3, 64, 64)).astype(np.float32)
    start = new_adapter(adapt(backbone, rank=2).shapes)
    start = {k: a + rng.normal(0, 0.02, a.shape).astype(np.float32) for k, a in start.items()}
    y = np.array([0, 0, 0, 1, 1, 1])
    done = unlearn_adapter(backbone, start, x.__getitem__, y, forget=1, method="ssd")
    assert done.report.n_changed > 0


@pytest.mark.parametrize("method", METHODS)
def test_without_pictures_of_either_kind_it_says_to_retrain(
    method: str, vit: Backbone, adapter: Adapter, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = pictures
    for rows, reason in ((y != 7, "no picture of the class"), (y == 7, "of another class")):
        left = x[rows], y[rows]
        with pytest.raises(RequestError, match=f"needs_retrain: .*{reason}.*retrain"):
            unlearned(vit, adapter, left, method)


@pytest.mark.parametrize("method", METHODS)
def test_values_that_are_not_finite_fail_and_leave_the_adapter(
    method: str, vit: Backbone, adapter: Adapter, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = pictures
    broken = x.copy()
    broken[np.flatnonzero(y == 4)[0]] = np.nan
    before = digest_of(adapter)
    with pytest.raises(RequestError, match=r"finite|guards nothing"):
        unlearned(vit, adapter, (broken, y), method)
    assert digest_of(adapter) == before


def test_bad_requests_are_told(
    vit: Backbone, adapter: Adapter, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = pictures
    with pytest.raises(UsageError, match="unknown adapter method 'acu'; known are ssd, gu"):
        unlearned(vit, adapter, pictures, "acu", settings=None)
    with pytest.raises(UsageError, match="ssd takes settings Ssd"):
        unlearned(vit, adapter, pictures, "ssd", settings=Gu())
    with pytest.raises(ShapeError, match=r"\(N,\)"):
        unlearned(vit, adapter, (x, y[:, None]), "ssd")
    stranger = new_adapter({"adapter.blocks.99.down": (4, 8)})
    with pytest.raises(FeatureMapError):
        unlearned(vit, stranger, pictures, "ssd")

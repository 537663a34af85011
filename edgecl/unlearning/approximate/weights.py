"""Approximate unlearning of a class in the weights of an adapter.

The default way, dropping the adapters that saw a class, is exact; what is here is an interim
measure for a home that cannot spare them, and is called `approximate` in a receipt. The backbone
never saw user data, so only the adapter's parameters change. Methods and papers:
edgecl/unlearning/approximate/steps.py.

Departures common to all four. Losses are those of a local classifier: the cosine of standardised
features to the class means of the map before, over a temperature of 0.1, fixed while the adapter
changes (it takes no training, and its scale suits cross-entropy). Pictures come as they are,
without augmentation, at most 200 of a class, so that retained classes weigh alike. GU's metric,
history and half-space are those of the release, without its finite-step filter; GS-LoRA's patch is
a difference of the bottleneck's own arrays, a group the arrays of one site, added to the adapter at
the end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecl.adapters.bottleneck import adapt
from edgecl.backbones import Backbone
from edgecl.errors import RequestError, ShapeError, UsageError
from edgecl.learner import Say
from edgecl.runtime.adapters import Adapter, padded, zeros
from edgecl.types import Float32, Labels
from edgecl.unlearning.approximate.local import Local, batches, probe
from edgecl.unlearning.approximate.report import UnlearnedAdapter, WeightsReport
from edgecl.unlearning.approximate.steps import (
    MOST_CONSTRAINTS,
    Vector,
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
from edgecl.unlearning.audit.measures import h_mean

if TYPE_CHECKING:
    import torch

_MOST_A_CLASS = 200
_RETRAIN = "use --adapter-method retrain"


@dataclass(frozen=True, slots=True)
class Ssd:
    """Selective synaptic dampening.

    It only shrinks, so it leads an adapter back to the plain backbone, which mostly tells the class
    apart by itself: little changes (docs/decisions/0011).

    Args:
        alpha: Threshold of the release for small networks; scaled down for a class that is a large
            share of the pictures (`scaled_alpha`).
        lambda_: Strength, of the release.
    """

    alpha: float = 10.0
    lambda_: float = 1.0


@dataclass(frozen=True, slots=True)
class Gu:
    """Geometric-disentanglement unlearning.

    Args:
        steps: Corrected steps of AdamW.
        learning_rate: Of AdamW.
    """

    steps: int = 30
    learning_rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class GsLora:
    """Group-sparse patch.

    Args:
        epochs: Over the retained pictures; forgotten ones are cycled.
        learning_rate: Of AdamW, falling to zero as a cosine.
        weight_decay: Of AdamW, on the patch.
        beta: Weight of the forget term.
        alpha: Weight of the group norms, after the first half of the epochs.
        prototype_weight: Weight of the forgotten class's prototype term.
        prototype_bound: Where the forgotten class's prototype term ends.
    """

    epochs: int = 4
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    beta: float = 0.2
    alpha: float = 1e-3
    prototype_weight: float = 0.05
    prototype_bound: float = 18.0


@dataclass(frozen=True, slots=True)
class Iau:
    """Influence approximation unlearning: one step.

    Args:
        learning_rate: Of Adam, and so the size of the step. The release's 1e-3, for whole networks,
            moves nothing that can be seen in an adapter (docs/decisions/0011).
    """

    learning_rate: float = 1e-2


Settings = Ssd | Gu | GsLora | Iau
METHODS: dict[str, type[Settings]] = {"ssd": Ssd, "gu": Gu, "gs-lora": GsLora, "iau": Iau}


def unlearn_adapter(
    backbone: Backbone,
    adapter: Adapter,
    pixels: Callable[[int], Float32],
    y: Labels,
    *,
    forget: int,
    method: str,
    settings: Settings | None = None,
    seed: int = 0,
    say: Say = lambda what, done, of: None,
) -> UnlearnedAdapter:
    """Change an adapter so that it serves a class less; approximate.

    Not idempotent: the same request on the result changes it again. Equal arguments give equal
    bits. The given adapter is not written to, also when it fails.

    Args:
        backbone: The frozen backbone.
        adapter: Adapter as stored.
        pixels: Gives the backbone's input (3, S, S) of picture i, not augmented.
        y: Class of each picture (N,), those of the forgotten class among them.
        forget: The forgotten class.
        method: One of METHODS.
        settings: Settings of that method; None takes its defaults.
        seed: Seed of the choice and order of pictures.
        say: Told about progress.

    Raises:
        UsageError: An unknown method, or settings of another.
        ShapeError: Labels of another shape than (N,).
        FeatureMapError: The adapter belongs to another backbone.
        RequestError: No picture of the class is kept (needs_retrain), none of another class, or a
            value is not finite.
    """
    begin = time.perf_counter()
    settings = _checked(y, forget, method, settings)
    rng = np.random.default_rng([seed, 9])
    chosen = _balanced(y, rng)
    classes, target = np.unique(y[chosen], return_inverse=True)
    rank = next(array.shape[0] for name, array in adapter.items() if name.endswith(".down"))
    network = adapt(backbone, rank=rank)
    local = Local(
        network,
        lambda i: pixels(int(chosen[i])),
        target.astype(np.int64),
        int(np.searchsorted(classes, forget)),
    )
    given = padded(adapter, network.shapes)
    theta = local.flat(given)
    say("features", 0, 3)
    z_plain = local.features(local.flat(zeros(network.shapes)), local.all)
    say("features", 1, 3)
    z_before = local.features(theta, local.all)
    local.fit(z_before)
    say(method, 0, 1)
    after, details = _run(settings, local, theta)
    if not np.isfinite(after).all():
        raise RequestError(f"{method} gave parameters that are not finite; {_RETRAIN}")
    say("features", 2, 3)
    z_after = local.features(after, local.all)
    say("features", 3, 3)
    new = local.arrays(after, given)
    report = WeightsReport(
        method=method,
        settings=asdict(settings),
        n_parameters=len(theta),
        n_changed=sum(int((new[name] != given[name]).sum()) for name in new),
        details=details,
        **_measured(local, z_plain, z_before, z_after),
        seconds=time.perf_counter() - begin,
    )
    return UnlearnedAdapter(new, report)


def _checked(y: Labels, forget: int, method: str, settings: Settings | None) -> Settings:
    """Return the settings of a method, by default its own, if it can be run."""
    of = METHODS.get(method)
    if of is None:
        raise UsageError(f"unknown adapter method {method!r}; known are {', '.join(METHODS)}")
    settings = settings if settings is not None else of()
    if not isinstance(settings, of):
        raise UsageError(f"{method} takes settings {of.__name__}, given {settings!r}")
    if y.ndim != 1:
        raise ShapeError(f"labels have shape {y.shape}, expected (N,)")
    if not (y == forget).any():
        raise RequestError(
            f"needs_retrain: no picture of the class is kept, and {method} learns from its "
            f"pictures; {_RETRAIN}, which needs none"
        )
    if not (y != forget).any():
        raise RequestError(
            f"needs_retrain: no picture of another class is kept, which {method} needs beside the "
            f"forgotten one; {_RETRAIN}, which drops the adapter"
        )
    return settings


def _measured(
    local: Local, z_plain: torch.Tensor, z_before: torch.Tensor, z_after: torch.Tensor
) -> dict[str, Any]:
    """Return what a report says of features (N, D) without, under the given and the new adapter."""
    (forget_before, retain_before), (forget_after, retain_after) = (
        local.accuracy(z) for z in (z_before, z_after)
    )
    plain, before, after = (
        probe(z, local.target, local.forget) for z in (z_plain, z_before, z_after)
    )
    return {
        "n_forget": len(local.forgotten),
        "n_retain": len(local.retained),
        "forget_before": forget_before,
        "forget_after": forget_after,
        "retain_before": retain_before,
        "retain_after": retain_after,
        "h_mean": h_mean(100 * (forget_before - forget_after), 100 * retain_after),
        "probe_plain": plain[0],
        "probe_before": before[0],
        "probe_after": after[0],
        "kept_before": before[1],
        "kept_after": after[1],
    }


def _run(settings: Settings, local: Local, theta: Float32) -> tuple[Float32, dict[str, float]]:
    if isinstance(settings, Ssd):
        return _ssd(settings, local, theta)
    if isinstance(settings, Gu):
        return _gu(settings, local, theta)
    if isinstance(settings, GsLora):
        return _gs_lora(settings, local, theta)
    g_retain, g_forget = (
        local.mean_gradient(theta, rows) for rows in (local.retained, local.forgotten)
    )
    return iau_step(theta, g_retain, g_forget, learning_rate=settings.learning_rate), {}


def _ssd(settings: Ssd, local: Local, theta: Float32) -> tuple[Float32, dict[str, float]]:
    n_forget, n_retain = len(local.forgotten), len(local.retained)
    share = n_forget / (n_forget + n_retain)
    f_forget = importance(local.sample_gradients(theta, local.forgotten))
    f_retain = importance(local.sample_gradients(theta, local.retained))
    alpha = scaled_alpha(settings.alpha, share)
    f_all = share * f_forget + (1 - share) * f_retain
    after, selected = dampen(theta, f_all, f_forget, alpha=alpha, lambda_=settings.lambda_)
    return after, {"alpha": alpha, "n_selected": float(selected.sum())}


def _gu(settings: Gu, local: Local, theta: Float32) -> tuple[Float32, dict[str, float]]:
    import torch

    now = torch.from_numpy(theta.copy()).requires_grad_(True)
    optimiser = torch.optim.AdamW([now], lr=settings.learning_rate)
    history: deque[Vector] = deque(maxlen=MOST_CONSTRAINTS)
    n_corrected = 0
    retained, forgotten = (cycle(batches(rows)) for rows in (local.retained, local.forgotten))
    for _ in range(settings.steps):
        keep, drop = next(retained), next(forgotten)
        # Only the direction of a sum counts, so the mean serves.
        history.append(covector(local.mean_gradient(now.detach().numpy(), keep)))
        loss = bounded_forget_loss(local.logits(local.raw(now, drop)), local.forget)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        before = now.detach().numpy().copy()
        optimiser.step()
        proposal = now.detach().numpy().astype(np.float64) - before
        metric = optimiser.state[now]["exp_avg_sq"].sqrt().double().numpy() + 1e-8
        step, multipliers = project_step(proposal, np.array(history), metric)
        n_corrected += bool(multipliers.any())
        with torch.no_grad():
            now.copy_(torch.from_numpy((before + step).astype(np.float32)))
    return now.detach().numpy(), {"n_corrected": float(n_corrected)}


def _gs_lora(settings: GsLora, local: Local, theta: Float32) -> tuple[Float32, dict[str, float]]:
    import torch
    from torch.nn import functional as F

    base = torch.from_numpy(theta)
    patch = torch.zeros_like(base, requires_grad=True)
    optimiser = torch.optim.AdamW(
        [patch], lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    kept_batches = batches(local.retained)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, settings.epochs * len(kept_batches)
    )
    forgotten = cycle(batches(local.forgotten))
    for epoch in range(settings.epochs):
        alpha = settings.alpha if 2 * epoch >= settings.epochs else 0.0
        for keep in kept_batches:
            drop = next(forgotten)
            z = local.standard(local.raw(base + patch, np.concatenate([keep, drop])))
            logits = local.cosine(z)
            target = torch.from_numpy(local.target)
            kept, lost = slice(len(keep)), slice(len(keep), None)
            loss = F.cross_entropy(logits[kept], target[keep])
            loss = loss + settings.beta * capped_forget_loss(logits[lost], local.forget)
            loss = loss + alpha * group_norms(patch, local.groups)
            apart = prototype_divergence(local.means[target[drop]], z[lost])
            loss = loss + settings.prototype_weight * F.relu(settings.prototype_bound - apart)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        norms = torch.stack([patch[at].norm() for at in local.groups])
    details = {"largest_group": float(norms.max()), "smallest_group": float(norms.min())}
    return (base + patch).detach().numpy(), details


def _balanced(y: Labels, rng: np.random.Generator) -> Labels:
    """Choose pictures, at most 200 a class, so ordered that classes take turns."""
    order = rng.permutation(len(y))
    turn = np.empty(len(y), np.int64)
    for c in np.unique(y):
        of = order[y[order] == c]
        turn[of] = np.arange(len(of))
    chosen = order[turn[order] < _MOST_A_CLASS]
    taking_turns: Labels = chosen[np.lexsort((y[chosen], turn[chosen]))]
    return taking_turns

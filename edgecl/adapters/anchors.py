"""Terms of the loss that hold an adapter: each is prepared once and then taken of every batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgecl.adapters.scene import Batch, Scene
from edgecl.runtime.adapters import zeros

if TYPE_CHECKING:
    import torch

Term = Callable[[Batch], "torch.Tensor"]
Anchor = Callable[[Scene], Term]

# MOS; the released code divides the similarities by 0.8.
_SPREAD = 0.1
_SPREAD_TEMPERATURE = 0.8
_MARGIN = 0.03
_LEAST_DEVIATION = 1e-6
_TEACHER = 0.3
_TEACHER_TEMPERATURE = 2.0
_PAIR_SLOPE = 0.1
_PAIR_POWER = 2.0
# Of the entries of a site's product, by size.
_OWNED = 0.02
_PROTECT = 0.1


def spreading(scene: Scene) -> Term:
    """Keep rows apart (MOS, Sun et al. 2025, arXiv:2412.09441); see `spreading_loss`."""
    import torch

    means = torch.from_numpy(scene.class_means)
    return lambda batch: _SPREAD * spreading_loss(batch.z, means)


def margin(scene: Scene) -> Term:
    """Keep features on their side of a margin (GeRe).

    The features of a picture without adapters, standardised, are coded as low, middle or high (at
    -1 and 1); what leaves its side pays by how far. Departures: the pictures at hand are the
    anchors, with the plain backbone as their memory, so nothing is kept of an old class; units are
    standard deviations; the weight is 0.03, since 1 pins the adapter to where it was. With mixup
    the code is that of the row with the larger share.
    """
    import torch

    reference = scene.features(zeros(scene.network.shapes))
    centre, deviation = reference.mean(dim=0), reference.std(dim=0, unbiased=False)
    used = deviation > _LEAST_DEVIATION
    centre, deviation = centre[used], deviation[used]
    places = (reference[:, used] - centre) / deviation
    codes = (places >= 1).to(torch.int8) - (places <= -1).to(torch.int8)

    def term(batch: Batch) -> torch.Tensor:
        first = batch.rows if batch.own >= 0.5 else batch.rows[batch.partner]
        return _MARGIN * margin_loss((batch.z[:, used] - centre) / deviation, codes[first])

    return term


def agreement(scene: Scene) -> Term:
    """Let strong views learn from the weak one (Han et al. 2025, the view-batch model).

    The batches of this training hold all views of a picture side by side, the picture itself first.
    """

    def term(batch: Batch) -> torch.Tensor:
        n_views = int((batch.rows == batch.rows[0]).sum())
        if n_views == 1:
            return batch.logits.sum() * 0.0
        return consistency_loss(batch.logits.reshape(-1, n_views, batch.logits.shape[1]))

    del scene
    return term


def protect(scene: Scene) -> Term:
    """Hold the entries of up @ down that earlier sessions made large (SEFE's RegLoRA).

    Of each site's product the 2 % largest entries of every earlier adapter are held where the last
    one has them, at a weight of 0.1 over their mean size. Where nothing came before it is 0.
    Departures: entries are held at their value (the release: at nothing), and the weight knows
    their size; a relu lies between, so the product is a stand-in. No gain on lite0.

    Reference: "SEFE: Superficial and Essential Forgetting Eliminator for Multimodal Continual
    Instruction Tuning" (2025), ICML.
    """
    import torch

    if not scene.earlier:
        return _nothing
    shapes, scale = scene.network.shapes, scene.network.scale
    names = [f"adapter.{site.name}" for site in scene.network.sites]
    places = list(shapes)
    held = []
    for name in names:
        products = [torch.from_numpy(a[f"{name}.up"] @ a[f"{name}.down"]) for a in scene.earlier]
        owned = torch.unique(torch.cat([largest(product) for product in products]))
        before = products[-1].flatten()[owned]
        weight = _PROTECT / float(before.abs().mean().clamp_min(1e-12))
        pair = places.index(f"{name}.up"), places.index(f"{name}.down")
        held.append((pair, owned, before, weight))

    def term(batch: Batch) -> torch.Tensor:
        parts = [
            weight * drift(batch.tensors[up] @ batch.tensors[down] * scale, owned, before)
            for (up, down), owned, before, weight in held
        ]
        return torch.stack(parts).mean()

    return term


def teacher(scene: Scene) -> Term:
    """Let the head give the answers that it gives to the last adapter's features (MoDE).

    Weight 0.3, temperature 2; the first session has no teacher. Departures: the head is the one
    that is learning, which is no teacher of much (measured: no gain on lite0); with mixup features
    are mixed alike.

    Reference: Hinton et al. 2015, arXiv:1503.02531; Li and Hoiem 2016, "Learning without
    Forgetting", arXiv:1606.09282; "MoDE" (2025), modality-decoupled experts, whose teacher is free.
    """
    if not scene.earlier:
        return _nothing
    taught = _mixed_features(scene)
    return lambda batch: _TEACHER * teacher_loss(batch.head(taught(batch)).detach(), batch.logits)


def pairwise(scene: Scene) -> Term:
    """Prefer the own class to the hardest other one by more than the last adapter did (phi-DPO).

    See `pair_loss`; the first session has nothing to be compared with.

    Reference: Rafailov et al. 2023, "Direct Preference Optimization", arXiv:2305.18290; "phi-DPO"
    (2026) for its focal exponent; departure: classes in place of answers.
    """
    if not scene.earlier:
        return _nothing
    taught = _mixed_features(scene)

    def term(batch: Batch) -> torch.Tensor:
        return pair_loss(batch.logits, batch.head(taught(batch)).detach(), batch.target)

    return term


def _nothing(batch: Batch) -> torch.Tensor:
    return batch.logits.sum() * 0.0


def _mixed_features(scene: Scene) -> Callable[[Batch], torch.Tensor]:
    """Return what gives the last adapter's features of a batch, mixed as the batch is."""
    before = scene.features(scene.earlier[-1])

    def of(batch: Batch) -> torch.Tensor:
        rows = before[batch.rows]
        return batch.own * rows + (1 - batch.own) * rows[batch.partner]

    return of


def largest(product: torch.Tensor, share: float = _OWNED) -> torch.Tensor:
    """Return the places, in the flat matrix and sorted, of the largest entries by size."""
    import torch

    n = max(1, math.ceil(share * product.numel()))
    order = torch.sort(product.abs().flatten(), descending=True, stable=True).indices
    return torch.sort(order[:n]).values


def drift(product: torch.Tensor, owned: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the mean of |product - before| at the owned places of the flat matrix."""
    return (product.flatten()[owned] - before).abs().mean()


def teacher_loss(
    taught: torch.Tensor, logits: torch.Tensor, temperature: float = _TEACHER_TEMPERATURE
) -> torch.Tensor:
    """Return T^2 times the mean KL(softmax(taught / T) || softmax(logits / T)), (N, K) each."""
    target = (taught / temperature).log_softmax(dim=1)
    gap = target - (logits / temperature).log_softmax(dim=1)
    return temperature**2 * (target.exp() * gap).sum(dim=1).mean()


def pair_loss(logits: torch.Tensor, before: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of -(1 - s(r))^2 log s(r), s the logistic function.

    r = 0.1 ((z_y - z_l) - (t_y - t_l)), l the hardest wrong class of z, not of t.

    Args:
        logits: z (N, K); with one class there is no pair, and the loss is 0.
        before: t (N, K).
        target: y (N,).
    """
    import torch
    from torch.nn.functional import logsigmoid

    if logits.shape[1] < 2:
        return logits.sum() * 0.0
    rows = torch.arange(len(target))
    others = logits.detach().clone()
    others[rows, target] = -torch.inf
    hardest = others.argmax(dim=1)
    gap = logits[rows, target] - logits[rows, hardest]
    gap_before = before[rows, target] - before[rows, hardest]
    r = _PAIR_SLOPE * (gap - gap_before)
    loss: torch.Tensor = ((1 - r.sigmoid()) ** _PAIR_POWER * -logsigmoid(r)).mean()
    return loss


def spreading_loss(z: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Return the term that keeps rows apart.

    Every row of [means; z] should be most similar to itself: cross-entropy of their dot products
    over 0.8 with the row's own number. Rows are not normalised, so it vanishes once they are long.

    Args:
        z: Features of the batch (N, D).
        means: Mean features of earlier classes (M, D).
    """
    import torch
    from torch.nn import functional as F

    rows = torch.cat([means, z]) if len(means) else z
    similarity = rows @ rows.T / _SPREAD_TEMPERATURE
    return F.cross_entropy(similarity, torch.arange(len(rows)))


def margin_loss(q: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return how far standardised features (B, D) are on the wrong side of their margins, mean.

    Args:
        q: Features in standard deviations.
        codes: -1, 0 or 1: below -1, between, above 1.
    """
    low = (q + 1).clamp_min(0) * (codes == -1)
    high = (1 - q).clamp_min(0) * (codes == 1)
    middle = ((q - 1).clamp_min(0) + (-1 - q).clamp_min(0)) * (codes == 0)
    off = low + middle + high
    return off.sum() / (off != 0).sum().clamp_min(1)


def consistency_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return how far the strong views' predictions are from the weak one's.

    1 / (S (V - 1)) times the sum over samples and strong views of KL(p_0 || p_v); p_0, the weak
    view, is the target and gets no gradient.

    Args:
        logits: Shape (S, V, K), V at least 2, the weak view first.

    Reference: Han et al. 2025, "Do Your Best and Get Enough Rest for Continual Learning", CVPR; the
    released code divides by K besides, which the paper does not.
    """
    log_p = logits.log_softmax(dim=2)
    anchor = log_p[:, :1].detach()
    mean: torch.Tensor = (anchor.exp() * (anchor - log_p[:, 1:])).sum(dim=2).mean()
    return mean

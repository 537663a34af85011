"""Terms of the loss that hold an adapter: each is prepared once and then taken of every batch."""

from __future__ import annotations

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

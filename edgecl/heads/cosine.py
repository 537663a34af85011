"""UER, unbiased experience replay: a linear head learns by angle, rehearses by angle and norm.

The current batch is learned with cosine logits over a temperature, so it can only turn the class
rows; stored samples are learned with plain dot products, which also set the rows' norms. Both
softmaxes go over the classes seen so far; prediction takes dot products. The class set grows by
rows that start at random and are never normalised.

Reference: Lin et al. 2023, "UER: A Heuristic Bias Addressing Approach for Online Continual
Learning", arXiv:2309.04081. The authors' repository holds no code: the temperature is the
constant of their PCR code, equal weights and dot-product inference are a reconstruction.
Departures: features are centred and scaled by the running statistics of all learned samples
(measured in docs/decisions/0004), three steps a batch, 32 stored samples beside 10 new ones.

What a `Profile` switches on (docs/decisions/0008) never touches that loss's weights on new and
stored samples:
- slow rows, an average of the rows that learn, are what is served. Plain average with a warm-up, as
  in mean teachers (Tarvainen and Valpola 2017, arXiv:1703.01780).
- a focal weight (Lin et al. 2017, arXiv:1708.02002), normalised over the batch.
- `settle` runs a short class-balanced pass over the stored samples before the head is deployed,
  after the idea of forgetting-prioritised fine-tuning. It changes the served copy only: a stream
  that was stopped, settled and resumed learns what it would have learned without.
- views of stored samples, with the one-to-many agreement loss of view-batch replay
  (store/view_batch.py).
- a class gate (heads/gate.py), whose gates stand behind the class rows, E columns more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgecl.adapters.anchors import consistency_loss
from edgecl.heads.base import Head, Replay, State, relearn_batches
from edgecl.heads.controllers import (
    N_CANDIDATES,
    forgetting_of,
    ranked,
    row_losses,
    rows_wanted,
)
from edgecl.heads.gate import frozen_keys, nearest
from edgecl.heads.linear import on_each_column, scale_of
from edgecl.heads.memory import Memory
from edgecl.heads.profile import BALANCED, Profile, profile_of
from edgecl.heads.stability import focal_cross_entropy, settled_rows, slow_decay
from edgecl.heads.statistics import Diagonal, Moments
from edgecl.heads.uer_step import EPSILON, TEMPERATURE, uer_gradient
from edgecl.runtime.gated import GatedScorer, factors
from edgecl.runtime.grid import quantise
from edgecl.runtime.scoring import LinearScorer
from edgecl.types import Float16, Float32, Float64, Labels

if TYPE_CHECKING:
    import torch

LEARNING_RATE = 1.0
STEPS = 3
# Updates before views are asked to agree: while the head is untrained there is nothing to agree on.
VIEWS_AFTER = 200
_NEVER = np.full(2, np.nan)


class UerHead(Head):
    """Linear head trained by UER.

    Args:
        num_features: Width D of the features.
        seed: Seed of the new rows and of the order in which survivors are learned anew.
        profile: What is done for stability, or the name of it.

    The gradient is in closed form (heads/uer_step.py): nothing here needs torch.
    """

    name = "uer"
    unlearns_exactly = False
    learned_parts = ("slow rows", "rows tuned to be served")
    batch_size = 10

    def __init__(
        self, num_features: int, *, seed: int = 0, profile: Profile | str = BALANCED
    ) -> None:
        super().__init__(Diagonal(num_features))
        self.profile = profile_of(profile) if isinstance(profile, str) else profile
        self._seed = seed
        # Of the loss of replayed rows: its mean, and the base that it rises above.
        self._replayed = _NEVER.copy()
        self._moments: dict[int, Moments] = {}
        self._sum = self.statistic.empty()
        self._keys = frozen_keys(num_features, self.profile.n_gates)  # (E, D)
        # (K, D + E) each: the rows that learn, their average, and what `settle` made of it, with
        # no rows while something was learned since.
        self._rows = self._slow = self._settled = self._no_rows()
        self._n_updates = 0
        self._mean, self._scale = self._standard()

    @property
    def n_replay(self) -> int:  # type: ignore[override]
        """Stored samples that the next update is given."""
        n, controller = self.profile.n_replay, self.profile.controller
        if controller == "measured":
            return rows_wanted(n, self._replayed)
        return N_CANDIDATES * n if controller == "ranked" else n

    @property
    def classes(self) -> tuple[int, ...]:
        """Uids of the classes, in the order in which they came."""
        return tuple(self._moments)

    def learn_many(self, x: Float32 | Float16, y: Labels, replay: Replay | None = None) -> None:
        """Learn features (N, D) of classes (N,) with stored samples beside them.

        A stored sample of a class that the head does not hold is left out. Stored features may be
        (M, V, D): V views of each sample, the weak one first.
        """
        rows, y = self.checked(x, y)
        self._count(rows, y)
        self._mean, self._scale = self._standard()
        self._step(rows, y, replay)

    def predict_many(self, x: Float32) -> Float64:
        """Return dot-product logits (N, K) of features (N, D)."""
        self.check_learned(x)
        return self._logits(self._served(), self._standardised(x))

    def settle(self, memory: Memory | None = None) -> None:
        """Fine-tune the served copy on the stored samples, every class alike.

        Nothing that learns is changed. Without a memory, or with stored samples of fewer than two
        classes (all would be called by one name), nothing is done.
        """
        if memory is None or not self.profile.n_settle_steps:
            return
        x, y = memory.stored_rows()
        known = np.isin(y, self.classes)
        if len(np.unique(y[known])) < 2:
            return
        self._settled = self._no_rows()
        z = self._standardised(x[known])
        target = self._places(y[known])
        w, gates = np.split(self._served(), [self.num_features], axis=1)
        settled = settled_rows(
            w,
            z,
            target,
            n_steps=self.profile.n_settle_steps,
            learning_rate=LEARNING_RATE,
            rng=np.random.default_rng([self._seed, 2]),
            factor=factors(gates.T, nearest(z, self._keys)) if len(self._keys) else None,
        )
        self._settled = np.concatenate([settled, gates], axis=1)

    def rebuild(self, memory: Memory) -> None:
        """Learn what a store holds, from nothing.

        Gradient steps cannot be taken back: an unlearning starts anew and learns the stored samples
        of the other classes, so what the class did to the other rows goes with them. The result is
        a function of the surviving samples, their order and the seed.
        """
        x, labels = memory.stored_rows()
        self._moments = {}
        self._rows = self._slow = self._settled = self._no_rows()
        self._n_updates, self._replayed = 0, _NEVER.copy()
        for uid, part in memory.all_moments().items():
            self._add_class(uid)
            self._moments[uid] = part
        self._sum = self.statistic.total(self._moments)
        self._mean, self._scale = self._standard()
        rng = np.random.default_rng([self._seed, 1])
        for batch, beside in relearn_batches(
            len(labels), batch_size=self.batch_size, n_replay=self.n_replay, rng=rng
        ):
            self._step(x[batch], labels[batch], (x[beside], labels[beside]))

    def restore(self, moments: Mapping[int, Moments], state: State | None) -> None:
        """Take over the statistics and the rows of the last commit."""
        self._moments = dict(moments)
        self._sum = self.statistic.total(self._moments)
        rows = self._no_rows() if state is None else state["rows"]
        self.check_state(len(rows), len(self._moments))
        state = state or {"rows": rows, "slow": rows, "settled": rows, "n_updates": np.array([0])}
        self._rows, self._slow, self._settled = (
            self._gated(state[part]) for part in ("rows", "slow", "settled")
        )
        self._n_updates = int(state["n_updates"][0])
        self._replayed = np.array(state.get("replayed", _NEVER), dtype=np.float64)
        self._mean, self._scale = self._standard()

    def state(self) -> State:
        """Return the rows; the statistics are in the store."""
        state: State = {
            "rows": self._rows.copy(),
            "slow": self._slow.copy(),
            "settled": self._settled.copy(),
            "n_updates": np.array([self._n_updates], dtype=np.int64),
        }
        if self.profile.controller == "measured":
            state["replayed"] = self._replayed.copy()
        return state

    def scorer(self, names: Mapping[int, str]) -> LinearScorer | GatedScorer:
        """Return the head as weights on plain features, with its gates if it has some."""
        w, gates = np.split(self._served(), [self.num_features], axis=1)
        weights, bias = self._on_features(w)
        labels = tuple(names[c] for c in self._moments)
        linear = LinearScorer(weights=weights, bias=bias, labels=labels, kind="logits")
        if not len(self._keys):
            return linear
        return GatedScorer(linear, *self._on_features(self._keys), gates.T.astype(np.float64))

    def _on_features(self, rows: Float32) -> tuple[Float64, Float64]:
        """Return weights (D, K) and bias (K,) on plain features of rows (K, D) on scaled ones."""
        weights = (rows.astype(np.float64) / self._scale).T
        return weights, -on_each_column(self._mean.astype(np.float64), weights)

    def _logits(self, rows: Float32, z: Float32) -> Float64:
        """Return logits (N, K) of scaled features (N, D) by class rows (K, D + E)."""
        w, gates = np.split(rows.astype(np.float64), [self.num_features], axis=1)
        logits: Float64 = z.astype(np.float64) @ w.T
        if len(self._keys):
            logits *= factors(gates.T, nearest(z, self._keys))
        return logits

    def _no_rows(self) -> Float32:
        return np.zeros((0, self.num_features + len(self._keys)), np.float32)

    def _gated(self, rows: Float32) -> Float32:
        """Return kept rows with as many gates as the profile has; those of another are left."""
        n = self.num_features + len(self._keys)
        whole = np.zeros((len(rows), n), np.float32)
        shared = n if rows.shape[1] == n else self.num_features
        whole[:, :shared] = rows[:, :shared]
        return whole

    def _served(self) -> Float32:
        """Return the rows (K, D) that predict."""
        return self._settled if len(self._settled) else self._slow

    def _places(self, y: Labels) -> Labels:
        place = {uid: i for i, uid in enumerate(self._moments)}
        return np.array([place[uid] for uid in y.tolist()], dtype=np.int64)

    def _count(self, rows: Float16, y: Labels) -> None:
        for uid in dict.fromkeys(y.tolist()):
            part = self.statistic.of(rows[y == uid])
            if uid not in self._moments:
                self._add_class(uid)
                self._moments[uid] = part
            else:
                self._moments[uid] = self._moments[uid].plus(part)
            self._sum = self._sum.plus(part)

    def _add_class(self, uid: int) -> None:
        """Append a row; not zero, where the gradient of a cosine is undefined."""
        rng = np.random.default_rng([self._seed, 0, len(self._rows)])
        bound = 1 / np.sqrt(self.num_features)
        row = rng.uniform(-bound, bound, (1, self.num_features)).astype(np.float32)
        row = self._gated(row)
        self._rows = np.concatenate([self._rows, row])
        self._slow = np.concatenate([self._slow, row])
        self._moments[uid] = self.statistic.empty()

    def _standard(self) -> tuple[Float32, Float32]:
        """Return centre and scale (D,) of all learned samples; scaled features have norm ~ 1."""
        d, n = self.num_features, max(1, self._sum.n)
        mean = self._sum.total / n
        scale = scale_of(self._sum.second / n - mean * mean) * np.sqrt(d)
        return mean.astype(np.float32), scale.astype(np.float32)

    def _standardised(self, rows: Float16 | Float32) -> Float32:
        z: Float32 = rows.astype(np.float32)
        z -= self._mean
        z /= self._scale
        return z

    def _step(self, rows: Float16, y: Labels, replay: Replay | None) -> None:
        profile = self.profile
        z = self._standardised(rows)  # (N, D)
        target = self._places(y)
        old_z = old_target = None
        if replay is not None:
            old_x, old_y = replay
            known = np.isin(old_y, self.classes)
            if known.any():
                old_z = self._standardised(quantise(old_x[known]))
                old_target = self._places(old_y[known])
                old_z, old_target = self._chosen(old_z, old_target)
        view_weight = profile.view_weight if self._n_updates >= VIEWS_AFTER else 0.0
        w = self._rows
        for _ in range(STEPS):
            w = w - np.float32(LEARNING_RATE) * uer_gradient(
                w,
                z,
                target,
                old_z,
                old_target,
                gamma=profile.focal_gamma,
                view_weight=view_weight,
                keys=self._keys if len(self._keys) else None,
            )
        self._rows = w
        if profile.controller == "measured" and old_z is not None and old_target is not None:
            loss = float(row_losses(self._logits(w, _weak(old_z)), old_target).mean())
            self._replayed = forgetting_of(loss, self._replayed)
        keep = np.float32(slow_decay(self._n_updates, profile.slow_decay))
        self._slow = keep * self._slow + (1 - keep) * self._rows
        self._settled = self._no_rows()
        self._n_updates += 1

    def _chosen(self, z: Float32, target: Labels) -> tuple[Float32, Labels]:
        """Return those of the candidates that are replayed."""
        if self.profile.controller != "ranked":
            return z, target
        rng = np.random.default_rng([self._seed, 3, self._n_updates])
        losses = row_losses(self._logits(self._rows, _weak(z)), target)
        places = ranked(losses, self.profile.n_replay, rng)
        return z[places], target[places]


def _weak(z: Float32) -> Float32:
    """Return the samples themselves (M, D) of views (M, V, D)."""
    return z[:, 0] if z.ndim == 3 else z


def uer_loss(
    w: torch.Tensor,
    z: torch.Tensor,
    target: torch.Tensor,
    old_z: torch.Tensor | None,
    old_target: torch.Tensor | None,
    *,
    gamma: float = 0.0,
    view_weight: float = 0.0,
    keys: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss of one step, of which `uer_gradient` is the gradient (tests compare them).

    Args:
        w: Class rows (K, D).
        z: Features of the current batch (N, D), learned by angle only.
        target: Their rows (N,).
        old_z: Features of stored samples (M, D), or (M, V, D) in V views, learned by angle and
            norm, or None.
        old_target: Their rows (M,), or None.
        gamma: Exponent of the focal weight; 0 is the plain mean.
        view_weight: Weight of the views' agreement.
        keys: Of a class gate (E, D), where w is (K, D + E).
    """
    import torch

    w, gates = w[:, : z.shape[1]], w[:, z.shape[1] :]

    def gated(logits: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        if keys is None:
            return logits
        return logits * 2 * torch.sigmoid(gates.T[(of @ keys.T).argmax(dim=-1)])

    loss = focal_cross_entropy(gated(cosine(z, w) / TEMPERATURE, z), target, gamma)
    if old_z is not None and old_target is not None:
        logits = gated(old_z @ w.T, old_z)  # (M, K) or (M, V, K)
        if logits.ndim == 2:
            logits = logits[:, None]
        n_views = logits.shape[1]
        repeated = old_target.repeat_interleave(n_views)
        loss = loss + focal_cross_entropy(logits.flatten(0, 1), repeated, gamma)
        if view_weight and n_views > 1:
            loss = loss + view_weight * consistency_loss(logits)
    return loss


def cosine(z: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Return the angle factors (N, K) of features (N, D) and class rows (K, D)."""
    unit_z = z / (z.norm(dim=1, keepdim=True) + EPSILON)
    unit_w = w / (w.norm(dim=1, keepdim=True) + EPSILON)
    angles: torch.Tensor = unit_z @ unit_w.T
    return angles

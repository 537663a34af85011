"""Nearest class mean by cosine, and PRD: prototypes that follow a projection which learns.

With `relation="none"` a class is the mean of its features and the head is a pure function of exact
statistics; behind a frozen whitening map (`edgecl init --keys`) it is the mean of mapped features.
With `samples` or `classes` a small projection h = z + s A(z) of the feature learns by
supervised contrast, prototypes in h-space are pulled to their samples without pulling back, and a
relation distillation keeps how samples stand to the older prototypes as a frozen teacher (the
projection and the prototypes from before the latest class) saw it. On features that do not move
PRD is the nearest class mean, so only the projection makes a difference. Most of what it learns
lies behind the projector of the contrast, so class means there are asked too: a score is the mean
of both cosines.

Reference: Asadi et al. 2023, "Prototype-Sample Relation Distillation: Towards Replay-Free Continual
Learning" (PRD), arXiv:2303.14771. The paper keeps the order of the samples for a prototype
(`samples`), the released code that of the classes for a sample (`classes`). Departures: features
are centred and scaled by the running statistics, the teacher is taken when a class first appears,
stored samples fill the batch and pull their prototypes
too, a prototype is the exact class mean plus a learned offset, relations are cosines, class means
behind the projector (running ones) vote at prediction, plain SGD
(docs/decisions/0007).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import MissingPackageError, UsageError
from edgecl.heads.base import Head, Replay, State, relearn_batches
from edgecl.heads.leave_one_out import LeftOut, members
from edgecl.heads.linear import scale_of
from edgecl.heads.memory import Memory
from edgecl.heads.prd import PROJECTOR, SCALE, cosine, prd_loss, project, projected
from edgecl.heads.statistics import Diagonal, MappedSums, Moments
from edgecl.runtime.grid import quantise
from edgecl.runtime.projected import ProjectedScorer
from edgecl.runtime.whitening import WHITENED_GRID, Whitening
from edgecl.types import Float16, Float32, Float64, Labels

# Of the softmax that makes cosines probabilities: least log loss on two data sets.
TEMPERATURE = 0.1
RANK = 16
STEPS = 2
LEARNING_RATE = 0.2
PROTOTYPE_RATE = 0.01
# How far the mean of a class behind the projector moves to that of its samples in a step.
CENTRE_RATE = 0.1
_TINY = 1e-8
_ADAPTER = ("down", "down_bias", "up")
_LAYERS = tuple(f"{kind}{i}" for i in range(len(PROJECTOR)) for kind in ("weight", "bias"))


class PrototypeHead(Head):
    """Cosine to class prototypes.

    Args:
        num_features: Width D of the features.
        seed: Seed of the projection's and the prototypes' start and of the order of relearning.
        relation: `none` (class means), `samples` or `classes` (PRD; learning needs torch).
        codebook: Frozen map whose values are averaged instead of the features, if any.

    Raises:
        UsageError: PRD behind a map.
    """

    name = "prototype"

    def __init__(
        self,
        num_features: int,
        *,
        seed: int = 0,
        relation: str = "none",
        codebook: Whitening | None = None,
    ) -> None:
        if relation != "none" and codebook is not None:
            raise UsageError(
                f"relation {relation!r} learns a projection of plain features and this home has a "
                'map of --keys before them; set head.relation = "none", or make a home without keys'
            )
        super().__init__(
            Diagonal(num_features) if codebook is None else MappedSums(num_features, codebook)
        )
        self.relation = relation
        self._map = codebook
        self._width = self.statistic.width
        if relation != "none":
            self.unlearns_exactly = False
            self.learned_parts = ("projection, projector, offsets and their teacher",)
            self.batch_size, self.n_replay = 10, 32
        self._seed = seed
        self._moments: dict[int, Moments]
        self._sum: Moments
        # Of PRD: projection, projector and offsets; and of the first and last, before a class came.
        self._weights: dict[str, Float32]
        self._teacher: dict[str, Float32]
        self._centres: Float32  # running class means behind the projector (K, M)
        self._start({})

    @property
    def classes(self) -> tuple[int, ...]:
        """Uids of the classes, in the order in which they came."""
        return tuple(self._moments)

    def learn_many(self, x: Float32 | Float16, y: Labels, replay: Replay | None = None) -> None:
        """Learn features (N, D) of classes (N,); only PRD looks at the stored samples.

        A stored sample of a class that the head does not hold is left out.
        """
        rows, y = self.checked(x, y)
        if not len(rows):
            return
        new = [uid for uid in dict.fromkeys(y.tolist()) if uid not in self._moments]
        self._meet(new)
        for uid in dict.fromkeys(y.tolist()):
            part = self.statistic.of(rows[y == uid])
            self._moments[uid] = self._moments[uid].plus(part)
            self._sum = self._sum.plus(part)
        if self.relation != "none":
            self._step(rows, y, replay)

    @property
    def is_exact(self) -> bool:
        """Whether an unlearning gives the very bits of never having learned; never with PRD."""
        return self.unlearns_exactly and self._sum.is_exact

    def rebuild(self, memory: Memory) -> None:
        """Learn what a store holds, from nothing: statistics, and with PRD the stored samples."""
        self._start(dict(memory.all_moments()))
        if self.unlearns_exactly:
            return
        x, labels = memory.stored_rows()
        kept = np.isin(labels, self.classes)
        x, labels = x[kept], labels[kept]
        rng = np.random.default_rng([self._seed, 2])
        for batch, beside in relearn_batches(
            len(labels), batch_size=self.batch_size, n_replay=self.n_replay, rng=rng
        ):
            self._step(x[batch], labels[batch], (x[beside], labels[beside]))

    def restore(self, moments: Mapping[int, Moments], state: State | None) -> None:
        """Take over the statistics, and with PRD what was learned until the last commit."""
        self._start(dict(moments))
        if self.unlearns_exactly or (state is None and not self._moments):
            return
        state = state or {}
        self.check_state(len(state.get("offsets", ())), len(self._moments))
        self._weights = {key: np.array(state[key]) for key in (*_ADAPTER, *_LAYERS, "offsets")}
        self._teacher = {key: np.array(state[f"teacher_{key}"]) for key in (*_ADAPTER, "offsets")}
        self._centres = np.array(state["centres"])

    def state(self) -> State | None:
        """Return what the statistics do not hold: nothing for class means."""
        if self.relation == "none":
            return None
        teacher = {f"teacher_{key}": value.copy() for key, value in self._teacher.items()}
        weights = {key: value.copy() for key, value in self._weights.items()}
        return weights | teacher | {"centres": self._centres.copy()}

    def left_out(self, x: Float16, y: Labels, groups: Labels | None = None) -> LeftOut | None:
        """Return cosines to class means without the rows; None with PRD. See `Head.left_out`.

        Exact for the centre and scale of all learned rows; behind a map those are fixed.
        """
        if self.relation != "none":
            return None
        self.check_learned(x)
        mean, scale = self._standard()
        values = x.astype(np.float64) if self._map is None else self._map.map(x)
        z = (values - mean) / scale
        unit = z / np.maximum(norms_of(z), _TINY)
        prototypes = self._means(mean, scale)
        scores = unit @ (prototypes / (norms_of(prototypes) + _TINY)).T
        place = {uid: k for k, uid in enumerate(self._moments)}
        for rows in members(groups, len(x)):
            for uid in np.unique(y[rows]).tolist():
                own, whole = rows[y[rows] == uid], self._moments[uid]
                without = (whole.total - values[own].sum(axis=0)) / max(1, whole.n - len(own))
                prototype = (without - mean) / (scale * np.sqrt(self._width))
                cosine_of = unit[rows] @ prototype / (np.linalg.norm(prototype) + _TINY)
                scores[rows, place[uid]] = cosine_of if whole.n > len(own) else -1.0
        return LeftOut(scores, np.array([1 / self._moments[uid].n for uid in y.tolist()]))

    @property
    def left_out_cost(self) -> int | None:
        """Products with all means, and a mean without the row; None with PRD."""
        if self.relation != "none":
            return None
        return self._width * (len(self._moments) + 3500)

    def scorer(self, names: Mapping[int, str]) -> ProjectedScorer:
        """Return the head as arrays on plain features."""
        mean, scale = self._standard()
        prototypes = self._means(mean, scale) + self._weights["offsets"]
        return ProjectedScorer(
            mean=mean,
            scale=scale,
            down=self._weights["down"],
            down_bias=self._weights["down_bias"],
            up=self._weights["up"] * np.float32(SCALE),
            prototypes=prototypes / (norms_of(prototypes) + _TINY),
            labels=tuple(names[c] for c in self._moments),
            temperature=TEMPERATURE,
            whitening=self._map,
            layers=() if self.relation == "none" else tuple(self._weights[k] for k in _LAYERS),
            centres=self._centres / np.maximum(norms_of(self._centres), _TINY),
        )

    def _start(self, moments: dict[int, Moments]) -> None:
        """Know these statistics and nothing else; the projection starts as the identity."""
        d = self._width
        # Exact sums, so their order does not matter while `is_exact`.
        self._sum = self.statistic.total(moments)
        rank = 0 if self.relation == "none" else RANK
        rng = np.random.default_rng([self._seed, 0])
        self._weights = {
            "down": _uniform(rng, rank, d),
            "down_bias": np.zeros(rank, np.float32),
            "up": np.zeros((d, rank), np.float32),
            "offsets": np.zeros((len(moments), d), np.float32),
        }
        if rank:
            for i, (n_in, n_out) in enumerate(zip((d, *PROJECTOR), PROJECTOR, strict=False)):
                self._weights[f"weight{i}"] = _uniform(rng, n_out, n_in)
                self._weights[f"bias{i}"] = np.zeros(n_out, np.float32)
        self._moments = moments
        self._centres = np.zeros((len(moments), PROJECTOR[-1] if rank else 0), np.float32)
        self._teacher = self._student() | {"offsets": np.zeros((0, d), np.float32)}

    def _student(self) -> dict[str, Float32]:
        """Return a copy of what a teacher is made of."""
        return {key: self._weights[key].copy() for key in (*_ADAPTER, "offsets")}

    def _meet(self, new: list[int]) -> None:
        """Take the teacher and add rows, when classes appear."""
        if new:
            self._teacher = self._student()
            zeros = np.zeros((len(new), self._width), np.float32)
            self._weights["offsets"] = np.concatenate([self._weights["offsets"], zeros])
            nowhere = np.zeros((len(new), self._centres.shape[1]), np.float32)
            self._centres = np.concatenate([self._centres, nowhere])
        for uid in new:
            self._moments[uid] = self.statistic.empty()

    def _means(self, mean: Float64, scale: Float64) -> Float64:
        """Return the class means (K, D), or (K, M) behind a map, centred and scaled."""
        d = self._width
        means = np.array([m.total / max(1, m.n) for m in self._moments.values()]).reshape(-1, d)
        scaled: Float64 = (means - mean) / (scale * np.sqrt(d))
        return scaled

    def _standard(self) -> tuple[Float64, Float64]:
        """Return centre and scale (D,) of all learned samples; those of a map are its own."""
        if self._map is not None:
            return np.zeros(self._width), np.full(self._width, 1 / WHITENED_GRID)
        n = max(1, self._sum.n)
        mean = self._sum.total / n
        return mean, scale_of(self._sum.second / n - mean * mean)

    def _step(self, rows: Float16, y: Labels, replay: Replay | None) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingPackageError(
                f"learning with PRD needs torch ({error}); run `pip install 'edgecl[torch]'`"
            ) from error

        x, labels = rows, y
        if replay is not None:
            known = np.isin(replay[1], self.classes)
            x = np.concatenate([rows, quantise(replay[0][known])])
            labels = np.concatenate([y, replay[1][known]])
        mean, scale = self._standard()
        z = torch.from_numpy(((x.astype(np.float64) - mean) / scale).astype(np.float32))
        place = {uid: i for i, uid in enumerate(self._moments)}
        target = torch.tensor([place[uid] for uid in labels.tolist()])
        n_old = len(self._teacher["offsets"])
        current = {place[uid] for uid in y.tolist()}
        old = torch.tensor([k for k in range(n_old) if k not in current], dtype=torch.int64)
        teacher = {key: torch.from_numpy(value) for key, value in self._teacher.items()}
        means = torch.from_numpy(self._means(mean, scale).astype(np.float32))
        before = cosine(project(z, teacher), (means[:n_old] + teacher["offsets"])[old])
        weights = {key: torch.from_numpy(value) for key, value in self._weights.items()}
        for _ in range(STEPS):
            weights = {key: w.detach().requires_grad_(True) for key, w in weights.items()}
            loss = prd_loss(weights, means, z, target, old, before, self.relation)
            gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
            weights = {
                key: w.detach() - (PROTOTYPE_RATE if key == "offsets" else LEARNING_RATE) * gradient
                for (key, w), gradient in zip(weights.items(), gradients, strict=True)
            }
        self._weights = {key: w.numpy() for key, w in weights.items()}
        u = projected(project(z, weights), weights).numpy()
        for k in np.unique(target.numpy()):
            mean_u = u[target.numpy() == k].mean(axis=0)
            rate = CENTRE_RATE if self._centres[k].any() else 1.0
            self._centres[k] += np.float32(rate) * (mean_u - self._centres[k])


def norms_of(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the norms (N, 1) of rows (N, D)."""
    return np.linalg.norm(rows, axis=1, keepdims=True)  # type: ignore[no-any-return]


def _uniform(rng: np.random.Generator, n_out: int, n_in: int) -> Float32:
    bound = 1 / np.sqrt(n_in)
    return rng.uniform(-bound, bound, (n_out, n_in)).astype(np.float32)

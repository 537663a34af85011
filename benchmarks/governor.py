"""What the governor can see: power and false alarms of its tests, on counts and on real heads.

1. Simulated: one class loses a share of its pictures, the others flicker by 1 %.
2. Real: ridge on pixels of Fashion-MNIST (14 x 14, 200 kept pictures a class); one class is
   taught under another's name until it falls. Witnesses are 20 or 50 held-out pictures a class, or
   the 200 kept ones by leave-one-out. False alarms: 50 more good pictures of each class.
3. Consolidation: a really better head beside a worse one, on 300 pictures: how often each rule
   takes it.

Run: python benchmarks/governor.py [--draws N]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time

import fashion_data
import numpy as np

from edgecl.config import GovernorConfig
from edgecl.consolidation.judge import judged as judged_errors
from edgecl.consolidation.judge import squared_errors
from edgecl.governor.judge import judged
from edgecl.governor.verdicts import paired
from edgecl.heads import make_head
from edgecl.heads.base import Head
from edgecl.paired import Pairs, holm, mcnemar, pooled
from edgecl.runtime.grid import quantise
from edgecl.runtime.scoring import softmax
from edgecl.store.changes import OfClass, Verdicts
from edgecl.types import Float16, Labels

POLICY = GovernorConfig()
CLASSES, SIDE = 10, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=60, help="of the real part")
    draws = parser.parse_args().draws
    simulated()
    pictures = {part: _features(*fashion_data.load(part)) for part in ("train", "t10k")}
    real(pictures, draws)
    consolidation(pictures)


def simulated(n_draws: int = 2000) -> None:
    """Print how often a loss of one class is seen, in simulated counts."""
    drops = (0.2, 0.3, 0.4, 0.5)
    print("| classes x witnesses | " + " | ".join(f"{d:.0%}" for d in drops) + " | false alarm |")
    print("|---" * (len(drops) + 2) + "|")
    rng = np.random.default_rng(0)
    for k, n in ((10, 20), (10, 50), (40, 20), (10, 200), (40, 200)):
        cells = []
        for drop in (*drops, 0.0):
            seen = np.zeros(3)
            for _ in range(n_draws):
                flips = rng.binomial(n, 0.005, (k, 2))
                if drop:
                    flips[0] = rng.binomial(n, drop), 0
                parts = [Pairs(n, int(a), int(b)) for a, b in flips]
                by_class = holm([mcnemar(p) for p in parts])
                found = judged([OfClass(i, 0, p) for i, p in enumerate(parts)], POLICY)
                class_seen = by_class[0] <= 0.05 if drop else min(by_class) <= 0.05
                seen += class_seen, mcnemar(pooled(parts)) <= 0.05, found.is_worse
            share = seen / n_draws
            cells.append(f"{share[0]:.2f} / {share[1]:.2f} / {share[2]:.2f}")
        print(f"| {k} x {n}: by class / pooled / proved worse | " + " | ".join(cells) + " |")
    print()


def real(pictures: dict[str, tuple[Float16, Labels]], draws: int) -> None:
    """Print how often a class that was taught wrongly is seen, and good pictures are not."""
    x, y = pictures["train"]
    far, far_y = pictures["t10k"]
    kinds = ("20 held out", "50 held out", "200 kept, left out")
    print("| wrong pictures of one class | it falls by | " + " | ".join(kinds) + " |")
    print("|---" * (len(kinds) + 2) + "|")
    seconds = []
    for n_wrong in (0, 40, 80, 120, 160, 240):
        seen, falls = np.zeros(len(kinds)), []
        for draw in range(draws):
            rng = np.random.default_rng([n_wrong, draw])
            own = [rng.permutation(np.flatnonzero(y == c))[:800] for c in range(CLASSES)]
            kept = np.concatenate([o[:200] for o in own])
            head = _taught(x[kept], y[kept])
            begin = time.perf_counter()
            before = [_held(head, x, y, own, 20), _held(head, x, y, own, 50),
                      _left_out(head, x, y, kept)]  # fmt: skip
            seconds.append(time.perf_counter() - begin)
            fell = draw % CLASSES
            was = _share(head, far, far_y, fell)
            if n_wrong:
                wrong = own[fell][300 : 300 + n_wrong]
                head.learn_many(x[wrong], np.full(len(wrong), (fell + 1) % CLASSES) + 1)
            else:  # false alarms: 50 good ones of each
                more = np.concatenate([o[300:350] for o in own])
                head.learn_many(x[more], y[more] + 1)
            head.settle()
            falls.append(was - _share(head, far, far_y, fell))
            after = [_held(head, x, y, own, 20), _held(head, x, y, own, 50),
                     _left_out(head, x, y, kept)]  # fmt: skip
            had = dict.fromkeys(range(1, CLASSES + 1), 200)
            for i, (a, b) in enumerate(zip(before, after, strict=True)):
                seen[i] += judged(paired(a, b, had, had), POLICY).is_worse
        shares = " | ".join(f"{s / draws:.2f}" for s in seen)
        print(f"| {n_wrong} | {np.mean(falls):+.2f} | {shares} |", flush=True)
    print(f"\n{len(kept)} rows of {x.shape[1]}: all witnesses asked in {np.mean(seconds):.3f} s\n")


def consolidation(pictures: dict[str, tuple[Float16, Labels]], n_draws: int = 4000) -> None:
    """Print how often each rule takes a really better, and a really worse, head on 300 pictures."""
    x, y = pictures["train"]
    far, far_y = pictures["t10k"]
    print("| truly better by | rule | takes the better | takes the worse |\n|---|---|---|---|")
    for n_less, n_more in ((150, 220), (100, 200)):
        rng = np.random.default_rng(n_less)
        order = [rng.permutation(np.flatnonzero(y == c)) for c in range(CLASSES)]
        shares = []
        for n in (n_less, n_more):
            rows = np.concatenate([o[:n] for o in order])
            scores = _taught(x[rows], y[rows]).predict_many(far.astype(np.float32))
            shares.append(softmax(8.0 * scores))
        accuracy = [float((s.argmax(axis=1) == far_y).mean()) for s in shares]
        gain = f"{100 * (accuracy[1] - accuracy[0]):.1f} points"
        taken: dict[str, list[int]] = {}
        for _ in range(n_draws):
            probe = rng.choice(len(far), 300, replace=False)
            worse, better = (s[probe] for s in shares)
            for turn, (a, b) in enumerate(((worse, better), (better, worse))):
                for rule, is_taken in _rules(a, b, far_y[probe]).items():
                    taken.setdefault(rule, [0, 0])[turn] += is_taken
        for rule, (good, bad) in taken.items():
            print(f"| {gain} | {rule} | {good / n_draws:.2f} | {bad / n_draws:.2f} |")


def _rules(a: np.ndarray, b: np.ndarray, y: Labels) -> dict[str, bool]:
    was, now = ((s.argmax(axis=1) == y).sum() for s in (a, b))
    error = squared_errors(b, y) - squared_errors(a, y)
    verdict = judged_errors(a, b, y, POLICY)
    return {
        "right after >= right before": bool(now >= was),
        "squared error not higher": bool(error.mean() <= 0),
        "not proved higher (p > 0.05)": verdict.p > POLICY.alpha,
        "not higher by a standard error, nor proved in a class (in use)": verdict.accepted,
    }


def _features(images: np.ndarray, labels: np.ndarray) -> tuple[Float16, Labels]:
    """Return pixels (N, 196) of pictures at half size, and labels (N,)."""
    n = len(images)
    small = images.reshape(n, SIDE, 2, SIDE, 2).mean(axis=(2, 4)).reshape(n, -1) / 64
    return quantise(small.astype(np.float32)), labels.astype(np.int64)


def _taught(x: Float16, y: Labels) -> Head:
    head = make_head("ridge", x.shape[1])
    head.learn_many(x, y + 1)
    head.settle()
    return head


def _share(head: Head, x: Float16, y: Labels, c: int) -> float:
    own = y == c
    best = head.predict_many(x[own].astype(np.float32)).argmax(axis=1)
    return float((np.array(head.classes)[best] == c + 1).mean())


def _held(head: Head, x: Float16, y: Labels, own: list[Labels], n: int) -> Verdicts:
    rows = np.concatenate([o[600 : 600 + n] for o in own])
    best = head.predict_many(x[rows].astype(np.float32)).argmax(axis=1)
    return Verdicts(rows, y[rows] + 1, np.array(head.classes)[best] == y[rows] + 1)


def _left_out(head: Head, x: Float16, y: Labels, rows: Labels) -> Verdicts:
    found = head.left_out(x[rows], y[rows] + 1)
    assert found is not None  # ridge has a closed form
    best = found.scores.argmax(axis=1)
    return Verdicts(rows, y[rows] + 1, np.array(head.classes)[best] == y[rows] + 1)


if __name__ == "__main__":
    main()

"""How much a head by gradient does for stability: one word for a device, one value a part.

Heads in closed form have nothing to steady and carry `PLAIN`. What each profile holds was measured
(docs/decisions/0008).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgecl.errors import UsageError


@dataclass(frozen=True, slots=True)
class Profile:
    """The parts of the stability kit that a head uses.

    Args:
        n_replay: Stored features beside the new ones in one update; a view counts as one.
        slow_decay: Most that an update keeps of the slow rows, which are served; 0 serves the rows
            that learn.
        focal_gamma: Exponent of the weight on samples that are not yet learned; 0 weighs all alike.
        n_settle_steps: Class-balanced steps on the served copy before it is deployed.
        n_views: Views of a stored sample in one update; 1 is the feature alone.
        view_weight: Weight of the agreement of strong views with the weak one.
        controller: How much is replayed, and what: `steady`, `measured` (a quarter of it while the
            loss of replayed rows does not rise) or `ranked` (half of it what has the largest loss).
        n_gates: Keys of the class gate (heads/gate.py); 0 is none.
    """

    n_replay: int = 32
    slow_decay: float = 0.0
    focal_gamma: float = 0.0
    n_settle_steps: int = 0
    n_views: int = 1
    view_weight: float = 0.0
    controller: str = "steady"
    n_gates: int = 0


PLAIN = Profile()
LIGHT = Profile(n_replay=16, slow_decay=0.95, focal_gamma=1.0, n_settle_steps=30)
BALANCED = Profile(n_replay=32, slow_decay=0.95, focal_gamma=1.0, n_settle_steps=100)
CAREFUL = Profile(n_replay=64, slow_decay=0.95, focal_gamma=1.0, n_settle_steps=100)
# View-batch replay: half as many samples in two views each, that rest twice as long.
RESTED = replace(BALANCED, n_views=2, view_weight=1.0)
PROFILES = {
    "balanced": BALANCED,
    "light": LIGHT,
    "careful": CAREFUL,
    "rested": RESTED,
    "measured": replace(BALANCED, controller="measured"),
    "ranked": replace(BALANCED, controller="ranked"),
    "blurry": replace(BALANCED, n_gates=5),
}


def profile_of(name: str) -> Profile:
    """Return a named profile.

    Raises:
        UsageError: No such profile.
    """
    if name not in PROFILES:
        raise UsageError(f"profile {name!r} is unknown; expected one of {', '.join(PROFILES)}")
    return PROFILES[name]

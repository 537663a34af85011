"""What a home knows, how well, and from where, in numbers."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from edgecl.evaluation.calibrated import calibration_summary
from edgecl.evaluation.continual import summary
from edgecl.evaluation.fresh import freshness, outdated_in_words
from edgecl.evaluation.tested import shown_classes, tested_now
from edgecl.governor.words import said_of_changes
from edgecl.home import Home
from edgecl.paired import wilson
from edgecl.session import Session, open_store
from edgecl.store.adapters import adapter_rows
from edgecl.store.exports import FRESH, PUBLISHED, STALE, exports_of
from edgecl.store.store import Store, describe

_LAST_S = 253_402_300_799  # the end of the year 9999: what a source says may be later


def status_of(home: Home) -> dict[str, Any]:
    """Return what `edgecl status --json` prints, read from one state of the store."""
    with open_store(home, read_only=True) as store, store.snapshot():
        values = describe(store) | {"calibration": calibration_summary(Session(home, store))}
        values |= _how_well(home, store, values["classes"])
        values |= said_of_changes(home, store) | _from_where(store) | _kept(store)
        values["warnings"] += values["outdated"]
    manifest = home.manifest
    return values | {
        "home": str(home.path),
        "head": home.config.head.name,
        "backbone": manifest.backbone,
        "num_features": manifest.num_features,
        "image_size": manifest.preprocessing.image_size,
        "database_bytes": home.database.stat().st_size,
        "home_bytes": sum(f.stat().st_size for f in home.path.rglob("*") if f.is_file()),
    }


def _how_well(home: Home, store: Store, classes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return how many answers are right; what is known of a class goes to the others of it."""
    scores = summary(store)
    uids = shown_classes(store)
    tested = tested_now(home, store, uids)
    names = [store.names[uid] for uid in uids]
    counts = zip(tested.right.tolist(), tested.n.tolist(), strict=True)
    right = dict(zip(names, counts, strict=True))
    scored = scores.pop("classes")
    for name, known in classes.items():
        n_right, n = right.get(name, (0, 0))
        known |= scored.get(name, {}) | {"right": n_right, "accuracy": n_right / n if n else None}
        if tested.is_left_out:
            known["tested"] = n
    live = freshness(store, right, home.config.governor.alpha)
    for name, found in live.items():
        classes[name] |= found
    taught = {store.names[uid]: last for uid, last in store.last_taught().items()}
    return scores | {
        "accuracy": tested.accuracy,
        "intervals": {name: list(wilson(*pair)) for name, pair in right.items() if pair[1]},
        "last_taught": {name: _iso(taught[name]) for name in names if name in taught},
        "right": int(tested.right.sum()),
        "tested": int(tested.n.sum()),
        "tested_on": "left out" if tested.is_left_out else "held out",
        "outdated": [
            outdated_in_words(name, found, right[name])
            for name, found in live.items()
            if found["is_outdated"]
        ],
    }


def _from_where(store: Store) -> dict[str, Any]:
    times, n_samples = store.times_by_source(), store.n_by_source()
    last = max((last for _, last in times.values()), default=None)
    return {
        "learned_from": [
            {"source": name, "samples": n_samples[name], "first": _iso(a), "last": _iso(b)}
            for name, (a, b) in times.items()
        ],
        "last_learned": None if last is None else _iso(last),
    }


def _kept(store: Store) -> dict[str, Any]:
    """Return what else lies in the store, and what waits."""
    rows = adapter_rows(store)
    exports = [export.status for export in exports_of(store) if export.kind != PUBLISHED]
    return {
        "feature_map": store.feature_map,
        "adapters": sum(row.is_served for row in rows),
        "candidate": next((row.shadow.in_words() for row in rows if row.shadow is not None), None),
        "exports": exports.count(FRESH) + exports.count(STALE),
        "exports_stale": exports.count(STALE),
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(min(max(seconds, 0), _LAST_S), timezone.utc).isoformat(
        timespec="seconds"
    )

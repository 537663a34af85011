"""`edgecl status`, `edgecl doctor` and `edgecl verify`."""

from __future__ import annotations

from typing import Any

from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.output import print_json, print_table


def status(home: HomeOption = DEFAULT, json: JsonOption = False) -> None:
    """Say what a home has learned."""
    from edgecl.evaluation.continual import summary
    from edgecl.home import Home
    from edgecl.session import open_store
    from edgecl.store.adapters import adapter_rows
    from edgecl.store.exports import FRESH, STALE, exports_of
    from edgecl.store.store import describe

    device = Home(home)
    with open_store(device, read_only=True) as store, store.snapshot():
        values = describe(store)
        scores = summary(store)
        feature_map, n_adapters = (
            store.feature_map,
            sum(row.epoch is None for row in adapter_rows(store)),
        )
        exports = [export.status for export in exports_of(store)]
    manifest = device.manifest
    for name, known in values["classes"].items():
        known |= scores["classes"].get(name, {})
    values |= {name: value for name, value in scores.items() if name != "classes"}
    values |= {
        "home": str(device.path),
        "head": device.config.head.name,
        "backbone": manifest.backbone,
        "num_features": manifest.num_features,
        "image_size": manifest.preprocessing.image_size,
        "feature_map": feature_map,
        "adapters": n_adapters,
        "exports": exports.count(FRESH) + exports.count(STALE),
        "exports_stale": exports.count(STALE),
        "database_bytes": device.database.stat().st_size,
    }
    if json:
        print_json(values)
        return
    _print_status(values)


def _print_status(values: dict[str, Any]) -> None:
    print(
        f"{values['home']}: {values['backbone']} at {values['image_size']} px, "
        f"{values['num_features']} features, {values['adapters']} adapters, head {values['head']}"
    )
    print(
        f"{values['samples']} samples learned, {values['stored']} of at most "
        f"{values['capacity_samples']} kept ({values['stored_bytes'] / 1e6:.1f} MB of pictures, "
        f"{values['statistics_bytes'] / 1e6:.1f} MB of features and statistics), "
        f"{values['receipts']} receipts, {values['exports']} exports"
        + (f" ({values['exports_stale']} stale)" if values["exports_stale"] else "")
    )
    if values["evaluations"]:
        print(
            f"on {values['probes']} samples held out, scored {values['evaluations']} times: "
            f"accuracy {_percent(values['accuracy'])}, "
            f"min-ACC {_percent(values['min_accuracy'])}, "
            f"WC-ACC {_percent(values['worst_case_accuracy'])}, "
            f"forgetting {_percent(values['forgetting'])}"
        )
    if values["pending"]:
        print(f"to unlearn: {values['pending']} requests; `edgecl forget pending` carries them out")
    if values["review"]:
        print(f"to review: {values['review']} frames that look like nothing known")
    rows = [
        (name, c["seen"], c["stored"], c["held_out"], _percent(c["accuracy"]))
        for name, c in values["classes"].items()
    ]
    print_table("classes", ("class", "learned", "kept", "held out", "accuracy"), rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def doctor(home: HomeOption = DEFAULT, json: JsonOption = False) -> None:
    """Say what this machine can do, and whether the home is in order."""
    from edgecl.doctor import examine
    from edgecl.errors import IntegrityError

    findings = examine(home)
    bad = [f.name for f in findings if f.state == "bad"]
    if json:
        checks = {f.name: {"state": f.state, "text": f.text} for f in findings}
        print_json({"ok": not bad, "checks": checks})
    else:
        print_table(
            "doctor", ("what", "state", "found"), [(f.name, f.state, f.text) for f in findings]
        )
    if bad:
        raise IntegrityError(f"not in order: {', '.join(bad)}; see above for what to do")


def verify(home: HomeOption = DEFAULT, json: JsonOption = False) -> None:
    """Check the home: engine hash, store, feature map and the chain of receipts."""
    from edgecl.doctor import examine_home
    from edgecl.errors import IntegrityError
    from edgecl.home import Home

    Home(home)
    findings = examine_home(home)
    bad = [f for f in findings if f.state == "bad"]
    if json:
        print_json({"ok": not bad, **{f.name: f.text for f in findings}})
    else:
        print_table(
            "verify", ("what", "state", "found"), [(f.name, f.state, f.text) for f in findings]
        )
    if bad:
        raise IntegrityError("; ".join(f.text for f in bad))

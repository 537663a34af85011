"""`edgecl doctor` and `edgecl verify`."""

from __future__ import annotations

from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.output import print_json, print_table


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

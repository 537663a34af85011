"""`edgecl forget`, `edgecl receipt`, `edgecl rename`, `edgecl snapshot` and `edgecl rollback`."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.options import DEFAULT, HomeOption, JsonOption, WeightsOption
from edgecl.cli.output import print_json, print_table, print_values, say, working

if TYPE_CHECKING:
    from edgecl.home import Home
    from edgecl.types import ForgetRequest
    from edgecl.unlearning.request import Unlearned

forget_app = typer.Typer(
    help="Unlearn for good, with a receipt.", no_args_is_help=True, rich_markup_mode=None
)

ReasonOption = Annotated[
    str, typer.Option("--reason", help="For the receipt; must not hold the class name.")
]
VerifyOption = Annotated[
    bool,
    typer.Option(
        "--verify", help="Compare with a head built anew, attack it, and look for the bytes."
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what holds it and what would happen; change nothing.")
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--adapter-method",
        help="For adapters that saw it: drop, retrain (drop them, then train anew) or, in place "
        "and approximate, ssd, gu, gs-lora, iau.",
    ),
]
# How long a request that another process carries out is waited for.
_PATIENCE_S = 10.0


@forget_app.callback()
def _group() -> None:
    """Unlearn for good, with a receipt."""


@forget_app.command("class")
def forget_class(
    name: Annotated[str, typer.Argument(help="The class's name, or an alias.")],
    home: HomeOption = DEFAULT,
    reason: ReasonOption = "",
    verify: VerifyOption = False,
    dry_run: DryRunOption = False,
    adapter_method: MethodOption = "drop",
    weights: WeightsOption = None,
    json: JsonOption = False,
) -> None:
    """Remove a class from head, adapters, statistics, store, snapshots and exports for good."""
    from edgecl.types import ForgetRequest

    asked = ForgetRequest(name, reason, adapter_method=adapter_method)
    _forget(home, asked, verify=verify, dry_run=dry_run, weights=weights, json=json)


@forget_app.command("sample")
def forget_sample(
    uid: Annotated[str, typer.Argument(help="The sample's uid, a number.")],
    home: HomeOption = DEFAULT,
    reason: ReasonOption = "",
    verify: VerifyOption = False,
    dry_run: DryRunOption = False,
    adapter_method: MethodOption = "drop",
    weights: WeightsOption = None,
    json: JsonOption = False,
) -> None:
    """Remove one sample that is still in the store."""
    from edgecl.types import ForgetRequest

    asked = ForgetRequest(uid, reason, "sample", adapter_method)
    _forget(home, asked, verify=verify, dry_run=dry_run, weights=weights, json=json)


@forget_app.command("source")
def forget_source(
    name: Annotated[str, typer.Argument(help="The source as it was learned; see `status`.")],
    home: HomeOption = DEFAULT,
    reason: ReasonOption = "",
    verify: VerifyOption = False,
    dry_run: DryRunOption = False,
    adapter_method: MethodOption = "drop",
    weights: WeightsOption = None,
    json: JsonOption = False,
) -> None:
    """Remove all that came from one source, evicted samples too."""
    from edgecl.types import ForgetRequest

    asked = ForgetRequest(name, reason, "source", adapter_method)
    _forget(home, asked, verify=verify, dry_run=dry_run, weights=weights, json=json)


@forget_app.command("pending")
def forget_pending(home: HomeOption = DEFAULT, json: JsonOption = False) -> None:
    """Finish what was cut off, and unlearn again what an older copy of the store brought back."""
    from edgecl.home import Home
    from edgecl.session import open_store
    from edgecl.unlearning.request import finish_requests

    device = Home(home)
    with device.lock(), open_store(device, may_be_older=True) as store, working("unlearning"):
        done = finish_requests(device, store)
    left = [d for d in done if d.erasure["busy"]]
    for part in done:
        say(f"{part.receipt.receipt_id}: {part.mode}, {part.seconds:.1f} s")
    result = {
        "receipts": [part.receipt.receipt_id for part in done],
        "pending": [part.receipt.receipt_id for part in left],
    }
    if json:
        print_json(result)
    else:
        print_values("finished", result)
    _check_faults(done)


def receipt(
    receipt_id: Annotated[str, typer.Argument(help="As `forget` printed it, for example r1.")],
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Show a receipt, after checking the chain that it is part of and its signature."""
    from edgecl.home import Home
    from edgecl.session import open_store
    from edgecl.unlearning.receipt import all_receipts, public_key, receipt_by_id

    device = Home(home)
    with open_store(device, read_only=True) as store:
        found = receipt_by_id(device, store, receipt_id)
        later = [r for r in all_receipts(device, store) if r.body.get("of") == found.receipt_id]
    values = {
        "receipt_id": found.receipt_id,
        **found.body,
        "followed_by": {r.receipt_id: _outcome(r.body) for r in later},
        "previous": found.previous,
        "digest": found.digest,
        "signature": found.signature,
        "public_key": public_key(device),
    }
    if json:
        print_json(values)
        return
    print_values(f"receipt {receipt_id}", values)


def rename(
    old: Annotated[str, typer.Argument(help="The class's name, or an alias.")],
    new: Annotated[str, typer.Argument(help="Its new name.")],
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Give a class another name; the old one stays as an alias, for streams that still use it."""
    from edgecl.home import Home
    from edgecl.types import clean_label
    from edgecl.unlearning.request import writing

    with writing(Home(home)) as session:
        store = session.store
        with store.transaction():
            uid = store.rename_class(clean_label(old), clean_label(new))
        names = store.names_of(uid)
    result = {"class_uid": uid, "name": names[0], "aliases": list(names[1:])}
    if json:
        print_json(result)
    else:
        print_values("renamed", result)


def snapshot(
    home: HomeOption = DEFAULT,
    show: Annotated[bool, typer.Option("--list", help="Only say which there are.")] = False,
    json: JsonOption = False,
) -> None:
    """Keep what is learned now, for `edgecl rollback`."""
    from dataclasses import asdict

    from edgecl.home import Home
    from edgecl.session import open_store
    from edgecl.snapshots import snapshots_of, take
    from edgecl.unlearning.request import writing

    device = Home(home)
    if show:
        with open_store(device, read_only=True) as store:
            known = snapshots_of(store)
        if json:
            print_json({"snapshots": [asdict(s) | {"snapshot_id": f"s{s.uid}"} for s in known]})
            return
        rows = [
            (f"s{s.uid}", _when(s.created), len(s.classes), s.samples, f"{s.size_bytes / 1e6:.1f}")
            for s in known
        ]
        print_table("snapshots", ("id", "taken", "classes", "samples", "MB"), rows)
        return
    with writing(device) as session, working("copying"):
        store = session.store
        taken = take(device, store)
    result = {
        "snapshot_id": f"s{taken.uid}",
        "classes": len(taken.classes),
        "samples": taken.samples,
        "adapters": list(taken.adapters),
        "bytes": taken.size_bytes,
    }
    if json:
        print_json(result)
    else:
        print_values("kept", result)


def rollback(
    snapshot_id: Annotated[str, typer.Argument(help="As `snapshot` printed it, for example s1.")],
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Bring back what was learned at a snapshot; what was learned since is deleted."""
    from edgecl import snapshots
    from edgecl.errors import UsageError
    from edgecl.home import Home
    from edgecl.session import open_learner
    from edgecl.unlearning.request import writing

    number = snapshot_id.removeprefix("s")
    if not (number.isascii() and number.isdigit()):
        raise UsageError(f"snapshot {snapshot_id!r} is no name of one; expected one like s1")
    device = Home(home)
    with writing(device) as session, working("rolling back"):
        store = session.store
        learner = open_learner(device, store)
        done = snapshots.rollback(device, learner, int(number))
    result = {
        "snapshot_id": f"s{done.uid}",
        "classes": len(done.classes),
        "samples": done.samples,
        "adapters": list(done.adapters),
    }
    if json:
        print_json(result)
    else:
        print_values("rolled back", result)


def _forget(
    home: Any,
    asked: ForgetRequest,
    *,
    verify: bool,
    dry_run: bool,
    weights: str | None,
    json: bool,
) -> None:
    from edgecl.errors import HomeLockedError
    from edgecl.home import Home
    from edgecl.session import open_learner
    from edgecl.unlearning.request import find, forget, writing

    device = Home(home)
    if dry_run:
        _print_plan(device, asked, json=json)
        return
    try:
        with writing(device) as session:
            store = session.store
            find(device, store, asked)  # what cannot be done is refused before the rest is loaded
            with working("unlearning") as tell:
                done = forget(
                    device,
                    open_learner(device, store),
                    asked,
                    verify=verify,
                    weights=weights,
                    say=lambda what, n, of: tell(f"{what} {n} of {of}" if of > 1 else what),
                )
    except HomeLockedError:
        _hand_over(device, asked, verify=verify, weights=weights, json=json)
        return
    result = _result(done)
    if done.mode == "already_forgotten":
        say(f"it was unlearned before, see receipt {done.receipt.receipt_id}; nothing was done")
    elif done.erasure["busy"]:
        say(
            "another process is reading the store; the next train-stream or forget finishes the "
            "erasure"
        )
    if result["adapters"] and asked.adapter_method == "retrain":
        result["retrained"] = _retrain(device, weights)
    if json:
        print_json(result)
    else:
        print_values("unlearned", result | _in_short(result.pop("metrics", {})))
    _check_faults([done])


def _check_faults(done: list[Unlearned]) -> None:
    """End with status 4 if a check of something unlearned failed."""
    from edgecl.errors import IntegrityError

    for part in done:
        if part.faults:
            what = "approximately unlearned" if part.mode.startswith("approximate") else "unlearned"
            raise IntegrityError(
                f"the {part.receipt.body['what']} was {what} ({part.receipt.receipt_id}), but a "
                "check failed: " + "; ".join(part.faults)
            )


def _result(done: Unlearned) -> dict[str, Any]:
    body = done.receipt.body
    kind = body["what"]
    return {
        "receipt_id": done.receipt.receipt_id,
        "mode": done.mode,
        f"{kind}_uid": body[f"{kind}_uid"],
        "rows_erased": sum(body["rows_erased"].values()),
        "adapters": body["adapters"],
        "exports_stale": body["exports_stale"],
        "snapshots_purged": body["snapshots_purged"],
        "verified": done.verified,
        **({"metrics": done.metrics} if done.metrics else {}),
        "seconds": done.seconds,
        "head_seconds": done.head_seconds,
        "erasure": "pending" if done.is_open else "done",
    }


def _in_short(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of an audit that a person looks at first."""
    attack = (metrics.get("membership") or {}).get("forget", {})
    short = {
        "accuracy on the rest": metrics.get("accuracy_kept"),
        "of a model that never saw it": metrics.get("accuracy_kept_retrained"),
        "largest gap of weights to it": metrics.get("weights_gap"),
        "membership attack, AUC": attack.get("auc"),
    }
    return {name: value for name, value in short.items() if value is not None}


def _print_plan(device: Home, asked: ForgetRequest, *, json: bool) -> None:
    from edgecl.session import open_learner, open_store
    from edgecl.types import Receipt
    from edgecl.unlearning.plan import make_plan
    from edgecl.unlearning.request import look_up

    plan: dict[str, Any]
    with open_store(device, read_only=True) as store, store.snapshot():
        target = look_up(device, store, asked)
        if isinstance(target, Receipt):
            plan = {"kind": asked.kind, "mode": "already_forgotten", "receipt": target.receipt_id}
        else:
            learner = open_learner(device, store)
            plan = make_plan(store, learner.head, target, asked.adapter_method).as_json()
    if json:
        print_json(plan)
    else:
        print_values("would be unlearned; nothing was changed", plan)


def _hand_over(
    device: Home, asked: ForgetRequest, *, verify: bool, weights: str | None, json: bool
) -> None:
    """Leave a request to the process that writes to the home, and wait a while for its receipt."""
    from edgecl.errors import HomeLockedError, IntegrityError, RequestError
    from edgecl.session import open_store
    from edgecl.types import Receipt
    from edgecl.unlearning.journal import record
    from edgecl.unlearning.receipt import all_receipts, receipt_by_id
    from edgecl.unlearning.request import finish_requests, look_up, receipt_of

    receipt_id: str | None
    with open_store(device) as store:
        target = look_up(device, store, asked)
        if isinstance(target, Receipt):
            receipt_id, mode = target.receipt_id, "already_forgotten"
        else:
            mode = "pending"
            number = record(store, target, asked, verify=verify, weights=weights)
            say("another edgecl process writes to this home; it carries the request out")
            deadline = time.monotonic() + _PATIENCE_S
            while (receipt_id := receipt_of(store, number, target)) is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
                # That process may have ended, or never look for requests.
                with suppress(HomeLockedError), device.lock(), open_store(device) as own:
                    finish_requests(device, own)
        result: dict[str, Any] = {"receipt_id": receipt_id, "mode": mode, "verified": None}
        if receipt_id is not None:
            body = receipt_by_id(device, store, receipt_id).body
            if body["kind"] == "refused":
                raise RequestError(f"the request was refused: {body['why']}; see {receipt_id}")
            checks = [
                r.body["status"] == "verified"
                for r in all_receipts(device, store)
                if r.body["kind"] == "verification"
                and r.body["of"] == receipt_id
                and r.body["status"] != "incomplete"
            ]
            result["mode"] = mode if mode == "already_forgotten" else body["mode"]
            result["verified"] = all(checks) if checks else None
    if json:
        print_json(result)
    else:
        print_values("handed over", result)
    if receipt_id is None:
        raise HomeLockedError(
            "the request is recorded, but another edgecl process writes to this home and did not "
            "come to it yet; that process or the next one carries it out"
            + ("; no prediction names the class from now on" if asked.kind == "class" else "")
        )
    if result["verified"] is False and mode != "already_forgotten":
        raise IntegrityError(
            f"the {asked.kind} was unlearned, but a check failed: see `edgecl receipt {receipt_id}`"
        )


def _retrain(device: Home, weights: str | None) -> bool:
    """Train an adapter anew on what is left of the tasks whose adapters were dropped."""
    from edgecl.cli.consolidate import consolidator
    from edgecl.errors import EdgeclError
    from edgecl.unlearning.request import writing

    try:
        with writing(device) as session:
            run = consolidator(session, weights)
            with working("training an adapter anew") as tell:
                return run(tell).accepted
    except EdgeclError as error:
        say(f"no adapter was trained anew: {error}")
        return False


def _outcome(body: dict[str, Any]) -> str:
    if body["kind"] == "erasure":
        return "erasure pending" if body["busy"] else "erasure done"
    return str(body.get("status", body["kind"]))


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

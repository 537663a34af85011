"""`edgecl forget`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli import complete
from edgecl.cli.commands import Command
from edgecl.cli.confirm import YesOption, confirm, forgetting
from edgecl.cli.fleet_asked import TO_ALL, AskFleetOption, asked_of, device_at, print_asked
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption, WeightsOption
from edgecl.cli.outcome import print_next, print_outcome, time_text
from edgecl.cli.output import is_verbose, print_json, print_values, say, show, working
from edgecl.figures import counted

if TYPE_CHECKING:
    from edgecl.fleet.member import Device
    from edgecl.types import ForgetRequest
    from edgecl.unlearning.ask import HandedOver
    from edgecl.unlearning.request import Unlearned

forget_app = typer.Typer(
    help="Unlearn for good, with a receipt.",
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode=None,
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
_KINDS = {
    "sample": (
        "Remove one sample that is still in the store.",
        typer.Argument(..., help="The sample's uid, a number.", metavar="UID"),
    ),
    "source": (
        "Remove all that came from one source, evicted samples too.",
        typer.Argument(
            ...,
            help="The source as it was learned; see `status`.",
            metavar="SOURCE",
            autocompletion=complete.sources,
        ),
    ),
}


@forget_app.command("class", cls=Command)
def forget_class(
    name: Annotated[
        str,
        typer.Argument(help="The class's name, or an alias.", autocompletion=complete.classes),
    ],
    home: HomeOption = DEFAULT,
    reason: ReasonOption = "",
    verify: VerifyOption = False,
    dry_run: DryRunOption = False,
    adapter_method: MethodOption = "drop",
    weights: WeightsOption = None,
    fleet: AskFleetOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Remove a class from head, adapters, statistics, store, snapshots and exports for good."""
    from edgecl.types import ForgetRequest

    asked = ForgetRequest(name, reason, adapter_method=adapter_method)
    device = device_at(home) if fleet else None
    also = [TO_ALL] if fleet else []
    if dry_run:
        print_plan(home, asked, also, json=json)
    else:
        confirm(lambda: [*forgetting(home, asked), *also], yes=yes)
        carry_out(home, asked, verify=verify, weights=weights, json=json, device=device)


def _add_command(kind: str, text: str, argument: Any) -> None:
    """Add `edgecl forget KIND`."""

    @forget_app.command(kind, help=text, cls=Command)
    def forget_it(
        name: str = argument,
        home: HomeOption = DEFAULT,
        reason: ReasonOption = "",
        verify: VerifyOption = False,
        dry_run: DryRunOption = False,
        adapter_method: MethodOption = "drop",
        weights: WeightsOption = None,
        yes: YesOption = False,
        json: JsonOption = False,
    ) -> None:
        from edgecl.types import ForgetRequest, Kind

        asked = ForgetRequest(name, reason, Kind(kind), adapter_method)
        if dry_run:
            print_plan(home, asked, json=json)
        else:
            confirm(lambda: forgetting(home, asked), yes=yes)
            carry_out(home, asked, verify=verify, weights=weights, json=json)


for _kind, _said in _KINDS.items():
    _add_command(_kind, *_said)


@forget_app.command("pending", cls=Command)
def forget_pending(home: HomeOption = DEFAULT, json: JsonOption = False) -> None:
    """Finish what was cut off, and unlearn again what an older copy of the store brought back."""
    from edgecl.home import Home
    from edgecl.lending import holding
    from edgecl.unlearning.request import finish_requests

    device = Home(home)
    with holding(device) as (store, learner), working("unlearning"):
        done = finish_requests(device, store, learner)
    left = [part for part in done if part.is_open]
    result = {
        "receipts": [part.receipt.receipt_id for part in done],
        "pending": [part.receipt.receipt_id for part in left],
    }
    if json:
        print_json(result)
    else:
        _print_finished(done)
    _check_faults(done)


def _print_finished(done: list[Unlearned]) -> None:
    """Say what of the requests is done, and what waits."""
    if not done:
        show("no request waits: all that was to be unlearned is")
        return
    for part in done:
        how = f"unlearned in {time_text(part.seconds)}, {part.mode.replace('_', ' ')}"
        if part.is_open:
            how = "unlearned, but its bytes are not erased yet: another process reads the store"
        show(f"{part.receipt.receipt_id}: the {part.receipt.body['what']} is {how}")
    waits = any(part.is_open for part in done)
    print_next("edgecl forget pending" if waits else "edgecl receipts")


def carry_out(
    home: Path,
    asked: ForgetRequest,
    *,
    verify: bool,
    weights: str | None,
    json: bool,
    device: Device | None = None,
) -> None:
    """Unlearn what was asked for, and show what was done; asks the fleet of a device, too."""
    from edgecl.home import Home
    from edgecl.types import Mode
    from edgecl.unlearning.ask import HandedOver, unlearn

    with ExitStack() as stack:
        to_all = None if device is None else asked_of(stack, device, asked)
        shown: list[Callable[[str], None]] = []

        def tell(what: str, n: int, of: int) -> None:
            if not shown:  # what is refused is refused in one line
                shown.append(stack.enter_context(working("unlearning")))
            shown[0](f"{what} {n} of {of}" if of > 1 else what)

        done = unlearn(Home(home), asked, verify=verify, weights=weights, say=tell, tell=say)
    if isinstance(done, HandedOver):
        _show_handed_over(done, asked, to_all, json=json)
        return
    result = _result(done) | ({} if to_all is None else {"request": to_all})
    if done.mode is Mode.ALREADY_FORGOTTEN:
        say(f"it was unlearned before, see receipt {done.receipt.receipt_id}; nothing was done")
    elif done.is_open:
        say(
            "another process is reading the store; the next train-stream or forget finishes the "
            "erasure"
        )
    if result["adapters"] and asked.adapter_method == "retrain":
        result["retrained"] = _retrain(home, weights)
    if json:
        print_json(result)
    else:
        _print_done(done, result)
        print_asked(to_all)
    _check_faults([done])


def _print_done(done: Unlearned, result: dict[str, Any]) -> None:
    """Say what was unlearned and what comes next; what was so before is said already."""
    from edgecl.types import Mode

    receipt = done.receipt.receipt_id
    hows = () if done.erasure is None else tuple(done.erasure.exports.values())
    n_exports = len(result["exports_stale"]) - hows.count("republished") - hows.count("unreached")
    if done.mode is not Mode.ALREADY_FORGOTTEN:
        short = _in_short(result.pop("metrics", {}))
        checked = {True: "; checked", False: "; a check failed", None: ""}[done.verified]
        rows = done.receipt.body["rows_erased"]
        text = (
            f"unlearned in {time_text(done.seconds)}, {done.mode.replace('_', ' ')}: "
            f"{counted(rows.get('pictures', 0), 'picture')} and all else of it erased "
            f"({counted(result['rows_erased'], 'row')}){checked}; receipt {receipt}"
        )
        if result["snapshots_purged"]:
            text += f", {counted(len(result['snapshots_purged']), 'snapshot')} deleted"
        if n_exports:
            text += f", {counted(n_exports, 'export')} revoked"
        if "republished" in hows:
            text += ", mqtt discovery: republished; history of receivers out of reach"
        if "unreached" in hows:
            text += (
                ", mqtt discovery: the broker was not reached; what it keeps is taken back when "
                "edgecl publishes there again"
            )
        print_outcome(text, result | short)
        if short and not is_verbose():
            print_values("checked", short)
    stale = ["edgecl export --rebuild-stale"] if n_exports else []
    print_next(f"edgecl receipt {receipt}", *stale)


def _check_faults(done: list[Unlearned]) -> None:
    """End with status 4 if a check of something unlearned failed."""
    from edgecl.errors import IntegrityError

    for part in done:
        if part.faults:
            how = "unlearned" if part.mode.is_exact else "approximately unlearned"
            raise IntegrityError(
                f"the {part.receipt.body['what']} was {how} ({part.receipt.receipt_id}), but a "
                "check failed: " + "; ".join(part.faults)
            )


def _result(done: Unlearned) -> dict[str, Any]:
    from edgecl.unlearning.receipt import Forgotten

    entry = Forgotten.from_json(done.receipt.body)
    return {
        "receipt_id": done.receipt.receipt_id,
        "mode": done.mode,
        entry.what.key: entry.uid,
        "rows_erased": sum(entry.rows_erased.values()),
        "adapters": entry.adapters,
        "exports_stale": entry.exports_stale,
        "snapshots_purged": entry.snapshots_purged,
        "verified": done.verified,
        **({"metrics": done.metrics} if done.metrics else {}),
        "seconds": done.seconds,
        "head_seconds": done.head_seconds,
        "erasure": "pending" if done.is_open else "done",
    }


def _in_short(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of an audit that a person looks at first."""
    from edgecl.unlearning.words import largest_loss

    attack = (metrics.get("membership") or {}).get("forget", {})
    others = metrics.get("collateral")
    short = {
        "accuracy on the rest": metrics.get("accuracy_kept"),
        "of a model that never saw it": metrics.get("accuracy_kept_retrained"),
        "largest gap of weights to it": metrics.get("weights_gap"),
        "largest loss of another class": largest_loss(others) if others else None,
        "membership attack, AUC": attack.get("auc"),
    }
    return {name: value for name, value in short.items() if value is not None}


def print_plan(home: Path, asked: ForgetRequest, also: Sequence[str] = (), *, json: bool) -> None:
    """Show what would be unlearned, and what else would be done."""
    from edgecl.home import Home
    from edgecl.types import Mode, Receipt
    from edgecl.unlearning.ask import plan_of
    from edgecl.unlearning.plan_words import plan_in_words

    found = plan_of(Home(home), asked)
    plan: dict[str, Any]
    if isinstance(found, Receipt):
        plan = {"kind": asked.kind, "mode": Mode.ALREADY_FORGOTTEN, "receipt": found.receipt_id}
    else:
        plan = found.as_json()
    if json:
        print_json(plan)
        return
    if isinstance(found, Receipt):
        lines = [f"It was unlearned before, see receipt {found.receipt_id}."]
    else:
        lines = plan_in_words(found, asked)
    for line in (*lines, *also, "This was a dry run: nothing was changed."):
        show(line)
    if is_verbose():
        print_values("numbers", plan)


def _show_handed_over(
    done: HandedOver, asked: ForgetRequest, to_all: dict[str, Any] | None, *, json: bool
) -> None:
    from edgecl.errors import HomeLockedError, IntegrityError

    result = {
        "receipt_id": done.receipt_id,
        "mode": done.mode or "pending",
        "verified": done.verified,
        **({} if to_all is None else {"request": to_all}),
    }
    if json:
        print_json(result)
    elif done.receipt_id is not None:
        how = "" if done.mode is None else f", {done.mode.replace('_', ' ')}"
        checked = {True: "; checked", False: "; a check failed", None: ""}[done.verified]
        show(
            f"the process that writes to this home unlearned the {asked.kind}{how}{checked}; "
            f"receipt {done.receipt_id}"
        )
        print_next(f"edgecl receipt {done.receipt_id}")
    if not json:
        print_asked(to_all)
    if done.receipt_id is None:
        raise HomeLockedError(
            "the request is recorded, but another edgecl process writes to this home and did not "
            "come to it yet; that process or the next one carries it out"
            + ("; no prediction names the class from now on" if asked.kind == "class" else "")
        )
    if done.verified is False:
        raise IntegrityError(
            f"the {asked.kind} was unlearned, but a check failed: see `edgecl receipt "
            f"{done.receipt_id}`"
        )


def _retrain(home: Path, weights: str | None) -> bool:
    """Train an adapter anew on what is left of the tasks whose adapters were dropped."""
    from edgecl.cli.consolidate import consolidator
    from edgecl.errors import EdgeclError
    from edgecl.home import Home
    from edgecl.unlearning.request import writing

    device = Home(home)
    try:
        with writing(device) as session:
            run = consolidator(session, weights)
            with working("training an adapter anew") as tell:
                return run(tell).accepted
    except EdgeclError as error:
        say(f"no adapter was trained anew: {error}")
        return False

"""`edgecl forget` and `edgecl receipt`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.output import print_json, print_values, say, working

forget_app = typer.Typer(
    help="Unlearn for good, with a receipt.", no_args_is_help=True, rich_markup_mode=None
)


@forget_app.callback()
def _group() -> None:
    """Unlearn for good, with a receipt."""


@forget_app.command("class")
def forget_class(
    name: Annotated[str, typer.Argument(help="The class's name.")],
    home: HomeOption = DEFAULT,
    reason: Annotated[
        str, typer.Option(help="For the receipt; must not hold the class name.")
    ] = "",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Compare with a head built anew and look for the class's bytes."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Remove a class from head, statistics and store for good."""
    from edgecl.errors import IntegrityError
    from edgecl.home import Home
    from edgecl.learner import open_learner, open_store
    from edgecl.types import ForgetRequest
    from edgecl.unlearning import request as unlearning

    asked = ForgetRequest(name, reason)
    device = Home(home)
    with device.lock(), open_store(device) as store:
        unlearning.finish_erasures(store)  # what an earlier command had to leave
        store.class_uid(asked.name)  # an unknown class is refused before anything is loaded
        with working("unlearning"):
            learner = open_learner(device, store)
            done = unlearning.forget_class(device, learner, asked, verify=verify)
    body = done.receipt.body
    result = {
        "receipt_id": done.receipt.receipt_id,
        "mode": body["mode"],
        "class_uid": body["class_uid"],
        "rows_erased": sum(body["rows_erased"].values()),
        "adapters": body["adapters"],
        "exports_stale": body["exports_stale"],
        "verified": done.verified,
        "seconds": done.seconds,
        "head_seconds": done.head_seconds,
        "erasure": "pending" if done.erasure["busy"] else "done",
    }
    if done.erasure["busy"]:
        say(
            "another process is reading the store; the next train-stream or forget finishes the "
            "erasure"
        )
    if json:
        print_json(result)
    else:
        print_values("unlearned", result)
    if done.faults:
        raise IntegrityError(
            "the class was unlearned, but a check failed: " + "; ".join(done.faults)
        )


def receipt(
    receipt_id: Annotated[str, typer.Argument(help="As `forget` printed it, for example r1.")],
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Show a receipt, after checking the chain that it is part of."""
    from edgecl.home import Home
    from edgecl.learner import open_store
    from edgecl.unlearning.receipt import receipt_by_id

    with open_store(Home(home), read_only=True) as store:
        found = receipt_by_id(store, receipt_id)
    values = {
        "receipt_id": found.receipt_id,
        **found.body,
        "previous": found.previous,
        "digest": found.digest,
    }
    if json:
        print_json(values)
        return
    print_values(f"receipt {receipt_id}", values)

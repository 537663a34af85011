"""`edgecl forget --older-than`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecl.cli.confirm import YesOption, confirm, forgetting
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption, WeightsOption
from edgecl.cli.output import print_json, say
from edgecl.cli.unlearn import (
    DryRunOption,
    MethodOption,
    ReasonOption,
    VerifyOption,
    carry_out,
    forget_app,
    print_plan,
)

__all__ = ["forget_app"]


@forget_app.callback()
def forget(
    context: typer.Context,
    older_than: Annotated[
        str | None,
        typer.Option(
            help="Remove all that is older, learned, held out or waiting: 12h, 30d or 8w.",
            metavar="AGE",
        ),
    ] = None,
    home: HomeOption = DEFAULT,
    reason: ReasonOption = "",
    verify: VerifyOption = False,
    dry_run: DryRunOption = False,
    adapter_method: MethodOption = "drop",
    weights: WeightsOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Unlearn for good, with a receipt."""
    from edgecl.errors import UsageError
    from edgecl.home import Home
    from edgecl.types import ForgetRequest, Kind
    from edgecl.unlearning.ask import is_due, time_before

    if context.invoked_subcommand is not None:
        sources = {name: context.get_parameter_source(name) for name in context.params}
        for name, source in sources.items():
            if source and source.name == "COMMANDLINE":
                option = "--" + name.replace("_", "-")
                command = context.invoked_subcommand
                raise UsageError(f"{option} stands before {command}; put it behind")
        return
    if older_than is None:
        raise UsageError("nothing to do; expected class, sample, source, pending or --older-than")
    before = time_before(older_than)
    asked = ForgetRequest(str(before), reason, Kind.AGE, adapter_method)
    if not is_due(Home(home), before):
        say(f"nothing is older than {older_than}; nothing was done")
        if json:
            print_json({"receipt_id": None, "before": before})
    elif dry_run:
        print_plan(home, asked, json=json)
    else:
        confirm(lambda: forgetting(home, asked), yes=yes)
        carry_out(home, asked, verify=verify, weights=weights, json=json)

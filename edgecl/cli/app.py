"""The command table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from edgecl.cli.bench import bench
from edgecl.cli.changes import changes
from edgecl.cli.commands import Command, Group, quiet_and_verbose
from edgecl.cli.config import config_app
from edgecl.cli.consolidate import consolidate
from edgecl.cli.demo import demo
from edgecl.cli.evaluate import evaluate
from edgecl.cli.export import export_app
from edgecl.cli.fleet import fleet_app
from edgecl.cli.fleet_masks import mask, unmask
from edgecl.cli.fleet_orders import admit, alias, refuse
from edgecl.cli.fleet_orders import forget_app as order_app
from edgecl.cli.fleet_probes import probes
from edgecl.cli.inspect import doctor, verify
from edgecl.cli.interchange import import_
from edgecl.cli.learn import train_stream
from edgecl.cli.make import init
from edgecl.cli.mend import merge_classes, relabel, samples_app, undo
from edgecl.cli.merge import merge
from edgecl.cli.receipts import receipt
from edgecl.cli.report import report
from edgecl.cli.retention import forget_app
from edgecl.cli.review import review_app
from edgecl.cli.score import predict
from edgecl.cli.serve import serve
from edgecl.cli.statistics import statistics
from edgecl.cli.status import status
from edgecl.cli.versions import rename, rollback, snapshot, snapshots

app = typer.Typer(
    name="edgecl",
    cls=Group,
    help="Teach a camera new things on the device, and unlearn them for good.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "init": init,
    "doctor": doctor,
    "train-stream": train_stream,
    "serve": serve,
    "import": import_,
    "statistics": statistics,
    "merge": merge,
    "consolidate": consolidate,
    "predict": predict,
    "evaluate": evaluate,
    "status": status,
    "report": report,
    "bench": bench,
    "relabel": relabel,
    "merge-classes": merge_classes,
    "undo": undo,
    "rename": rename,
    "snapshot": snapshot,
    "snapshots": snapshots,
    "rollback": rollback,
    "changes": changes,
    "verify": verify,
    "receipts": receipt,
}
for _name, _function in _COMMANDS.items():
    app.command(_name, cls=Command)(_function)
app.add_typer(config_app, name="config", cls=Group)
app.add_typer(export_app, name="export", cls=Group)
fleet_app.command("mask", cls=Command)(mask)
fleet_app.command("unmask", cls=Command)(unmask)
fleet_app.command("probes", cls=Command)(probes)
fleet_app.command("alias", cls=Command)(alias)
fleet_app.command("admit", cls=Command)(admit)
fleet_app.command("refuse", cls=Command)(refuse)
fleet_app.add_typer(order_app, name="forget", cls=Group)
app.add_typer(fleet_app, name="fleet", cls=Group)
app.add_typer(forget_app, name="forget", cls=Group)
app.add_typer(review_app, name="review", cls=Group)
app.add_typer(samples_app, name="samples", cls=Group)
# Names as they were, and as people try them.
_HIDDEN: dict[str, Callable[..., None]] = {"receipt": receipt, "learn": train_stream}
for _name, _function in _HIDDEN.items():
    app.command(_name, cls=Command, hidden=True)(_function)


@app.command("help", cls=Command, hidden=True)
def help_(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(help="A command.")] = None,
) -> None:
    """Show the help of a command, as --help does."""
    app(args=[*(words or ()), "--help"], prog_name=context.find_root().info_name)


def _version(value: bool) -> None:
    if value:
        import edgecl

        print(edgecl.__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            callback=quiet_and_verbose,
            expose_value=False,
            is_eager=True,
            help="Only results and errors.",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            callback=quiet_and_verbose,
            expose_value=False,
            is_eager=True,
            help="All numbers.",
        ),
    ] = False,
) -> None:
    """Teach a camera new things on the device, and unlearn them for good."""
    del version, debug, quiet, verbose  # all act before this runs

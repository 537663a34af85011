"""The command table."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecl.cli.bench import bench
from edgecl.cli.consolidate import consolidate
from edgecl.cli.demo import demo
from edgecl.cli.export import export_app
from edgecl.cli.inspect import doctor, status, verify
from edgecl.cli.interchange import import_
from edgecl.cli.learn import train_stream
from edgecl.cli.make import init
from edgecl.cli.mend import merge_classes, relabel, samples_app, undo
from edgecl.cli.report import report
from edgecl.cli.review import review_app
from edgecl.cli.score import evaluate, predict
from edgecl.cli.unlearn import forget_app, receipt, rename, rollback, snapshot

app = typer.Typer(
    name="edgecl",
    help="Teach a camera new things on the device, and unlearn them for good.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init)
app.command("train-stream")(train_stream)
app.command("import")(import_)
app.command("predict")(predict)
app.command("evaluate")(evaluate)
app.command("consolidate")(consolidate)
app.command("bench")(bench)
app.add_typer(export_app, name="export")
app.add_typer(forget_app, name="forget")
app.add_typer(review_app, name="review")
app.add_typer(samples_app, name="samples")
app.command("relabel")(relabel)
app.command("merge-classes")(merge_classes)
app.command("undo")(undo)
app.command("receipt")(receipt)
app.command("rename")(rename)
app.command("snapshot")(snapshot)
app.command("rollback")(rollback)
app.command("report")(report)
app.command("status")(status)
app.command("doctor")(doctor)
app.command("verify")(verify)
app.command("demo")(demo)


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
) -> None:
    """Teach a camera new things on the device, and unlearn them for good."""
    del version, debug  # both act before this runs

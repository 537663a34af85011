"""`edgecl export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.commands import Command
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.outcome import print_outcome, size_text
from edgecl.cli.output import print_json, print_table, say, working
from edgecl.figures import counted

if TYPE_CHECKING:
    from edgecl.exporters.bundle import Exported

_TYPED = "COMMANDLINE"

export_app = typer.Typer(
    help="Write what a device needs to predict, as a bundle; or the kept pictures.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@export_app.callback()
def export(
    context: typer.Context,
    rebuild_stale: Annotated[
        bool,
        typer.Option(
            "--rebuild-stale", help="Write every bundle anew that holds something unlearned."
        ),
    ] = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Write what a device needs to predict, as a bundle; or the kept pictures."""
    from edgecl.errors import UsageError

    if context.invoked_subcommand is not None:
        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = [name for name, source in sources.items() if source and source.name == _TYPED]
        if given:
            name = "--" + given[0].replace("_", "-")
            raise UsageError(f"{name} stands before {context.invoked_subcommand}; put it behind")
    elif rebuild_stale:
        _rebuild_stale(home, json)
    else:
        raise UsageError(
            "nothing to do; expected `edgecl export onnx --output DIR`, `edgecl export "
            "tensorrt --output DIR`, `edgecl export dataset --output DIR`, `edgecl export "
            "contribution --output FILE` or `edgecl export --rebuild-stale`"
        )


@export_app.command("onnx", cls=Command)
def onnx(
    output: Annotated[
        Path, typer.Option(help="A new folder, or a bundle of this home, which is replaced.")
    ],
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 or int8; the last two need the package onnx.")
    ] = "fp32",
    recipe: Annotated[
        str | None, typer.Option(help="Of int8: cpu (the default) or trt, which TensorRT parses.")
    ] = None,
    fused: Annotated[
        bool, typer.Option("--fused", help="Also write one ONNX file from picture to scores.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Of int8: calibrate on pictures of this folder, not on kept ones."),
    ] = None,
    allow_parity_loss: Annotated[
        bool,
        typer.Option("--allow-parity-loss", help="Write also what differs more than is accepted."),
    ] = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Write engine, head and adapters into a folder that predicts without the home."""
    from edgecl.exporters.bundle import export_bundle
    from edgecl.exporters.precision import Options
    from edgecl.home import Home
    from edgecl.unlearning.request import writing

    if calibration is not None:
        calibration = calibration.absolute()  # it is used again by --rebuild-stale
    options = Options(precision, recipe, fused, calibration, allow_parity_loss)
    device = Home(home)
    with writing(device) as session:
        store = session.store
        scorer, adapters = session.served()
        with working("exporting") as tell:
            done = export_bundle(
                device, store, scorer, adapters, output, options,
                say=lambda what, n, of: tell(f"{what} {n}/{of}"),
            )  # fmt: skip
    result = _as_json(done) | {
        "precision": done.export.body["precision"],
        "parity": done.manifest.parity,
        "classes": len(done.export.classes),
        "adapters": list(done.export.adapters),
        **done.report,
    }
    if json:
        print_json(result)
    else:
        _print_bundle(done, result)


@export_app.command("tensorrt", cls=Command)
def tensorrt(
    output: Annotated[
        Path, typer.Option(help="A new folder, or a bundle of this home, which is replaced.")
    ],
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 or int8; the last two need the package onnx.")
    ] = "fp32",
    flavour: Annotated[
        str,
        typer.Option(help="full (for this GPU) or rtx (any RTX GPU from Ampere on; not Jetson)."),
    ] = "full",
    max_batch: Annotated[int, typer.Option(min=1, help="Most pictures that run together.")] = 8,
    workspace_mb: Annotated[
        int, typer.Option(min=1, help="GPU memory that layers may use while they run, MiB.")
    ] = 1024,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Let newer versions of the library run it.")
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible", help="Let every GPU from Ampere on run it, more slowly."
        ),
    ] = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Build the backbone for a GPU and write it into a bundle, beside the ONNX file."""
    from edgecl.exporters.bundle import export_bundle
    from edgecl.exporters.precision import Options
    from edgecl.exporters.tensorrt import Settings, compile_model, timing_cache_of, trtexec_line
    from edgecl.home import Home
    from edgecl.runtime.engines.tensorrt import EngineKey
    from edgecl.unlearning.request import writing

    settings = Settings(
        flavour, precision, max_batch, workspace_mb, version_compatible, hardware_compatible
    )
    options = Options(precision, recipe="trt" if precision == "int8" else None)
    device = Home(home)
    with writing(device) as session:
        store = session.store
        scorer, adapters = session.served()
        with working("building the engine") as tell:  # minutes on a Jetson
            done = export_bundle(
                device, store, scorer, adapters, output, options,
                say=lambda what, n, of: tell(f"{what} {n}/{of}"),
                build=lambda model: compile_model(
                    model, settings, timing_cache=timing_cache_of(device), tell=tell
                ),
            )  # fmt: skip
    built = done.export.body["tensorrt"]
    side = done.manifest.preprocessing.image_size
    key = EngineKey(**built["key"])
    result = _as_json(done) | {
        "precision": precision,
        "library": built["key"]["version"],
        "device": built["key"]["device"],
        "parity": built["parity"],
        "classes": len(done.export.classes),
        "adapters": list(done.export.adapters),
        "trtexec": trtexec_line(key, settings, done.manifest.engine, image_size=side),
        **done.report,
    }
    if json:
        print_json(result)
    else:
        _print_bundle(done, result)


@export_app.command("dataset", cls=Command)
def dataset(
    output: Annotated[Path, typer.Option(help="A new or empty folder.")],
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Only this class; can be given more than once."),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Also the pictures that are kept to test on.")
    ] = False,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Of an encrypted home: write its pictures unencrypted."),
    ] = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Write the kept pictures into a folder a class, for other tools."""
    from edgecl.exporters.dataset import export_dataset
    from edgecl.home import Home
    from edgecl.unlearning.request import writing

    device = Home(home)
    with writing(device) as session:
        store = session.store
        done = export_dataset(
            device, store, output, is_plain=plain, classes=classes or (), held_out=held_out
        )
    result = {
        "path": str(done.export.path),
        "bytes": done.size_bytes,
        "pictures": sum(done.classes.values()),
        "classes": done.classes,
        "export": done.export.uid,
    }
    if json:
        print_json(result)
    else:
        print_outcome(
            f"{done.export.path}: {counted(sum(done.classes.values()), 'picture')} of "
            f"{counted(len(done.classes), 'class')}, {size_text(done.size_bytes)}",
            result,
        )


@export_app.command("contribution", cls=Command)
def contribution(
    output: Annotated[Path, typer.Option(help="The file, .efc; an earlier one is replaced.")],
    total: Annotated[
        bool,
        typer.Option("--total", help="Sums of all classes together: small, only for a fleet."),
    ] = False,
    since: Annotated[
        Path | None,
        typer.Option(help="Leave out what this earlier file of this home has, which is there."),
    ] = None,
    min_rows: Annotated[int, typer.Option(min=0, help="Leave out classes of fewer samples.")] = 0,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Of an encrypted home: write its features unencrypted."),
    ] = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Write what this home learned itself into a file that `edgecl merge` takes in elsewhere."""
    from edgecl.errors import UsageError
    from edgecl.fleet.collect import collect, export
    from edgecl.fleet.contribution import read
    from edgecl.home import Home
    from edgecl.unlearning.request import writing

    if since is not None and since.resolve() == output.resolve():
        raise UsageError(
            f"{output} would replace the file that it leaves out; give --output another name"
        )
    with writing(Home(home)) as session:
        found, bodies = collect(session, total=total, min_rows=min_rows)
        earlier = None if since is None else read(since)
        uid = export(session, output, found, bodies, is_plain=plain, since=earlier)
        left_out = sorted({*session.store.names.values()} - {part.name for part in found.parts})
    result: dict[str, Any] = {
        "path": str(output),
        "bytes": output.stat().st_size,
        "device": found.device,
        "generation": found.generation,
        "classes": {part.name: part.count for part in found.parts},
        "left_out": left_out,
        "feature_map": found.feature_map,
        "export": uid,
    }
    if json:
        print_json(result)
    else:
        print_outcome(
            f"{output}: {counted(found.count, 'sample')} of {counted(len(found.parts), 'class')} "
            f"as {found.device}, generation {found.generation}, {size_text(result['bytes'])}"
            + (f"; left out: {', '.join(left_out)}" if left_out else ""),
            result,
        )
        say(f"`edgecl merge {shlex.quote(str(output))}` takes it in on another device")


def _print_bundle(done: Exported, result: dict[str, Any]) -> None:
    path = done.export.path
    print_outcome(
        f"{path}: a bundle of {counted(result['classes'], 'class')}, {result['precision']}, "
        f"{size_text(done.size_bytes)}",
        result,
        then=f"edgecl predict PICTURE --bundle {shlex.quote(str(path))}",
    )


def _rebuild_stale(home: Path, json: bool) -> None:
    from edgecl.errors import RequestError
    from edgecl.exporters.rebuild import rebuild_stale
    from edgecl.home import Home
    from edgecl.unlearning.request import writing

    with writing(Home(home)) as session:
        rebuilt, unreachable = rebuild_stale(session)
    for entry in unreachable:
        say(
            f"export {entry['export']} at {entry['path']} could not be written anew: "
            f"{entry['why']}; whoever has a copy can go on using it"
        )
    if unreachable and not rebuilt:
        raise RequestError(
            f"none of {len(unreachable)} stale exports could be written anew, see above; "
            "write a new one with `edgecl export onnx --output DIR`"
        )
    if json:
        print_json({"rebuilt": [_as_json(done) for done in rebuilt], "unreachable": unreachable})
    elif rebuilt or unreachable:
        rows = [(e.export.uid, str(e.export.path), "written anew") for e in rebuilt]
        rows += [(e["export"], e["path"], "unreachable") for e in unreachable]
        print_table("stale exports", ("export", "path", "state"), rows)
    else:
        print("no export is stale")


def _as_json(done: Exported) -> dict[str, Any]:
    return {
        "path": str(done.export.path),
        "bytes": done.size_bytes,
        "feature_map": done.export.feature_map,
        "export": done.export.uid,
    }

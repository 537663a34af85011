"""`edgecl init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.confirm import YesOption, confirm, replacing
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.outcome import next_text
from edgecl.cli.output import is_verbose, print_json, say, say_skipped, say_step, working

if TYPE_CHECKING:
    from edgecl.home import Home


def init(
    home: HomeOption = DEFAULT,
    backbone: Annotated[str, typer.Option(help="timm name.")] = "tf_efficientnet_lite0",
    weights: Annotated[
        str | None,
        typer.Option(help="A .safetensors or .pth file; `random` is for tests."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=16, max=2048, help="Side of the input, pixels.")
    ] = None,
    taps: Annotated[
        str | None,
        typer.Option(
            help="Stages whose pooled features are added, as 2,3,4; `none` for the last only."
        ),
    ] = None,
    features: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Project the features on so many fixed directions: a smaller, faster head.",
        ),
    ] = None,
    head: Annotated[str, typer.Option(help="ridge, uer, prototype or key-value.")] = "ridge",
    profile: Annotated[
        str | None,
        typer.Option(
            help="Of uer: balanced, light, careful, rested, measured, ranked or blurry; see "
            "docs/configuration.md."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices.")] = 0,
    capacity: Annotated[int, typer.Option(min=1, help="Most pictures kept for replay.")] = 2000,
    capacity_mb: Annotated[float, typer.Option(min=0.001, help="Most megabytes of them.")] = 200.0,
    keys: Annotated[
        str | None,
        typer.Option(
            help="Pictures of the kind to come, 2,000 at most, labels ignored, for the keys of "
            "key-value or the map of prototype; none that may have to be forgotten. Without it "
            "keys come from no data and there is no map."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="HOME",
            help="Learn the kept pictures of this home anew, under another backbone say.",
        ),
    ] = None,
    levels: Annotated[
        str,
        typer.Option(
            help="Black and white of 16-bit grey pictures: auto, full, each, a number of bits as "
            "12, or LOW..HIGH."
        ),
    ] = "auto",
    decoding: Annotated[
        str,
        typer.Option(
            help="How large JPEGs are decoded: whole, or scaled, by which the decoder halves them "
            "while twice the network's side is left."
        ),
    ] = "whole",
    adapters: Annotated[
        bool, typer.Option("--adapters", help="Make an engine that takes adapters at once.")
    ] = False,
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt",
            help="Encrypt pictures, features and statistics, a key for every class; unlearning "
            "destroys its key.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a home and all that it learned.")
    ] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Make a device home: the default engine as it ships, or a backbone exported to ONNX."""
    from edgecl.exporters.setup import Setup, set_up

    old = None
    if source is not None:
        from edgecl.home import Home
        from edgecl.transfer import check_transfer

        old = Home(source)
        check_transfer(old, home, encrypt=encrypt)
    setup = Setup(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        taps=_taps(taps),
        features=features,
        head=head,
        profile=profile,
        seed=seed,
        capacity=capacity,
        capacity_mb=capacity_mb,
        keys=keys,
        levels=levels,
        decoding=decoding,
        adapters=adapters,
        encrypt=encrypt,
    )
    if force:
        confirm(lambda: replacing(home), yes=yes)
    made = set_up(home, setup, force=force, tell=say_step, tell_skipped=say_skipped)
    result = _told(made)
    if old is not None:
        result |= _take_over(old, made)
    if json:
        print_json(result)
    else:
        print(made.path)
        if old is None:  # not on stdout: scripts take the folder from there
            say(next_text("edgecl train-stream FOLDER"))


def _told(made: Home) -> dict[str, Any]:
    """Say what was made; returns what `--json` prints of it."""
    manifest = made.manifest
    parity = manifest.parity["max_abs"]
    say(
        f"made {made.path}: {manifest.backbone} at {manifest.preprocessing.image_size} px, "
        f"{manifest.num_features} features"
    )
    if is_verbose():
        say(f"weights from {manifest.weights_source}, parity with torch {parity:.1g}")
    return {
        "backbone": manifest.backbone,
        "num_features": manifest.num_features,
        "image_size": manifest.preprocessing.image_size,
        "feature_map": manifest.feature_map,
        "home": str(made.path),
        "head": made.config.head.name,
        "taps": list(manifest.taps),
        "tap_pool": manifest.tap_pool,
        "weights": manifest.weights_source,
        "parity": manifest.parity,
        "adapter_rank": made.adapter_rank,
        "encrypted": made.class_keys.exists(),
    }


def _take_over(old: Home, made: Home) -> dict[str, Any]:
    """Learn what an old home keeps as pictures, and say what stays behind."""
    from edgecl.transfer import learn_kept

    with working(f"learning what {old.path} keeps") as tell:
        done = learn_kept(old, made, lambda what, n, of: tell(f"{n} of {of}"))
    for reason in done.skipped:
        say(f"skipped {reason}")
    say(f"learned {done.learned} pictures of {len(done.classes)} classes")
    if done.behind:
        what = ", ".join(f"{name} {n}" for name, n in done.behind.items())
        say(
            f"not taken over, since only the statistics of {old.path} know them: {what} samples; "
            "learn them from their source again if you still have it"
        )
    return {
        "learned": done.learned,
        "classes": list(done.classes),
        "behind": done.behind,
        "skipped": len(done.skipped),
    }


def _taps(text: str | None) -> tuple[int, ...] | None:
    from edgecl.errors import UsageError

    if text is None:
        return None
    if text.strip().lower() == "none":
        return ()
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise UsageError(
            f"--taps {text!r} is not a list of stages; expected numbers as 2,3,4, or none"
        ) from error

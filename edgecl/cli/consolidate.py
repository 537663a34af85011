"""`edgecl consolidate`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.options import (
    DEFAULT,
    FallbackOption,
    HomeOption,
    JsonOption,
    ProviderOption,
    ThreadsOption,
    WeightsOption,
)
from edgecl.cli.output import print_json, print_values, say, working

if TYPE_CHECKING:
    from edgecl.consolidation import Consolidated
    from edgecl.home import Home
    from edgecl.learner import Learner, Say


def consolidate(
    home: HomeOption = DEFAULT,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Times that every kept picture is looked at.")
    ] = None,
    weights: WeightsOption = None,
    provider: ProviderOption = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Train an adapter on the kept pictures; it is taken unless held-out accuracy falls."""
    from edgecl.consolidation import plan_of
    from edgecl.home import Home
    from edgecl.learner import open_learner
    from edgecl.unlearning.request import writing

    device = Home(home)
    with writing(device) as store, _told_when_broken_off():
        learner = open_learner(device, store)
        plan_of(device, store)  # what cannot be done is said before torch is loaded
        engine_options = {
            "provider": provider,
            "threads": threads,
            "allow_fallback": allow_fallback,
        }
        run = consolidator(device, learner, weights, epochs, engine_options)
        with working("consolidating") as tell:
            done = run(lambda what, n, of: tell(f"{what} {n} of {of}"))
    result = {
        "adapter": done.adapter,
        "classes": list(done.classes),
        "samples": done.samples,
        "seconds": done.seconds,
        "accuracy_before": done.accuracy_before,
        "accuracy_after": done.accuracy_after,
        "accepted": done.accepted,
        "probe": done.n_probe,
        "parts": done.parts,
    }
    if json:
        print_json(result)
    else:
        shown = result | {"classes": ", ".join(done.classes)}
        shown |= {f"{name}, s": value for name, value in done.parts.items()}
        del shown["parts"]
        print_values("consolidated", shown)


def consolidator(
    device: Home,
    learner: Learner,
    weights: str | None,
    epochs: int | None,
    engine_options: dict[str, Any],
) -> Callable[[Say], Consolidated]:
    """Return a function that consolidates and tells the outcome; the backbone is loaded once."""
    from edgecl.backbones import load_backbone_of
    from edgecl.consolidation import check_backbone, consolidate
    from edgecl.exporters.onnx import add_adapter_inputs

    if epochs is not None:
        part = replace(device.config.consolidation, epochs=epochs)
        device.config = replace(device.config, consolidation=part)
    engine = device.engine(**engine_options)  # a provider that fails is told before torch is loaded
    with working(f"loading {device.manifest.backbone}"):
        backbone = load_backbone_of(device.manifest, weights=weights)
        check_backbone(device, backbone)
    if device.manifest.adapter_rank == 0:
        with working("exporting the engine anew, so that it takes adapters (about 25 s)"):
            add_adapter_inputs(device, backbone)
        engine = device.engine(**engine_options)

    def run(tell: Say) -> Consolidated:
        done = consolidate(device, learner, backbone, engine, say=tell)
        change = f"{done.accuracy_before:.4f} to {done.accuracy_after:.4f}"
        say(
            f"consolidated {', '.join(done.classes)} on {done.samples} pictures in "
            f"{done.seconds:.0f} s: accuracy on {done.n_probe} held-out pictures {change}; "
            + ("taken" if done.accepted else "not taken, the home stays as it was")
        )
        return done

    return run


@contextmanager
def _told_when_broken_off() -> Iterator[None]:
    """Clean up and say a line on Ctrl-C, and on SIGTERM, which would end the process at once."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say("broken off; nothing half-done was kept")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)

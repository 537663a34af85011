"""`edgecl consolidate`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

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
from edgecl.cli.outcome import print_outcome
from edgecl.cli.output import is_shown_live, print_json, say, say_step, working
from edgecl.figures import percent

if TYPE_CHECKING:
    from edgecl.adapters.training import Progress
    from edgecl.consolidation.run import Consolidated
    from edgecl.session import Session
    from edgecl.store.store import Store


def consolidate(
    home: HomeOption = DEFAULT,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Times that every kept picture is looked at.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Train fewer epochs if more would take longer than this."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="How: plain, mos, anchored, isolated, or another of docs/methods.md."),
    ] = None,
    weights: WeightsOption = None,
    provider: ProviderOption = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Train an adapter with its head on the kept pictures; taken unless it makes things worse.

    What was broken off goes on after its last whole epoch.
    """
    from edgecl.consolidation.plan import plan_of
    from edgecl.consolidation.run import chosen
    from edgecl.home import Home
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.store.adapters import training_under_way
    from edgecl.unlearning.request import writing

    device = chosen(Home(home), recipe=recipe, epochs=epochs)
    options = EngineOptions(provider, threads, allow_fallback)
    with writing(device, options) as session, _told_when_broken_off(session.store):
        plan_of(session)  # what cannot be done is said before torch is loaded
        before = training_under_way(session.store)
        run = consolidator(session, weights, minutes=minutes)
        with working("consolidating") as tell:
            done = run(tell)
        if before is not None and not done.resumed:
            say("a training that was broken off was another one; this one began anew")
    result = done.as_json()
    if json:
        print_json(result)
    else:
        shown = result | {"classes": ", ".join(done.classes)}
        shown |= {f"{name}, s": value for name, value in done.parts.items()}
        del shown["parts"]
        taken = "an adapter was trained and answers from now on"
        if done.is_candidate:
            frames = device.config.governor.shadow_frames
            taken = f"an adapter was trained; it answers once {frames} live frames judged it"
        kept = "an adapter was trained and not taken; all answers are as before"
        print_outcome(taken if done.accepted else kept, shown, then="edgecl status, edgecl report")


def consolidator(
    session: Session,
    weights: str | None,
    *,
    minutes: float | None = None,
) -> Callable[[Callable[[str], None]], Consolidated]:
    """Return a function that consolidates and tells the outcome; the backbone is loaded once."""
    from edgecl.consolidation.run import consolidate, training_of
    from edgecl.exporters.adapting import backbone_to_train

    backbone = backbone_to_train(session, weights, tell=say_step)
    training = training_of(session.home, minutes=minutes)

    def run(tell: Callable[[str], None]) -> Consolidated:
        done = consolidate(
            session,
            backbone,
            training=training,
            say=lambda what, n, of: tell(f"{what} {n} of {of}" if of > 1 else what),
            tell=lambda progress: _tell_epoch(progress, tell, training.epochs),
        )
        verdict = done.verdict
        before, after = verdict.accuracy
        say(
            f"consolidated {', '.join(done.classes)} on {done.samples} pictures in "
            f"{done.seconds:.0f} s: on {verdict.n} pictures that it was not trained on, "
            f"{percent(before, 1)} right before and {percent(after, 1)} after; "
            + ("not taken, it answers as before" if not done.accepted else "taken")
            + (" as a candidate" if done.is_candidate else "")
        )
        return done

    return run


def _tell_epoch(progress: Progress, tell: Callable[[str], None], asked: int) -> None:
    """Say how far a training is and how long the rest takes."""
    left = f"{progress.left_s / 60:.0f} min" if progress.left_s > 90 else f"{progress.left_s:.0f} s"
    text = f"epoch {progress.epoch} of {progress.epochs}, {left} left"
    if progress.epoch == 0 and progress.epochs < asked:
        say(f"the time is enough for {progress.epochs} of {asked} epochs")
    tell(text)
    if progress.epoch and not is_shown_live():
        say(text)


@contextmanager
def _told_when_broken_off(store: Store) -> Iterator[None]:
    """Say on Ctrl-C, and on SIGTERM, which would end the process at once, what is kept."""
    from edgecl.store.adapters import adapter_rows

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        kept = next((row.epoch for row in adapter_rows(store) if row.epoch is not None), None)
        say(
            "broken off; nothing half-done is served"
            + (f"; the same command goes on after epoch {kept}" if kept else "")
        )
        raise
    finally:
        signal.signal(signal.SIGTERM, before)

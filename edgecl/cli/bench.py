"""`edgecl bench`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.options import DEFAULT, BundleOption, HomeOption, JsonOption, WeightsOption
from edgecl.cli.output import print_json, print_table, say, working

if TYPE_CHECKING:
    from edgecl.evaluation.bench import Eager
    from edgecl.runtime.manifest import Manifest


def bench(
    home: HomeOption = DEFAULT,
    bundle: BundleOption = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure.")] = 20.0,
    torch: Annotated[
        bool, typer.Option("--torch", help="Time the backbone in torch beside the engine.")
    ] = False,
    weights: WeightsOption = None,
    json: JsonOption = False,
) -> None:
    """Time every part on this machine; a home is copied and stays as it is."""
    from edgecl.evaluation.bench import bench_bundle, bench_home

    if bundle is not None:
        from edgecl.runtime.bundle import open_bundle

        manifest = open_bundle(bundle).manifest
        run = partial(bench_bundle, bundle)
    else:
        from edgecl.home import Home

        device = Home(home)
        manifest = device.manifest
        run = partial(bench_home, device)
    with working("measuring"), _ended_by_exception():
        result = run(seconds, partial(_load_eager, manifest, weights) if torch else None)
    if json:
        print_json(result)
    else:
        _print(result)


def _load_eager(manifest: Manifest, weights: str | None) -> Eager:
    from edgecl.backbones import load_backbone_of

    return load_backbone_of(manifest, weights=weights).run


def _print(result: dict[str, Any]) -> None:
    stages = result["stages"]
    rows = []
    for name, stage in stages.items():
        if "runs" in stage:
            times = (round(stage[key], 3) for key in ("p50_ms", "p90_ms", "p99_ms", "cpu_ms"))
            rows.append((name, stage["runs"], *times, round(stage["per_second"])))
    columns = ("stage", "runs", "p50 ms", "p90 ms", "p99 ms", "cpu ms", "per s")
    print_table("stages", columns, rows)
    for name, stage in stages.items():
        if "reason" in stage:
            say(f"{name} not timed: {stage['reason']}")
    for name, used in result["engines"].items():
        if used["provider"] != "cpu":
            pinned = "pinned" if used["pinned"] else "pageable"
            say(f"{name} on {used['provider']}: {pinned} memory, {used['recorded']} CUDA graphs, "
                f"{used['replayed']} runs replayed one")  # fmt: skip
            for reason, n in used["plain"].items():
                say(f"  {n} runs did not: {reason}")
    for name, ratio in result["ratios"].items():
        print(f"{name.replace('_', ' ')}: {ratio:.2f}")
    energy = result["energy"]
    used = f"{energy['watts']:.1f} W" if energy["joules"] is not None else energy["reason"]
    print(f"peak memory {result['peak_rss_mb']:.0f} MB; energy: {used}")
    machine = result["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:.1f}")


@contextmanager
def _ended_by_exception() -> Iterator[None]:
    """Let SIGTERM unwind, so that the copy of the home is deleted."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

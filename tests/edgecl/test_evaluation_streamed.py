"""A home's kind of head on streams of a labelled source, in a store of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.config import Config, HeadConfig
from edgecl.errors import SourceError, UsageError
from edgecl.evaluation.streamed import KINDS, Labelled, evaluate_on_streams, labelled, summary
from edgecl.home import Home

K, D, EACH = 4, 12, 24


@pytest.fixture(scope="module")
def rows() -> Labelled:
    """Four classes that lie apart, seen by two cameras of which one is brighter."""
    rng = np.random.default_rng(0)
    y, domain = np.arange(K * EACH) % K, np.arange(K * EACH) // K % 2
    centres = 2.0 * np.eye(K, D)
    x = centres[y] + 0.4 * rng.normal(size=(len(y), D)) + 0.5 * domain[:, None]
    return labelled(
        list(x.astype(np.float32)), [f"part-{c}" for c in y], [f"camera-{d}" for d in domain]
    )


@pytest.mark.parametrize("head", ["ridge", "prototype"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_stream_is_learned_and_measured(rows: Labelled, kind: str, head: str) -> None:
    results = evaluate_on_streams(rows, kind, Config(head=HeadConfig(name=head)))
    assert len(results) == 3
    for result in results:
        assert result.tested == K * (EACH // 3)
        assert result.joint > 0.9
        assert result.last > 0.9 or kind == "rewriting"
        assert 0 <= result.weakest <= result.last <= 1
    figures = summary(results)
    assert set(figures) == {name + end for name in results[0].figures() for end in ("", "_spread")}
    if kind == "domains":
        assert results[0].learned == K * EACH - K * (EACH // 3)
    if kind == "recurring":
        assert results[0].learned == 100 * 2 * 5
        assert figures["unseen"] == 0


def test_what_was_superseded_is_no_answer_where_relabel_tells_it(rows: Labelled) -> None:
    figures = summary(evaluate_on_streams(rows, "rewriting", Config()))
    assert figures["stale_relabelled"] == 0
    assert figures["rewritten_relabelled"] >= figures["rewritten"]
    assert figures["rewritten_relabelled"] > 0.9


def test_exact_heads_end_where_the_shuffled_rows_end(rows: Labelled) -> None:
    """Not so for one by gradient; ridge is a function of the set of its rows."""
    for kind in ("blurry", "domains"):
        for result in evaluate_on_streams(rows, kind, Config()):
            assert result.last == result.joint


def test_the_same_source_gives_the_same_figures(rows: Labelled) -> None:
    config = replace(Config(), head=HeadConfig(name="ridge"))
    assert summary(evaluate_on_streams(rows, "blurry", config)) == summary(
        evaluate_on_streams(rows, "blurry", config)
    )


def test_what_is_no_stream_is_refused(rows: Labelled) -> None:
    with pytest.raises(UsageError, match="stream 'cyclic' is unknown; expected one of recurring"):
        evaluate_on_streams(rows, "cyclic", Config())
    with pytest.raises(SourceError, match="too few of b 1"):
        labelled([np.zeros(3, np.float32)] * 7, ["a"] * 6 + ["b"], [""] * 7)
    one = labelled(
        list(rows.x.astype(np.float32)), [str(c) for c in rows.y], ["here"] * len(rows.y)
    )
    with pytest.raises(UsageError, match="all pictures are of one domain"):
        evaluate_on_streams(one, "domains", Config())


def test_the_command_measures_beside_the_home(tmp_path: Path, home: Home) -> None:
    build.part_folder(tmp_path / "parts", 9)
    before = (home.path / "device.db").read_bytes()
    command = ("evaluate", tmp_path / "parts", "--home", home.path, "--stream")
    found = build.answer(*command, "blurry")
    assert found["stream"] == "blurry"
    assert found["backbone"] == home.manifest.backbone
    assert found["tested"] == 3 * len(build.PARTS)
    assert found["seen"] == 9 * len(build.PARTS)
    assert 0 <= found["weakest"] <= found["last"] <= 1
    assert (home.path / "device.db").read_bytes() == before
    shown = build.invoke(*command, "blurry")
    assert "weakest class at the end" in shown.stdout
    assert f"features of {home.manifest.backbone}" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    with pytest.raises(UsageError, match="has no end"):
        build.invoke("evaluate", "synthetic:", "--home", home.path, "--stream", "blurry")
    with pytest.raises(UsageError, match="stream 'random' is unknown"):
        build.invoke(*command, "random")

"""A home for another backbone learns what an old one keeps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import build
from edgecl.cli.app import app
from edgecl.errors import RequestError, UsageError
from edgecl.home import Home
from edgecl.session import open_learner, open_store
from edgecl.store.requests import record
from edgecl.transfer import check_transfer, learn_kept
from edgecl.types import ForgetRequest
from edgecl.unlearning.plan import resolve


@pytest.fixture
def pair(made_home: Path, tmp_path: Path) -> tuple[Home, Home]:
    """A home that knows three parts, of which 9 pictures are kept, and an empty one."""
    old, new = (Home(shutil.copytree(made_home, tmp_path / name)) for name in ("old", "new"))
    part = replace(old.config.store, capacity_samples=9)
    old.save_config(replace(old.config, store=part))
    pictures = [
        replace(f, source="a feed")
        for f in (build.part_frame(p, i) for p in build.PARTS[:3] for i in range(12))
    ]
    with open_store(old) as store:
        learner = open_learner(old, store)
        x = old.engine().run(np.stack([build.tensor_of(old, f) for f in pictures]))
        learner.learn_many(pictures, x)
        with store.transaction(changes_head=False):
            store.rename_class(build.PARTS[0], "renamed")
    return old, new


def test_kept_pictures_are_learned_and_what_stays_behind_is_told(pair: tuple[Home, Home]) -> None:
    old, new = pair
    before = old.database.read_bytes()
    done = learn_kept(old, new)
    names = ("renamed", *build.PARTS[1:3])
    assert done.classes == names
    # 11 of 12 were learned and one held out; 9 of 33 are kept.
    assert done.learned == 9 + 3
    assert sum(done.behind.values()) == 33 - 9
    assert old.database.read_bytes() == before
    with open_store(new, read_only=True) as store:
        assert tuple(store.names.values()) == names
        assert store.aliases()[build.PARTS[0]] == "renamed"
        assert "a feed" in store.sources().values()
        held = store.connection.execute("SELECT count(*) FROM held_out").fetchone()[0]
        assert sum(store.n_seen().values()) + held == done.learned


def test_a_class_that_is_being_unlearned_is_not_taken_over(pair: tuple[Home, Home]) -> None:
    old, new = pair
    with open_store(old) as store:
        request = ForgetRequest("washer")
        record(store, resolve(store, request), request, verify=False)
    done = learn_kept(old, new)
    assert done.classes == ("renamed", build.PARTS[1])
    assert "washer" not in done.behind
    with open_store(new, read_only=True) as store:
        assert "washer" not in store.names.values()
        sources = store.connection.execute("SELECT DISTINCT source_uid FROM held_out").fetchall()
        assert [store.sources()[uid] for (uid,) in sources] in ([], ["a feed"])


def test_a_picture_that_cannot_be_used_is_named_and_the_rest_is_learned(
    pair: tuple[Home, Home],
) -> None:
    old, new = pair
    with open_store(old) as store, store.transaction(changes_head=False):
        uid = store.stored_samples()[0][0]
        store.connection.execute("UPDATE pictures SET data = ? WHERE uid = ?", (b"none", uid))
    done = learn_kept(old, new)
    assert len(done.skipped) == 1
    assert done.learned == 9 + 3 - 1


def test_what_cannot_be_taken_over_is_said_before_a_home_is_made(
    made_home: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="keeps no picture"):
        check_transfer(Home(made_home), tmp_path / "new", encrypt=False)
    sealed = build.tiny_home(tmp_path / "sealed", sealed=True)
    with pytest.raises(RequestError, match="add --encrypt"):
        check_transfer(sealed, tmp_path / "new", encrypt=False)
    with pytest.raises(UsageError, match="would replace"):
        check_transfer(sealed, tmp_path / "." / "sealed", encrypt=True)
    new = tmp_path / "new"
    arguments = ["init", "--home", str(new), "--from", str(made_home)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert not new.exists()

"""Parts of one set, made anywhere and merged, are the bits of one loop over it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.errors import EdgeclError, RequestError, UsageError
from edgecl.fleet.contribution import read
from edgecl.fleet.shards import parsed_shard, write_shard
from edgecl.home import Home
from edgecl.session import reading

ROOT = Path(__file__).parents[2]
ODD = "picture.jpg"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four classes with a picture that is none."""
    folder = build.part_folder(tmp_path_factory.mktemp("shards") / "parts", 6)
    (folder / "washer" / ODD).write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def one(made_home: Path, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that learned all of it in one loop, with nothing held out."""
    place = tmp_path_factory.mktemp("one") / "home"
    shutil.copytree(made_home, place)
    build.invoke("config", "set", "evaluation.probes", "0", "--home", place)
    build.invoke("train-stream", parts, "--home", place, "--json")
    return place


def weights(home: Path) -> dict[str, tuple[bytes, bytes]]:
    with reading(Home(home)) as session:
        scorer = session.exact_scorer()
        arrays = scorer.arrays()
        return {
            label: (arrays["weights"][:, k].tobytes(), arrays["bias"][k].tobytes())
            for k, label in enumerate(scorer.labels)
        }


def test_parts_in_any_order_and_made_twice_are_one_loop(
    made_home: Path, parts: Path, one: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(made_home, home)
    n, skipped = 5, 0
    for i in (3, 1, 5, 2, 4, 3):
        out = build.invoke(
            "statistics", parts, "--shard", f"{i}/{n}", "-o", tmp_path / f"s{i}.efc", "-H", home,
            "--json",
        )  # fmt: skip
        said = json.loads(out.stdout)
        assert said["device"] == f"parts-{i}-of-{n}"
        skipped += said["skipped"] * (i != 3)
    assert skipped == 1
    files = [tmp_path / f"s{i}.efc" for i in (4, 2, 1)]
    build.invoke("merge", *files, "-H", home)
    assert weights(home) != weights(one)
    said = json.loads(build.invoke("merge", *tmp_path.glob("s*.efc"), "-H", home, "--json").stdout)
    assert sorted(said["known"]) == [f"parts-{i}-of-{n}" for i in (1, 2, 4)]
    assert weights(home) == weights(one)
    with reading(Home(home)) as session:
        assert sum(session.store.n_seen().values()) == 24


def test_more_parts_than_pictures_leave_some_empty(
    made_home: Path, parts: Path, tmp_path: Path
) -> None:
    found = [
        read(Path(write_shard(made_home, str(parts), i, 60, tmp_path / f"{i}.efc")))
        for i in (1, 2, 3, 60)
    ]
    assert sum(c.count for c in found) <= 2
    assert () in [c.parts for c in found]


def test_what_is_no_part_or_no_set_is_refused(made_home: Path, tmp_path: Path) -> None:
    assert parsed_shard("17/512") == (17, 512)
    for text in ("0/3", "4/3", "1", "a/b", "1/2/3", "-1/3", "1.0/3", ""):
        with pytest.raises(UsageError, match="is no shard; expected NUMBER/COUNT"):
            parsed_shard(text)
    with pytest.raises(RequestError, match="known number of pictures"):
        write_shard(made_home, "-", 1, 1, tmp_path / "x.efc")
    (tmp_path / "bad" / "cup").mkdir(parents=True)
    (tmp_path / "bad" / "cup" / ODD).write_bytes(b"no picture")
    with pytest.raises(EdgeclError, match="none of the 1 pictures"):
        write_shard(made_home, str(tmp_path / "bad"), 1, 1, tmp_path / "x.efc")
    assert not (tmp_path / "x.efc").exists()


@pytest.mark.live
def test_the_recipe_for_dask_gives_the_bits_of_one_loop(
    made_home: Path, parts: Path, one: Path, tmp_path: Path
) -> None:
    pytest.importorskip("dask", reason="the recipe needs dask")
    page = (ROOT / "docs/fleet.md").read_text()
    recipe = next(c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "dask" in c)
    (tmp_path / "recipe.py").write_text(recipe)
    home, out = tmp_path / "home", tmp_path / "shards"
    shutil.copytree(made_home, home)
    for _ in range(2):  # the second time nothing is lost
        done = subprocess.run(
            [sys.executable, tmp_path / "recipe.py", home, parts, out, "4"],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert len(list(out.iterdir())) == 4
    build.invoke("merge", *np.random.default_rng(0).permutation(sorted(out.iterdir())), "-H", home)
    assert weights(home) == weights(one)

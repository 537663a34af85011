from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecl.config import Config, StoreConfig
from edgecl.errors import HomeLockedError, IntegrityError, RequestError
from edgecl.home import Home, is_home, make_home, unfinished_homes
from edgecl.unlearning.erase import remove_left_copies

Fill = Callable[[Path, Path], None]


@pytest.fixture
def fill(made_home: Path) -> Fill:
    """What `init` writes into a new home, copied."""

    def copy(engine: Path, database: Path) -> None:
        shutil.copytree(made_home / "engine", engine, dirs_exist_ok=True)
        shutil.copy2(made_home / "device.db", database)

    return copy


def failing(engine: Path, database: Path) -> None:
    (engine / "backbone.onnx").write_bytes(b"half")
    database.write_bytes(b"half")
    raise KeyboardInterrupt


def test_a_new_home_has_its_parts_and_can_be_opened_again(tmp_path: Path, fill: Fill) -> None:
    config = Config(store=StoreConfig(capacity_samples=9))
    made = make_home(tmp_path / "deep" / "home", config, fill)
    assert {p.name for p in made.path.iterdir()} == {
        "edgecl.toml", "device.key", "device.db", "engine", "lock"
    }  # fmt: skip
    assert Home(made.path).config == config
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["home"]


def test_the_device_key_is_random_and_for_the_owner_only(tmp_path: Path, fill: Fill) -> None:
    one = make_home(tmp_path / "one", Config(), fill)
    two = make_home(tmp_path / "two", Config(), fill)
    assert stat.S_IMODE((one.path / "device.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(one.path.stat().st_mode) == 0o700
    assert len(one.key) == 32
    assert one.key != two.key


def test_a_home_whose_making_fails_is_absent_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_home(tmp_path / "home", Config(), failing)
    assert list(tmp_path.iterdir()) == []


def test_a_replacement_that_fails_leaves_the_old_home(tmp_path: Path, fill: Fill) -> None:
    old = make_home(tmp_path / "home", Config(), fill)
    with pytest.raises(KeyboardInterrupt):
        make_home(old.path, Config(), failing, force=True)
    assert Home(old.path).key == old.key
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_an_existing_home_is_replaced_only_with_force(tmp_path: Path, fill: Fill) -> None:
    old = make_home(tmp_path / "home", Config(), fill)
    (old.path / "mark").touch()
    with pytest.raises(RequestError, match="--force"):
        make_home(old.path, Config(), fill)
    assert (old.path / "mark").exists()
    new = make_home(old.path, Config(), fill, force=True)
    assert new.key != old.key
    assert not (new.path / "mark").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


KILLED = """
import os, sys
from pathlib import Path
import edgecl.home as home
from edgecl.config import Config

def die(*_):
    os._exit(137)

where, place = sys.argv[1], Path(sys.argv[2])
exchange = home.put_in_place
def in_place(part, path):
    exchange(part, path)
    die()
def wiped(path):
    next(entry for entry in path.iterdir() if entry.is_file()).unlink()
    die()
if where == "exchanged":
    home.put_in_place = in_place
elif where == "half wiped":
    home.wipe = wiped
def fill(engine, database):
    for name, data in home_content.items():
        (engine / name).write_bytes(data)
    database.touch()
    if where == "half made":
        die()
home_content = {path.name: path.read_bytes() for path in (place / "engine").iterdir()}
home.make_home(place, Config(), fill, force=True)
"""


@pytest.mark.parametrize("where", ["half made", "exchanged", "half wiped"])
def test_a_killed_replacement_leaves_one_whole_home_and_the_next_command_the_rest(
    tmp_path: Path, fill: Fill, where: str
) -> None:
    old = make_home(tmp_path / "home", Config(), fill)
    (old.path / "device.db").write_bytes(b"brass washer")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(old.path)], timeout=300, check=False
    )
    assert done.returncode == 137
    assert (Home(old.path).key == old.key) == (where == "half made")
    assert len(unfinished_homes(old.path)) == 1
    with Home(old.path).lock():
        assert remove_left_copies(Home(old.path)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_a_home_that_is_being_made_is_not_taken_for_one_that_was_left(
    tmp_path: Path, fill: Fill
) -> None:
    home = make_home(tmp_path / "home", Config(), fill)

    def look(engine: Path, database: Path) -> None:
        fill(engine, database)
        assert unfinished_homes(home.path) == []
        assert remove_left_copies(home) == 0

    make_home(home.path, Config(), look, force=True)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_other_things_is_never_replaced(
    tmp_path: Path, fill: Fill, force: bool
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"text")
    for name in ("photos", "file"):
        with pytest.raises(RequestError, match="no edgecl home"):
            make_home(tmp_path / name, Config(), fill, force=force)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
    assert (tmp_path / "file").read_bytes() == b"text"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_empty_folder_becomes_a_home(tmp_path: Path, fill: Fill) -> None:
    (tmp_path / "home").mkdir()
    assert is_home(make_home(tmp_path / "home", Config(), fill).path)


def test_a_home_may_lie_behind_a_link(tmp_path: Path, fill: Fill) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    first = make_home(tmp_path / "home", Config(), fill)
    second = make_home(tmp_path / "home", Config(), fill, force=True)
    assert (tmp_path / "home").is_symlink()
    assert Home(tmp_path / "disk").key == second.key != first.key


def test_a_place_without_a_home_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="edgecl init --home"):
        Home(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["device.key", "engine/manifest.json"])
def test_a_missing_part_is_an_integrity_error_that_names_it(home: Home, part: str) -> None:
    (home.path / part).unlink()
    with pytest.raises(IntegrityError, match=part):
        Home(home.path)


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_truncated_device_key_is_refused(home: Home, content: bytes) -> None:
    (home.path / "device.key").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"device\.key"):
        Home(home.path)


def test_the_lock_excludes_a_second_handle_and_is_free_afterwards(home: Home) -> None:
    with home.lock():
        with pytest.raises(HomeLockedError, match="another edgecl process"), home.lock():
            pass
    with home.lock():
        assert (home.path / "lock").exists()


def test_the_lock_excludes_another_process_and_ends_with_it(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from edgecl.home import Home\n"
        "with Home(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, home.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(HomeLockedError), home.lock():
            pass
        other.kill()
        other.wait()
        with home.lock():
            assert other.returncode == -9


def test_saved_settings_replace_the_old_ones_in_one_step(home: Home) -> None:
    home.save_config(Config(store=StoreConfig(capacity_samples=5)))
    assert Home(home.path).config.store.capacity_samples == 5
    assert not list(home.path.glob(".*.part"))

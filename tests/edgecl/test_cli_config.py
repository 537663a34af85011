"""`edgecl config`: what is set and by whom, one setting changed, all faults with their lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import build
from edgecl.cli import run
from edgecl.config import SourceConfig
from edgecl.edited import Fault, faults_of, set_value, settings_in_effect
from edgecl.errors import ConfigError
from edgecl.home import Home
from edgecl.settings import load_config

TEXT = """# mine
[store]
capacity_samples = 7  # few
snapshots = 1

[[source]]
name = "gate"
url = "rtsp://admin:secret@10.0.0.9/live"

[[source]]
# the other
url = "camera:0"
name = "yard"
vote = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "edgecl.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return build.tiny_home(tmp_path_factory.mktemp("config") / "home")


def test_each_setting_says_where_it_comes_from_and_no_secret(file: Path) -> None:
    environ = {"EDGECL_STORE_SNAPSHOTS": "2", "EDGECL_HOME": "x"}
    found = {s.key: (s.value, s.origin) for s in settings_in_effect(file, environ)}
    assert found["store.capacity_samples"] == (7, "file")
    assert found["store.snapshots"] == (2, "EDGECL_STORE_SNAPSHOTS")
    assert found["store.capacity_mb"] == (200.0, "default")
    assert found["source.gate.url"] == ("rtsp://***@10.0.0.9/live", "file")
    assert found["source.yard.vote"] == (3, "file")
    assert found["source.gate.vote"] == (0, "default")
    assert len(found) == len(settings_in_effect(file, environ))


@pytest.mark.parametrize(
    ("key", "text", "value", "line"),
    [
        ("store.capacity_samples", "500", 500, "capacity_samples = 500"),
        ("store.capacity_mb", "5", 5.0, "capacity_mb = 5.0"),
        ("engine.provider", "cpu", "cpu", "[engine]"),
        ("head.pretrained", "true", True, "pretrained = true"),
        ("source.gate.crop", "10%,20%,30%,40%", "10%,20%,30%,40%", 'crop = "10%,20%,30%,40%"'),
        ("source.yard.vote", "5", 5, "vote = 5"),
        ("source.yard.rotate", "90", 90, "rotate = 90"),
        ("source.shed.url", 'gst:a ! b name="x"', 'gst:a ! b name="x"', "[[source]]"),
    ],
)
def test_one_setting_is_changed_and_all_else_stays_as_it_was_written(
    file: Path, key: str, text: str, value: Any, line: str
) -> None:
    before = load_config(file)
    assert set_value(file, key, text)[1] == value
    now = {s.key: s.value for s in settings_in_effect(file, {})}
    assert now[key] == value
    assert line in file.read_text().splitlines()
    assert {"# mine", "# the other"} <= set(file.read_text().splitlines())
    after = load_config(file)
    changed = {
        f for f in ("store", "engine", "head", "source") if getattr(before, f) != getattr(after, f)
    }
    assert changed == {key.split(".")[0]}
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_written_in_an_unusual_way_is_written_anew(file: Path) -> None:
    file.write_text('store = {capacity_samples = 7}\n"head".seed = 3\n')
    set_value(file, "store.capacity_samples", "8")
    config = load_config(file)
    assert (config.store.capacity_samples, config.head.seed) == (8, 3)
    file.write_text("[[source]]\nname = 'a'\nurl = 'camera:0'\nmask = [\n '0,0,1,1',\n]\n")
    set_value(file, "source.a.mask", "5,5,1,1")
    assert load_config(file).source == (SourceConfig("a", "camera:0", mask="5,5,1,1"),)


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("store.capacity_sample", "5", "did you mean 'capacity_samples'?"),
        ("store.capacity_samples", "many", "'many' is no int"),
        ("store.capacity_samples", "-5", "above 0"),
        ("stor.capacity_samples", "5", "did you mean 'store"),
        ("store", "5", "known"),
        ("source.gate", "5", "known"),
        ("source.new.crop", "1,1,1,1", "url is missing"),
        ("source.a b.url", "camera:0", "name must be"),
        ("source.gate.crop", "1,2,3", "has 3 numbers"),
        ("source.gate.croq", "1", "did you mean 'crop'?"),
        ("source.gate.interval", "5s", "motion="),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_the_file_stays(
    file: Path, key: str, text: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        set_value(file, key, text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert file.read_text() == TEXT


def test_all_faults_are_found_with_their_lines(file: Path) -> None:
    file.write_text(
        "[store]\ncapacity_sample = 1\nsnapshots = -1\n\n[stor]\nx = 1\n\n"
        "[[source]]\nname = 'a'\nurl = 'camera:0'\n\n"
        "[[source]]\nname = 'b'\nurl = 'camera:0'\ncrop = '1,2'\nrotate = 7\n\n"
        "[[source]]\nname = 'c'\nurl = 'camera:0'\ninterval = '5s'\n"
    )
    found = [(f.line, f.key) for f in faults_of(file)]
    assert found == [
        (2, "store.capacity_sample"),
        (3, "store.snapshots"),
        (5, "stor"),
        (15, "source.b.crop"),
        (16, "source.b.rotate"),
        (18, "source.c"),
    ]
    file.write_text(TEXT + "interval = '5s'\n")
    (fault,) = faults_of(file)
    assert (fault.line, fault.key) == (10, "source.yard")
    assert "source yard: interval=5s" in fault.text
    file.write_text(TEXT.replace("yard", "gate"))
    (fault,) = faults_of(file)
    assert "two sources are called gate" in fault.text
    file.write_text("[store]\ncapacity_samples = \n")
    (fault,) = faults_of(file)
    assert fault == Fault(2, "", fault.text)
    file.write_text(TEXT)
    assert faults_of(file) == []


def test_the_commands(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["--home", str(home.path)]

    def asked(*words: str) -> tuple[int, str, str]:
        status = run([*words, *place])
        found = capsys.readouterr()
        return status, found.out, found.err

    assert asked("config", "set", "store.capacity_samples", "500")[0] == 0
    monkeypatch.setenv("EDGECL_STORE_CAPACITY_SAMPLES", "600")
    status, out, _ = asked("config", "set", "store.capacity_samples", "501")
    assert status == 0
    assert "EDGECL_STORE_CAPACITY_SAMPLES says otherwise" in out
    assert Home(home.path).config.store.capacity_samples == 600
    shown = json.loads(asked("config", "show", "--json")[1].splitlines()[-1])
    assert shown["store.capacity_samples"] == {
        "value": 600,
        "from": "EDGECL_STORE_CAPACITY_SAMPLES",
    }
    assert "store.capacity_samples" in asked("config", "show")[1]
    assert asked("config", "check")[0] == 0
    url = "http://u:secret@127.0.0.1:9/"
    status, out, err = asked("config", "set", "source.gate.url", url, "-v")
    assert (status, "secret" in out + err) == (0, False)
    status, out, err = asked("config", "set", "head.name", "uer")
    assert status != 0
    assert "head.name is fixed" in err
    assert asked("config", "set", "head.profil", "light")[0] == 2
    home.settings.write_text("[store]\ncapacity_sample = 1\n")
    status, out, err = asked("config", "check")
    assert (status, f"{home.settings}:2: store.capacity_sample: " in out) == (2, True)
    assert "1 fault" in err
    faults = json.loads(asked("config", "check", "--json")[1].splitlines()[-1])["faults"]
    assert [(f["line"], f["key"]) for f in faults] == [(2, "store.capacity_sample")]
    assert run(["config", "check", "--home", str(home.path / "no")]) != 0

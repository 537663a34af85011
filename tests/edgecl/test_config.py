from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgecl.config import (
    Config,
    EngineConfig,
    HeadConfig,
    PictureConfig,
    SourceConfig,
    StoreConfig,
)
from edgecl.errors import ConfigError
from edgecl.settings import load_config, save_config


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edgecl.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == Config()


def test_settings_survive_saving_and_loading(tmp_path: Path) -> None:
    config = Config(
        store=StoreConfig(123, 4.5, "original", 1),
        engine=EngineConfig("cpu", 2, 3),
        picture=PictureConfig(1.5, 2.0),
        head=HeadConfig("uer", 42),
    )
    path = tmp_path / "edgecl.toml"
    save_config(config, path)
    assert load_config(path) == config


def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "[store]\ncapacity_samples = 7\n"))
    assert config == Config(store=StoreConfig(capacity_samples=7))


@pytest.mark.parametrize(
    ("text", "given", "nearest"),
    [
        ("[stor]\n", "'stor'", "'store'"),
        ("[store]\ncapacity_sample = 1\n", "'capacity_sample'", "'capacity_samples'"),
        ("[engine]\nthread = 1\n", "'thread'", "'threads'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(
    tmp_path: Path, text: str, given: str, nearest: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text))
    assert f"{given}; did you mean {nearest}?" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_name_like_no_other_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known: store, engine, picture, head"):
        load_config(written(tmp_path, "[zzz]\n"))


@pytest.mark.parametrize(
    "text",
    [
        '[store]\ncapacity_samples = "many"\n',
        "[store]\ncapacity_samples = 1.5\n",
        "[store]\ncapacity_samples = true\n",
        "[store]\ncapacity_mb = true\n",
        "[store]\ncapacity_mb = [1]\n",
        "[head]\nname = 1\n",
        "store = 3\n",
    ],
)
def test_a_wrong_type_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="expected") as caught:
        load_config(written(tmp_path, text))
    assert str(tmp_path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_whole_number_is_accepted_for_a_fraction(tmp_path: Path) -> None:
    value = load_config(written(tmp_path, "[store]\ncapacity_mb = 3\n")).store.capacity_mb
    assert (value, type(value)) == (3.0, float)


@pytest.mark.parametrize(
    "text",
    [
        "[store]\ncapacity_samples = 0\n",
        "[store]\ncapacity_mb = -1\n",
        "[store]\ncommit_every = 0\n",
        '[store]\npicture = "tiny"\n',
        "[engine]\nthreads = 0\n",
        "[engine]\nbatch_size = -3\n",
        '[engine]\nprovider = "gpu"\n',
        "[picture]\nmax_megapixels = 0\n",
    ],
)
def test_a_value_out_of_range_is_refused(tmp_path: Path, text: str) -> None:
    key = text.splitlines()[1].split(" ")[0]
    with pytest.raises(ConfigError, match=key) as caught:
        load_config(written(tmp_path, text))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_limit_that_is_no_finite_number_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="capacity_mb"):
        load_config(written(tmp_path, f"[store]\ncapacity_mb = {value}\n"))


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed"):
        load_config(written(tmp_path, "[head]\nseed = -1\n"))


@pytest.mark.parametrize("content", [b"[store\n", b"\xff\xfe[store]\n", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "edgecl.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(path)


TABLES = """
[[source]]
name = "gate"
url = "rtsp://admin:1@10.0.0.9/live?sub=1"
crop = ["10%", "20%", 30, 40]
rotate = 90
mask = ["0,0,5,5", "1%,1%,5%,5%"]
motion = 0.02
interval = 10
threshold = 0.5
vote = 3
labels = "mqtt://h/gate"
label = "caf\\u00e9 \\"x\\""

[[source]]
name = "yard"
url = "camera:0"
"""


def test_sources_are_read_and_written_back(tmp_path: Path) -> None:
    path = written(tmp_path, TABLES)
    config = load_config(path)
    gate, yard = config.source
    assert (gate.crop, gate.mask, gate.interval) == ("10%,20%,30,40", "0,0,5,5;1%,1%,5%,5%", "10s")
    assert gate.options.region.rotate == 90
    assert (gate.options.motion, gate.options.interval_s) == (0.02, 10.0)
    assert yard == SourceConfig("yard", "camera:0")
    save_config(config, path)
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[source]\nname = 'a'\n", "expected [[source]]"),
        ("source = 3\n", "expected [[source]]"),
        ("[[source]]\nname = 'a'\n", "url is missing"),
        ("[[source]]\nurl = 'camera:0'\n", "name must be"),
        ("[[source]]\nname = 'a b'\nurl = 'camera:0'\n", "name must be"),
        ("[[source]]\nname = 'a'\nurl = 'camera:0'\ncorp = ''\n", "did you mean 'crop'?"),
        ("[[source]]\nname = 'a'\nurl = 'camera:0'\ncrop = '1,2,3'\n", "source a: crop=1,2,3 has"),
        ("[[source]]\nname = 'a'\nurl = 'camera:0'\ncrop = 7\n", "source.crop = 7 is int"),
        ("[[source]]\nname = 'a'\nurl = 'camera:0'\nrotate = 45\n", "rotate=45"),
        ("[[source]]\nname = 'a'\nurl = 'camera:0'\nmotion = 2\n", "motion=2"),
        ("[[source]]\nname = 'a'\nurl = 'camera:0'\ninterval = '10s'\n", "motion="),
        ("[[source]]\nname = 'a'\nurl = 'camera:0?crop=1,1,1,1'\n", "keys of the table"),
        ("[[source]]\nname = 'a'\nurl = 'camera:0'\nvote = -1\n", "vote from 0"),
        ("[[source]]\nname = 'a'\nurl = 'camera:0'\n" * 2, "two sources are called a"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_environment_counts_more_than_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[store]\ncapacity_samples = 7\ncapacity_mb = 5.0\n")
    environ = {
        "EDGECL_STORE_CAPACITY_SAMPLES": "9",
        "EDGECL_HEAD_PRETRAINED": "true",
        "EDGECL_HEAD_PROFILE": "light",
        "EDGECL_HOME": "elsewhere",
        "EDGECL_SOURCE": "camera:0",
        "EDGECL_HEADER_FILE": "x",
    }
    config = load_config(path, environ)
    assert config.store == StoreConfig(capacity_samples=9, capacity_mb=5.0)
    assert (config.head.pretrained, config.head.options) == (True, {"profile": "light"})
    assert load_config(path).store.capacity_samples == 7


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("EDGECL_STORE_CAPACITY_SAMPLES", "many", "'many' is no int"),
        ("EDGECL_STORE_CAPACITY_SAMPLE", "7", "did you mean 'capacity_samples'?"),
        ("EDGECL_STORE_CAPACITY_SAMPLES", "-1", "must be a number above 0"),
        ("EDGECL_HEAD_PRETRAINED", "1", "'1' is no bool"),
    ],
)
def test_a_variable_that_cannot_be_meant_is_refused(
    tmp_path: Path, name: str, value: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_config(written(tmp_path, ""), {name: value})

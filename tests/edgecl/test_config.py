from __future__ import annotations

from pathlib import Path

import pytest

from edgecl.config import (
    Config,
    EngineConfig,
    HeadConfig,
    PictureConfig,
    StoreConfig,
    load_config,
    save_config,
)
from edgecl.errors import ConfigError


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

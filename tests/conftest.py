"""Resources that tests share: one real home, made once a session."""

from __future__ import annotations

import os

# Before numpy, torch and onnxruntime are imported anywhere: one thread each, no network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import ast
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import build
from edgecl.backbones import DEFAULT_BACKBONE, Backbone, load_backbone
from edgecl.config import Config, HeadConfig
from edgecl.exporters import onnx
from edgecl.exporters.onnx import init_home
from edgecl.exporters.shipped import shipped
from edgecl.heads import key_value
from edgecl.heads.codebook import default_codebook
from edgecl.home import Home

# What a machine says of itself and of terminals changes what libraries print, and no test.
for _name in ("CI", "GITHUB_ACTIONS", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "COLUMNS", "LINES"):
    os.environ.pop(_name, None)
for _name in [name for name in os.environ if name.startswith("EDGECL_")]:
    if not _name.startswith("EDGECL_TESTS_"):
        del os.environ[_name]

# Keys of no data are a function of the width, and take a third of a second to make.
keys_of_no_data = cache(default_codebook)
for user in (build, key_value, onnx):
    user.default_codebook = keys_of_no_data

# The same examples in every run, and none that fails because a machine is busy: what is found is
# found again. `--hypothesis-profile=search` looks for others (and `--hypothesis-seed` says which).
_SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
settings.register_profile("search", deadline=None, suppress_health_check=_SLOW)
settings.register_profile("same", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("same")

# In the background of a shell Ctrl-C is ignored, and so by all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


SUPPORT = Path(__file__).parent / "support"
left_out: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        action="store_true",
        help="leave out, and name, what needs a package that is not installed, torch above all",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `--device` a file whose imports are not installed is left out."""
    if not config.getoption("--device") or not collection_path.match("test_*.py"):
        return None
    if missing := missing_of(collection_path):
        left_out[str(collection_path.relative_to(config.rootpath))] = missing
        return True
    return None


def missing_of(path: Path) -> str:
    """Return a package that a file of tests, or its support, imports and that is not installed."""
    names: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [part.name for part in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    for name in (n.partition(".")[0] for n in names):
        support = SUPPORT / f"{name}.py"
        if support.exists():
            if found := missing_of(support):
                return found
        elif find_spec(name) is None:
            return name
    return ""


def _skipping(item: pytest.Item) -> Iterator[None]:
    try:
        yield
    except ImportError as error:  # as MissingPackageError is one
        if not item.config.getoption("--device"):
            raise
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """With `--device` a test is skipped whose fixture asks for a package that is not there."""
    yield from _skipping(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """With `--device` a test is skipped that asks for a package that is not there."""
    yield from _skipping(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what `--device` left out."""
    for file, package in left_out.items():
        terminalreporter.write_line(f"left out {file}: {package} is not installed")


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    """The default backbone with its real weights, at 64 pixels."""
    return load_backbone(image_size=64)


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that learned nothing, of the default engine as it ships; never write to it."""
    path = tmp_path_factory.mktemp("session") / "home"
    engine = shipped(DEFAULT_BACKBONE, image_size=64)
    assert engine is not None
    init_home(path, engine, Config(head=HeadConfig("ridge")))
    return path


@pytest.fixture(scope="session")
def adapted_home(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    """A home whose engine takes adapters and that learned nothing; never write to it."""
    path = tmp_path_factory.mktemp("adapted") / "home"
    init_home(path, backbone, Config(head=HeadConfig("ridge")), adapter_rank=16)
    return path


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Home:
    """A fresh copy of the home."""
    shutil.copytree(made_home, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def taught_home(made_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that learned four parts; never write to it, copy it with `copy_of`."""
    place = tmp_path_factory.mktemp("taught")
    shutil.copytree(made_home, place / "home")
    folder = build.part_folder(place / "parts", 8)
    done = build.run_edgecl("train-stream", folder, "--home", place / "home", "--json")
    assert build.last_json(done)["learned"] == 32
    return place / "home"


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Copy a shared home to a place where the test may write."""

    def copy(path: Path) -> Path:
        shutil.copytree(path, tmp_path / "copy")
        return tmp_path / "copy"

    return copy

"""What is shipped, and what a start loads."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import build
import edgecl
from edgecl.settings import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
HEAVY = ("torch", "timm", "onnxruntime", "numpy")


def all_modules() -> list[str]:
    names = []
    for package in PACKAGES:
        names.append(package)
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
            names.append(f"{package}.{found.name}")
    return sorted(set(names))


def loaded_after(code: str, *arguments: object, packages: tuple[str, ...] = HEAVY) -> list[str]:
    """Run code in a process of its own; return which packages it loaded."""
    tail = (
        "import sys, json\n"
        f"sys.stderr.write('\\n' + json.dumps([p for p in {packages!r} if p in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tail}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stderr.splitlines()[-1])
    return names


RUN_MAIN = """
from edgecl.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def test_every_package_on_disk_is_shipped() -> None:
    places = {"edgecl": "edgecl", "runtime": "edgecl.runtime", "exporters": "edgecl.exporters"}
    on_disk = set()
    for folder, package in places.items():
        for path in (ROOT / folder).rglob("*.py"):
            on_disk.add(".".join((package, *path.parent.relative_to(ROOT / folder).parts)))
    assert sorted(on_disk) == PACKAGES
    for package in on_disk:
        assert importlib.import_module(package).__file__, f"{package} lacks __init__.py"


def test_the_folder_map_names_the_two_folders_outside_the_package() -> None:
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {
        "edgecl": "edgecl",
        "edgecl.runtime": "runtime",
        "edgecl.exporters": "exporters",
    }


def test_the_default_engine_is_shipped() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["edgecl"]
    found = {p.relative_to(ROOT / "edgecl") for t in patterns for p in (ROOT / "edgecl").glob(t)}
    assert {p.relative_to(ROOT / "edgecl") for p in (ROOT / "edgecl/data").iterdir()} <= found


def test_types_and_licence_are_shipped() -> None:
    assert (ROOT / "edgecl" / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["edgecl"]
    assert (Path(edgecl.__file__).parent / "py.typed").is_file()
    for name in PROJECT["project"]["license-files"]:
        assert (ROOT / name).is_file(), name


def test_the_version_is_stated_once() -> None:
    assert PROJECT["project"]["version"] == edgecl.__version__


def test_cpu_and_gpu_runtimes_are_never_asked_for_together() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    groups = {**extras, "dependencies": PROJECT["project"]["dependencies"]}
    holders: dict[str, set[str]] = {"onnxruntime": set(), "onnxruntime-gpu": set()}
    for group, requirements in groups.items():
        for requirement in requirements:
            name = re.split(r"[^A-Za-z0-9_-]", requirement, maxsplit=1)[0].lower()
            if name in holders:
                holders[name].add(group)
    assert holders == {"onnxruntime": {"cpu"}, "onnxruntime-gpu": {"gpu"}}


def test_pins_are_lower_bounds() -> None:
    groups = [
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
    ]
    wrong = [
        r for group in groups for r in group if not re.search(r">=[\d.]+$", r.partition(";")[0])
    ]
    # But of a file that a test runs and whose hash it checks.
    wrong = [r for r in wrong if not r.startswith("axe-playwright-python==")]
    assert not wrong


def test_every_public_name_resolves() -> None:
    for name in edgecl.__all__:
        assert getattr(edgecl, name).__name__ == name
    assert set(edgecl.__all__) <= set(dir(edgecl))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = edgecl.nonsense


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import edgecl") == []


def test_help_loads_nothing_heavy() -> None:
    assert loaded_after(RUN_MAIN, "--help") == []


def test_predict_loads_neither_torch_nor_timm(taught_home: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(build.encode(build.part_picture("washer", 99)))
    packages = ("torch", "torchvision", "timm", "onnxruntime")
    arguments = ("predict", picture, "--home", taught_home, "--json")
    assert loaded_after(RUN_MAIN, *arguments, packages=packages) == ["onnxruntime"]


def test_launcher_of_a_checkout_runs_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "--version"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, edgecl.__version__)


@pytest.mark.parametrize("name", all_modules())
def test_examples_in_docstrings_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_some_docstrings_hold_examples() -> None:
    finder = doctest.DocTestFinder()
    n = sum(len(t.examples) for m in all_modules() for t in finder.find(importlib.import_module(m)))
    assert n >= 4

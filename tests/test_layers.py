"""Imports point one way, and heavy packages stay where design.md puts them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"edgecl": "edgecl", "runtime": "edgecl.runtime", "exporters": "edgecl.exporters"}

# Lowest first; what stands together may import each other as long as there is no cycle.
LAYERS = (
    ("types", "errors"),
    ("runtime",),
    ("config", "paired", "figures"),
    ("settings",),
    ("home", "edited"),
    ("weights", "directions", "sources"),
    ("backbones",),
    ("adapters",),
    ("heads",),
    ("store",),
    ("calibration",),
    ("learner",),
    ("session",),
    ("looked",),
    ("lending",),
    ("governor",),
    ("consolidation",),
    ("unlearning",),
    ("novelty", "drift", "mistakes", "explain"),
    ("answers", "usefulness"),
    ("stream",),
    ("snapshots", "evaluation", "doctor", "review", "transfer", "mending", "lessons"),
    ("governed",),
    ("fleet",),
    ("learning",),
    ("exporters",),
    ("device",),
    ("serve",),
    ("cli",),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
TORCH_PARTS = {
    "weights", "directions", "backbones", "adapters", "heads", "consolidation", "unlearning",
    "exporters",
}  # fmt: skip
# Each of these is imported in one file only.
ONE_FILE = (
    "onnxruntime", "cv2", "tensorrt", "tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings",
    "cuda", "fastapi", "onnx", "paho",
)  # fmt: skip
# But its quantizer, which no device needs.
ALSO = {"onnxruntime": {"edgecl.exporters.quantize"}}


@dataclass(frozen=True)
class Import:
    """One import statement: who, what, and where."""

    module: str
    target: str
    line: int
    is_relative: bool = False
    is_star: bool = False

    @property
    def top(self) -> str:
        return self.target.split(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_files() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


def imports_of(module: str, path: Path, known: set[str]) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parent = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{parent}.{base}".rstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(
                    module,
                    whole if whole in known else base,
                    node.lineno,
                    is_relative=node.level > 0,
                    is_star=alias.name == "*",
                )
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            for value in node.args[:1]:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield Import(module, value.value, node.lineno)


FILES = module_files()
IMPORTS = [i for name, path in FILES.items() for i in imports_of(name, path, set(FILES))]


def part_of(module: str) -> str:
    """Return the part of the layout a module belongs to; '' for the package itself."""
    return module.split(".")[1] if "." in module else ""


def ours(imported: Import) -> bool:
    return imported.top == "edgecl"


def told(faults: list[Import]) -> str:
    return "\n".join(map(str, faults))


def test_the_walk_sees_every_folder() -> None:
    assert {"edgecl.cli", "edgecl.runtime.engines.onnx", "edgecl.exporters.onnx"} <= set(FILES)
    assert len(IMPORTS) > 200


def test_every_part_has_a_layer() -> None:
    assert {part_of(name) for name in FILES} - {""} <= set(RANK)


def test_imports_never_point_up() -> None:
    faults = [
        i
        for i in IMPORTS
        if ours(i)
        and part_of(i.module)  # the package's own __init__ is the lazy front door
        and part_of(i.target)
        and RANK[part_of(i.target)] > RANK[part_of(i.module)]
    ]
    assert not faults, told(faults)


def test_side_by_side_layers_are_joined_only_where_the_design_says_so() -> None:
    joined = {
        (part_of(i.module), part_of(i.target), i.target)
        for i in IMPORTS
        if ours(i)
        and part_of(i.module)
        and part_of(i.target)
        and part_of(i.module) != part_of(i.target)
        and RANK[part_of(i.module)] == RANK[part_of(i.target)]
    }
    allowed = {
        ("types", "errors", "edgecl.errors"),
    }
    assert joined <= allowed


def test_exporters_take_only_what_an_export_needs() -> None:
    allowed = {
        "adapters", "backbones", "config", "consolidation", "errors", "exporters", "heads",
        "home", "learner", "novelty", "runtime", "session", "store",
        "types",
    }  # fmt: skip
    faults = [
        i
        for i in IMPORTS
        if part_of(i.module) == "exporters"
        and ours(i)
        and part_of(i.target)  # the package itself, for its version
        and part_of(i.target) not in allowed
    ]
    assert not faults, told(faults)


def test_the_package_itself_is_imported_for_its_version_only() -> None:
    faults = [
        i
        for i in IMPORTS
        if i.target == "edgecl"
        and "edgecl.__version__" not in FILES[i.module].read_text(encoding="utf-8")
    ]
    assert not faults, told(faults)


def test_no_cycles_between_modules_even_in_functions() -> None:
    graph: dict[str, set[str]] = {name: set() for name in FILES}
    for i in IMPORTS:
        if i.target in FILES and i.module != "edgecl" and i.target != "edgecl":
            graph[i.module].add(i.target)
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name in done:
            return
        for target in sorted(graph[name]):
            visit(target, (*way, name))
        done.add(name)

    for name in graph:
        visit(name, ())
    assert done == set(FILES)


@pytest.mark.parametrize("package", ["torch", "torchvision", "timm"])
def test_runtime_never_imports(package: str) -> None:
    faults = [i for i in IMPORTS if part_of(i.module) == "runtime" and i.top == package]
    assert not faults, told(faults)


def test_timm_is_imported_in_backbones_only() -> None:
    assert {i.module for i in IMPORTS if i.top == "timm"} == {"edgecl.backbones"}


def test_torch_is_imported_only_where_something_is_trained_or_exported() -> None:
    faults = [i for i in IMPORTS if i.top == "torch" and part_of(i.module) not in TORCH_PARTS]
    assert not faults, told(faults)


@pytest.mark.parametrize("package", ONE_FILE)
def test_one_file_imports(package: str) -> None:
    found = {i.module for i in IMPORTS if i.top == package}
    assert len(found - ALSO.get(package, set())) <= 1


@pytest.mark.parametrize("name", ["runtime", "exporters"])
def test_no_second_copy_is_imported_by_its_checkout_name(name: str) -> None:
    faults = [i for i in IMPORTS if i.top == name]
    assert not faults, told(faults)


@pytest.mark.parametrize("part", ["runtime", "exporters"])
def test_siblings_import_each_other_relatively(part: str) -> None:
    faults = [
        i
        for i in IMPORTS
        if part_of(i.module) == part and part_of(i.target) == part and ours(i) and not i.is_relative
    ]
    assert not faults, told(faults)


def test_nothing_is_imported_with_a_star() -> None:
    faults = [i for i in IMPORTS if i.is_star]
    assert not faults, told(faults)


# Statements and the connection that runs them. The doctor looks at the file as a file.
SQL = re.compile(
    r"\b(SELECT .+ FROM|INSERT (OR \w+ )?INTO|DELETE FROM|UPDATE \w+ SET|PRAGMA|VACUUM)\b"
)
MAY_RUN_SQL = {"edgecl.doctor"}


def test_sql_and_the_connection_stay_below_the_store() -> None:
    faults = []
    for name, path in FILES.items():
        if part_of(name) == "store" or name in MAY_RUN_SQL:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_connection = isinstance(node, ast.Attribute) and node.attr == "connection"
            is_sql = (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and SQL.search(node.value)
            )
            if is_connection or is_sql:
                faults.append(f"{name}:{node.lineno}")
    assert not faults, "\n".join(faults)


def test_sql_would_be_found() -> None:
    for text in ("SELECT x FROM y", "INSERT INTO y", "DELETE FROM y", "UPDATE y SET", "PRAGMA z"):
        assert SQL.search(f"{text} WHERE uid = ?")
    assert not SQL.search("select what to update from the list")

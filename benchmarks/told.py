"""Answers `--help` of a benchmark at once: what it measures, how it is run, its options.

Import it before all else: the scripts load torch and the package when they are imported, which
takes seconds. Options are read from the script's text, since its parser is made after that.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path


def help_of(path: Path) -> str:
    """Return the help of a script."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [f"usage: python benchmarks/{path.name} [options]", ast.get_docstring(tree) or ""]
    options = [*_options(tree), ("-h, --help", "Show this and exit.")]
    width = max(len(name) for name, _ in options)
    parts.append("options:\n" + "\n".join(f"  {name:{width}}  {text}" for name, text in options))
    return "\n\n".join(parts)


def _options(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield names and texts of what is given to `add_argument`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".add_argument"):
            names = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
            said = {k.arg: k.value for k in node.keywords}
            texts = [str(said["help"].value)] if isinstance(said.get("help"), ast.Constant) else []
            for name in ("choices", "default"):
                if name in said:
                    texts.append(f"[{name}: {ast.unparse(said[name])}]")
            yield ", ".join(names), " ".join(texts)


_script = getattr(sys.modules.get("__main__"), "__file__", None)
if (
    _script is not None
    and Path(_script).resolve().parent == Path(__file__).resolve().parent
    and {"-h", "--help"} & set(sys.argv[1:])
):
    print(help_of(Path(_script)))
    sys.exit(0)

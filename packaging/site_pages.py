"""What the site of the documentation has beside docs/: a hook of mkdocs (mkdocs.yml, `make docs`).

README.md is its first page, CONTRIBUTING.md and CHANGELOG.md are pages, decisions get a list, and
the reference of the Python interface comes from the docstrings. Links between these files are
those of the repository, and are turned here into those of the site.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any  # Any: mkdocs's configuration has no types

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / ".site/reference/edgecl"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# What a program may build on; the rest is explained by the walkthrough.
MODULES = (
    "edgecl",
    "edgecl.device",
    "edgecl.exporters.precision",
    "edgecl.session",
    "edgecl.runtime.predictor",
    "edgecl.runtime.sources.base",
    "edgecl.heads.base",
    "edgecl.evaluation.score",
    "edgecl.unlearning.check",
    "edgecl.types",
    "edgecl.errors",
)


def on_startup(command: str, dirty: bool) -> None:
    """Put the package together as it is installed: `runtime/` and `exporters/` are parts of it.

    Not `on_config`: a folder that is not there by then is not searched for docstrings.
    """
    shutil.rmtree(REFERENCE, ignore_errors=True)
    for part, place in (("edgecl", "."), ("runtime", "runtime"), ("exporters", "exporters")):
        no_data = shutil.ignore_patterns("__pycache__", "data")
        shutil.copytree(ROOT / part, REFERENCE / place, ignore=no_data, dirs_exist_ok=True)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of docs/, or nowhere."""
    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r"\]\(docs/decisions/\)", "](decisions/index.md)", text)
        text = re.sub(r"\]\(docs/", "](", text)
        for other, page in PAGES.items():
            text = text.replace(f"]({other})", f"]({page})")
        files.append(File.generated(config, name, content=text))
    listed = []
    for path in sorted((ROOT / "docs/decisions").glob("*.md")):
        title = path.read_text(encoding="utf-8").split("\n")[0].removeprefix("# ")
        listed.append(f"- [{title}]({path.name})")
    text = "# Decisions\n\n" + "\n".join(listed) + "\n"
    files.append(File.generated(config, "decisions/index.md", content=text))
    text = "# Python\n\n" + "\n\n".join(f"## {m}\n\n::: {m}" for m in MODULES) + "\n"
    files.append(File.generated(config, "reference.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turn links to the repository's own files into those of the site."""
    for source, name in PAGES.items():
        markdown = markdown.replace(f"](../{source})", f"]({name})")
    return markdown

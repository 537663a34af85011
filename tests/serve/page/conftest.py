"""A home that is served in tests of the page, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from asking import Site


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that knows two parts; never write to it."""
    from served import toy_home

    path = tmp_path_factory.mktemp("toy") / "home"
    toy_home(path)
    return path


@pytest.fixture(scope="module")
def site(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A page that the tests of a file share: ask it for nothing that cannot be undone."""
    from asking import opened

    with opened(toy, tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture
def own_site(toy: Path, tmp_path: Path) -> Iterator[Site]:
    """A page of one test."""
    from asking import opened

    with opened(toy, tmp_path) as found:
        yield found

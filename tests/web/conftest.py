"""One browser and one served home for each file.

The browser's driver keeps an event loop in the thread of the tests for as long as it is open, so it
does not outlive its file: another file's `asyncio.run` would be refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from paged import Site, Watched
    from playwright.sync_api import Browser, BrowserType


@pytest.fixture(scope="module")
def browser_type() -> Iterator[BrowserType]:
    from paged import PATIENCE_MS
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        yield playwright.chromium


@pytest.fixture(scope="module")
def browser(browser_type: BrowserType) -> Iterator[Browser]:
    from needs import chromium
    from paged import ARGUMENTS

    opened = browser_type.launch(executable_path=chromium(), args=ARGUMENTS)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def web_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that knows two parts; never write to it."""
    from served import toy_home

    path = tmp_path_factory.mktemp("web") / "home"
    toy_home(path)
    return path


@pytest.fixture(scope="module")
def site(
    web_home: Path, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The page, on a copy of the home."""
    from paged import opened_site

    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(web_home, folder / "home")
    with opened_site(folder) as site:
        with browser.new_context() as context:
            context.new_page().goto(site.page.url)
            context.storage_state(path=site.state)
        yield site


@pytest.fixture
def tabs(browser: Browser, site: Site) -> Iterator[Watched]:
    """Tabs of the page; what they complain of fails the test."""
    from paged import Watched

    watched = Watched(browser, site)
    yield watched
    watched.close()

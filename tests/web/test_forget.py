"""Forgetting on the page, up to its receipt; other tabs, and the files of the browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from needs import chromium
from paged import ARGUMENTS, Site, Watched
from playwright.sync_api import BrowserType, expect

import build

pytestmark = pytest.mark.live
NAME = "Geheimnisvolle Unterlegscheibe"


def test_a_class_is_forgotten_up_to_its_receipt(
    site: Site, tabs: Watched, browser_type: BrowserType, tmp_path: Path
) -> None:
    picture = build.encode(build.part_picture("washer", 1), "PNG")
    with browser_type.launch_persistent_context(
        tmp_path / "profile", executable_path=chromium(), args=ARGUMENTS
    ) as context:
        tab = context.new_page()
        tabs.watch(tab)
        tab.goto(site.page.url)
        # It is taught from a file, so that its name and picture pass through this browser.
        tab.get_by_label("Use pictures").last.set_input_files(
            {"name": "x.png", "mimeType": "image/png", "buffer": picture}
        )
        tab.get_by_label("Name", exact=True).fill(NAME)
        tab.keyboard.press("Enter")
        expect(tab.get_by_role("button", name=re.compile(NAME)).first).to_be_visible()
        other = context.new_page()
        tabs.watch(other)
        other.goto(f"{site.page.address}/#classes")
        other.get_by_role("link", name=NAME).click()
        expect(other.locator(".option")).to_have_count(1)

        tab.goto(f"{site.page.address}/#classes")
        tab.get_by_role("link", name=NAME).click()
        tab.get_by_role("link", name="Forget…").click()
        tab.get_by_role("button", name="What would go?").click()
        expect(tab.locator("#plan")).to_contain_text("goes for good")
        go = tab.get_by_role("button", name="Forget for good")
        expect(go).to_be_disabled()
        tab.get_by_label("There is no way back").fill(NAME[:-1])
        expect(go).to_be_disabled()
        tab.get_by_label("There is no way back").fill(NAME)
        go.click()
        expect(tab.get_by_role("heading", name="Receipt r1")).to_be_visible()
        expect(tab.locator(".receipt")).to_contain_text("Signature")
        expect(tab.get_by_role("link", name="Print or keep")).to_be_visible()
        expect(tab.locator("main")).not_to_contain_text(NAME)
        expect(other.locator(".option")).to_have_count(0)
        tab.goto(f"{site.page.address}/#live")
        expect(tab.locator(".class .name").first).to_be_visible()
        expect(tab.locator("main")).not_to_contain_text(NAME)
    assert NAME not in {one.label for one in site.device.samples()}
    left = [path for path in tmp_path.rglob("*") if path.is_file() and has(path, NAME)]
    assert left == []


def has(path: Path, name: str) -> bool:
    """Whether a file has a name in some encoding, or in an address."""
    data = path.read_bytes()
    forms = (name.encode(), name.encode("utf-16-le"), name.replace(" ", "%20").encode())
    return any(form in data for form in forms)

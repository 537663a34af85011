"""Setup: the crop is drawn by dragging, or moved with the keys, and written."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from paged import Site, Watched
from playwright.sync_api import Page as Tab
from playwright.sync_api import Route, expect

pytestmark = pytest.mark.live


@pytest.fixture
def written(tabs: Watched) -> list[dict[str, Any]]:
    """What the page writes into the settings, taken up before the server does."""
    return []


def open_setup(tabs: Watched, site: Site, written: list[dict[str, Any]], **how: bool) -> Tab:
    def config(route: Route) -> None:
        if route.request.method == "POST":
            written.append(json.loads(route.request.post_data or ""))
            route.fulfill(json={"needs_restart": True})
        else:
            route.fulfill(json={"values": {}, "read_only": False})

    tab = tabs.open("live", **how)
    tab.route("**/api/v1/config", config)
    tab.goto(f"{site.page.address}/#setup")
    tab.get_by_role("button", name="Draw the crop").click()
    return tab


def numbers(value: str) -> list[int]:
    assert re.fullmatch(r"(\d+%,){3}\d+%", value)
    return [int(part.rstrip("%")) for part in value.split(",")]


@pytest.mark.parametrize("is_phone", [False, True])
def test_a_crop_is_drawn_by_dragging(
    site: Site, tabs: Watched, written: list[dict[str, Any]], is_phone: bool
) -> None:
    tab = open_setup(tabs, site, written, is_phone=is_phone)
    save = tab.get_by_role("button", name="Save this crop")
    expect(save).to_be_disabled()
    canvas = tab.get_by_role("application").locator("canvas")
    expect(canvas).to_have_attribute("width", "64")  # the camera's picture is drawn
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y = (box["x"] + 0.2 * box["width"], box["y"] + 0.1 * box["height"])
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + 0.5 * box["width"], y + 0.3 * box["height"], steps=5)
    tab.mouse.up()
    save.click()
    expect(tab.locator(".toast")).to_contain_text("next start")
    assert written[0]["key"] == "source.camera.crop"
    assert numbers(written[0]["value"]) == pytest.approx([20, 10, 50, 30], abs=1)


def test_a_crop_is_drawn_with_keys(
    site: Site, tabs: Watched, written: list[dict[str, Any]]
) -> None:
    tab = open_setup(tabs, site, written)
    tab.get_by_role("application").focus()
    for _ in range(5):
        tab.keyboard.press("Shift+ArrowLeft")
    for _ in range(2):
        tab.keyboard.press("ArrowRight")
    tab.get_by_role("button", name="Save this crop").click()
    expect(tab.locator(".toast")).to_contain_text("is written")
    assert numbers(written[0]["value"]) == [4, 0, 90, 100]


def test_the_camera_is_tested(site: Site, tabs: Watched) -> None:
    tab = tabs.open("setup")
    tab.get_by_role("button", name="Test", exact=True).click()
    expect(tab.locator(".toast")).to_contain_text("camera sends pictures")
    expect(tab.get_by_role("img", name="newest picture of camera")).to_be_visible()

"""Setup: the crop is drawn by dragging, or moved with the keys, and written."""

from __future__ import annotations

import re

import pytest
from paged import Site, Watched
from playwright.sync_api import Page as Tab
from playwright.sync_api import expect

from edgecl.edited import set_value
from edgecl.settings import load_config

pytestmark = pytest.mark.live


def open_setup(tabs: Watched, is_phone: bool = False) -> Tab:
    tab = tabs.open("setup", is_phone=is_phone)
    tab.get_by_role("button", name="Draw the crop").click()
    return tab


def written(site: Site) -> list[int]:
    """The crop in the settings, per cent."""
    (source,) = load_config(site.device.home.settings).source
    assert re.fullmatch(r"(\d+%,){3}\d+%", source.crop)
    return [int(part.rstrip("%")) for part in source.crop.split(",")]


@pytest.mark.parametrize("is_phone", [False, True])
def test_a_crop_is_drawn_by_dragging(site: Site, tabs: Watched, is_phone: bool) -> None:
    tab = open_setup(tabs, is_phone)
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
    assert written(site) == pytest.approx([20, 10, 50, 30], abs=1)


def test_a_crop_is_drawn_with_keys(site: Site, tabs: Watched) -> None:
    tab = open_setup(tabs)
    tab.get_by_role("application").focus()
    for _ in range(5):
        tab.keyboard.press("Shift+ArrowLeft")
    for _ in range(2):
        tab.keyboard.press("ArrowRight")
    tab.get_by_role("button", name="Save this crop").click()
    expect(tab.locator(".toast")).to_contain_text("next start")
    assert written(site) == [4, 0, 90, 100]


def test_a_crop_in_pixels_is_shown_and_drawn_anew(site: Site, tabs: Watched) -> None:
    settings = site.device.home.settings
    set_value(settings, "source.camera.crop", "8,4,40,20")
    set_value(settings, "source.camera.rotate", "90")
    site.device.home.config = load_config(settings)
    site.stream.serving.live.tell("forgotten", {})  # it came from behind: no kept answer is right
    expect(tabs.open("live").locator("figcaption")).to_have_text("crop 8,4,40,20, turned 90")
    tab = open_setup(tabs)
    tab.get_by_role("application").focus()
    for _ in range(5):
        tab.keyboard.press("Shift+ArrowLeft")
    tab.get_by_role("button", name="Save this crop").click()
    expect(tab.locator(".toast")).to_contain_text("next start")
    assert load_config(settings).source[0].crop == "8,4,36,20"


def test_the_camera_is_tested(site: Site, tabs: Watched) -> None:
    tab = tabs.open("setup")
    tab.get_by_role("button", name="Test", exact=True).click()
    expect(tab.locator(".toast")).to_contain_text("camera sends pictures")
    expect(tab.get_by_role("img", name="newest picture of camera")).to_be_visible()


def test_a_password_is_set_and_removed(site: Site, tabs: Watched) -> None:
    tabs.allowed.append("401|ERR_INCOMPLETE|ERR_ABORTED")
    tab, other = tabs.open("setup"), tabs.open("live")
    expect(other.locator(".answer .big")).not_to_have_text("\N{EN DASH}")
    tab.get_by_label("Role").select_option("look")
    tab.get_by_label("New password").fill("nur schauen")
    tab.get_by_role("button", name="Set", exact=True).click()
    expect(tab.locator(".toast")).to_contain_text("A password has: look.")
    expect(other.locator("#banner")).to_be_visible()
    tab.get_by_role("button", name="Remove").click()
    expect(tab.locator(".toast").filter(has_text="No role has")).to_be_visible()
    assert site.page.access.passwords == {}


def test_what_cannot_be_is_said(site: Site, tabs: Watched) -> None:
    tabs.allowed.append("400.*/api/v1/config")
    tab = tabs.open("setup")
    tab.get_by_text("Motion, threshold and more").click()
    tab.get_by_label("Threshold").fill("7")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert").filter(has_text="threshold")).to_be_visible()
    tab.get_by_label("Threshold").fill("0.7")
    tab.keyboard.press("Enter")
    expect(tab.locator(".toast").filter(has_text="next start")).to_be_visible()
    assert load_config(site.device.home.settings).source[0].threshold == 0.7

"""The live screen: in, teach two things by mouse, key and touch, and see the right answer."""

from __future__ import annotations

import re

import pytest
from paged import Site, Watched, hold, settled, wait_until
from playwright.sync_api import Browser, Locator, expect
from playwright.sync_api import Page as Tab

import build

pytestmark = pytest.mark.live


def answer(tab: Tab) -> Locator:
    return tab.locator(".answer .big")


def name_class(tab: Tab, name: str) -> Locator:
    """Name a new class; returns its button."""
    tab.get_by_role("button", name="New class").click()
    tab.get_by_label("Name", exact=True).fill(name)
    tab.get_by_role("dialog").get_by_role("button", name="Add").click()
    return class_button(tab, name)


def class_button(tab: Tab, name: str) -> Locator:
    return tab.get_by_role("button", name=re.compile(f"Hold to teach {re.escape(name)}"))


def test_a_link_lets_one_in_once(site: Site, browser: Browser) -> None:
    url = site.page.url
    with browser.new_context() as context:
        tab = context.new_page()
        tab.goto(url)
        assert "token" not in tab.url
        expect(tab.get_by_role("navigation").get_by_role("link")).to_have_count(7)
    with browser.new_context() as context:
        tab = context.new_page()
        tab.goto(url)
        expect(tab.get_by_role("alert")).to_contain_text("used already")
        expect(tab.get_by_role("navigation")).to_have_count(0)


def test_two_new_things_are_taught_and_told_apart(site: Site, tabs: Watched) -> None:
    tab = tabs.open()
    site.shows("washer")
    hold(tab, name_class(tab, "Scheibe"), 1800)
    site.shows("gasket")
    name_class(tab, "Dichtung")
    number = len(tab.locator(".class:not(.plus)").all())
    tab.locator(".do > h2").click()  # out of the button: the key is the page's
    tab.keyboard.down(str(number))
    expect(class_button(tab, "Dichtung")).to_have_attribute("aria-pressed", "true")
    tab.wait_for_timeout(1800)
    tab.keyboard.up(str(number))
    expect(class_button(tab, "Dichtung")).to_have_attribute("aria-pressed", "false")
    expect(answer(tab)).to_have_text(re.compile("Dichtung"))
    site.shows("washer")
    expect(answer(tab)).to_have_text(re.compile("Scheibe"))
    assert {"Scheibe", "Dichtung"} <= {one.label for one in site.device.samples()}
    assert wait_until(tab, lambda: site.stream.serving.teacher.label is None)


def test_space_teaches_the_last_class_again(site: Site, tabs: Watched) -> None:
    tab = tabs.open()
    site.shows("bolt-m4")
    hold(tab, class_button(tab, "bolt-m4"), 300)
    tab.locator(".do > h2").click()
    tab.keyboard.down(" ")
    expect(class_button(tab, "bolt-m4")).to_have_attribute("aria-pressed", "true")
    tab.keyboard.up(" ")
    expect(class_button(tab, "bolt-m4")).to_have_attribute("aria-pressed", "false")


def test_a_slip_of_the_pen_is_asked_about(site: Site, tabs: Watched) -> None:
    tab = tabs.open()
    tab.get_by_role("button", name="New class").click()
    tab.get_by_label("Name", exact=True).fill("Brackets")
    expect(tab.get_by_role("dialog").get_by_role("status")).to_contain_text("bracket")
    tab.keyboard.press("Enter")
    tab.get_by_role("dialog", name="Did you mean").get_by_role(
        "button", name="“bracket”", exact=True
    ).click()
    expect(class_button(tab, "bracket")).to_be_focused()
    assert "Brackets" not in {one.label for one in site.device.samples()}


def test_the_last_burst_is_taken_back(site: Site, tabs: Watched) -> None:
    tab = tabs.open()
    site.shows("bracket")
    expect(answer(tab)).to_have_text(re.compile("bracket"))
    before = settled(tab, site)
    hold(tab, class_button(tab, "bracket"), 1500)
    tab.locator(".do > h2").click()
    expect(tab.locator(".strip li").first).to_be_visible()
    assert settled(tab, site) > before
    tab.keyboard.press("u")
    expect(tab.locator(".toast")).to_contain_text("of the last burst taken back")
    assert wait_until(tab, lambda: len(site.device.samples()) == before)


def test_one_frame_of_the_strip_is_taken_back(site: Site, tabs: Watched) -> None:
    tab = tabs.open()
    hold(tab, class_button(tab, "bracket"), 1000)
    first = tab.locator(".strip button").first
    expect(first).to_be_visible()
    before = settled(tab, site)
    first.click()
    expect(tab.locator(".toast")).to_contain_text("taken back")
    assert wait_until(tab, lambda: len(site.device.samples()) == before - 1)


def test_a_finger_teaches_on_a_phone(site: Site, tabs: Watched) -> None:
    tab = tabs.open(is_phone=True)
    site.shows("bracket")
    button = class_button(tab, "bracket")
    box = button.bounding_box()
    assert box is not None
    at = {"x": box["x"] + 20, "y": box["y"] + 20}
    assert box["y"] + box["height"] < 800, "the first button is seen without scrolling"
    touch = tab.context.new_cdp_session(tab)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
    expect(button).to_have_attribute("aria-pressed", "true")
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(button).to_have_attribute("aria-pressed", "false")
    assert tab.evaluate("document.documentElement.scrollWidth") == 400


def test_what_is_held_ends_when_the_tab_is_closed(site: Site, tabs: Watched) -> None:
    tab = tabs.open()
    button = class_button(tab, "bracket")
    button.hover()
    tab.mouse.down()
    expect(button).to_have_attribute("aria-pressed", "true")
    teacher = site.stream.serving.teacher
    assert wait_until(tab, lambda: teacher.label == "bracket")
    tab.close()
    assert wait_until(tabs.open(), lambda: teacher.label is None)


def test_the_cameras_of_the_browser_and_files_are_taught_with(
    site: Site, tabs: Watched, tmp_path: object
) -> None:
    tab = tabs.open()
    with tab.expect_response("**/api/v1/frames*"):
        tab.get_by_label("Camera", exact=True).select_option(label="This browser's camera")
    expect(answer(tab)).not_to_have_text("\N{EN DASH}")
    hold(tab, name_class(tab, "testbild"), 1200)
    expect(answer(tab)).to_have_text(re.compile("testbild"))


def test_a_picture_of_a_file_is_answered(site: Site, tabs: Watched) -> None:
    tab = tabs.open()
    jpeg = build.encode(build.part_picture("bracket", 900, 64))
    tab.get_by_label("Use pictures").last.set_input_files(
        {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": jpeg}
    )
    tab.get_by_role("dialog").get_by_role("button", name="Send").click()
    expect(tab.locator(".toast")).to_contain_text(re.compile("1 looked at; the last one: bracket"))

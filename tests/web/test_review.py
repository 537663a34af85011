"""Review and classes: select by mouse and keys, name, drop, undo; two tabs; a phone."""

from __future__ import annotations

import re

import pytest
from paged import Site, Watched, slower, wait_until, waiting
from playwright.sync_api import Locator, expect
from playwright.sync_api import Page as Tab

from edgecl.store.table import Role

pytestmark = pytest.mark.live


def options(tab: Tab, *, selected: bool = False) -> Locator:
    return tab.locator(".option[aria-selected=true]" if selected else ".option")


def n_learned(site: Site, name: str) -> int:
    return len(site.device.samples(label=name, role=Role.REPLAY))


@pytest.fixture
def queue(site: Site) -> list[int]:
    """Six gaskets and three washers wait."""
    site.drop_waiting()
    added = site.add_waiting(6) + site.add_waiting(3, "washer")
    site.stream.serving.live.tell("forgotten", {})  # it came from behind: no kept answer is right
    return added


def test_a_group_is_named_by_keys_alone(site: Site, tabs: Watched, queue: list[int]) -> None:
    tab = tabs.open("review")
    expect(tab.get_by_role("group", name="alike")).to_have_count(2)
    expect(options(tab)).to_have_count(9)
    first = options(tab).first
    first.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowLeft")
    expect(first).to_be_focused()
    tab.keyboard.press("Control+a")
    expect(options(tab, selected=True)).to_have_count(6)
    tab.keyboard.press("2")
    expect(options(tab)).to_have_count(3)
    assert wait_until(tab, lambda: len(waiting(site.device)) == 3)

    def n_gaskets() -> int:
        frames = [one.frame for one in site.device.samples(label="bracket")]
        return sum(frame.startswith("gasket") for frame in frames)

    assert wait_until(tab, lambda: n_gaskets() == 6)


def test_a_name_is_typed_and_is_new(site: Site, tabs: Watched, queue: list[int]) -> None:
    tab = tabs.open("review")
    options(tab).last.click()
    tab.keyboard.type("Unterlegscheibe")
    tab.keyboard.press("Enter")
    expect(options(tab)).to_have_count(8)
    assert wait_until(
        tab, lambda: "Unterlegscheibe" in {one.label for one in site.device.samples()}
    )


def test_what_was_named_or_dropped_is_undone(site: Site, tabs: Watched, queue: list[int]) -> None:
    tab = tabs.open("live")
    slower(tab, "review.js", "GRACE_MS = 2500", "GRACE_MS = 300000")
    tab.goto(f"{site.page.address}/?#review")
    options(tab).first.click()
    tab.keyboard.press("1")
    expect(options(tab)).to_have_count(8)
    tab.keyboard.press("z")
    expect(options(tab)).to_have_count(9)
    options(tab).first.click()
    tab.keyboard.press("x")
    expect(options(tab)).to_have_count(8)
    tab.keyboard.press("Control+z")
    expect(options(tab)).to_have_count(9)
    assert len(waiting(site.device)) == 9
    options(tab).first.click()
    tab.keyboard.press("x")
    tab.goto(f"{site.page.address}/#live")  # what was to be done is done when the screen is left
    assert wait_until(tab, lambda: len(waiting(site.device)) == 8)


def test_shift_and_a_rubber_band_select(site: Site, tabs: Watched, queue: list[int]) -> None:
    tab = tabs.open("review")
    expect(options(tab)).to_have_count(9)
    options(tab).nth(1).click()
    options(tab).nth(4).click(modifiers=["Shift"])
    expect(options(tab, selected=True)).to_have_count(4)
    tab.keyboard.press("Escape")
    expect(options(tab, selected=True)).to_have_count(0)
    boxes = [options(tab).nth(i).bounding_box() for i in (0, 2)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    tab.mouse.move(boxes[0]["x"] + 5, boxes[0]["y"] + 5)
    tab.mouse.down()
    tab.mouse.move(boxes[1]["x"] + 30, boxes[1]["y"] + 40, steps=4)
    tab.mouse.up()
    expect(options(tab, selected=True)).to_have_count(3)


def test_two_tabs_name_one_picture_and_the_second_is_told(
    site: Site, tabs: Watched, queue: list[int]
) -> None:
    tabs.allowed.append(r"status of (404|409).*/api/v1/review")
    before = sorted(one.frame for one in site.device.samples(role=Role.REPLAY))
    one, two = tabs.open("review"), tabs.open("review")
    for tab, key in ((one, "1"), (two, "2")):
        options(tab).first.click()
        tab.keyboard.press(key)
    expect(two.get_by_role("alert").filter(has_text=re.compile("."))).to_be_visible()
    for tab in (one, two):
        expect(options(tab)).to_have_count(8)
    assert wait_until(two, lambda: len(site.device.samples(role=Role.REPLAY)) == len(before) + 1)


def test_a_finger_selects_on_a_phone(site: Site, tabs: Watched, queue: list[int]) -> None:
    tab = tabs.open("review", is_phone=True)
    expect(options(tab)).to_have_count(9)
    touch = tab.context.new_cdp_session(tab)
    box = options(tab).first.bounding_box()
    assert box is not None
    at = {"x": box["x"] + 20, "y": box["y"] + 20}
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
    expect(options(tab, selected=True)).to_have_count(1)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    options(tab).nth(1).tap()
    expect(options(tab, selected=True)).to_have_count(2)
    tab.locator(".chooser .classes button").first.tap()
    expect(options(tab)).to_have_count(7)
    assert tab.evaluate("document.documentElement.scrollWidth") == 400


def test_pictures_of_a_class_are_moved_to_another(site: Site, tabs: Watched) -> None:
    tab = tabs.open("classes")
    tab.get_by_role("link", name="bolt-m4").click()
    n = n_learned(site, "bolt-m4")
    expect(options(tab)).to_have_count(n)
    options(tab).first.click()
    tab.locator(".chooser").get_by_role("button", name="bracket").click()
    assert wait_until(tab, lambda: n_learned(site, "bolt-m4") == n - 1)
    expect(options(tab)).to_have_count(n - 1)


def test_pictures_of_a_class_are_marked_as_test(site: Site, tabs: Watched) -> None:
    tab = tabs.open("classes")
    tab.get_by_role("link", name="bracket").click()
    n, held = n_learned(site, "bracket"), site.device.samples(label="bracket", role=Role.HELD_OUT)
    expect(options(tab)).to_have_count(n + len(held))
    learned = options(tab).filter(has_not_text="test")
    expect(learned).to_have_count(n)
    learned.nth(0).click()
    learned.nth(1).click(modifiers=["Control"])
    tab.get_by_role("button", name="Mark as test").click()
    expect(tab.locator(".toast")).to_contain_text("2 pictures marked as test")
    expect(learned).to_have_count(n - 2)
    expect(options(tab)).to_have_count(n + len(held))
    assert wait_until(tab, lambda: n_learned(site, "bracket") == n - 2)


def test_a_class_is_renamed_and_made_one_with_another(site: Site, tabs: Watched) -> None:
    tab = tabs.open("classes")
    tab.get_by_role("link", name="bolt-m4").click()
    tab.get_by_role("button", name="Rename").click()
    tab.get_by_label("New name").fill("Schraube")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name="Schraube")).to_be_visible()
    tab.get_by_role("button", name="Merge").click()
    tab.get_by_label("Into", exact=True).fill("bracket")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name="bracket")).to_be_visible()
    assert wait_until(tab, lambda: "Schraube" not in {one.label for one in site.device.samples()})

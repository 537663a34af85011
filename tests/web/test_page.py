"""The page as a whole: lost and found, light, accessible, and talking to nobody else."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import Any

import pytest
from paged import Site, Watched
from playwright.sync_api import Browser, expect
from playwright.sync_api import Page as Tab

from edgecl.serve.page.access import hashed
from edgecl.serve.page.server import Page, Wire

pytestmark = pytest.mark.live
SCREENS = ("live", "review", "classes", "classes/2", "forget", "report", "history", "setup")
MOST_BYTES = 150_000
# axe-core 4.12.1, as the pinned package axe-playwright-python of the extra `dev` brings it.
AXE_SHA256 = "84494fec757e4710dc751c8d7a636e457f4532f08f85c86dc9070133fbff53bc"


def test_the_first_load_is_light_and_asks_nobody_else(
    site: Site, tabs: Watched, browser: Browser
) -> None:
    with browser.new_context(storage_state=site.state) as context:
        tab = context.new_page()
        tabs.watch(tab)
        sizes: dict[str, int] = {}
        tab.on("response", lambda r: sizes.update({r.url: int(r.headers.get("content-length", 0))}))
        tab.goto(site.page.address)
        expect(tab.locator(".answer .big")).not_to_have_text("\N{EN DASH}")
        own = {url: n for url, n in sizes.items() if "/api/" not in url and "/events" not in url}
        assert len(own) > 10
        assert sum(own.values()) < MOST_BYTES
        csp = tab.request.get(site.page.address).headers["content-security-policy"]
        assert "default-src 'none'" in csp
        assert "unsafe" not in csp


def test_the_page_goes_on_when_the_server_is_back(site: Site, tabs: Watched) -> None:
    tabs.allowed.append("ERR_|Failed to load resource")
    tab = tabs.open()
    expect(tab.locator(".answer .big")).not_to_have_text("\N{EN DASH}")
    site.close()
    expect(tab.locator("#banner")).to_contain_text("server is gone")
    site.reopen()
    expect(tab.locator("#banner")).to_be_hidden()
    tab.locator(".answer .big").evaluate("element => { element.textContent = ''; }")
    expect(tab.locator(".answer .big")).not_to_be_empty()
    expect(tab.locator(".stale")).to_be_hidden()


def test_a_first_visit_is_led_in_three_steps(site: Site, tabs: Watched) -> None:
    tab = tabs.open("review")
    tab.route("**/api/v1/classes", lambda route: route.fulfill(json=[]))
    tab.goto(f"{site.page.address}/?#live")
    steps = tab.get_by_role("region", name="First steps")
    expect(steps.get_by_role("listitem")).to_have_count(3)
    expect(steps.locator("[aria-current=step]")).to_contain_text("Choose a camera")
    steps.get_by_role("button", name="This device's").click()
    expect(steps.locator("[aria-current=step]")).to_contain_text("Show one thing")
    steps.get_by_role("button", name="Name it").click()
    expect(tab.get_by_role("dialog", name="New class")).to_be_visible()


def test_keys_are_shown_and_screens_are_reached_by_them(site: Site, tabs: Watched) -> None:
    tab = tabs.open()
    expect(tab.get_by_role("button", name="Hold to teach bolt-m4")).to_be_visible()
    tab.keyboard.press("?")
    keys = tab.get_by_role("dialog", name="Keys")
    expect(keys).to_contain_text("hold to teach bolt-m4")
    tab.keyboard.press("Escape")
    expect(keys).to_have_count(0)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("link", name="Review")).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name="Review")).to_be_visible()


EVERYTHING: dict[str, Any] = {
    "type": "tag",
    "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}


def axe() -> str:
    """The source of axe-core."""
    pytest.importorskip("axe_playwright_python", reason="the package axe-playwright-python")
    source = files("axe_playwright_python").joinpath("axe.min.js").read_bytes()
    assert hashlib.sha256(source).hexdigest() == AXE_SHA256
    return source.decode()


def faults(tab: Tab, rules: dict[str, Any]) -> list[str]:
    """What axe finds that is serious or critical, and where."""
    # The report in its frame lets no script in; a test of its own looks at it.
    options = {"runOnly": rules, "resultTypes": ["violations"], "iframes": False}
    found: dict[str, Any] = tab.evaluate("options => axe.run(document, options)", options)
    return [
        f"{one['id']}: {one['help']} at {node['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("is_phone", [False, True])
def test_axe_finds_no_serious_fault(site: Site, tabs: Watched, is_phone: bool) -> None:
    """All of it on a light desk; on a dark phone what is otherwise there: colours and sizes."""
    rules = EVERYTHING
    if is_phone:
        rules = {"type": "rule", "values": ["color-contrast", "target-size"]}
    site.add_waiting(3)
    tab = tabs.open(is_phone=is_phone, is_dark=is_phone)
    tab.evaluate(axe())
    for screen in SCREENS:
        tab.goto(f"{site.page.address}/#{screen}")
        expect(tab.locator("main")).to_have_class(screen.partition("/")[0])
        tab.wait_for_timeout(500)
        assert faults(tab, rules) == [], screen
        assert tab.evaluate("document.documentElement.scrollWidth") <= (400 if is_phone else 1200)
    tab.goto(f"{site.page.address}/#live")
    tab.get_by_role("button", name=re.compile("New class")).click()
    assert faults(tab, rules) == []


def test_axe_finds_no_serious_fault_in_the_report(site: Site, tabs: Watched) -> None:
    """Alone, as its own page, since the frame lets no script in."""
    tab = tabs.open()
    report = tab.request.get(f"{site.page.address}/api/v1/report.html")
    assert report.ok
    alone = tab.context.new_page()
    alone.set_content(report.text())
    alone.evaluate(axe())
    for scheme in ("light", "dark"):
        alone.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert faults(alone, EVERYTHING) == [], scheme


def test_a_password_opens_the_role_that_it_is_for(
    site: Site, tabs: Watched, browser: Browser
) -> None:
    tabs.allowed.append("401.*/login")
    passwords = {"look": hashed("nur schauen"), "teach": hashed("auch lehren")}
    page = Page(site.stream.serving, Wire("127.0.0.1:0"), passwords)
    page.start()
    try:
        for password, may_teach in (("nur schauen", False), ("auch lehren", True)):
            with browser.new_context() as context:
                tab = context.new_page()
                tab.goto(page.address)
                tab.get_by_label("password").fill("falsch geraten")
                tab.get_by_role("button", name="Sign in").click()
                expect(tab.get_by_role("alert")).to_contain_text("opens nothing")
                tab.get_by_label("password").fill(password)
                tab.keyboard.press("Enter")
                expect(tab.locator(".answer .big")).not_to_have_text("\N{EN DASH}")
                expect(tab.locator(".class").first).to_be_visible(visible=may_teach)
                tab.goto(f"{page.address}/#forget")
                expect(tab.get_by_text("Only the role own may forget")).to_be_visible()
    finally:
        page.close()

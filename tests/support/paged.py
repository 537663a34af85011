"""A page that is served, and a browser that is watched; needs the Debian package chromium."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from patience import PATIENCE_S, until
from playwright.sync_api import Browser, BrowserContext, Locator
from playwright.sync_api import Page as Tab
from served import ToyStream

import build
from edgecl.device import Device
from edgecl.serve.page.server import Page, Wire
from edgecl.store.novel import drop
from edgecl.store.table import Role
from edgecl.unlearning.request import writing

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
PATIENCE_MS = 1000 * PATIENCE_S
DESKTOP = {"width": 1200, "height": 800}
PHONE = {"width": 400, "height": 800}


@dataclass
class Site:
    """A home that is served, and its page."""

    stream: ToyStream
    page: Page
    state: str
    """File with the cookie of one who logged in as owner."""

    @property
    def device(self) -> Device:
        return self.stream.serving.device

    def shows(self, part: str) -> None:
        """Let the camera see a part from now on."""
        self.stream.part = build.PARTS.index(part) or len(build.PARTS)

    def close(self) -> None:
        self.page.close()

    def reopen(self) -> None:
        """Serve it anew, on the same port."""
        self.page = Page(self.stream.serving, Wire(self.page.address.removeprefix("http://")))
        self.page.start()

    def add_waiting(self, n: int, part: str = "gasket") -> list[int]:
        """Put frames into the review queue, from the thread that writes."""

        def add(device: Device) -> list[int]:
            with writing(device.home) as session, session.store.transaction(changes_head=False):
                store = session.store
                guess = next(iter(store.names))
                rng = np.random.default_rng(0)
                # Parts that are nothing alike, each of frames that are.
                centre = np.zeros(store.num_features)
                centre[build.PARTS.index(part) :: len(build.PARTS)] = 1.0
                before = {uid for uid, *_ in waiting(device)}
                for i in range(n):
                    x = (centre + rng.normal(0, 0.01, store.num_features)).astype("float16")
                    jpeg = build.encode(build.part_picture(part, 500 + i, 48))
                    store.add_aside(
                        Role.REVIEW, guess, x, jpeg, source="camera", frame=f"{part} {i}",
                        time=1.0 + i, score=1.0 + i,
                    )  # fmt: skip
            return [uid for uid, *_ in waiting(device) if uid not in before]

        return self.stream.serving.do("add", add).result(90)

    def drop_waiting(self) -> None:
        """Empty the review queue."""

        def work(device: Device) -> None:
            with writing(device.home) as session, session.store.transaction(changes_head=False):
                drop(session.store, [uid for uid, _ in waiting(device)])

        self.stream.serving.do("drop", work).result(90)


def waiting(device: Device) -> list[tuple[int, str]]:
    return [(one.uid, one.frame) for one in device.samples(role=Role.REVIEW)]


@contextmanager
def opened_site(folder: Path) -> Iterator[Site]:
    """Serve `folder/home`."""
    with (folder / "home/edgecl.toml").open("a") as file:
        file.write('\n[[source]]\nname = "camera"\nurl = "camera:0"\n')
    # What waits for review is what a test puts there.
    with ToyStream(Device.open(folder / "home"), finds_unknown=False) as stream:
        page = Page(stream.serving, Wire("127.0.0.1:0"))
        page.start()
        site = Site(stream, page, str(folder / "state.json"))
        yield site
        site.close()


class Watched:
    """Tabs of a browser; what they ask for and complain of is looked at in the end."""

    def __init__(self, browser: Browser, site: Site) -> None:
        self._browser, self._site = browser, site
        self._contexts: list[BrowserContext] = []
        self.urls: list[str] = []
        self.complaints: list[str] = []
        self.allowed = [r"404.*/api/v1/(review|samples)/\d+\.jpg"]
        """Patterns of complaints: of a picture that is gone by now, or brought about on purpose."""

    def open(self, screen: str = "live", *, is_phone: bool = False, is_dark: bool = False) -> Tab:
        """Open a screen as owner, in a browser of its own."""
        context = self._browser.new_context(
            storage_state=self._site.state,
            viewport=PHONE if is_phone else DESKTOP,
            has_touch=is_phone,
            is_mobile=is_phone,
            color_scheme="dark" if is_dark else "light",
        )
        context.set_default_timeout(PATIENCE_MS)
        self._contexts.append(context)
        tab = context.new_page()
        self.watch(tab)
        tab.goto(f"{self._site.page.address}/#{screen}")
        return tab

    def watch(self, tab: Tab) -> None:
        tab.on("request", lambda request: self.urls.append(request.url))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on(
            "console",
            lambda said: (
                self.complaints.append(f"{said.text} {said.location.get('url')}")
                if said.type in ("error", "warning")
                else None
            ),
        )

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        left = [c for c in self.complaints if not any(re.search(a, c) for a in self.allowed)]
        assert not left, left
        own = (self._site.page.address, "blob:", "data:")
        assert not [url for url in self.urls if not url.startswith(own)]


def wait_until(tab: Tab, is_so: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
    """Wait for something outside the page, which goes on meanwhile; returns whether it came."""
    return until(lambda: is_so() or tab.wait_for_timeout(100), seconds)


def settled(tab: Tab, site: Site) -> int:
    """Wait until what was taught is learned; returns how many samples there are."""
    seen: list[int] = []

    def stands_still() -> bool:
        seen.append(len(site.device.samples()))
        return len(seen) > 12 and len(set(seen[-12:])) == 1

    assert wait_until(tab, stands_still)
    return seen[-1]


def slower(tab: Tab, script: str, old: str, new: str) -> None:
    """Give a page a constant that no busy machine is too slow for."""
    text = files("edgecl.serve.page").joinpath("static", script).read_text()
    assert old in text
    body = text.replace(old, new)
    tab.route(
        f"**/static/{script}*",
        lambda route: route.fulfill(body=body, content_type="text/javascript"),
    )


def hold(tab: Tab, button: Locator, ms: int) -> None:
    """Hold a button with the mouse, milliseconds."""
    button.hover()
    tab.mouse.down()
    tab.wait_for_timeout(ms)
    tab.mouse.up()

"""`edgecl serve` as it is started: a page goes on when it is killed and started again."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from paged import hold
from playwright.sync_api import Browser, expect

import build

pytestmark = pytest.mark.live
# One class that nobody named, as long as the test takes.
SOURCE = "synthetic:labels=0,fps=8,size=64,hold=100000"
_PATIENCE_S = 120


@contextmanager
def process(home: Path, port: int, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start `edgecl serve`; yields it, and the address that it prints."""
    command = ["serve", SOURCE, "--home", str(home), "--listen", f"127.0.0.1:{port}"]
    with log.open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-c", build.COMMAND, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        try:
            yield started, address(started, log)
        finally:
            started.kill()
            started.wait()


def address(started: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end and started.poll() is None:
        found = re.search(r"http://\S+token=\S+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.1)
    pytest.fail(log.read_text())


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_page_goes_on_after_kill_and_start(
    web_home: Path, browser: Browser, tmp_path: Path
) -> None:
    home, port = tmp_path / "home", free_port()
    shutil.copytree(web_home, home)
    with browser.new_context() as context:
        tab = context.new_page()
        button = tab.get_by_role("button", name="Hold to teach ding")
        with process(home, port, tmp_path / "1.log") as (started, url):
            tab.goto(url)
            tab.get_by_role("button", name="New class").click()
            tab.get_by_label("Name", exact=True).fill("ding")
            tab.keyboard.press("Enter")
            hold(tab, button, 1500)
            expect(tab.locator(".answer .big")).to_have_text("ding")
            button.hover()
            tab.mouse.down()  # in the midst of a hold
            started.kill()
            started.wait()
            expect(tab.locator("#banner")).to_contain_text("server is gone")
            tab.mouse.up()
        with process(home, port, tmp_path / "2.log"):
            expect(tab.locator("#banner")).to_be_hidden()
            expect(tab.locator(".stale")).to_be_hidden()
            expect(tab.locator(".answer .big")).to_have_text("ding")
            expect(button).to_have_attribute("aria-pressed", "false")

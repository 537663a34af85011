"""`edgecl serve` as a process: it starts, is taught and asked, is killed, and starts again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from patience import until

import build
from edgecl.device import Device

pytest.importorskip("starlette", reason="the extra `web`")
pytest.importorskip("uvicorn", reason="the extra `web`")
pytestmark = pytest.mark.slow


@pytest.fixture
def home(taught_home: Path, tmp_path: Path) -> Path:
    shutil.copytree(taught_home, tmp_path / "home")
    return tmp_path / "home"


class Page:
    """A browser that is logged in, without a screen."""

    def __init__(self, url: str) -> None:
        self.base = url.split("/login")[0]
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self._opener.open(url, timeout=90).read()

    def get(self, path: str) -> Any:
        return json.loads(self._opener.open(self.base + path, timeout=90).read())

    def post(self, path: str, **values: Any) -> Any:
        request = urllib.request.Request(
            self.base + path,
            json.dumps(values).encode(),
            {"Content-Type": "application/json", "Origin": self.base},
        )
        return json.loads(self._opener.open(request, timeout=120).read())


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Page]]:
    """Run `edgecl serve` on a free port."""
    words = [*arguments, "--home", str(home), "--listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", build.COMMAND, "serve", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http\S+token=\S+", line):
                break
        else:
            raise AssertionError(f"no page: {process.wait()}")
        yield process, Page(found[0])
    finally:
        process.kill()
        process.communicate()


def hold(page: Page, label: str, n: int = 2) -> None:
    """Hold a button, as a page does, until so many frames have been seen with it."""

    def has_seen() -> bool:
        page.post("/api/v1/teach", label=label, new=True)
        time.sleep(0.2)
        return counts(page).get(label, 0) >= n

    assert until(has_seen)
    page.post("/api/v1/teach", label=None)


def counts(page: Page) -> dict[str, int]:
    return {known["name"]: known["seen"] for known in page.get("/api/v1/classes")}


CAMERA = "synthetic:labels=0,fps=20,classes=1"


def test_it_is_taught_by_the_page_and_asked_by_the_line(home: Path) -> None:
    with serving(home, CAMERA) as (process, page):
        hold(page, "cup")
        renamed = build.run_edgecl("rename", "cup", "mug", "--home", home, "--json")
        assert build.last_json(renamed)["name"] == "mug"
        assert "mug" in counts(page)
        forgotten = build.run_edgecl("forget", "class", "mug", "--home", home, "--json")
        assert build.last_json(forgotten)["mode"] == "exact_head"
        assert "mug" not in counts(page)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert json.loads(out.splitlines()[-1])["learned"] >= 2
    assert "mug" not in {sample.label for sample in Device.open(home).samples()}


def test_killed_while_a_button_is_held_nothing_is_broken(home: Path) -> None:
    with serving(home, CAMERA) as (process, page):
        page.post("/api/v1/teach", label="cup", new=True)
        time.sleep(1.0)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert build.run_edgecl("verify", "--home", home).returncode == 0
    with serving(home, CAMERA) as (_, page):
        before = counts(page)
        hold(page, "cup", before.get("cup", 0) + 1)


def test_a_page_that_sleeps_while_it_holds_teaches_for_two_seconds_only(home: Path) -> None:
    with serving(home, CAMERA) as (_, page):
        page.post("/api/v1/teach", label="cup", new=True)
        assert until(lambda: counts(page).get("cup"))
        assert until(lambda: page.get("/api/v1/status")["held"] is None)

        def stands_still() -> bool:
            taught = counts(page)["cup"]
            time.sleep(1.5)
            return counts(page)["cup"] == taught

        assert until(stands_still)


def test_a_taken_port_is_one_line_and_leaves_the_home_free(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = build.run_edgecl(
            "serve", CAMERA, "--home", home, "--listen", f"127.0.0.1:{port}", "--json"
        )
    assert build.is_refused(done, 3)
    assert "take another port with --listen" in done.stderr
    assert build.run_edgecl("snapshot", "--home", home).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--listen", "0.0.0.0:0"], 2, "can be reached from elsewhere"),
        (["--listen", "nonsense"], 2, "is no address"),
        (["--set-password", "nobody"], 2, "role 'nobody' is unknown"),
        (["camera:0", "camera:0"], 2, "named twice"),
        (["nowhere"], 2, "is no camera, stream or topic"),
        (["--tls-cert", "cert.pem"], 2, "belong together"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    arguments: list[str], status: int, says: str, home: Path
) -> None:
    done = build.run_edgecl("serve", *arguments, "--home", home, "--json", stdin="")
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_role_that_is_none_makes_no_home(tmp_path: Path) -> None:
    home = tmp_path / "new"
    done = build.run_edgecl("serve", "--set-password", "nobody", "--home", home, stdin="")
    assert done.returncode == 2
    assert not home.exists()


def test_a_second_process_is_refused(home: Path) -> None:
    with serving(home, CAMERA):
        done = build.run_edgecl("serve", CAMERA, "--home", home, "--no-page", "--json")
        assert build.is_refused(done, 3)
        assert "writes to" in done.stderr


def test_passwords_are_kept_as_hashes(home: Path) -> None:
    done = build.run_edgecl(
        "serve", "--set-password", "own", "--home", home, stdin="correct horse\n"
    )
    assert done.returncode == 0, done.stderr
    kept = (home / "page.passwords").read_text()
    assert kept.startswith("own scrypt$")
    assert "horse" not in kept
    assert os.stat(home / "page.passwords").st_mode & 0o777 == 0o600

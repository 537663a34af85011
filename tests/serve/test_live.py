"""What a page and a stream say to each other in memory: labels that are held, news, pictures."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from edgecl.runtime.sources.messages import LabelWindow
from edgecl.serve.browser import BrowserSource
from edgecl.serve.live import Live
from edgecl.serve.teacher import HOLD_S, Teacher
from edgecl.stream.view import Sight
from edgecl.types import Frame


def test_a_hold_that_nobody_renews_ends_when_it_was_over(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, begin, wall = Teacher(), time.monotonic(), time.time()
    monkeypatch.setattr(time, "monotonic", lambda: begin)
    monkeypatch.setattr(time, "time", lambda: wall)
    teacher.hold("cup", source="gate")
    monkeypatch.setattr(time, "monotonic", lambda: begin + 60)
    monkeypatch.setattr(time, "time", lambda: wall + 60)
    assert teacher.label is None
    start, end = teacher.poll()  # the stream was busy for a minute
    assert isinstance(start, LabelWindow)
    assert isinstance(end, LabelWindow)
    assert (start.label, start.source, end.label, end.source) == ("cup", "gate", None, "gate")
    assert start.begin == wall
    assert end.begin - wall == pytest.approx(HOLD_S, abs=0.01)
    assert start.end == end.begin
    teacher.hold("cup", source="gate")  # a new one, not the old one renewed
    assert [m.label for m in teacher.poll() if isinstance(m, LabelWindow)] == ["cup"]


def test_a_source_of_the_page_that_is_closed_before_its_first_picture_ends() -> None:
    source = BrowserSource()
    for _ in range(2):  # it can be opened again
        frames = source.frames()
        source.close()
        reader = threading.Thread(target=list, args=(frames,), daemon=True)
        reader.start()
        reader.join(90)
        assert not reader.is_alive()


def test_what_was_forgotten_is_told_though_the_page_hung() -> None:
    pytest.importorskip("starlette", reason="the extra web is not installed: starlette")
    from edgecl.serve.page.news import News

    live = Live()

    async def hang() -> int:
        news = News(live)
        news.begin()
        live.tell("forgotten", {})
        for i in range(1000):
            live.tell("seen", {"label": str(i)})
        await asyncio.sleep(0.1)
        news.end()
        return news.n_forgotten

    assert asyncio.run(hang()) == 1


def test_news_told_before_a_forgetting_is_kept_for_nobody() -> None:
    live = Live()
    live.look()
    live.tell("event", {"text": "cup is new"})
    live.show(Sight(Frame(id="1", pixels=np.zeros((8, 8, 3), np.uint8), source="gate")))
    assert live.newest("gate") is not None
    live.drop()
    assert (live.state, live.newest()) == ({}, None)

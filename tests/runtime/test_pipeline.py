"""Reading, decoding and the engine run in parallel without changing order or result."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from patience import no_thread_is_left

import build
from edgecl.runtime.pipeline import N_AHEAD, Embedded, embed, most_ahead
from edgecl.runtime.preprocess import Preprocessing
from edgecl.types import Float32, Frame, Skipped

HALF = (0.5, 0.5, 0.5)
PREPROCESSING = Preprocessing(8, 1.0, "bicubic", HALF, HALF)


class FakeEngine:
    """Features are means of the picture's quarters; the batch sizes are written down."""

    provider = "cpu"
    num_features = 12

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.batches: list[int] = []
        self.fails_at = fails_at

    def run(self, pixels: Float32) -> Float32:
        self.batches.append(len(pixels))
        if self.fails_at is not None and sum(self.batches) >= self.fails_at:
            raise ZeroDivisionError("the engine broke")
        quarters = pixels.reshape(len(pixels), 3, 2, 4, 2, 4).mean(axis=(3, 5), dtype=np.float32)
        features: Float32 = quarters.reshape(len(pixels), 12)
        return features


def frames(n: int) -> list[Frame | Skipped]:
    """Every fifth was skipped by its source, every seventh cannot be decoded."""
    items: list[Frame | Skipped] = []
    for i in range(n):
        if i % 5 == 4:
            items.append(Skipped(str(i), "gone"))
        elif i % 7 == 6:
            items.append(Frame(id=str(i), encoded=b"no picture"))
        else:
            picture = build.encode(build.part_picture("bolt-m4", i, 16), "PNG")
            items.append(Frame(id=str(i), encoded=picture, label="a"))
    return items


def all_of(items: list[Frame | Skipped], **options: int) -> list[Embedded | Skipped]:
    groups = embed(iter(items), PREPROCESSING, FakeEngine(), **options)
    return list(itertools.chain.from_iterable(groups))


def id_of(item: Embedded | Skipped) -> str:
    return item.id if isinstance(item, Skipped) else item.frame.id


def own_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name in ("decode", "engine")]


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("n", [0, 1, 7, 40])
def test_order_is_kept_and_what_is_skipped_stays_in_its_place(n: int, batch_size: int) -> None:
    out = all_of(frames(n), batch_size=batch_size)
    assert [id_of(item) for item in out] == [str(i) for i in range(n)]
    expected = [i % 5 == 4 or i % 7 == 6 for i in range(n)]
    assert [isinstance(item, Skipped) for item in out] == expected
    for item in out:
        if isinstance(item, Embedded):
            assert item.feature.shape == (12,)
            assert item.frame.label == "a"
    assert no_thread_is_left("decode", "engine")


def test_features_do_not_depend_on_the_batch_size() -> None:
    one, eight = (all_of(frames(30), batch_size=size) for size in (1, 8))
    for a, b in zip(one, eight, strict=True):
        if isinstance(a, Embedded):
            assert isinstance(b, Embedded)
            assert np.array_equal(a.feature, b.feature)
        else:
            assert a == b


def test_a_group_is_never_larger_than_the_batch_size() -> None:
    engine = FakeEngine()
    for group in embed(iter(frames(40)), PREPROCESSING, engine, batch_size=3):
        assert len(group) <= 3
    assert max(engine.batches) <= 3
    assert sum(engine.batches) == sum(not (i % 5 == 4 or i % 7 == 6) for i in range(40))


def test_a_picture_above_the_pixel_limit_is_skipped_with_the_reason() -> None:
    out = all_of(frames(1), max_pixels=255)
    assert isinstance(out[0], Skipped)
    assert "16 x 16 pixels" in out[0].reason


def test_an_engine_error_reaches_the_caller_after_what_went_well() -> None:
    seen = []
    with pytest.raises(ZeroDivisionError, match="the engine broke"):  # noqa: PT012
        for group in embed(iter(frames(40)), PREPROCESSING, FakeEngine(fails_at=10), batch_size=2):
            seen += [id_of(item) for item in group]
    assert seen == [str(i) for i in range(len(seen))]
    assert 0 < len(seen) < 40
    assert no_thread_is_left("decode", "engine")


class UnevenEngine(FakeEngine):
    """Takes longer for every other group; breaks at a picture whose corner says so."""

    def __init__(self, *, breaks_at: int | None = None) -> None:
        super().__init__()
        self.breaks_at = breaks_at

    def run(self, pixels: Float32) -> Float32:
        number = round(float(pixels[0, 0, 0, 0] + 1) * 127.5)
        time.sleep(0.03 * (number % 2 == 0))
        if number == self.breaks_at:
            raise ZeroDivisionError("the engine broke")
        return super().run(pixels)


def numbered(n: int) -> list[Frame | Skipped]:
    """Pictures of one colour, which says their place."""
    return [Frame(id=str(i), pixels=np.full((8, 8, 3), i, np.uint8), label="a") for i in range(n)]


@pytest.fixture
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})


@pytest.mark.usefixtures("_two_cores")
def test_two_threads_of_an_engine_keep_the_order_and_what_they_give() -> None:
    groups = embed(iter(numbered(40)), PREPROCESSING, UnevenEngine(), batch_size=1)
    out = list(itertools.chain.from_iterable(groups))
    assert [id_of(item) for item in out] == [str(i) for i in range(40)]
    for got, wanted in zip(out, all_of(numbered(40)), strict=True):
        assert isinstance(got, Embedded)
        assert isinstance(wanted, Embedded)
        assert np.array_equal(got.feature, wanted.feature)


@pytest.mark.usefixtures("_two_cores")
@pytest.mark.parametrize("breaks_at", [0, 1, 4, 5])
def test_what_two_threads_were_given_before_an_error_comes_first(breaks_at: int) -> None:
    seen = []
    engine = UnevenEngine(breaks_at=breaks_at)
    with pytest.raises(ZeroDivisionError, match="the engine broke"):  # noqa: PT012
        for group in embed(iter(numbered(20)), PREPROCESSING, engine, batch_size=1):
            seen += [id_of(item) for item in group]
    assert seen == [str(i) for i in range(breaks_at)]
    assert no_thread_is_left("decode", "engine")


def test_no_more_frames_are_on_their_way_than_is_said() -> None:
    for size, is_live in ((1, True), (1, False), (8, False), (60, False), (300, False)):
        held = max(1, (1 if is_live else N_AHEAD) // size) * size  # by the queue
        assert most_ahead(size, is_live=is_live) >= held + 3 * size


def test_a_source_error_reaches_the_caller_after_all_frames_before_it() -> None:
    def breaks() -> Iterator[Frame | Skipped]:
        yield from frames(5)
        raise RuntimeError("the cable was pulled")

    seen = []
    with pytest.raises(RuntimeError, match="the cable was pulled"):  # noqa: PT012
        for group in embed(breaks(), PREPROCESSING, FakeEngine(), batch_size=8):
            seen += [id_of(item) for item in group]
    assert seen == ["0", "1", "2", "3", "4"]
    assert no_thread_is_left("decode", "engine")


@pytest.mark.parametrize(
    ("n_cores", "provider", "is_live", "n_threads"),
    [(2, "cpu", False, 3), (1, "cpu", False, 2), (2, "cuda", False, 2), (2, "cpu", True, 2)],
)
def test_closing_early_ends_the_threads_and_restores_the_interpreter(
    n_cores: int,
    provider: str,
    is_live: bool,
    n_threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(n_cores)))
    interval = sys.getswitchinterval()
    endless, engine = itertools.cycle(frames(5)), FakeEngine()
    engine.provider = provider
    groups = embed(endless, PREPROCESSING, engine, batch_size=2, n_ahead=4, is_live=is_live)
    assert next(g for g in groups if g)
    assert len(own_threads()) == n_threads
    groups.close()  # type: ignore[attr-defined]
    assert no_thread_is_left("decode", "engine")
    assert sys.getswitchinterval() == interval


def test_the_source_is_read_only_a_bounded_way_ahead() -> None:
    n_read = 0

    def counted() -> Iterator[Frame | Skipped]:
        nonlocal n_read
        for item in itertools.cycle(frames(4)):
            n_read += 1
            yield item

    groups = embed(counted(), PREPROCESSING, FakeEngine(), batch_size=2, n_ahead=4)
    next(groups)
    threading.Event().wait(0.5)
    groups.close()  # type: ignore[attr-defined]
    # Two lists of two wait for the caller, four pictures for the engine; each thread holds some.
    assert 0 < n_read <= 20


def test_a_waiting_source_yields_empty_lists_and_loses_nothing() -> None:
    go = threading.Event()

    def slow() -> Iterator[Frame | Skipped]:
        yield from frames(2)
        assert go.wait(90)
        yield from frames(4)[2:]

    seen, n_empty = [], 0
    for group in embed(slow(), PREPROCESSING, FakeEngine()):
        seen += [id_of(item) for item in group]
        if not group and len(seen) == 2:
            n_empty += 1
            if n_empty == 2:
                go.set()
    assert n_empty >= 2
    assert seen == ["0", "1", "2", "3"]


# Live


class SlowEngine(FakeEngine):
    """Takes 20 ms a picture, or as much more as the machine lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.took: list[float] = []

    def run(self, pixels: Float32) -> Float32:
        begin = time.monotonic()
        time.sleep(0.02 * len(pixels))
        self.took.append(time.monotonic() - begin)
        return super().run(pixels)


def newest(stop: threading.Event) -> Iterator[Frame | Skipped]:
    """Like a live source with more frames than anybody takes."""
    i = 0
    while not stop.is_set():
        picture = build.part_picture("bolt-m4", 0, 16)
        yield Frame(id=str(i), pixels=np.asarray(picture), monotonic=time.monotonic())
        i += 1


@pytest.mark.parametrize("caller_s", [0.0, 0.04])
def test_live_frames_are_taken_just_in_time_and_keep_the_slowest_part_busy(
    caller_s: float,
) -> None:
    # A busy machine stands still now and then; what is not paced is in time in none of them.
    assert any(is_in_time_and_busy(caller_s) for _ in range(8))


def is_in_time_and_busy(caller_s: float) -> bool:
    stop, engine, ages, calls = threading.Event(), SlowEngine(), [], []
    groups = embed(newest(stop), PREPROCESSING, engine, is_live=True, wake=stop.set)
    begin = time.monotonic()
    with closing(groups):
        for item in itertools.chain.from_iterable(groups):
            assert isinstance(item, Embedded)
            now = time.monotonic()
            ages.append(now - item.frame.monotonic)
            time.sleep(caller_s)
            calls.append(time.monotonic() - now)
            if len(ages) == 40:
                break
    slowest = calls if caller_s > 0.02 else engine.took
    is_busy = sum(slowest) > 0.3 * (time.monotonic() - begin)
    assert set(engine.batches) == {1}
    assert stop.is_set()
    assert no_thread_is_left("decode", "engine")
    return is_busy and float(np.median(ages[8:])) < 2 * float(np.median(slowest))


def test_large_pictures_come_out_decoded_if_asked_for_and_features_stay() -> None:
    """The caller scales them down; small ones it keeps as they came."""
    items: list[Frame | Skipped] = [
        Frame(id=str(size), encoded=build.encode(build.part_picture("washer", 0, size)), label="a")
        for size in (16, 40)
    ]
    small, large = all_of(items, pixels_above=20)
    assert isinstance(small, Embedded)
    assert isinstance(large, Embedded)
    assert small.frame == items[0]
    assert (small.frame.side, large.frame.side) == (16, 40)  # nobody need decode them for that
    assert large.frame.encoded is None
    assert large.frame.pixels is not None
    assert large.frame.pixels.shape == (40, 40, 3)
    assert (large.frame.id, large.frame.label) == ("40", "a")
    plain = all_of(items)[1]
    assert isinstance(plain, Embedded)
    np.testing.assert_array_equal(large.feature, plain.feature)

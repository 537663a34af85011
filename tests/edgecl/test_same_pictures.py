"""The same picture under two names is told; films are filtered like cameras."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl import Device
from edgecl.cli.times import moment, seconds_of
from edgecl.errors import UsageError
from edgecl.runtime.sources import open_source
from edgecl.session import open_store
from edgecl.stream.same import SamePictures

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts for 20 frames each at 10 a second, held nearly still."""
    path = tmp_path_factory.mktemp("film") / "parts.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    rng = np.random.default_rng(0)
    for part in build.PARTS[:3]:
        still = np.asarray(build.part_picture(part, 0, 64)).astype(int)
        for _ in range(20):
            noisy = np.clip(still + rng.integers(-2, 3, still.shape), 0, 255)
            writer.write(noisy.astype(np.uint8)[:, :, ::-1])
    writer.release()
    return path


@pytest.fixture
def device(made_home: Path, copy_of: Callable[[Path], Path]) -> Device:
    """A home that learned nothing."""
    return Device.open(copy_of(made_home))


def test_a_film_is_learned_once_a_view_and_goes_on_where_it_stopped(
    device: Device, film: Path
) -> None:
    first = device.learn(str(film), label="part", limit=30)
    rest = device.learn(str(film), label="part", resume=True)
    assert (first.seen, rest.seen, rest.start) == (30, 30, 30)
    for run in (first, rest):
        assert run.seen == run.learned + run.held_out + run.duplicates
    assert 3 <= first.learned + first.held_out + rest.learned + rest.held_out <= 12


def test_a_frame_is_taken_every_so_often(device: Device, film: Path) -> None:
    source = open_source(str(film), label="part")
    source.take_every(0.5)
    assert len(source) == 12
    ids = [frame.id for frame in source.frames()]
    assert ids == list(source.ids(12)) == [f"{5 * i:06}" for i in range(12)]
    assert [frame.id for frame in source.frames(7)] == ids[7:]
    done = device.learn(str(film), label="part", every_s=1.0)
    assert done.seen == 6
    live = open_source("synthetic:", label="part")
    live.take_every(0.2)
    begin, frames = time.monotonic(), live.frames()
    for _ in range(3):
        next(frames)
    assert time.monotonic() - begin > 0.39
    live.close()


def test_what_has_no_times_takes_no_every(tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "parts", 1)
    for source in (folder, folder / build.PARTS[0] / "000.jpg", f"watch:{folder}"):
        with pytest.raises(UsageError, match=r"--every 2s is for films and cameras"):
            open_source(str(source), label="part").take_every(2)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0.5s", 0.5), ("500ms", 0.5), ("2m", 120), ("2", 2), (" .5 s", 0.5)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["0", "0s", "-1s", "soon", "", "1x", "nan", "inf", "2d", "1e3s"])
def test_what_is_no_time_between_frames_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no time between frames"):
        seconds_of(text)


def test_moments_are_read() -> None:
    assert moment("90m", 10_000) == 10_000 - 5400
    assert moment("2001-09-09T01:46:40Z", 0) == 1e9
    for bad in ("soon", "90", "2001-99-09", "0000-01-01", ""):
        with pytest.raises(UsageError, match="no time"):
            moment(bad, 0)


def test_pictures_under_another_name_are_counted_by_class(device: Device, tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "parts", 6)
    done = device.learn(str(folder))
    assert done.same_as == ()
    told: list[str] = []
    again = device.learn(
        str(folder / build.PARTS[0]),
        label="mam",
        tell=lambda progress: told.extend(event.text() for event in progress.events),
    )
    assert again.same_as == (("mam", build.PARTS[0], 6),)
    assert len([line for line in told if "looks exactly like" in line]) == 1
    before = device.samples(label=build.PARTS[0])
    assert device.undo().gone == ("mam",)
    assert device.samples(label=build.PARTS[0]) == before
    # The folder can be learned again, under the right name.
    assert device.learn(str(folder / build.PARTS[0]), label=build.PARTS[0]).same_as == ()


def test_a_device_mends_in_python(device: Device, tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "parts", 3)
    device.learn(str(folder))
    uids = [sample.uid for sample in device.samples(label=build.PARTS[1])]
    done = device.relabel(uids[:1], build.PARTS[2])
    assert done.samples == {build.PARTS[1]: 1}
    assert len(device.samples(label=build.PARTS[2])) == 4
    device.undo()
    assert device.merge_classes(build.PARTS[1], build.PARTS[2]).gone == (build.PARTS[1],)
    # Its name is another one of the other class now.
    assert len(device.samples(label=build.PARTS[1])) == 6


def test_many_rows_and_what_goes_are_kept_up_with(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    with build.store(tmp_path / "s.db") as store:
        same = SamePictures(store)
        assert same.note(["a"] * 300, x) == [None] * 300
        assert same.note(["b"] * 300, x * 1.0001) == ["a"] * 300
        assert same.found == {("b", "a"): 300}
        same.forget()
        assert same.note(["b"], x[:1]) == [None]  # nothing was committed


def test_a_taken_back_run_leaves_the_store_as_before(device: Device, tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "parts", 4)
    device.learn(str(folder))
    with open_store(device.home, read_only=True) as store:
        seen, step = store.n_seen(), store.step
    more = build.part_folder(tmp_path / "more", 4, start=4)
    device.learn(str(more))
    device.undo()
    with open_store(device.home, read_only=True) as store:
        assert (store.n_seen(), store.step) == (seen, step)
    assert device.learn(str(more), resume=True).start == 0

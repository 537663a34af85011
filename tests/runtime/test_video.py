"""A video file is read as files are: every frame once, in order, from any position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from needs import require_opencv

from edgecl.errors import SourceError, UsageError
from edgecl.runtime.sources import open_source
from edgecl.types import Frame, Pixels

N = 12


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of one colour each, which change from red to green; blue is 40."""
    cv2 = require_opencv()

    path = tmp_path_factory.mktemp("video") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (96, 64))
    for i in range(N):
        writer.write(np.full((64, 96, 3), (40, 20 * i, 240 - 20 * i), np.uint8))
    writer.release()
    return path


def pixels(source_path: Path, start: int = 0) -> list[Pixels]:
    out = []
    for frame in open_source(str(source_path)).frames(start):
        assert isinstance(frame, Frame)
        assert frame.pixels is not None
        out.append(frame.pixels)
    return out


def test_every_frame_comes_once_in_order_and_in_its_colours(video: Path) -> None:
    source = open_source(str(video), label=" film ")
    assert (source.is_live, len(source), source.name) == (False, N, str(video))
    frames = [f for f in source.frames() if isinstance(f, Frame)]
    assert [f.id for f in frames] == list(source.ids(N)) == [f"{i:06}" for i in range(N)]
    assert {f.label for f in frames} == {"film"}
    for i, picture in enumerate(pixels(video)):
        assert picture.shape == (64, 96, 3)
        assert np.abs(picture.astype(int) - (240 - 20 * i, 20 * i, 40)).max() <= 8


@pytest.mark.parametrize("start", [0, 1, 7, N - 1, N, N + 5])
def test_frames_from_a_position_continue_exactly(video: Path, start: int) -> None:
    whole, rest = pixels(video), pixels(video, start)
    assert len(rest) == max(0, N - start)
    for a, b in zip(whole[start:], rest, strict=True):
        assert (a == b).all()


def test_a_film_that_was_cut_ends_where_it_was_cut(video: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    seventh = data.index(b"movi")
    for _ in range(7):
        seventh = data.index(b"00dc", seventh + 4)
    (tmp_path / "cut.avi").write_bytes(data[: seventh + 100])
    cut = pixels(tmp_path / "cut.avi")
    assert len(cut) in (6, 7)  # FFmpeg shows what it has of the last one
    assert all((a == b).all() for a, b in zip(cut[:6], pixels(video), strict=False))


@pytest.mark.parametrize(
    "suffix", [".ts", ".MTS", ".m2ts", ".3gp", ".flv", ".wmv", ".mpg", ".mpeg", ".vob", ".ogv"]
)
def test_a_film_of_any_usual_suffix_is_read(video: Path, tmp_path: Path, suffix: str) -> None:
    film = tmp_path / f"film{suffix}"
    film.write_bytes(video.read_bytes())  # FFmpeg looks at the content, too
    assert len(pixels(film)) == N


@pytest.mark.parametrize("content", [b"", b"no film at all" * 100])
@pytest.mark.parametrize("suffix", [".mp4", ".MKV", ".mjpeg"])
def test_a_file_that_is_no_film_is_an_error_of_one_line(
    tmp_path: Path, content: bytes, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    require_opencv()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"cannot be opened; it is damaged, or of a kind"):
        open_source(str(path))
    assert capfd.readouterr() == ("", "")


def test_a_film_cannot_be_shuffled(video: Path) -> None:
    with pytest.raises(UsageError, match="cannot be shuffled"):
        open_source(str(video), shuffle_seed=1)

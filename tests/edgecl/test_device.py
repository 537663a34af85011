"""A device in Python does what the commands do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import build
import edgecl
from edgecl import Device
from edgecl.errors import HomeLockedError, NothingLearnedError, RequestError
from edgecl.runtime import Predictor
from edgecl.runtime.preprocess import decode
from edgecl.types import Pixels


@pytest.fixture
def device(adapted_home: Path, copy_of: Callable[[Path], Path]) -> Device:
    """A home that learned nothing."""
    return Device.open(copy_of(adapted_home))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of all parts, a folder a class."""
    for part in build.PARTS:
        for i in range(12):
            path = tmp_path / "photos" / part / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(build.part_frame(part, i).encoded or b"")
    return tmp_path / "photos"


def test_what_is_learned_is_predicted_measured_kept_and_forgotten(
    device: Device, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(NothingLearnedError):
        device.predict(photos / build.PARTS[0] / "0.png")
    steps: list[int] = []
    done = device.learn(str(photos), tell=lambda progress: steps.append(progress.seen))
    assert (done.seen, done.n_classes) == (48, 4)
    assert steps == sorted(steps)
    assert steps[-1] == 48
    assert device.evaluate(str(photos)).accuracy > 0.9
    assert device.predict(photos / build.PARTS[1] / "3.png").label == build.PARTS[1]

    kept = device.snapshot()
    gone = device.forget(build.PARTS[1], reason="test", verify=True)
    assert gone.verified, gone.faults
    # What was loaded before is not served any more, and no snapshot brings it back.
    left = device.predict(photos / build.PARTS[1] / "3.png", top=9)
    assert build.PARTS[1] not in {label for label, _ in left.top}
    with pytest.raises(RequestError):
        device.rollback(kept.uid)
    kept = device.snapshot()
    device.learn(str(photos / build.PARTS[1]), label="new")
    assert device.rollback(kept.uid).classes == kept.classes
    assert "new" not in {label for label, _ in device.predict(_pixels(), top=9).top}

    bundle = device.export(tmp_path / "bundle")
    assert Predictor(bundle.export.path).predict(_pixels()).label == device.predict(_pixels()).label
    assert device.report(tmp_path / "report.html").path.exists()


def test_a_run_goes_on_where_the_last_one_stopped(device: Device, photos: Path) -> None:
    assert device.learn(str(photos), limit=20).seen == 20
    rest = device.learn(str(photos), resume=True)
    assert (rest.start, rest.seen) == (20, 28)


def test_settings_of_one_consolidation_are_not_those_of_the_next(
    device: Device, photos: Path
) -> None:
    device.learn(str(photos))
    with device.home.lock(), pytest.raises(HomeLockedError):
        device.consolidate(recipe="isolated", epochs=1)
    assert device.home.config.consolidation.recipe == "plain"


def test_the_front_door_names_it() -> None:
    assert edgecl.Device is Device
    assert "Device" in edgecl.__all__


def _pixels() -> Pixels:
    return np.asarray(decode(build.part_frame(build.PARTS[0], 30).encoded or b""))

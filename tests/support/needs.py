"""What tests need and a machine may lack: without it they are skipped, in CI they fail."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any

import pytest

from edgecl.runtime.sources.opencv import import_cv2

# Not `CI`, which a machine may set for all that it runs, the tests of a poor device too.
NOTHING_MISSING = "EDGECL_TESTS_NOTHING_MISSING"


def require(is_there: object, command: str) -> None:
    """Skip a test that something is missing for; where nothing may be missing (`.ci/run`), fail it.

    Args:
        is_there: Whether it is there, for example what `shutil.which` found.
        command: What installs it, for example `apt install mosquitto`.
    """
    if not is_there:
        text = f"needs what `{command}` installs"
        (pytest.fail if os.environ.get(NOTHING_MISSING) else pytest.skip)(text)


def require_opencv() -> Any:
    """Return OpenCV as the sources load it, or skip (fail) a test that needs it."""
    require(importlib.util.find_spec("cv2"), "pip install opencv-python-headless")
    cv2 = import_cv2()
    # Silent in a process of its own; here another test may have loaded it with its usual level.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def chromium() -> str:
    """Return the path of Debian's browser, or skip (fail) a test that needs it."""
    found = shutil.which("chromium")
    require(found, "apt install chromium")
    return str(found)

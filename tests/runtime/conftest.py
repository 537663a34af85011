"""What tests of the engines share."""

from __future__ import annotations

import pytest
from fake_gpu import FakeCuda


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Let `cuda-python` and the GPU be stand-ins."""
    return FakeCuda().install(monkeypatch)

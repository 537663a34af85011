"""Fleets whose members ask, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fleets import World, teach


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Return fleets of three devices that know a teacup, by whether members may order."""
    found: dict[bool, Path] = {}

    def made(may_order: bool) -> Path:
        if may_order not in found:
            options = ("--members-may-order",) if may_order else ()
            world = World(tmp_path_factory.mktemp("fleet"), 3, *options)
            for i, home in enumerate(world.homes):
                teach(home, {"teacup": 4, f"part-{i}": 3}, seed=i)
                world.sync(i)
            world.serve()
            for i in range(3):
                world.sync(i)
            found[may_order] = world.path
        return found[may_order]

    return made


@pytest.fixture
def world(made: Callable[[bool], Path], tmp_path: Path) -> World:
    """A fleet whose members may only ask."""
    return World.copied(made(False), tmp_path / "world")


@pytest.fixture
def free(made: Callable[[bool], Path], tmp_path: Path) -> World:
    """A fleet whose members' requests are orders."""
    return World.copied(made(True), tmp_path / "free")

"""Texts beside a class that is erased, which say its name in some form, are emptied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.store.erasure import erase
from edgecl.store.table import Role
from edgecl.types import Kind

D = 6


@pytest.mark.parametrize(
    ("name", "frame", "is_said"),
    [
        ("mug", "cup/1.jpg", False),
        ("mug", "a mug/1.jpg", True),
        ("mug", "MUGS.csv:7", True),
        ("Mug", "smuggled", True),
        ("mug", "m%75g/1.jpg", True),
        ("mug", "100%/1.jpg", False),
        ("mug", "tasse à %6d%75%67", True),
        ("mug", "tasse à la main", False),
        ("Caf\u00e9", "cafe\u0301/1.jpg", True),
        ("CAFE\u0301", "caf%C3%A9", True),
        ("Stra\u00dfe", "STRASSE/1", True),
        ("\u212aelvin", "kelvin.jpg", True),  # the sign of the unit folds to a plain k
        ("kelvin", "\u212aELVIN.jpg", True),
        ("mug", "line\nmug", True),
        ("it's", "IT'S/1", True),
        ("a_%", "abc", False),
        ("mu", "mu/1.jpg", False),  # two letters stand in every path
        ("mug", "", False),
    ],
)
def test_a_text_that_says_the_class_is_emptied(
    tmp_path: Path, name: str, frame: str, is_said: bool
) -> None:
    with build.store(tmp_path / "s.db", D) as store:
        with store.transaction():
            gone, stays = store.add_class(name), store.add_class("other")
            for uid in (gone, stays):
                store.add_aside(
                    Role.HELD_OUT, uid, np.ones(D, np.float16), b"picture", source="s",
                    frame=frame, time=0.0, score=1.0,
                )  # fmt: skip
        with store.transaction():
            erase(store, Kind.CLASS, gone)
        rows = store.connection.execute("SELECT class_uid, frame FROM samples").fetchall()
        assert rows == [(stays, None if is_said else frame)]

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import build
from edgecl.home import Home
from edgecl.runtime.pretrained import PRETRAINED_NAME

KEYS = {
    "receipt_id", "mode", "class_uid", "rows_erased", "adapters", "exports_stale", "verified",
    "seconds",
}  # fmt: skip
GONE = "washer"


def forget(home: Path, name: str, *options: object) -> dict[str, Any]:
    done = build.run_edgecl("forget", "class", name, "--home", home, "--json", *options)
    return build.last_json(done)


def status(home: Path) -> dict[str, Any]:
    return build.last_json(build.run_edgecl("status", "--home", home, "--json"))


def dump(home: Path) -> list[str]:
    """Everything in the store but the audit."""
    with closing(sqlite3.connect(f"file:{home}/device.db?mode=ro", uri=True)) as connection:
        audit = ('INSERT INTO "receipts"', 'INSERT INTO "sqlite_sequence"')
        return [line for line in connection.iterdump() if not line.startswith(audit)]


def uid_of(home: Path, name: str) -> int:
    with closing(sqlite3.connect(f"file:{home}/device.db?mode=ro", uri=True)) as connection:
        (uid,) = connection.execute("SELECT uid FROM classes WHERE name = ?", (name,)).fetchone()
    return int(uid)


def holders(home: Path, needle: bytes) -> list[str]:
    files = [path for path in sorted(home.rglob("*")) if path.is_file()]
    assert files
    # The names that the weights came with were never taught, and "washer" is one of them.
    files = [path for path in files if path.name != PRETRAINED_NAME]
    return [path.name for path in files if needle in path.read_bytes()]


def piece(data: bytes) -> bytes:
    # The middle of a small JPEG still lies in the tables that all JPEGs share.
    return data[len(data) * 3 // 4 :][:24]


@pytest.fixture
def taught(taught_home: Path, copy_of: Callable[[Path], Path]) -> Path:
    """A home of its own that learned four parts."""
    return copy_of(taught_home)


@pytest.fixture(scope="session")
def parts(taught_home: Path) -> Path:
    """The pictures that the taught home learned."""
    return taught_home.parent / "parts"


def test_a_forgotten_class_is_in_no_file_and_the_others_stay(taught: Path, parts: Path) -> None:
    slices = [piece(path.read_bytes()) for path in sorted((parts / GONE).iterdir())]
    kept = [piece(path.read_bytes()) for path in sorted((parts / "bracket").iterdir())]
    assert len(set(slices)) == 8
    assert holders(taught, GONE.encode()) == ["device.db"]
    assert all(holders(taught, part) == ["device.db"] for part in slices)

    result = forget(taught, GONE, "--reason", "asked by letter 17")

    assert set(result) >= KEYS
    assert result["receipt_id"] == "r1"
    assert result["mode"] == "exact_head"
    assert (result["adapters"], result["exports_stale"], result["verified"]) == ([], [], None)
    assert result["rows_erased"] > 3 * 8  # samples, features, pictures
    assert not any(holders(taught, part) for part in (GONE.encode(), *slices))
    assert all(holders(taught, part) == ["device.db"] for part in kept)
    rest = [part for part in build.PARTS if part != GONE]
    assert list(status(taught)["classes"]) == rest
    scores = build.last_json(build.run_edgecl("evaluate", parts, "--home", taught, "--json"))
    assert {part: scores["per_class"][part] for part in rest} == dict.fromkeys(rest, 1.0)
    assert scores["per_class"][GONE] == 0
    assert GONE not in {label for row in scores["confusion"].values() for label in row}


def test_forgetting_can_be_verified(taught: Path) -> None:
    assert forget(taught, GONE, "--verify")["verified"] is True


def test_an_unknown_class_is_status_3_and_nothing_is_changed(taught: Path) -> None:
    before = dump(taught)
    done = build.run_edgecl("forget", "class", "Washer", "--home", taught, "--json")
    assert build.is_refused(done, 3)
    assert "'Washer' is unknown; did you mean 'washer'? known: bolt-m4" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert dump(taught) == before


@pytest.mark.parametrize("arguments", [(), ("class",), ("class", "washer", "--now"), ("sample",)])
def test_a_wrong_call_is_status_2(taught: Path, arguments: tuple[str, ...]) -> None:
    before = dump(taught)
    done = build.run_edgecl("forget", *arguments, "--home", taught)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert dump(taught) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("washer", "the washer was recalled"),
        ("caf\u00e9", "the cafe\u0301 closed"),
        ("cafe\u0301", "the caf\u00e9 closed"),
    ],
)
def test_a_reason_that_holds_the_class_name_is_refused(
    taught: Path, name: str, reason: str
) -> None:
    before = dump(taught)
    done = build.run_edgecl("forget", "class", name, "--reason", reason, "--home", taught)
    assert done.returncode == 2
    assert "reason" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert dump(taught) == before


@pytest.mark.slow
def test_forgetting_the_last_class_leaves_what_init_made(
    taught: Path, made_home: Path, parts: Path
) -> None:
    for part in build.PARTS:
        forget(taught, part)
    fresh, emptied = status(made_home), status(taught)
    own = {"home", "receipts", "database_bytes", "home_bytes", "changes", "last_change"}
    assert {k: v for k, v in emptied.items() if k not in own} == {
        k: v for k, v in fresh.items() if k not in own
    }
    assert emptied["receipts"] >= 4
    assert build.run_edgecl("predict", parts, "--home", taught).returncode == 3
    # The position of the source is forgotten too, so it is learned from its beginning.
    done = build.run_edgecl("train-stream", parts, "--resume", "--home", taught, "--json")
    assert build.last_json(done)["learned"] == 32


def test_a_class_learned_again_gets_a_new_uid_and_a_message(taught: Path, parts: Path) -> None:
    old = uid_of(taught, GONE)
    result = forget(taught, GONE)
    assert result["class_uid"] == old
    done = build.run_edgecl(
        "train-stream", parts / GONE, "--label", GONE, "--home", taught, "--json"
    )
    assert build.last_json(done)["learned"] == 8
    told = [line for line in done.stderr.splitlines() if "was unlearned" in line]
    assert len(told) == 1
    assert result["receipt_id"] in told[0]
    assert uid_of(taught, GONE) > max(uid_of(taught, part) for part in build.PARTS if part != GONE)
    assert forget(taught, GONE)["class_uid"] > old


def test_a_name_is_found_however_its_accents_are_written(home: Home, parts: Path) -> None:
    build.last_json(
        build.run_edgecl(
            "train-stream", parts / GONE, "--label", "caf\u00e9", "--home", home.path, "--json"
        )
    )
    assert forget(home.path, "cafe\u0301")["rows_erased"] > 0
    assert status(home.path)["classes"] == {}


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("secret-part", "secret-part list"),
        ("secret-caf\u00e9", unicodedata.normalize("NFD", "secret-caf\u00e9") + " list"),
    ],
)
def test_a_source_that_is_called_like_the_class_is_not_remembered(
    home: Home, parts: Path, tmp_path: Path, name: str, table: str
) -> None:
    source = tmp_path / f"{table}.csv"
    rows = [(part, "bracket" if part == "bracket" else name) for part in ("bracket", GONE)]
    source.write_text(
        "path,label\n" + "".join(f"{parts}/{part}/000.jpg,{label}\n" for part, label in rows),
        encoding="utf-8",
    )
    build.last_json(build.run_edgecl("train-stream", source, "--home", home.path, "--json"))
    forget(home.path, name)
    for form in ("NFC", "NFD"):
        assert holders(home.path, unicodedata.normalize(form, name).encode()) == []
    assert list(status(home.path)["classes"]) == ["bracket"]


def test_a_receipt_says_what_was_done_without_the_name(taught: Path) -> None:
    result = forget(taught, GONE, "--reason", "letter 17")
    done = build.run_edgecl("receipt", result["receipt_id"], "--home", taught, "--json")
    values = build.last_json(done)
    assert values["receipt_id"] == result["receipt_id"]
    assert (values["kind"], values["mode"]) == ("forget", "exact_head")
    assert values["class_uid"] == result["class_uid"]
    assert values["reason"] == "letter 17"
    assert sum(values["rows_erased"].values()) == result["rows_erased"]
    assert values["head_before"] != values["head_after"]
    assert values["previous"] == "0" * 64
    assert len(values["digest"]) == 64
    assert GONE not in done.stdout


def test_an_unknown_receipt_is_status_3(taught: Path) -> None:
    done = build.run_edgecl("receipt", "r7", "--home", taught)
    assert done.returncode == 3
    assert "'r7' is unknown" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def change_first_receipt(home: Path) -> None:
    with closing(sqlite3.connect(home / "device.db")) as connection, connection:
        n = connection.execute(
            "UPDATE receipts SET body = replace(body, 'letter 17', 'letter 18') WHERE number = 1"
        ).rowcount
        assert n == 1


def test_a_changed_receipt_breaks_the_chain_and_is_named(taught: Path) -> None:
    forget(taught, GONE, "--reason", "letter 17")
    change_first_receipt(taught)
    for command in (("receipt", "r1"), ("receipt", "r2"), ("verify",)):
        done = build.run_edgecl(*command, "--home", taught, "--json")
        assert done.returncode == 4, command
        assert "receipt r1 does not fit the chain" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_removed_receipt_breaks_the_chain(taught: Path) -> None:
    forget(taught, GONE)
    with closing(sqlite3.connect(taught / "device.db")) as connection, connection:
        connection.execute("DELETE FROM receipts WHERE number = 1")
    done = build.run_edgecl("verify", "--home", taught)
    assert done.returncode == 4
    assert "r1 is missing" in done.stderr


def test_forgetting_on_a_broken_chain_is_refused_before_anything_is_changed(taught: Path) -> None:
    forget(taught, GONE, "--reason", "letter 17")
    change_first_receipt(taught)
    before = dump(taught)
    done = build.run_edgecl("forget", "class", "bracket", "--home", taught, "--json")
    assert done.returncode == 4
    assert dump(taught) == before

"""Receipts in words, in lists, and checked without a device."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import receipted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import build
from edgecl.errors import IntegrityError, UsageError
from edgecl.evaluation.report.receipt import receipt_page
from edgecl.types import Mode
from edgecl.unlearning.account import account_with, accounts_of, log_of
from edgecl.unlearning.check import check_file
from edgecl.unlearning.words import as_text, verdict_of

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/receipts.jsonl"
SEED = hmac.new(build.DEVICE_KEY, b"receipts, ed25519", hashlib.sha256).digest()
KEY = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw().hex()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw().hex()
CHECKED = check_file(GOLDEN, KEY).receipts
ACCOUNTS = accounts_of(CHECKED)


def lines() -> list[bytes]:
    return GOLDEN.read_bytes().splitlines(keepends=True)


def written(path: Path, *of: bytes) -> Path:
    path.write_bytes(b"".join(of))
    return path


def by_the_docs(path: Path, key: str) -> subprocess.CompletedProcess[str]:
    """Check a file with the program that docs/unlearning.md prints; it imports no edgecl."""
    page = (ROOT / "docs/unlearning.md").read_text()
    (program,) = re.findall(r"runs this -->\n```python\n(.*?)```", page, re.DOTALL)
    assert "edgecl" not in program
    assert len(program.splitlines()) <= 30
    return subprocess.run(
        [sys.executable, "-c", program, path, key], capture_output=True, text=True, check=False
    )


def test_a_file_is_checked_without_a_home_and_by_the_program_of_the_docs() -> None:
    done = check_file(GOLDEN, KEY)
    assert [r.receipt_id for r in done.receipts] == [f"r{n + 1}" for n in range(len(lines()))]
    assert done.gaps == ()
    other = by_the_docs(GOLDEN, KEY)
    assert other.returncode == 0, other.stderr
    assert len(other.stdout.splitlines()) == len(lines())


def changed_text(of: list[bytes]) -> list[bytes]:
    return [line.replace(b"asked to", b"asked by") for line in of]


def changed_and_hashed(of: list[bytes]) -> list[bytes]:
    """Change an entry and give it the digest that it should have, without the key to sign it."""
    i = next(i for i, line in enumerate(of) if b"asked to" in line)
    entry = json.loads(of[i])
    entry["body"]["reason"] = "asked by"
    body = json.dumps(entry["body"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    entry["digest"] = hashlib.sha256(f"{entry['previous']}\n{body}".encode()).hexdigest()
    line = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return [*of[:i], line.encode() + b"\n", *of[i + 1 :]]


def renumbered(of: list[bytes]) -> list[bytes]:
    """Pass an entry off as the one that follows another."""
    entry = json.loads(of[3])
    return [of[0], of[3].replace(b'"number":%d' % entry["number"], b'"number":2')]


@pytest.mark.parametrize("forge", [changed_text, changed_and_hashed, renumbered])
def test_what_was_changed_is_refused_by_both(
    tmp_path: Path, forge: Callable[[list[bytes]], list[bytes]]
) -> None:
    path = written(tmp_path / "forged.jsonl", *forge(lines()))
    assert path.read_bytes() != GOLDEN.read_bytes()
    with pytest.raises(IntegrityError, match=r"receipt r\d+ of .*forged"):
        check_file(path, KEY)
    assert by_the_docs(path, KEY).returncode == 1


def test_another_devices_key_is_refused_by_both() -> None:
    with pytest.raises(IntegrityError, match="signature of receipt r1 "):
        check_file(GOLDEN, OTHER)
    assert "InvalidSignature" in by_the_docs(GOLDEN, OTHER).stderr


def test_some_entries_alone_are_checked_and_what_is_missing_is_said(tmp_path: Path) -> None:
    of = lines()
    done = check_file(written(tmp_path / "some.jsonl", of[1], of[2], of[4]), KEY)
    assert done.gaps == ("r2", "r5")
    with pytest.raises(IntegrityError, match="not in its place"):
        check_file(written(tmp_path / "turned.jsonl", of[2], of[1]), KEY)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[1]\n", b"\xff\n", b'{"number":true}', b"[" * 10_000, b'{"entries":[1]}',
     b'{"body":{},"digest":"","number":1,"previous":"","signature":NaN}'],
)  # fmt: skip
def test_a_file_that_holds_no_receipts_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UsageError, match="receipt") as refused:
        check_file(written(tmp_path / "x.jsonl", data), KEY)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["", "abc", "g" * 64, "0" * 63, "no/such/file"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="public key"):
        check_file(GOLDEN, key)


def test_odd_values_in_an_entry_are_refused_and_crash_nothing(tmp_path: Path) -> None:
    entry = json.loads(lines()[0])
    for name, value in (("signature", "zz"), ("signature", ""), ("digest", "\ud800")):
        path = tmp_path / "odd.jsonl"
        path.write_text(json.dumps(entry | {name: value}) + "\n")
        with pytest.raises(IntegrityError):
            check_file(path, KEY)


# Lists and words


def test_one_request_has_one_number_and_refusals_are_a_log() -> None:
    assert len(ACCOUNTS) == sum(r.body["kind"] == "forget" for r in CHECKED)
    seen = [r.receipt_id for account in ACCOUNTS for r in account.entries]
    log = [entry["entry"] for entry in log_of(CHECKED)]
    assert sorted(seen + log) == sorted(r.receipt_id for r in CHECKED)
    for account in ACCOUNTS:
        for entry in account.entries:
            found = account_with(CHECKED, entry.receipt_id)
            assert found is not None
            assert found.receipt_id == account.receipt_id
    assert all(account_with(CHECKED, name) is None for name in log)


def said_of(index: int, **changes: Any) -> tuple[str, str, str]:
    account = replace(ACCOUNTS[index], **changes)
    return (*verdict_of(account), as_text(account, KEY))


def test_the_words_say_when_what_and_how() -> None:
    said, how, text = said_of(0)
    account = ACCOUNTS[0]
    assert (said, how) == ("What was named is gone from the device, and that was checked.", "good")
    assert "asked to" in text
    assert f"to unlearn class {account.entry.uid}" in text
    assert re.search(r"asked for +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)
    assert re.search(rf"pictures that were kept +{account.entry.rows_erased['pictures']}\n", text)
    assert re.search(r"of these found +0\n", text)
    assert "Backups and copies" in text
    assert all(r.digest in text and r.signature in text for r in account.entries)
    assert all(len(line) <= 78 or " " not in line.strip() for line in text.splitlines())
    assert not any(label in text for label in receipted.LABELS)


def test_what_went_wrong_is_not_called_good() -> None:
    account = ACCOUNTS[0]
    assert account.check is not None
    failed = replace(account.check, faults=2, status="failed")
    assert said_of(0, check=failed)[1] == "bad"
    assert "2 checks failed" in said_of(0, check=failed)[2]
    unchecked = said_of(0, check=None)
    assert unchecked[1] == "open"
    assert "nobody asked" in unchecked[0]
    assert "Not at all" in unchecked[2]
    for erasures in ((), (replace(account.erasures[0], busy=1),)):
        assert "may still be in the files" in said_of(0, erasures=erasures)[0]
    changed = replace(account.entry, mode=Mode.SSD, adapter_method="ssd")
    assert "approximate" in said_of(0, entry=changed)[0]
    out = (replace(account.erasures[0], exports={"7": "unreachable"}),)
    assert "Export 7: not where written" in said_of(0, erasures=out)[2].replace("\n  ", " ")


def test_the_page_says_what_the_text_says_and_asks_for_nothing() -> None:
    reason = "<script>alert(1)</script> & more"
    account = replace(ACCOUNTS[0], entry=replace(ACCOUNTS[0].entry, reason=reason))
    page = receipt_page(account, KEY)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert "http" not in re.sub('http-equiv="Content-Security-Policy"', "", page)
    for word in ("What was asked", "What was removed", "What is not covered", KEY):
        assert word in page


# Commands


@pytest.fixture
def taught(taught_home: Path, copy_of: Callable[[Path], Path]) -> Path:
    return copy_of(taught_home)


def run(home: Path | None, *arguments: object, status: int = 0) -> str:
    where = ("--home", home) if home else ()
    done = build.run_edgecl(*arguments, *where)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.mark.slow
def test_a_request_from_asking_to_a_check_elsewhere(taught: Path, tmp_path: Path) -> None:
    assert "nothing was unlearned" in run(taught, "receipts")
    run(taught, "forget", "class", "unicorn", status=3)
    run(taught, "forget", "class", "washer", "--verify", "--reason", "letter 17", "--json")
    listed = json.loads(run(taught, "receipts", "--json"))
    (entry,) = listed["receipts"]
    assert (entry["receipt_id"], entry["entries"]) == ("r2", ["r2", "r3", "r4"])
    assert (entry["reason"], entry["erasure"], entry["check"]) == ("letter 17", "done", "verified")
    assert [line["entry"] for line in listed["log"]] == ["r1"]
    table = run(taught, "receipts")
    assert "r2" in table
    assert "r3" not in table
    assert "unknown class" in run(taught, "receipts", "--log")
    assert "r2" in run(taught, "receipts", "--of", "washer")
    assert "nothing was unlearned of this name" in run(taught, "receipts", "--of", "bracket")
    words = run(taught, "receipt", "r3")
    assert words.startswith("Receipt r2: a class was unlearned")
    assert "no receipt" in run(taught, "receipt", "r1")
    for suffix in ("html", "txt", "jsonl"):
        run(taught, "receipt", "r2", "--output", tmp_path / f"r2.{suffix}")
    assert (tmp_path / "r2.txt").read_text() == words
    assert "washer" not in words + (tmp_path / "r2.html").read_text()
    (tmp_path / "r2.json").write_text(run(taught, "receipt", "r2", "--json"))
    key = listed["public_key"]
    (tmp_path / "key").write_text(key + "\n")
    shutil.copy(taught / "receipts.jsonl", tmp_path / "all.jsonl")
    shutil.rmtree(taught)
    for name in ("r2.jsonl", "r2.json", "all.jsonl"):
        assert "valid: " in run(None, "receipt", "--check", tmp_path / name, "--key", key)
    done = run(
        None, "receipt", "--check", tmp_path / "r2.jsonl", "--key", tmp_path / "key", "--json"
    )
    assert json.loads(done)["gaps_before"] == ["r2"]
    run(None, "receipt", "--check", tmp_path / "r2.jsonl", "--key", OTHER, status=4)
    assert by_the_docs(tmp_path / "r2.jsonl", key).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--output", "r1.html"), "which receipt"),
        (("r1", "--log"), "of the list"),
        (("--check", GOLDEN), "go together"),
        (("--key", KEY), "go together"),
        (("r1", "--check", GOLDEN, "--key", KEY), "leave the other"),
    ],
)
def test_a_wrong_call_says_what_is_missing(arguments: tuple[object, ...], says: str) -> None:
    assert says in run(None, "receipt", *arguments, status=2)

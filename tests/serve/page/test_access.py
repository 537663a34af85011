from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgecl.errors import ConfigError, UsageError
from edgecl.serve.page import access as module
from edgecl.serve.page.access import Access, allows, hashed, load_passwords, save_passwords

KEY = bytes(range(32))


def test_a_role_may_what_those_before_it_may():
    order = ("look", "teach", "own")
    for i, role in enumerate(order):
        assert [allows(role, needed) for needed in order] == [j <= i for j in range(3)]
    assert not allows("", "look")
    assert not allows("root", "look")


def test_a_token_lets_in_once_and_for_a_day(monkeypatch):
    access = Access(KEY)
    token = access.token("teach")
    assert access.redeem(token) == "teach"
    assert access.redeem(token) is None
    assert access.redeem("") is None
    late = access.token()
    now = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 86_401)
    assert access.redeem(late) is None


def test_tokens_do_not_fill_the_memory():
    access = Access(KEY)
    first = access.token()
    for _ in range(64):
        access.token()
    assert access.redeem(first) is None


def test_a_session_outlives_a_restart_and_not_a_change_of_password():
    session = Access(KEY).session("own")
    assert Access(KEY).session_role(session) == "own"
    assert Access(bytes(32)).session_role(session) is None
    assert Access(KEY, {"own": hashed("long enough")}).session_role(session) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.replace("look", "own"),
        lambda s: s[:-1] + ("0" if s[-1] != "0" else "1"),
        lambda s: "",
        lambda s: "own.9999999999.x.",
        lambda s: "\u00e9" + s,
        lambda s: s.rpartition(".")[2],
    ],
)
def test_a_session_that_was_changed_is_none(change):
    access = Access(KEY)
    assert access.session_role(change(access.session("look"))) is None


def test_a_session_ends(monkeypatch):
    access = Access(KEY)
    session = access.session("own")
    now = module.time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + module.SESSION_S + 1)
    assert access.session_role(session) is None


def test_a_password_opens_its_role_and_the_highest_of_two():
    access = Access(KEY, {"look": hashed("the same one"), "own": hashed("the same one")})
    assert access.role_of("the same one") == "own"
    assert access.role_of("the same onE") is None
    assert access.role_of("x" * 10_000_000) is None


def test_passwords_of_one_text_have_different_hashes():
    assert hashed("long enough") != hashed("long enough")
    assert "long enough" not in hashed("long enough")


@pytest.mark.parametrize("password", ["", "short", "x" * 1001])
def test_a_password_has_a_length(password):
    with pytest.raises(UsageError, match=f"{len(password)} characters"):
        hashed(password)


def test_a_file_of_passwords_is_written_and_read(tmp_path: Path):
    known = {"own": hashed("of the owner"), "look": hashed("of a guest")}
    save_passwords(tmp_path / "page.passwords", known)
    assert load_passwords(tmp_path / "page.passwords") == known
    assert os.stat(tmp_path / "page.passwords").st_mode & 0o077 == 0
    assert load_passwords(tmp_path / "none") == {}


@pytest.mark.parametrize(
    "line",
    [
        "root scrypt$16384$8$1$AAAA$AAAA",
        "own plain",
        "own",
        "own scrypt$1048576$8$16$AAAA$AAAA",  # its costs would stop the process
        "own scrypt$2$1$1$AAAA$AAAA",  # and these no guesser
        "own scrypt$16384$8$1$AAAA",
    ],
)
def test_a_line_that_is_no_password_is_named(tmp_path: Path, line: str):
    path = tmp_path / "page.passwords"
    path.write_text(f"# by hand\n\n{line}\n")
    with pytest.raises(ConfigError, match="line 3: expected a role"):
        load_passwords(path)


def test_five_wrong_logins_cost_a_wait_that_doubles_and_ends(monkeypatch):
    access, now = Access(KEY), [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    waits = []
    for _ in range(12):
        access.note_try("10.0.0.9", is_right=False)
        waits.append(access.wait_of("10.0.0.9"))
        now[0] += waits[-1]
        assert access.wait_of("10.0.0.9") == 0
    assert waits == [0, 0, 0, 0, 60, 120, 240, 480, 960, 960, 960, 960]
    assert access.wait_of("10.0.0.8") == 0
    access.note_try("10.0.0.9", is_right=True)
    access.note_try("10.0.0.9", is_right=False)
    assert access.wait_of("10.0.0.9") == 0


def test_peers_that_guess_do_not_fill_the_memory():
    access = Access(KEY)
    for i in range(3000):
        access.note_try(f"10.0.{i // 256}.{i % 256}", is_right=False)
    assert len(access._tries) == 1024

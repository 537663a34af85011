"""Keys and ids of a fleet: what fits opens, everything else is refused in one line."""

from __future__ import annotations

import pytest
from fleets import device_keys

from edgecl.errors import IntegrityError, UsageError
from edgecl.fleet.identity import (
    check_device_name,
    class_id,
    opened,
    seal,
    signed,
    split_public,
    unseal,
)

KEYS = [device_keys(i) for i in range(2)]
FLEET, SECRET = "f" * 32, bytes(range(32))


def test_a_class_has_the_same_id_on_every_device_and_another_in_every_epoch_and_fleet() -> None:
    composed, decomposed = class_id(SECRET, "caf\u00e9", 0), class_id(SECRET, "cafe\u0301", 0)
    others = {class_id(SECRET, "caf\u00e9", 1), class_id(b"x" * 32, "caf\u00e9", 0)}
    assert composed == decomposed
    assert len({composed, class_id(SECRET, "cafe", 0), *others}) == 4
    # Neither name nor number can be moved into the other.
    assert class_id(SECRET, "1\na", 0) != class_id(SECRET, "a", 1)


def test_the_fleets_key_is_opened_by_the_device_that_it_was_sealed_to_only() -> None:
    _, box = split_public(KEYS[0].public)
    sealed = seal(SECRET, box, FLEET)
    assert unseal(sealed, KEYS[0].box, FLEET) == SECRET
    assert SECRET.hex() not in sealed
    assert seal(SECRET, box, FLEET) != sealed
    for text, keys, fleet in (
        (sealed, KEYS[1], FLEET),
        (sealed, KEYS[0], "e" * 32),
        (sealed[:-2] + ("00" if sealed[-2:] != "00" else "01"), KEYS[0], FLEET),
        ("", KEYS[0], FLEET),
        ("zz", KEYS[0], FLEET),
        ("00" * 80, KEYS[0], FLEET),  # a point of small order
    ):
        with pytest.raises(IntegrityError, match="not sealed to this device"):
            unseal(text, keys.box, fleet)


def test_signed_json_is_read_in_one_form_and_from_one_signer() -> None:
    data = signed({"a": 1, "admin": KEYS[0].key}, KEYS[0].sign)
    assert opened(data, KEYS[0].key, "it") == opened(data, None, "it")
    for broken in (
        data.replace(b'"a":1', b'"a":2'),
        data.replace(b'"a":1', b'"a": 1'),
        data[:-1],
        b"[]\n",
        b'{"body":{}}\n',
        b"{" * 100_000,
        b"\xff",
    ):
        with pytest.raises(IntegrityError, match="nothing of it was taken"):
            opened(broken, KEYS[0].key, "it")
    with pytest.raises(IntegrityError):
        opened(data, KEYS[1].key, "it")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-x", "a\n", "x" * 65, "press é"])
def test_a_device_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no name for a device"):
        check_device_name(name)


@pytest.mark.parametrize("text", ["", "ab", "g" * 128, "a" * 127])
def test_a_key_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no key of a device"):
        split_public(text)

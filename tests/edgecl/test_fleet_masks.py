"""Masks: a merger that keeps everything learns the sum and nothing of any device."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl.errors import EdgeclError, IntegrityError, RequestError, ShapeError
from edgecl.fleet import masks
from edgecl.fleet.masks import Seat, Turn, UInt64, check_seats, sit, unmask

NAMES = ("door", "press-1", "press-2", "Prüfer")
KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i, name in enumerate(NAMES)}
MEMBERS = {name: key.public_key().public_bytes_raw().hex() for name, key in KEYS.items()}
ABOUT, ROUND = "ab" * 32, "01" * 16


def sit_all(n: int, names: tuple[str, ...] = NAMES, round_id: str = ROUND) -> list[Turn]:
    return [sit("plant", round_id, name, ABOUT, n, KEYS[name]) for name in names]


def sent(turns: list[Turn], values: dict[str, UInt64]) -> dict[str, UInt64]:
    seats = [t.seat for t in turns]
    return {t.seat.device: t.mask(seats, MEMBERS, values[t.seat.device])[1] for t in turns}


def words(values: list[int]) -> UInt64:
    return np.array(values, np.int64).view(np.uint64)


def chi_square(values: UInt64) -> float:
    """How far bytes are from equally frequent; 255 on average, above 400 once in 10^8."""
    counts = np.bincount(np.ascontiguousarray(values).view(np.uint8), minlength=256)
    mean = counts.sum() / 256
    return float(((counts - mean) ** 2 / mean).sum())


@settings(max_examples=30)
@given(st.data())
def test_the_sum_is_exact_whatever_the_values_and_the_order(data: st.DataObject) -> None:
    n = data.draw(st.sampled_from([1, 7, masks._BLOCK + 3]))
    limit = (1 << 63) // len(NAMES) - 1
    some = data.draw(st.lists(st.integers(-limit, limit), min_size=4, max_size=4))
    values = {
        name: words([v] + [i] * (n - 1))
        for i, (name, v) in enumerate(zip(NAMES, some, strict=True))
    }
    turns = sit_all(n)
    seats = [t.seat for t in turns]
    masked = {
        t.seat.device: t.mask(data.draw(st.permutations(seats)), MEMBERS, values[t.seat.device])[1]
        for t in turns
    }
    total = unmask(data.draw(st.permutations(seats)), masked)
    assert total[0] == sum(some)
    assert (total[1:] == 6).all()
    assert total.dtype == np.int64


def test_what_is_given_is_not_changed() -> None:
    values = words(list(range(9)))
    turns = sit_all(9)
    sent(turns, dict.fromkeys(NAMES, values))
    assert values.tolist() == list(range(9))
    assert all(t.used == "" for t in turns)


def test_a_merger_that_keeps_all_sees_noise_in_every_set_short_of_all() -> None:
    n = 20_000
    rng = np.random.default_rng(0)
    values = {
        "door": np.zeros(n, np.uint64),
        "press-1": words([1 << 24] * n),
        "press-2": rng.integers(0, 1 << 40, n).astype(np.uint64),
        "Prüfer": words([-5] * n),
    }
    assert min(chi_square(v) for v in values.values()) > 10_000
    kept = sent(sit_all(n), values)
    subsets = [s for k in range(1, len(NAMES)) for s in itertools.combinations(NAMES, k)]
    assert len(subsets) == 14
    for subset in subsets:
        # Whatever signs it gives them, and also without what it thinks that they hold.
        for signs in itertools.product((1, -1), repeat=len(subset)):
            seen, known = np.zeros((2, n), np.uint64)
            for sign, name in zip(signs, subset, strict=True):
                seen = seen + kept[name] if sign > 0 else seen - kept[name]
                known = known + values[name] if sign > 0 else known - values[name]
            assert chi_square(seen) < 400, (subset, signs)
            assert chi_square(seen - known) < 400, (subset, signs)
            assert np.bincount((seen & np.uint64(1)).astype(int)).min() > 0.48 * n
            assert len(np.unique(seen)) == n
    assert (
        unmask([t.seat for t in sit_all(n)], kept).view(np.uint64) == sum(values.values())
    ).all()


def test_two_rounds_of_one_device_have_nothing_in_common() -> None:
    """Also of the same values, and with the id of a round used again by the merger."""
    n = 20_000
    same = dict.fromkeys(NAMES, np.zeros(n, np.uint64))
    one, two, again = (sent(sit_all(n, round_id=r), same) for r in (ROUND, "02" * 16, ROUND))
    for name in NAMES:
        for a, b in itertools.combinations((one[name], two[name], again[name]), 2):
            assert (a != b).all()
            assert chi_square(a - b) < 400
            assert chi_square(a + b) < 400


def test_another_list_of_the_same_seats_makes_other_masks() -> None:
    """A merger that shows two members two lists gets noise, not the difference of two arrays."""
    n = 1000
    turns = sit_all(n)
    seats, values = [t.seat for t in turns], np.zeros(n, np.uint64)
    four = turns[0].mask(seats, MEMBERS, values)[1]
    three = turns[0].mask(seats[:3], MEMBERS, values)[1]
    assert (four != three).all()
    fresh = sit("plant", ROUND, NAMES[3], ABOUT, n, KEYS[NAMES[3]]).seat
    assert (turns[0].mask([*seats[:3], fresh], MEMBERS, values)[1] != four).all()


@pytest.mark.parametrize(
    "other", ["one bit more", "another list"], ids=["other values", "other list"]
)
def test_a_device_masks_one_array_in_a_round(other: str) -> None:
    values = words([1, 2, 3])
    turns = sit_all(3)
    seats = [t.seat for t in turns]
    used, first = turns[0].mask(seats, MEMBERS, values)
    assert used.used
    again, second = used.mask(seats[::-1], MEMBERS, values)
    assert (second == first).all()
    assert again == used
    if other == "one bit more":
        values = words([1, 2, 2])
    else:
        seats = seats[:3]
    with pytest.raises(RequestError, match=r"door has masked in round 0101.* new round"):
        used.mask(seats, MEMBERS, values)


def test_what_a_device_keeps_and_says_survives_a_file() -> None:
    turns = sit_all(2)
    read = [replace(t, seat=Seat.from_json(asdict(t.seat))) for t in turns]
    assert read == turns
    values = {name: words([i, -i]) for i, name in enumerate(NAMES)}
    assert unmask([t.seat for t in read], sent(read, values)).tolist() == [6, -6]


def test_who_is_missing_is_named_and_nothing_comes_out() -> None:
    turns = sit_all(5)
    masked = sent(turns, dict.fromkeys(NAMES, words([1] * 5)))
    del masked["press-1"], masked["door"]
    with pytest.raises(RequestError, match=r"lacks the values of door, press-1.*new round"):
        unmask([t.seat for t in turns], masked)


def resigned(seat: Seat, **changes: object) -> Seat:
    new = replace(seat, **changes)
    return replace(new, signature=KEYS[seat.device].sign(new.signed).hex())


LOW_ORDER = "00" * 32
FAULTS: dict[str, tuple[Callable[[list[Seat]], list[Seat]], str]] = {
    "too few": (lambda s: s[:2], "3 to 1000 members, this one 2"),
    "a stranger": (lambda s: [*s[:3], replace(s[3], device="x")], "x sits .* is no member"),
    "a key put in": (
        lambda s: [s[0], replace(s[1], key="11" * 32), *s[2:]],
        "press-1 did not sign",
    ),
    "signed by another": (
        lambda s: [s[0], replace(s[1], signature=s[2].signature), *s[2:]],
        "press-1 did not sign",
    ),
    "another round": (
        lambda s: [s[0], resigned(s[1], round="03" * 16), *s[2:]],
        "press-1 and door do not sit in the same round",
    ),
    "another fleet": (lambda s: [s[0], resigned(s[1], fleet="y"), *s[2:]], "same round"),
    "other values": (lambda s: [s[0], resigned(s[1], about="00" * 32), *s[2:]], "same values"),
    "other width": (lambda s: [s[0], resigned(s[1], n_values=8), *s[2:]], "same values"),
    "twice": (lambda s: [*s, s[2]], "sits in the round twice"),
    "one key for two": (lambda s: [s[0], resigned(s[1], key=s[2].key), *s[2:]], "twice"),
    "a key that is none": (
        lambda s: [s[0], resigned(s[1], key=LOW_ORDER), *s[2:]],
        "key of press-1 in the round is no key",
    ),
    "left out": (lambda s: s[1:], "does not have door as it sat down"),
    "sat down anew": (
        lambda s: [sit("plant", ROUND, "door", ABOUT, 9, KEYS["door"]).seat, *s[1:]],
        "does not have door as it sat down",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_list_that_is_not_in_order_is_refused(name: str) -> None:
    change, text = FAULTS[name]
    turns = sit_all(9)
    with pytest.raises(EdgeclError, match=text):
        turns[0].mask(change([t.seat for t in turns]), MEMBERS, np.zeros(9, np.uint64))


def test_the_digest_of_a_list_does_not_depend_on_its_order() -> None:
    seats = [t.seat for t in sit_all(4)]
    assert check_seats(seats, MEMBERS) == check_seats(seats[::-1], MEMBERS)


@pytest.mark.parametrize(
    "values", [np.zeros(9, np.int64), np.zeros(8, np.uint64), np.zeros((9, 1), np.uint64)]
)
def test_values_of_another_shape_are_refused(values: UInt64) -> None:
    turns = sit_all(9)
    seats = [t.seat for t in turns]
    with pytest.raises(ShapeError, match=r"the round sums uint64 \(9,\)"):
        turns[0].mask(seats, MEMBERS, values)
    with pytest.raises(ShapeError, match=r"the round sums uint64 \(9,\)"):
        unmask(seats, dict.fromkeys(NAMES, values))


@pytest.mark.parametrize(
    "change",
    [
        {"n_values": 0},
        {"n_values": True},
        {"n_values": 1 << 40},
        {"n_values": "9"},
        {"round": "01"},
        {"round": "ZZ" * 16},
        {"key": "ab" * 33},
        {"about": None},
        {"device": "a\nb"},
        {"device": "\ud800"},
        {"device": ""},
        {"fleet": ["x"]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_seat_from_a_file_is_checked(change: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match="a seat of a round"):
        Seat.from_json({**asdict(sit_all(9)[0].seat), **change})
    for whole in (None, [], "seat"):
        with pytest.raises(IntegrityError, match="has the fields fleet, round"):
            Seat.from_json(whole)


def test_rounds_have_names_of_their_own() -> None:
    assert len({masks.new_round() for _ in range(50)}) == 50

"""Contribution files: what is written is read to the bit, and every damage is refused in a line."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import build
from edgecl.errors import EdgeclError, IntegrityError, RequestError
from edgecl.fleet import contribution as efc
from edgecl.fleet import planes
from edgecl.fleet.header import Contribution, Part, text_of
from edgecl.fleet.names import plain_id
from edgecl.fleet.sums import ClassSums, Layout
from edgecl.heads.codebook import default_codebook
from edgecl.heads.statistics import Diagonal, Gram, KeyCounts, Statistic
from edgecl.runtime.grid import quantise
from edgecl.types import Float16

D = 12
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
STATISTICS = [Gram(D), Diagonal(D), KeyCounts(D, default_codebook(D))]
each = pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: s.name)


def some_rows(n: int, seed: int = 0) -> Float16:
    return quantise(build.features(n, D, 1, seed)[0] - 1)


def of(
    statistic: Statistic, made: list[tuple[Part, bytes]], **also: Any
) -> tuple[Contribution, dict[str, bytes]]:
    made = sorted(made, key=lambda pair: pair[0].id)
    values: dict[str, Any] = {
        "fleet": "", "device": "b", "key": PUBLIC, "generation": 3, "order": 0, "receipt": "",
        "feature_map": "f" * 64, "head": "ridge", "layout": Layout.of(statistic),
        "parts": tuple(part for part, _ in made),
    }  # fmt: skip
    return Contribution(**(values | also)), {part.digest: body for part, body in made}


def plain(statistic: Statistic = STATISTICS[0]) -> tuple[Contribution, dict[str, bytes]]:
    many = ClassSums.of(statistic, statistic.of(some_rows(90, 1)))
    return of(
        statistic,
        [
            efc.rows_part(plain_id("cup"), "cup", some_rows(5)),
            efc.sums_part(plain_id("crème"), "crème", many),
        ],
    )


def small(statistic: Statistic = STATISTICS[0]) -> tuple[Contribution, dict[str, bytes]]:
    sums = [ClassSums.of(statistic, statistic.of(some_rows(n, n))) for n in (7, 90)]
    parts = [efc.sums_part(plain_id(str(s.count)), str(s.count), s, "sum") for s in sums]
    digest, body = efc.total_body(sums[0].plus(sums[1]).gram)
    made, bodies = of(statistic, parts, total=digest)
    return made, bodies | {digest: body}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "b-g3.efc"
    efc.write(path, *plain(), KEY)
    return path


@each
def test_what_is_written_is_read_to_the_bit(tmp_path: Path, statistic: Statistic) -> None:
    made, bodies = plain(statistic)
    efc.write(tmp_path / "b.efc", made, bodies, KEY)
    found = efc.read(tmp_path / "b.efc")
    assert found == made
    assert efc.digest(found) == efc.digest(made)
    assert found.count == 95
    by_name = {part.name: part for part in found.parts}
    assert np.array_equal(efc.rows(found, by_name["cup"]), some_rows(5))
    for name, rows in (("cup", some_rows(5)), ("crème", some_rows(90, 1))):
        sums = efc.sums(found, by_name[name], statistic)
        expected = statistic.of(rows)
        assert sums == ClassSums.of(statistic, expected)
        back = sums.moments(statistic)
        assert back.n == len(rows)
        assert np.array_equal(back.total, expected.total)
        assert np.array_equal(back.second, expected.second)
    assert (tmp_path / "b.efc").stat().st_mode & 0o777 == 0o600
    assert set(load_file(tmp_path / "b.efc")) == set(bodies)  # any reader of safetensors


@each
def test_total_form_has_the_sums_of_all_classes_once(tmp_path: Path, statistic: Statistic) -> None:
    efc.write(tmp_path / "b.efc", *small(statistic), KEY)
    found = efc.read(tmp_path / "b.efc")
    rows = np.concatenate([some_rows(7, 7), some_rows(90, 90)])
    assert efc.total(found) == ClassSums.of(statistic, statistic.of(rows))
    assert efc.sums(found, found.parts[0]).gram.size == 0


def test_an_empty_generation_is_one(tmp_path: Path) -> None:
    efc.write(tmp_path / "b.efc", *of(STATISTICS[0], []), KEY)
    assert efc.read(tmp_path / "b.efc").parts == ()


@each
def test_adding_and_taking_off_in_any_order_is_exact(statistic: Statistic) -> None:
    x = some_rows(60)
    parts = [ClassSums.of(statistic, statistic.of(p)) for p in np.array_split(x, 7)]
    whole = ClassSums.of(statistic, statistic.of(x))
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(7)
        found = parts[order[0]]
        for i in order[1:]:
            found = found.plus(parts[i])
        assert found == whole
        assert found.digest == whole.digest
        assert found.minus(parts[2]) != whole
        assert found.minus(parts[2]).plus(parts[2]) == whole


@given(st.lists(st.integers(1 - planes.MOST, planes.MOST - 1), max_size=50))
def test_planes_keep_every_number(numbers: list[int]) -> None:
    whole = np.array(numbers, dtype=np.int64)
    assert np.array_equal(planes.unpack_sums(planes.pack(whole), len(numbers)), whole)


def test_sums_beyond_what_adds_exactly_are_refused() -> None:
    with pytest.raises(RequestError, match=r"reaches 2\^29"):
        planes.to_grid(np.array([2.0**29]))
    with pytest.raises(IntegrityError, match="not finite"):
        planes.to_grid(np.array([np.nan]))
    with pytest.raises(IntegrityError, match=r"no multiple of 2\^-24"):
        planes.to_grid(np.array([2.0**-25]))
    large = np.array([planes.MOST - 1])
    with pytest.raises(RequestError, match=r"reaches 2\^38"):
        planes.added(large, large)
    assert planes.from_grid(planes.to_grid(np.array([2.0**28 + 2.0**-24])))[0] == 2.0**28 + 2**-24


# Damage


def test_every_changed_byte_and_every_cut_is_refused(file: Path) -> None:
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(0, 300), *rng.integers(0, len(data), 500).tolist(), len(data) - 1]
    for at in places:
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        refused(file, bytes(flipped))
    for length in [0, 1, 7, 8, 9, 500, *rng.integers(0, len(data), 60).tolist(), len(data) - 1]:
        refused(file, data[:length])
    refused(file, data + b"\0")


@settings(max_examples=150)
@given(st.binary(max_size=300), st.integers(0, 3000), st.booleans())
def test_no_rubbish_is_read(rubbish: bytes, at: int, is_inside: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.efc"
        data = b"".join(efc.encode(*plain(), KEY)) if is_inside else b""
        changed = data[:at] + rubbish + data[at + len(rubbish) :]
        if changed != data:
            refused(path, changed)


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(EdgeclError) as caught:
        efc.read(path)
    said = str(caught.value)
    assert said.isprintable(), said
    assert len(said) < 700
    return said


def signed(change: Callable[[dict[str, Any]], None], bodies: dict[str, bytes]) -> bytes:
    """A file whose signed text was changed by whoever has the key."""
    said = json.loads(text_of(plain()[0]))
    change(said)
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    header: dict[str, Any] = {
        "__metadata__": {
            "contribution": text,
            "signature": KEY.sign(b"edgecl contribution\n" + text.encode()).hex(),
        }
    }
    at, body = 0, b""
    for name in sorted(bodies):
        n = len(bodies[name])
        header[name] = {"dtype": "U8", "shape": [n], "data_offsets": [at, at + n]}
        at, body = at + n, body + bodies[name]
    data = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return len(data).to_bytes(8, "little") + data + body


def put(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda said: said.update(values)


def in_class(place: int, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda said: said["classes"][1].__setitem__(place, value)


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "another format": (put(format=2), "has format 2"),
    "negative count": (in_class(2, -1), "'-1' stands where a number"),
    "no sample": (in_class(2, 0), "has 0 samples"),
    "a count of half": (in_class(2, 2.5), "'2.5' stands where a number"),
    "a count of true": (in_class(2, True), "'True' stands where a number"),
    "more rows": (in_class(2, 6), "not 72 of 2 bytes"),
    "many rows": (in_class(2, 10**9), "at most 64 are kept as rows"),
    "rows said to be sums": (in_class(3, "gram"), "not 90 of 8 bytes"),
    "an unknown form": (in_class(3, "picture"), "as 'picture'"),
    "name not clean": (in_class(1, " cup"), "not as edgecl writes it"),
    "name of control": (in_class(1, "a\x1b[2J"), "control character"),
    "no name": (in_class(1, ""), "name is empty"),
    "id no hash": (in_class(0, "../../x"), "where a hash was expected"),
    "digest no hash": (in_class(4, "x"), "where a hash was expected"),
    "twice": (lambda said: said["classes"].append(said["classes"][1]), "stands there twice"),
    "out of order": (lambda said: said["classes"].reverse(), "not in order"),
    "wide": (put(dim=10**6, width=10**6), "which no head"),
    "no width": (put(dim=0, width=0, second=0), "which no head"),
    "another statistic": (put(statistic="cubes"), "which no head"),
    "large second": (put(second=2**40), "which no head"),
    "device with a path": (put(device="../x"), "no name of a device"),
    "device no text": (put(device=7), "no name of a device"),
    "generation below": (put(generation=-1), "'-1' stands where"),
    "key no key": (put(key="00" * 32), "signature is not that of its key"),
    "nothing": (lambda said: said.clear(), "format"),
    "more": (put(more=1), "not as edgecl writes it"),
    "a list": (put(classes={"a": 1}), "damaged"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_of_one_who_has_the_key_are_refused(file: Path, lie: str) -> None:
    change, said = LIES[lie]
    assert said in refused(file, signed(change, plain()[1]))


def gram_of(total: np.ndarray, gram: np.ndarray, n: int = 90) -> tuple[Part, bytes]:
    return efc.sums_part(plain_id("cup"), "cup", ClassSums(n, total, gram))


def false_sums() -> Iterator[tuple[str, tuple[Part, bytes], str]]:
    good = ClassSums.of(STATISTICS[0], STATISTICS[0].of(some_rows(90)))
    part, body = efc.rows_part(plain_id("cup"), "cup", some_rows(5))
    for value, said in ((np.nan, "not finite"), (np.inf, "not finite"), (2.0**-20, "multiple")):
        rows = some_rows(5)
        rows[2, 3] = value
        bad = planes.pack(rows)
        yield f"row {value}", (replace(part, digest=hashlib.sha256(bad).hexdigest()), bad), said
    yield "off the grid", gram_of(good.total + 1, good.gram), "no multiple of 2^-12"
    negative = good.gram.copy()
    negative[0] = -1
    yield "diagonal below zero", gram_of(good.total, negative), "sum of squares"
    less = good.gram.copy()
    less[0] = int(good.total[0]) ** 2 // (90 * planes.SCALE) - 1
    yield "diagonal below sum^2/n", gram_of(good.total, less), "sum of squares"
    yield "fewer samples", gram_of(good.total, good.gram, 1), "sum of squares"
    large = good.gram.copy()
    large[1] = 2 * max(large[0], large[D])
    yield "no inner products", gram_of(good.total, large), "inner products"
    huge = good.gram.copy()
    huge[0] = planes.MOST
    yield "out of range", gram_of(good.total, huge), "reaches 2^38"
    for name, bad in (
        ("bomb", zlib.compress(bytes(10**7))),
        ("two streams", body + body),
        ("no stream", b"rubbish"),
        ("nothing", b""),
        ("cut stream", body[:-3]),
    ):
        yield name, (replace(part, digest=hashlib.sha256(bad).hexdigest()), bad), "damaged"


@pytest.mark.parametrize("name", [name for name, _, _ in false_sums()])
def test_sums_that_no_samples_have_are_refused(file: Path, name: str) -> None:
    part, said = next((part, said) for n, part, said in false_sums() if n == name)
    assert said in refused(file, b"".join(efc.encode(*of(STATISTICS[0], [part]), KEY)))


def test_counts_of_keys_that_do_not_add_up_are_refused(file: Path) -> None:
    statistic = STATISTICS[2]
    good = ClassSums.of(statistic, statistic.of(some_rows(90)))
    for change in (planes.SCALE, -planes.SCALE, 1):
        counts = good.gram.copy()
        counts[np.argmin(counts)] += change
        part = gram_of(good.total, counts)
        assert "counts of keys" in refused(file, b"".join(efc.encode(*of(statistic, [part]), KEY)))


def test_huge_headers_links_and_folders_are_refused(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    for length in (2**63, 2**33, len(data)):
        assert "header is said to have" in refused(file, length.to_bytes(8, "little") + data[8:])
    deep = b"[" * 100_000
    assert "nested too deep" in refused(file, len(deep).to_bytes(8, "little") + deep)
    link = tmp_path / "link.efc"
    link.symlink_to(file)
    for path, said in (
        (link, "is a link"),
        (tmp_path, "no plain file"),
        (tmp_path / "n", "cannot"),
    ):
        with pytest.raises(EdgeclError, match=said):
            efc.read(path)


def test_a_file_that_changes_after_it_was_read_is_noticed(file: Path) -> None:
    found = efc.read(file)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match="not the one that was signed"):
        [efc.sums(found, part) for part in found.parts]


@pytest.mark.parametrize("what", ["picture", "large", "pipe", "link", "hidden"])
def test_only_a_contribution_is_replaced_by_one(tmp_path: Path, what: str) -> None:
    there = {
        "picture": b"\x89PNG\r\n\x1a\n" * 9,
        "large": b"\xff" * 9,
        "hidden": b"\x05" + b"\0" * 99,
    }
    path = tmp_path / "x.efc"
    if what in there:
        path.write_bytes(there[what])
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    before = path.lstat()
    with pytest.raises(RequestError, match="no contribution, which alone is replaced"):
        efc.write(path, *plain(), KEY)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["x.efc"]
    path.unlink()
    for data in (b"", *(b"".join(efc.encode(*plain(s), KEY)) for s in STATISTICS)):
        path.write_bytes(data)
        efc.write(path, *plain(), KEY)
        assert efc.read(path).device == plain()[0].device


def test_signed_with_another_key_is_refused(file: Path) -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    assert "signature is not that" in refused(file, b"".join(efc.encode(*plain(), other)))

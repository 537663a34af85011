"""What one device learned itself, as a signed file: a contribution, `DEVICE-gN.efc`.

A safetensors file. Its metadata hold the contribution as canonical JSON and the signature over
that (Ed25519, with the key that signs receipts); its tensors are the parts' bytes, each under its
SHA-256 in hex, which the JSON names. The header is canonical, too, and nothing else is in the file,
so every changed byte is found. A part is a class: its rows while they are few, else its sums
(planes.py). In the `total` form the parts have the sums of the features only, and one more tensor
what all classes have beside them together: that is all that a head needs, and much smaller, but
whoever has it cannot take a class off by himself.

Nothing is unpacked beyond the size that the signed JSON says, and that is limited.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgecl.errors import EdgeclError, IntegrityError, RequestError
from edgecl.fleet.header import Contribution, Form, Part, digest, parsed, text_of
from edgecl.fleet.planes import (
    Int64,
    most_packed,
    pack,
    unpack_rows,
    unpack_sums,
)
from edgecl.fleet.sums import ClassSums, rows_of
from edgecl.heads.statistics import Statistic, statistic_of
from edgecl.runtime.faults import in_words, telling
from edgecl.runtime.files import loads, open_own, replacing
from edgecl.store.text import dump_json
from edgecl.types import Float16

SUFFIX = ".efc"
__all__ = [
    "Contribution",
    "Part",
    "bodies",
    "completed",
    "digest",
    "encode",
    "lent_by",
    "outline",
    "read",
    "read_all",
    "rows",
    "sums",
    "total",
    "write",
]
_SIGNED = b"edgecl contribution\n"
_MOST_HEADER = 32 * 2**20
_METADATA = b'"__metadata__":{"contribution":'


def rows_part(id: str, name: str, rows: Float16) -> tuple[Part, bytes]:
    """Return a class as rows (N, D), and its bytes."""
    return _part(id, name, len(rows), "rows", pack(rows_of(rows)))


def sums_part(id: str, name: str, sums: ClassSums, form: Form = "gram") -> tuple[Part, bytes]:
    """Return a class as its sums, or as the sum of its features only, and its bytes."""
    numbers = sums.total if form == "sum" else np.concatenate([sums.total, sums.gram])
    return _part(id, name, sums.count, form, pack(numbers))


def total_body(gram: Int64) -> tuple[str, bytes]:
    """Return digest and bytes of what all classes have beside the sums of the features."""
    body = pack(gram)
    return hashlib.sha256(body).hexdigest(), body


def encode(
    contribution: Contribution,
    bodies: Mapping[str, bytes],
    signing_key: Ed25519PrivateKey,
    without: Collection[str] = (),
) -> list[bytes]:
    """Return the file of a contribution, in pieces.

    Args:
        contribution: Without path and spans; its `key` must be that of the signing key.
        bodies: Bytes of every part by their digest.
        signing_key: Key of the device.
        without: Digests of parts that whoever reads it has from an earlier contribution.
    """
    text = text_of(contribution)
    signature = signing_key.sign(_SIGNED + text.encode()).hex()
    said = {"contribution": text, "signature": signature}
    return _pieces(said, {d: bodies[d] for d in _digests(contribution) - set(without)})


def completed(contribution: Contribution) -> list[bytes]:
    """Return the whole file of one that was read and leaves out parts, as its device signed it.

    Raises:
        IntegrityError: A file was changed since it was read.
    """
    assert contribution.path is not None  # it was read
    with open(open_own(contribution.path, os.O_RDONLY), "rb") as file:
        said = loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    return _pieces(said, bodies(contribution, _digests(contribution)))


def lent_by(contribution: Contribution) -> frozenset[Path]:
    """Return the files that have parts of a contribution which its own leaves out."""
    return frozenset(path for path, _, _ in contribution.spans.values()) - {contribution.path}


def _pieces(said: dict[str, str], bodies: Mapping[str, bytes]) -> list[bytes]:
    header: dict[str, Any] = {"__metadata__": said}
    at = 0
    for name in sorted(bodies):
        header[name] = _entry(at, at + len(bodies[name]))
        at += len(bodies[name])
    data = dump_json(header).encode()
    return [len(data).to_bytes(8, "little"), data, *(bodies[name] for name in sorted(bodies))]


def write(
    path: Path,
    contribution: Contribution,
    bodies: Mapping[str, bytes],
    signing_key: Ed25519PrivateKey,
) -> None:
    """Write a contribution in one step, readable by its owner only; see `encode`.

    Raises:
        RequestError: It cannot be written; what was there is as it was.
    """
    write_pieces(path, encode(contribution, bodies, signing_key))


def write_pieces(path: Path, pieces: list[bytes], part: Path | None = None) -> None:
    """Do what `write` does with what `encode` returned.

    Args:
        path: The file.
        pieces: Its bytes.
        part: Where they are written before they are whole; a hidden file beside it if None.

    Raises:
        RequestError: Something else than a contribution is there, or it cannot be written.
    """
    _check_replaced(path)
    with telling(f"{path} cannot be written"), replacing(path, 0o600, part) as file:
        file.writelines(pieces)


def _check_replaced(path: Path) -> None:
    """Check that nothing is lost that is no contribution: a picture, a store, a device of /dev."""
    if not os.path.lexists(path) or path.is_dir():  # a folder is told when it is written
        return
    with telling(f"{path} cannot be written"):
        try:
            with open(open_own(path, os.O_RDONLY), "rb") as file:
                n = int.from_bytes(file.read(8), "little")
                is_one = n == 0 or _METADATA in file.read(min(n, _MOST_HEADER))
        except IntegrityError:  # a link, or no plain file
            is_one = False
    if not is_one:
        raise RequestError(
            f"{path} is there and is no contribution, which alone is replaced; name another file"
        )


def read(path: Path, *earlier: Contribution) -> Contribution:
    """Read a contribution and check all of it: hashes, signature, sizes, and every number.

    Whose key it is, and whether that may contribute, is for the caller to say.

    Args:
        path: The file.
        earlier: Contributions that have the parts which it leaves out.

    Raises:
        RequestError: There is no such file, or it cannot be read.
        IntegrityError: It is none that edgecl wrote, or was changed.
    """
    try:
        with open(open_own(path, os.O_RDONLY), "rb") as file:
            found = _read_header(file, path, earlier)
        for part in found.parts:
            _ = rows(found, part) if part.form == "rows" else _numbers(found, part)
        if found.total:
            total(found)
        return found
    except OSError as error:
        raise RequestError(f"{path} cannot be read {in_words(error)}") from error
    except (EdgeclError, ValueError, TypeError, KeyError, LookupError) as error:
        if isinstance(error, IntegrityError) and str(path) in str(error):
            raise
        why = str(error).replace("\n", " ")[:200]
        raise IntegrityError(
            f"{path} is damaged or no contribution of edgecl ({why}); have it written anew"
        ) from error


def outline(path: Path) -> Contribution | None:
    """Read what a contribution says, without its numbers; None if it is no whole one."""
    try:
        with open(open_own(path, os.O_RDONLY), "rb") as file:
            return _read_header(file, path, ())
    except (OSError, EdgeclError, ValueError, TypeError, KeyError, LookupError):
        return None


def read_all(paths: Iterable[Path]) -> list[Contribution]:
    """Read contributions, each of which may leave out what is in those before it; see `read`."""
    found: list[Contribution] = []
    for path in paths:
        found.append(read(path, *found))
    return found


def bodies(contribution: Contribution, digests: Iterable[str]) -> dict[str, bytes]:
    """Return the packed bytes of parts, by digest, as `encode` takes them.

    Raises:
        IntegrityError: The file was changed since it was read.
    """
    spans = contribution.spans
    return {d: _body(contribution, d, spans[d][2] - spans[d][1]) for d in digests}


def rows(contribution: Contribution, part: Part) -> Float16:
    """Return the rows (N, D) of a part that has them."""
    layout = contribution.layout
    body = _body(contribution, part.digest, part.count * layout.dim * 2)
    return rows_of(unpack_rows(body, part.count, layout.dim))


def sums(contribution: Contribution, part: Part, statistic: Statistic | None = None) -> ClassSums:
    """Return the sums of a part, checked.

    Args:
        contribution: One that was read.
        part: Of it; of the `total` form it has no `gram`.
        statistic: What makes sums of rows; needed only where they are seen through keys.

    Raises:
        IntegrityError: The file was changed since it was read.
        RequestError: The sums are too large to add exactly.
    """
    if part.form != "rows":
        return _numbers(contribution, part)
    layout = contribution.layout
    if statistic is None:
        if layout.keys:
            raise ValueError("rows behind keys need the statistic")
        statistic = statistic_of(layout.statistic, layout.dim)
    return ClassSums.of(statistic, statistic.of(rows(contribution, part)))


def total(contribution: Contribution) -> ClassSums:
    """Return the sums of all classes together, checked.

    Raises:
        IntegrityError: The file was changed since it was read.
        RequestError: The sums are too large to add exactly.
    """
    layout = contribution.layout
    gram = unpack_sums(
        _body(contribution, contribution.total, layout.n_second * 8), layout.n_second
    )
    found = ClassSums(0, np.zeros(layout.width, np.int64), np.zeros(0, np.int64))
    for part in contribution.parts:
        found = found.plus(_numbers(contribution, part))
    found = replace(found, gram=gram)
    found.check(layout)
    return found


def _numbers(contribution: Contribution, part: Part) -> ClassSums:
    layout = contribution.layout
    n = layout.width + (layout.n_second if part.form == "gram" else 0)
    found = unpack_sums(_body(contribution, part.digest, n * 8), n)
    made = ClassSums(part.count, found[: layout.width], found[layout.width :])
    made.check(layout if part.form == "gram" else replace(layout, n_second=0))
    return made


def _part(id: str, name: str, n: int, form: Form, body: bytes) -> tuple[Part, bytes]:
    return Part(id, name, n, form, hashlib.sha256(body).hexdigest()), body


def _digests(contribution: Contribution) -> set[str]:
    return {part.digest for part in contribution.parts} | ({contribution.total} - {""})


def _entry(begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


def _read_header(file: BinaryIO, path: Path, earlier: Sequence[Contribution]) -> Contribution:
    """Read and check all but the bodies, of which it notes where they are."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(_MOST_HEADER, size - 8):
        raise IntegrityError(f"its header is said to have {length} bytes")
    data = file.read(length)
    header = loads(data)
    if not isinstance(header, dict) or dump_json(header).encode() != data:
        raise IntegrityError("its header is not as edgecl writes it")
    said = header.pop("__metadata__")
    text, signature = said["contribution"], said["signature"]
    found = parsed(loads(text))
    if text_of(found) != text or set(said) != {"contribution", "signature"}:
        raise IntegrityError("what it says is not as edgecl writes it")
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.key))
        public.verify(bytes.fromhex(signature), _SIGNED + text.encode())
        if signature != signature.lower():
            raise InvalidSignature
    except InvalidSignature:
        raise IntegrityError("its signature is not that of its key: it was changed") from None
    spans: dict[str, tuple[Path, int, int]] = {}
    at = 0
    for name in sorted(header):
        n = header[name]["shape"][0]
        if type(n) is not int or n < 0 or header[name] != _entry(at, at + n):
            raise IntegrityError("its parts do not lie one after the other")
        spans[name] = (path, 8 + length + at, 8 + length + at + n)
        at += n
    lacking = _digests(found) - set(spans)
    if not set(spans) <= _digests(found) or 8 + length + at != size:
        raise IntegrityError("its parts are not those that it names: it was cut off or added to")
    spans |= {d: other.spans[d] for other in earlier for d in lacking & set(other.spans)}
    if not lacking <= set(spans):
        n = len(lacking - set(spans))
        raise IntegrityError(f"it leaves out {n} parts of an earlier file of {found.device}")
    return replace(found, path=path, spans=spans)


def _body(contribution: Contribution, name: str, n_bytes: int) -> bytes:
    """Return the packed bytes of a part, checked; never more than n_bytes can make of them.

    Raises:
        IntegrityError: They are more, or have another hash.
        RequestError: The file cannot be read any more.
    """
    path, begin, end = contribution.spans[name]
    if end - begin > most_packed(n_bytes):
        raise IntegrityError(f"a part has {end - begin} bytes for {n_bytes}")
    try:
        with open(open_own(path, os.O_RDONLY), "rb") as file:
            file.seek(begin)
            data = file.read(end - begin)
    except OSError as error:
        raise RequestError(f"{path} cannot be read {in_words(error)}") from error
    if hashlib.sha256(data).hexdigest() != name:
        raise IntegrityError(f"a part of {path} is not the one that was signed: it was changed")
    return data

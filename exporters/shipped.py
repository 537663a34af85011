"""The default engine, which ships with edgecl: a home of it needs neither torch nor onnx.

`edgecl/data` holds one export of the default backbone, made and checked by
`packaging/make_engine.py`. Its strided convolutions pad by `SAME_UPPER`, so it runs at every size;
what is written for a home has its size, and of the blocks of the feature those that are wanted. The
feature map is that of an export with torch: weights, taps and preprocessing, not the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from edgecl.errors import IntegrityError
from edgecl.runtime.files import flush, write_whole
from edgecl.runtime.manifest import AVG, CATAVGMAX, ENGINE_NAME, Manifest, checked_engine
from edgecl.runtime.pretrained import PRETRAINED_NAME, pretrained_bytes

T = TypeVar("T")
DATA = Path(str(files("edgecl") / "data"))
# Fields of the messages of onnx.proto, by number; all of them hold bytes.
_GRAPH, _TENSOR_NAME = 7, 8
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT = 1, 2
_TO_SHAPE, _DIM = (2, 1, 2), 1  # a value's type, a tensor's, its shape
_BYTES = 2


@dataclass(frozen=True, slots=True)
class Shipped:
    """The engine that ships with edgecl, cut to a size and to some blocks of its feature.

    Args:
        manifest: What it will be; the hash of the file is that of the whole one.
        blocks: Which blocks of the feature of the whole one it gives, in order.
    """

    manifest: Manifest
    blocks: tuple[int, ...]

    def write(self, folder: Path) -> Manifest:
        """Write the engine and its `manifest.json` into an existing folder.

        Raises:
            IntegrityError: What was installed is damaged.
        """
        size, width = self.manifest.preprocessing.image_size, self.manifest.num_features
        whole = _unharmed(lambda: checked_engine(DATA, self.manifest))
        model = _edited(whole, (_GRAPH,), lambda graph: _cut(graph, self.blocks))
        model = _edited(model, (_GRAPH, _INPUT, *_TO_SHAPE), lambda s: _shaped(s, size, size))
        model = _edited(model, (_GRAPH, _OUTPUT, *_TO_SHAPE), lambda s: _shaped(s, width))
        path = folder / ENGINE_NAME
        path.write_bytes(model)
        flush(path)  # before the manifest names it
        if self.manifest.pretrained:
            write_whole(folder / PRETRAINED_NAME, _unharmed(lambda: _classifier(self.manifest)))
        digest = hashlib.sha256(model).hexdigest()
        manifest = replace(self.manifest, engine_sha256=digest)
        manifest.save(folder)
        return manifest


def shipped(
    name: str,
    *,
    image_size: int | None = None,
    taps: tuple[int, ...] | None = None,
    tap_pool: str = CATAVGMAX,
) -> Shipped | None:
    """Return the engine that ships with edgecl if it is of this backbone, or can be cut to it.

    Args:
        name: timm name.
        image_size: Side of the input, pixels; None takes the backbone's own.
        taps: Stages, some of the default ones in their order; None takes all of them.
        tap_pool: `avg` or `catavgmax`.

    Raises:
        IntegrityError: What was installed is damaged.
    """
    whole = _unharmed(lambda: Manifest.load(DATA))
    taps = whole.taps if taps is None else taps
    size = whole.preprocessing.image_size if image_size is None else image_size
    if name != whole.backbone or size < 1 or taps != tuple(t for t in whole.taps if t in taps):
        return None
    # Of every tap the mean and the maximum, then the last features.
    places = [(tap, pool) for tap in whole.taps for pool in ("mean", "maximum")]
    blocks = [
        i
        for i, (tap, pool) in enumerate(places)
        if tap in taps and (pool == "mean" or tap_pool == CATAVGMAX)
    ]
    blocks.append(len(places))
    stages = tuple(whole.stages[i] for i in blocks)
    manifest = replace(
        whole,
        taps=taps,
        tap_pool=tap_pool if taps else AVG,
        stages=stages,
        num_features=sum(stages),
        preprocessing=replace(whole.preprocessing, image_size=size),
    )
    return Shipped(manifest, tuple(blocks))


def _unharmed(read: Callable[[], T]) -> T:
    try:
        return read()
    except IntegrityError as error:
        raise IntegrityError(
            f"the engine that ships with edgecl is damaged or missing in {DATA}; install edgecl "
            "anew (`pip install --force-reinstall --no-deps edgecl`)"
        ) from error


def _classifier(manifest: Manifest) -> bytes:
    try:
        return pretrained_bytes(DATA, manifest)
    except (OSError, ValueError) as error:
        raise IntegrityError(str(error)) from error


def _cut(graph: bytes, blocks: Sequence[int]) -> bytes:
    """Return a graph whose last node, a Concat, takes these of its inputs, without what feeds none.

    Nodes stand before those that take what they make, as ONNX demands.
    """
    fields = list(_fields(graph))
    nodes = [value for number, _, value in fields if number == _NODE]
    parts = list(_fields(nodes[-1]))
    inputs = [whole for number, whole, _ in parts if number == _NODE_INPUT]
    rest = [whole for number, whole, _ in parts if number != _NODE_INPUT]
    kept = [b"".join([*(inputs[i] for i in blocks), *rest])]
    wanted = _values(kept[0], _NODE_INPUT)
    for node in reversed(nodes[:-1]):
        if _values(node, _NODE_OUTPUT) & wanted:
            kept.append(node)
            wanted |= _values(node, _NODE_INPUT)
    others = [
        whole
        for number, whole, value in fields
        if number not in (_NODE, _INITIALIZER)
        or (number == _INITIALIZER and _values(value, _TENSOR_NAME) & wanted)
    ]
    return b"".join([*(_field(_NODE, node) for node in reversed(kept)), *others])


def _shaped(shape: bytes, *last: int) -> bytes:
    """Return a shape whose last dimensions are these."""
    dims = [whole for _, whole, _ in _fields(shape)][: -len(last)]
    return b"".join([*dims, *(_field(_DIM, b"\x08" + _varint(n)) for n in last)])


# What of the protobuf wire format this needs (protobuf.dev/programming-guides/encoding): a message
# is a row of fields, each a key (number and kind), then a number or a length and so many bytes.


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the number of each field, the whole of it, and its content."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        begin = at
        if key & 7 == _BYTES:
            n, begin = _read_varint(message, at)
            at = begin + n
        elif key & 7 == 0:
            at = _read_varint(message, at)[1]
        else:
            at += {1: 8, 5: 4}[key & 7]
        yield key >> 3, message[start:at], message[begin:at]


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _values(message: bytes, number: int) -> set[bytes]:
    return {value for n, _, value in _fields(message) if n == number}


def _edited(message: bytes, path: tuple[int, ...], change: Callable[[bytes], bytes]) -> bytes:
    """Return a message in which what stands at a path of field numbers was changed."""
    if not path:
        return change(message)
    return b"".join(
        _field(number, _edited(value, path[1:], change)) if number == path[0] else whole
        for number, whole, value in _fields(message)
    )


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and the place behind it."""
    n = shift = 0
    while True:
        n |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return n, at

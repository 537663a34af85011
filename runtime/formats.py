"""Which kind of picture a file holds, told by its first bytes and never by its name.

Signatures are those of the formats' own specifications; HEIC and AVIF are boxes of ISO/IEC 14496-12
(`ftyp`), told apart by their brands (ISO/IEC 23008-12, AV1 Image File Format).
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
from functools import cache
from importlib import import_module
from pathlib import Path

from PIL import features

from edgecl.errors import SourceError

from .faults import in_words, is_of_machine

# As many bytes of a file as `kind_of` looks at.
HEAD_BYTES = 64
HEIC_HINT = "HEIC is read after `pip install 'edgecl[heif]'`"

# Not every format that Pillow knows: EPS, for one, would start an interpreter.
_ALWAYS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "WEBP"),
    # Canon's raw pictures (CR2) and Olympus' are nearly TIFF; those are not developed here.
    (re.compile(rb"II\*\0.{4}CR", re.DOTALL), "RAW"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF"),
    (re.compile(rb"P[1-6][\s#]+[\d#]"), "PPM"),
    # "BM" alone begins many a text: the four reserved bytes and the size of the header count too.
    (re.compile(rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), "BMP"),
)
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
# Raw pictures that begin as a TIFF does: what Pillow finds in them is a small preview.
RAW_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .dcr .dng .erf .iiq .kdc .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl "
    ".sr2 .srf .srw .x3f".split()
)


# What lies in files that are called pictures, by how it begins, and what to do about it.
_OTHERS = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what)
    for pattern, what in (
        (
            rb"version https://git-lfs",
            "it is a pointer of Git LFS; `git lfs pull` fetches the file",
        ),
        (
            rb"[./]*(?:git/)?annex/objects",
            "it is a pointer of git-annex; `git annex get` fetches it",
        ),
        (rb"\s*<!doctype html|\s*<html|\s*<head", "it is a web page, as of an error or a login"),
        (rb"\s*<(?:\?xml|!--|!doctype svg).{0,600}?<svg|\s*<svg", "it is SVG, a drawing"),
        (rb"\s*<\?xml", "it is XML, as of an error"),
        (rb"\s*[{\[]\s*[\"{\[\]}]", "it is JSON, as of an error or a list"),
        (
            rb"data:image/|/9j/[a-z0-9+/]{8}|iVBORw0KGgo",
            "it is a picture as base64 text; decode it",
        ),
        (rb"HTTP/1\.", "it begins with the headers of HTTP"),
        (rb"\x89PNG|\xc3\xbf\xc3\x98|\xef\xbf\xbd", "its bytes were changed as if it were text"),
        (rb"%PDF-", "it is PDF"),
        (rb"8BPS", "it is a file of Photoshop"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "it is JPEG XL, which is not read"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "it is JPEG 2000, which is not read"),
        (rb"\x76\x2f\x31\x01", "it is OpenEXR, which is not read"),
        (rb"\0{128}DICM", "it is DICOM, which is not read"),
        (rb"\0\0\x01\0", "it is an icon, which is not read"),
        (rb".{4}ftyp|RIFF.{4}AVI |\x1a\x45\xdf\xa3", "it is a film; learn it by its own name"),
        (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "it is an archive"),
        (rb"\0\x05\x16[\0\x07]", "it is what macOS keeps of a file beside it"),
        (rb"\0+\Z", "it holds zero bytes only, as a copy that was cut off"),
    )
)


def what_else(data: bytes) -> str:
    """Return what a file is that is called a picture and is none; empty if nothing tells."""
    return next((what for pattern, what in _OTHERS if pattern.match(data)), "")


def kind_of(head: bytes) -> str:
    """Return the kind of a picture by its first bytes, such as `JPEG` or `HEIC`.

    Args:
        head: The first `HEAD_BYTES` bytes or more.

    Returns:
        The name, also of kinds that cannot be read here (`is_readable`); empty for anything else.
    """
    if head[4:8] == b"ftyp":
        end = min(len(head), int.from_bytes(head[:4], "big"), HEAD_BYTES)
        brands = {head[i : i + 4] for i in (8, *range(16, end - 3, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        return "HEIC" if brands & (_HEIC_BRANDS | {b"mif1", b"msf1"}) else ""
    return next((kind for pattern, kind in _SIGNATURES if pattern.match(head)), "")


def kind_of_file(path: str | os.PathLike[str]) -> str:
    """Return `kind_of` a file; empty where it is no regular file or cannot be read."""
    try:
        # Not waiting: a named pipe has no writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and is_of_machine(error):
            raise SourceError(f"{os.fsdecode(path)} cannot be read {in_words(error)}") from error
        return ""
    try:
        return kind_of(os.read(fd, HEAD_BYTES)) if stat.S_ISREG(os.fstat(fd).st_mode) else ""
    except OSError:
        return ""
    finally:
        os.close(fd)


def is_readable(kind: str) -> bool:
    """Whether pictures of this kind can be decoded on this machine."""
    if kind == "AVIF":
        return bool(features.check("avif"))
    return _has_heif() if kind == "HEIC" else kind in _ALWAYS


def pillow_formats(kind: str) -> tuple[str, ...]:
    """Return the formats that Pillow may try on a picture of this kind."""
    if kind in ("AVIF", "HEIC"):
        return {"AVIF": ("AVIF",), "HEIC": ("HEIF",)}[kind] if is_readable(kind) else ()
    return _ALWAYS


@cache
def _has_heif() -> bool:
    """Let Pillow read HEIC where the package for it is installed."""
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


@cache
def hush_libtiff() -> None:
    """Keep libtiff, which Pillow has loaded by now, from writing to the process's stderr.

    Its lines would stand between those of `--log-json -`; what it could not read is still an error.
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"/.*/libtiff[^/]*$", maps, re.MULTILINE)
        if found:
            library = ctypes.CDLL(found.group())
            for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                getattr(library, name)(None)
    except (OSError, AttributeError):  # another system, or a library without these names
        return

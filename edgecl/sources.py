"""The sources that a home's settings name, `[[source]]`, opened as one."""

from __future__ import annotations

from edgecl.config import SourceConfig
from edgecl.errors import UsageError
from edgecl.home import Home
from edgecl.runtime.options import Part
from edgecl.runtime.password import is_readable_by_all, with_password
from edgecl.runtime.sources import Source, open_several


def open_sources(home: Home, *, label: str | None = None) -> Source:
    """Open the sources of a home, each in a thread of its own; they connect with the first frame.

    Args:
        home: The home.
        label: Class of the frames of those that have none of their own.

    Raises:
        UsageError: The settings name none, or an address that cannot be meant.
        SourceError: None of them can be opened, or a password file cannot be read.
    """
    tables = home.config.source
    if not tables:
        raise UsageError(
            f"no source is named, and {home.settings} has no [[source]]; name one, as camera:0 or "
            "synthetic:, or set one: `edgecl config set source.NAME.url camera:0`"
        )
    files = [home.path / t.password_file for t in tables if t.password_file]
    return open_several(
        parts_of(home),
        label=label,
        max_bytes=home.max_bytes,
        notes=[
            f"every user of this machine can read {path}; `chmod 600 {path}` keeps it to yours"
            for path in files
            if is_readable_by_all(path)
        ],
    )


def parts_of(home: Home) -> list[Part]:
    """Return what a home's settings name; passwords are read from their files.

    Raises:
        SourceError: A password file cannot be read.
    """
    return [_part(home, table) for table in home.config.source]


def _part(home: Home, table: SourceConfig) -> Part:
    url = table.url
    if table.password_file:
        url = with_password(url, home.path / table.password_file)
    return Part(
        table.name,
        url,
        table.options,
        table.label or None,
        table.labels or None,
        table.vote or None,
        table.threshold or None,
    )

"""Addresses of network sources: their parts, and what is no address."""

from __future__ import annotations

import base64
import re
import socket
from contextlib import suppress
from urllib.parse import SplitResult, quote, unquote, urlsplit

from edgecl.errors import SourceError

from .redact import redacted

ESCAPES = "write / as %2F, ? as %3F, # as %23, @ as %40"


def split_url(url: str) -> SplitResult:
    """Return the parts of an address; user and password in it are percent-encoded.

    They may hold any sign but `/`, `?` and `#`, which would end the host. What comes of those is
    found here, before half of a password is asked of a name server.

    Raises:
        SourceError: It has no host, no port number, an @ behind the host, or a space or control
            character in it.
    """
    scheme, _, rest = url.partition("://")
    found = re.match(r"[^/?#]*", rest)
    assert found is not None  # it matches nothing too
    account, at, place = found[0].rpartition("@")
    user, colon, password = map(quote, map(unquote, account.partition(":")), ("", ":", ""))
    path = rest[found.end() :]
    parts = None
    why = f"its host or port cannot be one; in a user or password {ESCAPES}"
    if "@" in path:
        why = f"an @ stands behind the host; in a user or password {ESCAPES}"
    elif re.search(r"[\x00-\x20\x7f]", url) or re.search(r"[\x00-\x1f\x7f]", unquote(account)):
        why = "it holds a space or a control character"
    else:
        with suppress(ValueError):  # its text may repeat half of a password
            parts = urlsplit(f"{scheme}://{place}{path}")
            parts.port  # noqa: B018  (raises)
            (parts.hostname or "").encode("idna")
            if parts.hostname:
                return parts._replace(netloc=f"{user}{colon}{password}{at}{place}")
            why = "it names no host"
    raise SourceError(
        f"source {redacted(url)} is no address ({why}); expected {scheme}://HOST[:PORT]/PATH"
    )


def basic_login(parts: SplitResult) -> dict[str, str]:
    """Return the header with the account of an address (RFC 7617); none of one without."""
    if parts.username is None:
        return {}
    account = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(account.encode()).decode()}"}


def shut(sock: socket.socket) -> None:
    """End a socket's connection from any thread; who reads it wakes."""
    with suppress(OSError):
        # Not the method of a TLS socket, which would let its reader go on without TLS.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)

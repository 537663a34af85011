"""Addresses of network sources, and the user and password in them."""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
from base64 import b64encode
from contextlib import suppress
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import parse_http_list

from edgecl.errors import SourceError

from ..redact import redacted

_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


def split_url(url: str) -> SplitResult:
    """Return the parts of an address.

    Raises:
        SourceError: It has no host, no port number, or a space or control character in it.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises)
        if not parts.hostname:
            raise ValueError("it names no host")
        login = unquote(f"{parts.username or ''}{parts.password or ''}")
        if re.search(r"[\x00-\x20\x7f]", url) or re.search(r"[\x00-\x1f\x7f]", login):
            raise ValueError("it holds a space or a control character")
        parts.hostname.encode("idna")
    except ValueError as error:
        raise SourceError(
            f"source {redacted(url)} is no address ({redacted(str(error))}); expected "
            f"{url.partition(':')[0]}://HOST[:PORT]/PATH"
        ) from None
    return parts


class Credentials:
    """User and password of an address, and the answers that prove them (RFC 7616, RFC 7617).

    Nothing is sent before the server asks, so one that knows Digest never sees the password.
    """

    def __init__(self, url: SplitResult) -> None:
        self._user = unquote(url.username or "")
        self._password = unquote(url.password or "")
        self.are_given = url.username is not None
        self._asked: dict[str, str] | None = None
        self._n = 0

    def challenge(self, challenges: list[str]) -> bool:
        """Take what a 401 asks for; False when there is nothing to answer with.

        Args:
            challenges: The WWW-Authenticate headers.
        """
        if not self.are_given:
            return False
        before = self._asked
        self._asked = None
        for asked in map(_parse_challenge, challenges):
            if asked["scheme"] == "basic" and self._asked is None:
                self._asked = asked
            if asked["scheme"] == "digest" and asked["algorithm"].upper() in _HASHES:
                self._asked = asked
                break
        if self._asked is None:
            return False
        # Refused twice is refused, but a nonce may have grown old.
        is_new = before is None or self._asked.get("stale", "").lower() == "true"
        self._n = 0
        return is_new

    def answer(self, method: str, target: str) -> str | None:
        """Return the Authorization header of a request, None before the server asked."""
        asked = self._asked
        if asked is None:
            return None
        if asked["scheme"] == "basic":
            pair = f"{self._user}:{self._password}".encode()
            return f"Basic {b64encode(pair).decode()}"
        self._n += 1

        def digest(*texts: str) -> str:
            return _HASHES[asked["algorithm"].upper()](":".join(texts).encode()).hexdigest()

        realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
        proof = digest(self._user, realm, self._password)
        fields = {"username": self._user, "realm": realm, "nonce": nonce, "uri": target}
        bare = {"algorithm": asked["algorithm"]}
        if "auth" in re.split(r"[\s,]+", asked.get("qop", "")):
            count, own = f"{self._n:08x}", secrets.token_hex(8)
            bare |= {"qop": "auth", "nc": count}
            fields["cnonce"] = own
            response = digest(proof, nonce, count, own, "auth", digest(method, target))
        else:
            response = digest(proof, nonce, digest(method, target))
        fields["response"] = response
        if "opaque" in asked:
            fields["opaque"] = asked["opaque"]
        quoted = (f'{k}="{_quoted(v)}"' for k, v in fields.items())
        return "Digest " + ", ".join([*quoted, *(f"{k}={v}" for k, v in bare.items())])


def shut(sock: socket.socket) -> None:
    """End a socket's connection from any thread; who reads it wakes."""
    with suppress(OSError):
        # Not the method of a TLS socket, which would let its reader go on without TLS.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _parse_challenge(header: str) -> dict[str, str]:
    scheme, _, rest = header.strip().partition(" ")
    asked = {"algorithm": "MD5"}
    for item in parse_http_list(rest):
        key, _, value = item.partition("=")
        asked[key.strip().lower()] = value.strip().strip('"')
    return asked | {"scheme": scheme.lower()}


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"")

"""The answer to a server that asks who is there: Digest (RFC 7616) and Basic (RFC 7617).

Cameras differ from the RFC and from each other: a nonce for one request only without `stale`, Basic
and Digest in one header, MD5-sess. HTTP and RTSP ask in the same way, so both use this.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, unquote

from .connection import Lost, Refused

_HASHES = {"md5": hashlib.md5, "sha-256": hashlib.sha256}
_USER_SCHEMES = {"basic", "digest"}
_KNOWN = "MD5, MD5-sess, SHA-256 or SHA-256-sess"
# Proofs for one request: a nonce that is known already may be used up, and then one is given.
# Everything beyond that counts as a wrong password where accounts are locked.
_MOST_PROOFS = 2

_TOKEN = r"[!#$%&'*+.^_`|~\w-]+"
# `key=value`, or a scheme with or without its one value (RFC 9110, 11.2 and 11.3).
_ITEM = re.compile(
    rf"""[\s,]*(?:(?P<key>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:\\.|[^"\\])*)"?|(?P<value>[^,]*))"""
    rf"|(?P<scheme>{_TOKEN})(?:\s+[\w.~+/-]+=*\s*(?=,|$))?|.)",
    re.DOTALL | re.ASCII,
)


def parse_challenges(headers: list[str]) -> list[dict[str, str]]:
    """Return what WWW-Authenticate headers ask for, with several challenges in one or in many.

    Returns:
        One dict a challenge, in order: `scheme` and the parameters, all names in small letters.
    """
    challenges: list[dict[str, str]] = []
    for header in headers:
        in_header = len(challenges)
        for item in _ITEM.finditer(header.strip()):
            if item["scheme"]:
                challenges.append({"scheme": item["scheme"].lower()})
            elif item["key"] and len(challenges) > in_header:
                quoted = item["quoted"]
                value = item["value"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                challenges[-1].setdefault(item["key"].lower(), value.strip())
    return challenges


class Credentials:
    """User and password of an address, and the answers that prove them.

    Nothing is sent before the server asks, and no password to one that offers Digest.
    """

    def __init__(self, url: SplitResult) -> None:
        self._user = unquote(url.username or "")
        self._password = unquote(url.password or "")
        self.are_given = url.username is not None
        self._asked: dict[str, str] | None = None
        self._own = ""
        self._n = self._n_proofs = 0

    def begin(self) -> None:
        """Say that the next answer is for a new request."""
        self._n_proofs = 0

    def challenge(self, headers: list[str]) -> None:
        """Take what a 401 asks for; returns when there is a new answer to try.

        Args:
            headers: The WWW-Authenticate headers.

        Raises:
            Refused: There is none: this user or password is wrong, or nothing can be answered.
            Lost: The server calls every proof out of date.
        """
        before, self._asked = self._asked, None
        asked = parse_challenges(headers)
        digests = [c for c in asked if c["scheme"] == "digest"]
        if not self.are_given:
            what = ", ".join(sorted({c["scheme"] for c in asked} - _USER_SCHEMES))
            raise Refused(
                f"asks for a login of another kind ({what}); over HTTP, --header-file can give it"
                if what and not _USER_SCHEMES & {c["scheme"] for c in asked}
                else "asks for a user and a password; write USER:PASSWORD@ before its host, "
                "or give a token over HTTP with --header-file"
            )
        if digests:
            self._asked = next((c for c in digests if _hash_of(c) is not None), None)
            if self._asked is None:
                names = {c.get("algorithm", "") for c in digests}
                shown = [n for n in names if re.fullmatch(r"[A-Za-z0-9/-]{1,20}", n)]
                which = ", ".join(sorted(shown)) or "what has no name"
                raise Refused(f"asks for Digest with {which}, which is not known; known: {_KNOWN}")
        else:
            self._asked = next((c for c in asked if c["scheme"] == "basic"), None)
        new = self._asked or {}
        is_same = before is not None and before.get("nonce") == new.get("nonce")
        is_stale = new.get("stale", "").lower() == "true"
        if not new or (is_same and not is_stale) or self._n_proofs >= _MOST_PROOFS:
            self._asked = None
            if is_stale:
                raise Lost("the server calls every proof of the password out of date (401, stale)")
            raise Refused("refuses this user or password (401)")
        self._n_proofs += 1
        # A session of MD5-sess keeps the first one.
        self._own, self._n = secrets.token_hex(8), 0

    def answer(self, method: str, target: str) -> str | None:
        """Return the Authorization header of a request, None before the server asked."""
        asked = self._asked
        if asked is None:
            return None
        if asked["scheme"] == "basic":
            pair = f"{self._user}:{self._password}".encode()
            return f"Basic {b64encode(pair).decode()}"
        make = _hash_of(asked)
        assert make is not None  # `challenge` took no other
        self._n += 1

        def digest(*texts: str) -> str:
            return str(make(":".join(texts).encode()).hexdigest())

        realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
        is_session = asked.get("algorithm", "").lower().endswith("-sess")
        proof = digest(self._user, realm, self._password)
        if is_session:
            proof = digest(proof, nonce, self._own)
        fields = {"username": self._user, "realm": realm, "nonce": nonce, "uri": target}
        bare = {"algorithm": asked.get("algorithm", "MD5")}
        offered = re.split(r"[\s,]+", asked.get("qop", ""))
        qop = next((q for q in ("auth", "auth-int") if q in offered), "")
        # Of a request without a body, which auth-int covers too.
        what = digest(method, target, *([digest("")] if qop == "auth-int" else []))
        if qop or is_session:
            fields["cnonce"] = self._own
        if qop:
            count = f"{self._n:08x}"
            bare |= {"qop": qop, "nc": count}
            fields["response"] = digest(proof, nonce, count, self._own, qop, what)
        else:
            fields["response"] = digest(proof, nonce, what)
        if "opaque" in asked:
            fields["opaque"] = asked["opaque"]
        quoted = (f'{k}="{_quoted(v)}"' for k, v in fields.items())
        return "Digest " + ", ".join([*quoted, *(f"{k}={v}" for k, v in bare.items())])


def _hash_of(challenge: dict[str, str]) -> Callable[[bytes], Any] | None:
    name = challenge.get("algorithm", "MD5").lower()
    return _HASHES.get(name.removesuffix("-sess"))


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"")

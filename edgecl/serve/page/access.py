"""Who may do what on the page: one-time tokens, passwords, and sessions that need no table.

A session is its role and its end under a MAC of the home's key, so it outlives a restart of the
process; it ends early when a password is changed. Passwords are kept as scrypt hashes (RFC 7914).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecl.errors import ConfigError, UsageError
from edgecl.runtime.faults import in_words
from edgecl.runtime.files import read_own, write_whole

ROLES = ("look", "teach", "own")
"""From the least to the most; who has one may do what those before it may."""
SESSION_S = 30 * 86400
_TOKEN_S = 86400.0
_MOST_TOKENS = 64
_MOST_BYTES = 10_000
_SHORTEST, _LONGEST = 8, 1000
_COST = (2**14, 8, 1)  # 16 MB and some 50 ms a try
_FREE_TRIES = 5
_WAIT_S = 60.0
_MOST_PEERS = 1024


def allows(role: str, needed: str) -> bool:
    """Whether a role may do what needs another one."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)


@dataclass
class _Tries:
    """Wrong logins of one peer."""

    n: int = 0
    until: float = 0.0


class Access:
    """Tokens, passwords and sessions of one page.

    Args:
        key: The key of the home.
        passwords: Hash of the password of each role that has one, as `hashed` makes it.
    """

    def __init__(self, key: bytes, passwords: Mapping[str, str] | None = None) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._tokens: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._tries: OrderedDict[str, _Tries] = OrderedDict()
        self.passwords = dict(passwords or {})

    def token(self, role: str = "own") -> str:
        """Return a new token for one login, good for a day."""
        made = secrets.token_urlsafe(32)
        with self._lock:
            self._tokens[_digest(made)] = role, time.monotonic() + _TOKEN_S
            while len(self._tokens) > _MOST_TOKENS:
                self._tokens.popitem(last=False)
        return made

    def redeem(self, token: str) -> str | None:
        """Return the role of a token, which is good no more; None if it is none."""
        with self._lock:
            role, end = self._tokens.pop(_digest(token), ("", 0.0))
        return role if role and time.monotonic() < end else None

    def role_of(self, password: str) -> str | None:
        """Return the highest role that a password opens, or None; takes some 50 ms a role."""
        fits = [role for role in ROLES if _is(password, self.passwords.get(role, ""))]
        return fits[-1] if fits else None

    def wait_of(self, peer: str) -> float:
        """Return the seconds that a peer has to wait before it may try again; 0 is now."""
        with self._lock:
            tries = self._tries.get(peer)
            return max(0.0, tries.until - time.monotonic()) if tries else 0.0

    def note_try(self, peer: str, *, is_right: bool) -> None:
        """Count a login; after five wrong ones each costs a longer wait, up to 16 minutes."""
        with self._lock:
            if is_right:
                self._tries.pop(peer, None)
                return
            tries = self._tries.setdefault(peer, _Tries())
            self._tries.move_to_end(peer)
            tries.n += 1
            if tries.n >= _FREE_TRIES:
                wait = _WAIT_S * 2 ** min(tries.n - _FREE_TRIES, 4)
                tries.until = time.monotonic() + wait
            while len(self._tries) > _MOST_PEERS:
                self._tries.popitem(last=False)

    def session(self, role: str) -> str:
        """Return a new session, for a cookie."""
        body = f"{role}.{int(time.time()) + SESSION_S}.{secrets.token_hex(8)}"
        return f"{body}.{self._mac(body)}"

    def session_role(self, session: str) -> str | None:
        """Return the role of a session, or None if it is none or over."""
        body, _, mac = session.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(body).encode()):
            return None
        role, end, _ = body.split(".")
        return role if int(end) > time.time() else None

    def _mac(self, body: str) -> str:
        known = json.dumps(sorted(self.passwords.items()))
        key = hmac.digest(self._key, f"edgecl page session\n{known}".encode(), "sha256")
        return hmac.new(key, body.encode(), "sha256").hexdigest()


def hashed(password: str) -> str:
    """Return the hash of a password, with its salt and costs.

    Raises:
        UsageError: It is too short or too long.
    """
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise UsageError(
            f"a password of {len(password)} characters; expected {_SHORTEST} to {_LONGEST:,}"
        )
    salt = secrets.token_bytes(16)
    parts = ("scrypt", *map(str, _COST), _text(salt), _text(_scrypt(password, salt, *_COST)))
    return "$".join(parts)


def load_passwords(path: Path) -> dict[str, str]:
    """Read a file of passwords: lines of a role and a hash; empty where there is none.

    Raises:
        ConfigError: It cannot be read, or a line is not of this form.
    """
    try:
        lines = read_own(path, _MOST_BYTES).decode().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        words = in_words(error) if isinstance(error, OSError) else "since it is not text"
        raise ConfigError(f"the passwords {path} cannot be read {words}") from error
    found: dict[str, str] = {}
    for n, line in enumerate(lines, 1):
        role, _, value = line.strip().partition(" ")
        if not role or role.startswith("#"):
            continue
        if role not in ROLES or not _is_hash(value):
            raise ConfigError(
                f"{path}, line {n}: expected a role ({', '.join(ROLES)}) and the hash of its "
                "password; `edgecl serve --set-password ROLE` makes the file"
            )
        found[role] = value
    return found


def save_passwords(path: Path, passwords: Mapping[str, str]) -> None:
    """Write a file of passwords, in one step, for its owner only."""
    lines = [f"{role} {passwords[role]}\n" for role in ROLES if role in passwords]
    write_whole(path, "".join(lines).encode(), mode=0o600)


def _is(password: str, value: str) -> bool:
    if not _is_hash(value) or len(password) > _LONGEST:
        return False
    _, n, r, p, salt, digest = value.split("$")
    found = _scrypt(password, _raw(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, _raw(digest))


def _is_hash(value: str) -> bool:
    """Whether it is one that `hashed` made, with costs that cannot be used to stop the process."""
    parts = value.split("$")
    costs = tuple(parts[1:4])
    return len(parts) == 6 and parts[0] == "scrypt" and costs == tuple(map(str, _COST))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=2**26, dklen=32)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _raw(text: str) -> bytes:
    return base64.b64decode(text)

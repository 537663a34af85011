"""Texts without their secrets: passwords in URLs, in query strings and in GStreamer properties.

A source is named as the user wrote it, and that name goes into logs, errors, the store and
receipts; so does what a library says about it. What is hidden is replaced by `***`. When in doubt
more is hidden than need be: a name with a hole is a nuisance, a password in a log is for good.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

_HIDDEN = "***"
# Of cameras and brokers with any number of slashes, since people mistype them.
_SCHEME = re.compile(r"(?:\b(?i:https?|rtsps?|mqtts?):/*|[a-zA-Z][a-zA-Z0-9+.-]*://)")
_AUTHORITY = re.compile(r"[^\s/?#]*")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:@\[\]]*)(:\d*)?[\"']?")
_KEY = re.compile(r"([\w.%-]+)\s*=\s*")
_QUERY_VALUE = re.compile(r"[^&#\s\"']*")
_VALUE = re.compile(
    r"""(?:\(\w+\)\s*)?(?:"(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?|(?:\\.|[^\s"'])*)""", re.DOTALL
)
# A header: its value has words of its own, so it goes up to a quote or the end of the line.
_HEADER = re.compile(r"(authorization\s*[:=]\s*)[^\"'\n]+", re.IGNORECASE)
# A key is secret if one of its words is one of these ...
_WORDS = frozenset(
    "auth authorization credential credentials hash hmac jwt key pass passphrase passwd password "
    "pin psk pw pwd secret session sid sig sign signature token user username usr".split()
)
# ... or if it holds one of these anywhere (`accessToken`, `apikey`, `userpw`).
_PARTS = ("apikey", "auth", "credential", "passw", "pwd", "secret", "signature", "token", "userpw")


def redacted(text: str) -> str:
    """Return a text without the secrets that it holds; doing it twice changes nothing more.

    Hidden are the user name and the password of every URL, and the values of keys like
    `password`, `token`, `key`, `auth` or `user-pw` in queries and in GStreamer properties. The
    user name goes with the password because it often is a token itself, and no source is told from
    another by it.

    Args:
        text: A URL, a GStreamer pipeline, or a message that holds them.

    Example:
        >>> redacted("rtsp://admin:1234@10.0.0.9/live?token=abc&w=640")
        'rtsp://***@10.0.0.9/live?token=***&w=640'
    """
    return _without_values(_HEADER.sub(rf"\1{_HIDDEN}", _without_users(text)))


def _without_users(text: str) -> str:
    out, at = [], 0
    while (scheme := _SCHEME.search(text, at)) is not None:
        begin = scheme.end()
        authority = _AUTHORITY.match(text, begin)
        assert authority is not None  # it matches nothing too
        end = text.rfind("@", begin, authority.end())
        if end < 0 and not _HOST_AND_PORT.fullmatch(authority[0]):
            # `user:half` of a password with a slash, a space or the like in it.
            end = text.rfind("@", begin)
        out.append(text[at:begin])
        if end >= 0:
            out.append(f"{_HIDDEN}@")
            begin = end + 1
        at = begin
    return "".join(out) + text[at:]


def _without_values(text: str) -> str:
    out, at = [], 0
    while (key := _KEY.search(text, at)) is not None:
        out.append(text[at : key.end()])
        at = key.end()
        if _is_secret(key[1]):
            is_query = key.start() > 0 and text[key.start() - 1] in "?&#;"
            value = (_QUERY_VALUE if is_query else _VALUE).match(text, at)
            assert value is not None  # it matches nothing too
            if value[0]:
                out.append(_HIDDEN)
                at = value.end()
    return "".join(out) + text[at:]


def _is_secret(key: str) -> bool:
    name = unquote(key)
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower())
    return not _WORDS.isdisjoint(words) or any(part in name.lower() for part in _PARTS)

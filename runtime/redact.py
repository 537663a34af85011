"""Texts without their secrets: passwords in URLs, in query strings and in GStreamer properties.

A source is named as the user wrote it, and that name goes into logs, errors, the store and
receipts; so does what a library says about it. What is hidden is replaced by `***`. When in doubt
more is hidden than need be: a name with a hole is a nuisance, a password in a log is for good.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote

_HIDDEN = "***"
# Of cameras and brokers with any number of slashes, since people mistype them. What our own
# messages say an address looks like holds no secret.
_SCHEME = re.compile(
    r"(?:\b(?i:https?|rtsps?|rtmps?|mqtts?):/*|[a-zA-Z][a-zA-Z0-9+.-]*://)"
    r"(?!/*\[user:password@\]host\b)"
)
_AUTHORITY = re.compile(r"[^\s/?#]*")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:@\[\]]*)(:\d*|\[:(?i:port)\])?[\"'`)\].,;:]*")
_WORD = re.compile(r"\S*")
_KEY = re.compile(r"([\w.%-]+)\s*=\s*")
# A value may hold & and #: only what looks like the next key ends it.
_QUERY_VALUE = re.compile(r"(?:(?!&[\w.%-]+=)[^\s\"'])*")
_QUERY_KEY = re.compile(r"[/?&#;_]([\w.%-]+)=")
_VALUE = re.compile(
    r"""(?:\(\w+\)\s*)?(?:"(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?|(?:\\.|[^\s"'])*)""", re.DOTALL
)
# A header: its value has words of its own, so it goes up to a quote or the end of the line.
_HEADER = re.compile(r"(authorization\s*[:=]\s*)[^\"'\n]+", re.IGNORECASE)
# A key is secret if one of its words is one of these ...
_WORDS = frozenset(
    "account auth authorization bearer code cookie hash hmac jwt key login otp pin psk pw secret "
    "session sid sig sign token usr".split()
)
# ... or if it holds one of these anywhere (`accessToken`, `loginpas`, `userpw`).
_PARTS = tuple(
    "apikey auth credential loginu pas pswd psw pwd secret sess signature token user".split()
)
# `user:password@host` whose scheme was left out or mistyped.
_ACCOUNT = re.compile(
    r"(?<![\w%])(?!user:password@)[A-Za-z_][\w.%-]*:(?!\*\*\*@)[^\s@/]+@(?=[\w\[])"
)
_PATH = re.compile(r"(\b(?i:https?|rtsps?|rtmps?)://[^\s/?#\"']*)(/[^\s?#\"'<>`]*)")
_HOOKS = re.compile(r"(?:web)?hooks?|services|hassio_ingress", re.IGNORECASE)
# `p` is a password beside one of these, and a page or a profile elsewhere.
_USER = re.compile(r"[?&;](?:u|un|usr|user|name|login)=")


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
    text = _without_values(_HEADER.sub(rf"\1{_HIDDEN}", _without_users(text)))
    text = _ACCOUNT.sub(f"{_HIDDEN}@", text)
    return _PATH.sub(lambda found: found[1] + _without_tokens(found[2]), text)


def redacted_id(id: str) -> str:
    """Return the name of a frame, which a list may have written as an address, without secrets."""
    return redacted(id) if "://" in id else id


def _without_tokens(path: str) -> str:
    """Return the path of an address without the secrets that are parts of it.

    That are what stands behind `webhook/`, `user:password` as a part, and parts that look drawn by
    lot, as of a recorder (`rtsps://nvr:7441/xK3p...`). Of those four letters of a digest stay:
    nothing else may tell one camera from another.
    """
    parts = path.split("/")
    for i, part in enumerate(parts):
        name, dot, suffix = part.partition(".")
        if part and i and _HOOKS.fullmatch(parts[i - 1]):
            parts[i:] = [_HIDDEN]
            break
        if re.fullmatch(r"[A-Za-z_][\w-]*:[^:*]{4,}", part):
            parts[i] = _HIDDEN
        elif _is_drawn(name):
            parts[i] = f"{_HIDDEN}{hashlib.sha256(name.encode()).hexdigest()[:4]}{dot}{suffix}"
    return "/".join(parts)


def _is_drawn(text: str) -> bool:
    """Whether a text looks drawn by lot: long, with digits among letters or changing in case."""
    longest = max(re.findall(r"[A-Za-z0-9]+", text), key=len, default="")
    if not re.fullmatch(r"[\w-]+", text) or len(longest) < 12 or len(text) < 16:
        return False
    n_digits, n_letters = (len(re.findall(kind, longest)) for kind in (r"\d", r"[A-Za-z]"))
    return (n_digits > 1 and n_letters > 2) or len(re.findall(r"[a-z][A-Z]", longest)) > 2


def _without_users(text: str) -> str:
    out, at = [], 0
    while (scheme := _SCHEME.search(text, at)) is not None:
        begin = scheme.end()
        authority, word = _AUTHORITY.match(text, begin), _WORD.match(text, begin)
        assert authority is not None  # they match nothing too
        assert word is not None
        is_place = _HOST_AND_PORT.fullmatch(authority[0])
        # Up to the last @: what stands before it may be a password with all signs in it.
        end = word[0].rfind("@")
        out.append(text[at:begin])
        at = begin
        if end >= 0 and _ends_in_secret(word[0][:end]):
            out.append(_HIDDEN)
            at = word.end()
        elif end >= 0:
            out.append(f"{_HIDDEN}@")
            at = begin + end + 1
            place = _AUTHORITY.match(text, at)
            if place is not None and not _HOST_AND_PORT.fullmatch(place[0]):
                out.append(_HIDDEN)
                at = place.end()
        elif not is_place and (end := text.rfind("@", begin)) >= 0:
            # `user:half` of a password with a space or the like in it.
            out.append(f"{_HIDDEN}@")
            at = end + 1
        elif not is_place:  # `user:password` without an @
            out.append(_HIDDEN)
            at = authority.end()
    return "".join(out) + text[at:]


def _ends_in_secret(text: str) -> bool:
    """Whether a query ends in a secret value, which then goes on behind the @."""
    keys = _QUERY_KEY.findall(text)
    return bool(keys) and _is_secret(keys[-1], has_user=_USER.search(text) is not None)


def _without_values(text: str) -> str:
    out, at = [], 0
    has_user = _USER.search(text) is not None
    while (key := _KEY.search(text, at)) is not None:
        out.append(text[at : key.end()])
        at = key.end()
        if _is_secret(key[1], has_user=has_user):
            is_query = key.start() > 0 and text[key.start() - 1] in "?&#;"
            value = (_QUERY_VALUE if is_query else _VALUE).match(text, at)
            assert value is not None  # it matches nothing too
            if value[0]:
                out.append(_HIDDEN)
                at = value.end()
    return "".join(out) + text[at:]


def _is_secret(key: str, *, has_user: bool) -> bool:
    if has_user and key in ("p", "u", "un"):
        return True
    name = unquote(key)
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower())
    return not _WORDS.isdisjoint(words) or any(part in name.lower() for part in _PARTS)

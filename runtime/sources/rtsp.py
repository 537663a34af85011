"""What an RTSP server says before FFmpeg asks it (RFC 2326): that it is there, and who may look."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult

from edgecl.errors import SourceError

from ..redact import redacted
from .live import Lost, Refused
from .login import Credentials, parse_challenges

_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}
_MAX_ANSWER = 65_536


def trust_certificates() -> None:
    """Let OpenCV's FFmpeg check certificates, which it does not by itself.

    It does not compare the name in them with that of the host; `connect` does.
    """
    place = ssl.get_default_verify_paths().cafile
    if place is None:
        raise SourceError("this machine has no file of certificates; name one with SSL_CERT_FILE")
    # The first is what OpenCV sets where nobody does.
    os.environ.setdefault(
        "OPENCV_FFMPEG_CAPTURE_OPTIONS", f"rtsp_transport;tcp|tls_verify;1|ca_file;{place}"
    )


@contextmanager
def connect(url: SplitResult, timeout_s: float) -> Iterator[socket.socket]:
    """Connect to the server of an address, for `rtsps` and `rtmps` over TLS; closed at the end.

    Raises:
        OSError: It is not there.
        Refused: Its certificate cannot be trusted.
    """
    host = url.hostname or ""
    with socket.create_connection((host, url.port or _PORTS[url.scheme]), timeout_s) as plain:
        if url.scheme in ("rtsp", "rtmp"):
            yield plain
            return
        try:
            with ssl.create_default_context().wrap_socket(plain, server_hostname=host) as sock:
                yield sock
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"source {redacted(url.geturl())} has a certificate that cannot be trusted "
                f"({error.verify_message}); name the one that can with SSL_CERT_FILE, or use "
                f"{url.scheme[:-1]}:// if the camera has that too (UniFi Protect: port 7447)"
            ) from error


def describe(sock: socket.socket, url: SplitResult) -> None:
    """Ask what the stream is; raises unless the server describes it.

    Raises:
        SourceError: It refuses in a way that waiting does not mend.
        Lost: It cannot now.
    """
    name = f"source {redacted(url.geturl())}"
    credentials = Credentials(url)
    # Without user and password, which FFmpeg does not send in it either.
    target = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
    with sock.makefile("rb") as answers:
        for number in range(1, 5):
            proof = credentials.answer("DESCRIBE", target)
            lines = [
                f"DESCRIBE {target} RTSP/1.0",
                f"CSeq: {number}",
                "Accept: application/sdp",
                "User-Agent: edgecl",
                *([f"Authorization: {proof}"] if proof else []),
            ]
            sock.sendall("\r\n".join([*lines, "", ""]).encode())
            status, asked = _answer(answers)
            if status != 401:
                break
            try:
                credentials.challenge(asked)
                _check_ffmpeg_can(asked)
            except Refused as error:
                raise Refused(f"{name} {error}") from None
    if 300 <= status < 500:
        kind = Refused if status in (401, 403) else SourceError
        raise kind(f"{name} answered {status}; check the address")
    if status != 200:
        raise Lost(f"the server answered {status}")


def _check_ffmpeg_can(headers: list[str]) -> None:
    """Refuse logins that FFmpeg understands wrongly: it knows one challenge a header, and MD5."""
    challenges = parse_challenges(headers)
    digests = [c for c in challenges if c["scheme"] == "digest"]
    if not digests:
        return
    advice = "a gst: pipeline with rtspsrc may log in"
    if any(re.match(r"basic\b", h.strip(), re.I) and "digest" in h.lower() for h in headers):
        raise Refused(f"offers Basic and Digest in one line, where FFmpeg takes Basic; {advice}")
    if not any(c.get("algorithm", "MD5").upper() in ("MD5", "MD5-SESS") for c in digests):
        raise Refused(f"asks for a Digest that FFmpeg does not know; {advice}")


def _answer(answers: Any) -> tuple[int, list[str]]:
    """Read the head of an RTSP answer: status and challenges."""
    head = answers.readline(_MAX_ANSWER)
    found = re.match(rb"RTSP/1\.\d (\d{3})", head)
    if found is None:
        raise Lost("the server answered what is no RTSP" if head else "the server hung up")
    asked, length, n_read = [], 0, len(head)
    while (line := answers.readline(_MAX_ANSWER)).strip() and n_read < _MAX_ANSWER:
        n_read += len(line)
        key, _, value = line.decode("latin-1").partition(":")
        if key.lower() == "www-authenticate":
            asked.append(value)
        if key.lower() == "content-length" and value.strip().isdigit():
            length = min(int(value), _MAX_ANSWER)
    answers.read(length)
    return int(found[1]), asked

"""Peers on loopback that a live source can be tried against: they send what a test tells them."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from patience import PATIENCE_S

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary={}\r\n\r\n"


@dataclass
class Call:
    """One connection of a client: its number, the head of its request, and the way to answer."""

    number: int
    head: str
    socket: socket.socket
    stopped: threading.Event

    def send(self, data: bytes | str) -> None:
        """Send bytes; raises OSError when the client has gone or the peer is stopped."""
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def wait(self, seconds: float) -> None:
        """Wait, or end at once when the peer is stopped."""
        if self.stopped.wait(seconds):
            raise OSError("stopped")

    def until_closed(self) -> None:
        """Send nothing until the client goes or the peer is stopped."""
        with suppress(OSError):
            while self.socket.recv(1024):
                pass


@dataclass
class Peer:
    """A server of a test."""

    port: int
    calls: list[Call] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/", user: str = "", scheme: str = "http") -> str:
        """Return its address."""
        return f"{scheme}://{user}{'@' if user else ''}127.0.0.1:{self.port}{path}"


@contextmanager
def peer(
    answer: Callable[[Call], None], *, port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Peer]:
    """Serve on loopback; every connection is answered in a thread, and all end with the block.

    Args:
        answer: Called once for every connection, after the head of the request has come. When it
            returns or fails on the socket, the connection is closed.
        port: 0 takes a free one.
        tls: Speak TLS.
    """
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", port)) as server:
        here = Peer(server.getsockname()[1])

        def serve(call: Call) -> None:
            if tls is not None:
                try:
                    call.socket = tls.wrap_socket(call.socket, server_side=True)
                except OSError:
                    return
            with call.socket, suppress(OSError):
                while "\r\n\r\n" not in call.head and (data := call.socket.recv(4096)):
                    call.head += data.decode("latin-1")
                answer(call)

        def accept() -> None:
            with suppress(OSError):
                while not here.stopped.is_set():
                    sock, _ = server.accept()
                    call = Call(len(here.calls), "", sock, here.stopped)
                    here.calls.append(call)
                    threads.append(threading.Thread(target=serve, args=(call,), daemon=True))
                    threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield here
        finally:
            here.stopped.set()
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            accepting.join(PATIENCE_S)
            for call in here.calls:
                with suppress(OSError):
                    call.socket.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(PATIENCE_S)
            for call in here.calls:
                call.socket.close()


def certificate(folder: Path) -> Path:
    """Write a self-signed certificate of 127.0.0.1 and, behind it in the same file, its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "cert.pem"
    path.write_bytes(made.public_bytes(Encoding.PEM) + plain)
    return path


def part(picture: bytes, *, boundary: str = "frame", has_length: bool = True) -> bytes:
    """Return one part of an MJPEG stream, as most servers write it."""
    length = f"Content-Length: {len(picture)}\r\n" if has_length else ""
    head = f"--{boundary}\r\nContent-Type: image/jpeg\r\n{length}\r\n"
    return head.encode() + picture + b"\r\n"


def free_port() -> int:
    """Return a port of loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def process(*command: object, ready: str = "ready") -> Iterator[subprocess.Popen[str]]:
    """Run a peer until the block ends; it begins when the peer has printed the line `ready`.

    The peer gets a pipe as standard input that closes with this process, however it ends.
    """
    with subprocess.Popen(
        [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline().strip() == ready, f"{command} did not start"
            yield running
        finally:
            running.kill()
            running.wait()

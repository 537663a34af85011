"""An MJPEG server on loopback that sends the pictures of a real video file (AVI with JPEGs).

Usage: mjpeg_server.py PORT FILE FIRST FPS. Every picture carries its running number as a JPEG
comment, from FIRST on; the file begins again when it is over. It says `ready` when it listens, and
ends when its standard input does.
"""

import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=pictures\r\n\r\n"


def pictures_of(path: str) -> list[bytes]:
    """Take the JPEGs out of the chunks of an AVI file."""
    with open(path, "rb") as file:
        data = file.read()
    found = []
    at = data.index(b"movi") + 4
    while data[at : at + 4] == b"00dc":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append(data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return found


def numbered(pictures: list[bytes], first: int) -> Iterator[bytes]:
    for n in itertools.count(first):
        comment = b"frame %d" % n
        picture = pictures[n % len(pictures)]
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        yield picture[:2] + segment + picture[2:]


def main() -> None:
    port, path, first, fps = sys.argv[1:]
    pictures = numbered(pictures_of(path), int(first))
    with socket.create_server(("127.0.0.1", int(port))) as server:
        print("ready", flush=True)
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
        while True:
            client, _ = server.accept()
            with client, suppress(OSError):
                client.recv(4096)
                client.sendall(HEAD)
                for picture in pictures:
                    length = len(picture)
                    client.sendall(
                        b"--pictures\r\nContent-Type: image/jpeg\r\n"
                        b"Content-Length: %d\r\n\r\n%b\r\n" % (length, picture)
                    )
                    time.sleep(1 / float(fps))


main()

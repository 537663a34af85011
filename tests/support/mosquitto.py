"""A real broker on loopback; needs Debian's package mosquitto."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from patience import until

SECRET = "hunter2"


class Mosquitto:
    """The broker, on a port of its own, with one account besides anonymous ones."""

    def __init__(self, folder: Path, *extra: str) -> None:
        self._program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        if self._program is None:
            pytest.skip("mosquitto is not installed; apt-get install mosquitto")
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            self.port: int = place.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            "\n".join([f"listener {self.port} 127.0.0.1", "persistence false", "user root", *extra])
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(self._program), "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        assert until(answers)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def url(self, topic: str, account: str = "") -> str:
        return f"mqtt://{account}127.0.0.1:{self.port}/{topic}"

    def send(self, topic: str, *payloads: bytes | dict[str, Any], retain: bool = False) -> None:
        from paho.mqtt import publish

        messages = [
            {
                "topic": topic,
                "payload": p if isinstance(p, bytes) else json.dumps(p),
                "qos": 1,
                "retain": retain,
            }
            for p in payloads
        ]
        publish.multiple(messages, hostname="127.0.0.1", port=self.port)

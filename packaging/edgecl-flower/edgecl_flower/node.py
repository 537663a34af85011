"""`edgecl-flower-node`: run a SuperNode until one exchange has ended, for a timer to start.

A SuperNode and what it starts hold 260 MB; so they are there for an exchange only.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from edgecl_flower.files import STAMP

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""Without these Flower tells its maker of every start, and asks for news."""
# Its last answer goes out after the stamp was written.
_GRACE_S = 5


def main() -> None:
    """Run the node; the status is 0 after an exchange and 1 if none came."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--superlink", required=True, help="HOST:PORT of the SuperLink.")
    parser.add_argument("--root-certificates", required=True, help="Who signed its certificate.")
    parser.add_argument(
        "--key", required=True, help="This node's private key, as ssh-keygen made it."
    )
    parser.add_argument("--outbox", required=True, type=Path, help="What this device sends.")
    parser.add_argument("--inbox", required=True, type=Path, help="What comes for it.")
    parser.add_argument("--for", dest="seconds", default=900, type=float, help="Wait at most, s.")
    parser.add_argument("--port", default=9094, type=int, help="A free port of this machine.")
    options = parser.parse_args()
    for folder in (options.outbox, options.inbox):
        if not folder.is_dir() or any(c in str(folder.resolve()) for c in "\"'\\"):
            parser.error(f"{folder} is no folder, or has quotes in its name")
    sys.exit(0 if run(options) else 1)


def run(options: argparse.Namespace) -> bool:
    """Run the node until an exchange has ended or the time is over; return whether one has."""
    stamp: Path = options.inbox.resolve() / STAMP
    stamp.unlink(missing_ok=True)
    command = [
        str(Path(sys.executable).with_name("flower-supernode")),
        "--superlink", options.superlink,
        "--root-certificates", options.root_certificates,
        "--auth-supernode-private-key", options.key,
        "--port", str(options.port),
        "--node-config", f'outbox="{options.outbox.resolve()}" inbox="{options.inbox.resolve()}"',
    ]  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ends = time.monotonic() + options.seconds
    # In a group of its own, with all that it starts.
    node = subprocess.Popen(command, env=os.environ | QUIET, start_new_session=True)
    try:
        while not stamp.exists() and node.poll() is None and time.monotonic() < ends:
            time.sleep(0.5)
        if stamp.exists():
            time.sleep(_GRACE_S)
        return stamp.exists()
    finally:
        _end(node)


def _end(node: subprocess.Popen[bytes]) -> None:
    node.terminate()
    try:
        node.wait(10)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(node.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    node.wait()

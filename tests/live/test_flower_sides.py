"""The carrier on Flower without its network: both sides, lying devices, and the gate.

Needs `make flower`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from flower import BIN, NAMES, env, put, require_flower, tree

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def flower() -> None:
    require_flower()


def run(tmp_path: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in the carrier's environment."""
    return subprocess.run(
        [str(a) for a in (BIN / "python", Path(__file__).with_name(script), *arguments)],
        env=env(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_both_sides_move_what_the_other_lacks_and_no_more(tmp_path: Path) -> None:
    carrier, folders = tmp_path / "carrier", [tmp_path / name for name in NAMES]
    carrier.mkdir()
    sent = {}
    for i, (name, folder) in enumerate(zip(NAMES, folders, strict=True)):
        (folder / "inbox").mkdir(parents=True)
        for generation in (1, 2):  # Of press-2 the two do not fit into one message.
            data = os.urandom(400_000 * (i + 1))
            path = f"contributions/{name}/g{generation}-{{}}.efc"
            path = put(folder / "outbox", path, data).name
            sent[f"contributions/{name}/{path}"] = data
    put(carrier, "fleet.json", b'{"fleet":"plant"}')
    put(carrier, "orders/000001-{}.json", b"order 1")
    head = put(carrier, "merged/v1-{}.efb", os.urandom(300_000))
    # What does not belong to the layout stays where it is; what is too large is named.
    put(carrier, "orders/.secret", b"x")
    put(folders[0] / "outbox", "contributions/door/home.db", b"x")
    large = put(folders[0] / "outbox", "contributions/door/g3-{}.efc", bytes(3 << 20))

    done = run(tmp_path, "flower_pair.py", 2 << 20, carrier, *folders)
    assert done.stdout.split()[-2:] == ["3", "7"], done.stderr
    assert f"{large.name} is larger than 2,097,152 bytes" in done.stderr + done.stdout
    came = tree(carrier)
    assert {n: d for n, d in came.items() if n.startswith("contrib")} == sent
    first = {n: d for n, d in came.items() if not n.startswith(("contrib", "orders/."))}
    assert len(first) == 3
    assert [tree(f / "inbox") for f in folders] == [first] * 3

    # The merged head is revoked, and fleet.json is another one.
    head.unlink()
    put(carrier, "fleet.json", b'{"fleet":"plant","revision":2}')
    put(carrier, "masks/r1-{}.json", b"a round")
    done = run(tmp_path, "flower_pair.py", 2 << 20, carrier, *folders)
    assert done.stdout.split()[-2:] == ["3", "6"], done.stderr
    assert (done.stderr + done.stdout).count(": 0 files taken") == 3
    assert (done.stderr + done.stdout).count(": 2 files sent") == 3
    second = {n: d for n, d in tree(carrier).items() if not n.startswith(("contrib", "orders/."))}
    assert [tree(f / "inbox") for f in folders] == [second] * 3
    assert {n.partition("/")[0] for n in second} == {"fleet.json", "orders", "masks"}


def test_devices_that_lie_leave_nothing_and_are_named(tmp_path: Path) -> None:
    carrier = tmp_path / "a" / "carrier"
    carrier.mkdir(parents=True)
    done = run(tmp_path, "flower_hostile.py", carrier)
    assert done.returncode == 0, done.stderr
    files = [p for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in files] == [b"a file"]
    assert files[0].parent == carrier / "contributions/good"
    lines = done.stderr + done.stdout
    for node, text in (
        (2, "'../../evil' is not the name"),
        (2, "is not the name of a file that travels this way"),
        (2, "does not have the digest that its name says"),
        (3, r"'contributions/a\x1b[2J/g1-"),
        (4, "is larger than 1,000 bytes"),
        (5, "a message has no list"),
        (6, "a message has no list 'inbox'"),
        (8, "says 4980 things more"),
        (9, "was not served"),
        (10, "gave no answer to collect"),
        (11, "a message has no list 'refused'"),
    ):
        assert re.search(f"device {node}:? .*{re.escape(text)}", lines), (node, text)
    assert "\x1b[2J" not in lines
    # Seven were served, and the one that always has more was not asked for ever.
    assert done.stdout.split()[-2:] == ["7", "19"]


def test_the_gate_passes_calls_of_nodes_on_and_no_others(tmp_path: Path) -> None:
    done = run(tmp_path, "flower_gate.py")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [path for path, _, is_passed in found["calls"] if is_passed] == [
        "/v1/fleet/pull-messages",
        "/v1/fleet/a?x=/../../control/start-run",
    ]
    assert [url for url, _, _ in found["passed"]] == [
        "https://127.0.0.1:1/v1/fleet/pull-messages",
        "https://127.0.0.1:1/v1/fleet/a",
    ]
    statuses = [status for _, status, _ in found["calls"]]
    assert statuses == [412, 405, *[404] * 6, 412, 404, 404, 413]
    headers = found["passed"][0][2]
    assert headers == {"flwr-signature": "s"}

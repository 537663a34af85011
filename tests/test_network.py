"""No command opens an internet socket or leaves a file outside the device home.

The kernel is the judge: a seccomp filter kills the child at its first `socket(AF_INET...)`.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import build

# (AUDIT_ARCH_*, number of the system call socket), from linux/audit.h and asm/unistd.h.
MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
NO_FILTER = 77

GUARD = """
import ctypes, struct, sys
def guard(arch, number):
    LD, JEQ, RET = 0x20, 0x15, 0x06
    KILL, ALLOW = 0x80000000, 0x7FFF0000
    steps = [
        (LD, 0, 0, 4), (JEQ, 1, 0, arch), (RET, 0, 0, KILL),
        (LD, 0, 0, 0), (JEQ, 1, 0, number), (RET, 0, 0, ALLOW),
        (LD, 0, 0, 16), (JEQ, 1, 0, 2), (JEQ, 0, 1, 10), (RET, 0, 0, KILL),
        (RET, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *s) for s in steps))
    class Program(ctypes.Structure):
        _fields_ = [("n", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
    program = Program(len(steps), ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    long = ctypes.c_ulong
    if prctl(38, long(1), long(0), long(0), long(0)):  # PR_SET_NO_NEW_PRIVS
        sys.exit(%d)
    if prctl(22, long(2), ctypes.byref(program), long(0), long(0)):  # PR_SET_SECCOMP, filter
        sys.exit(%d)
guard(%d, %d)
"""


def guarded(
    code: str, *arguments: object, env: dict[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    arch, number = MACHINES[platform.machine()]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            GUARD % (NO_FILTER, NO_FILTER, arch, number) + code,
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        env=env,
        cwd=cwd,
        timeout=300,
        check=False,
    )
    if done.returncode == NO_FILTER:
        pytest.skip("this kernel does not let a process install a seccomp filter")
    return done


@pytest.fixture
def fresh(tmp_path: Path) -> dict[str, str]:
    """An environment with an empty HOME and TMPDIR and without the switches tests set."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        pytest.skip(f"no seccomp system call number known for {sys.platform} {platform.machine()}")
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("HF_", "ORT_", "XDG_", "EDGECL_", "TORCH"))
    }
    places = {"HOME": tmp_path / "user", "TMPDIR": tmp_path / "tmp"}
    for place in (*places.values(), tmp_path / "work"):
        place.mkdir()
    return kept | {name: str(place) for name, place in places.items()}


def files_outside(device: Path, *places: Path) -> list[str]:
    return [
        str(path)
        for place in places
        for path in sorted(place.rglob("*"))
        # Importing torch makes an empty folder for its compiler's cache; a file is a fault.
        if (path.is_symlink() or not path.is_dir()) and not path.is_relative_to(device)
    ]


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_the_filter_kills_a_process_that_opens_a_socket(
    family: str, fresh: dict[str, str], tmp_path: Path
) -> None:
    code = f"import socket; socket.socket(socket.{family}, socket.SOCK_STREAM)"
    done = guarded(code, env=fresh, cwd=tmp_path / "work")
    assert done.returncode == -signal.SIGSYS, done.stderr


def test_the_filter_lets_other_work_pass(fresh: dict[str, str], tmp_path: Path) -> None:
    code = "import socket; a, b = socket.socketpair(); print('fine')"
    done = guarded(code, env=fresh, cwd=tmp_path / "work")
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr


@pytest.mark.slow
def test_init_train_and_predict_open_no_socket_and_write_only_into_the_home(
    fresh: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    main = "from edgecl.cli import main; main()"
    device = tmp_path / "user" / "device"
    folder = build.part_folder(tmp_path / "parts", 3)
    before = sorted(folder.rglob("*"))
    places = (tmp_path / "user", tmp_path / "tmp", tmp_path / "work")
    commands: list[tuple[object, ...]] = [
        ("init", "--backbone", "test_efficientnet", "--weights", "random", "--image-size", 64),
        ("train-stream", folder),
        ("predict", folder / "washer" / "000.jpg"),
        ("evaluate", folder),
        ("export", "onnx", "--output", device / "bundle"),
        ("predict", folder / "washer" / "000.jpg", "--bundle", device / "bundle"),
        ("forget", "class", "washer"),
        ("doctor",),
    ]
    for command in commands:
        done = guarded(main, *command, "--home", device, "--json", env=fresh, cwd=tmp_path / "work")
        assert done.returncode == 0, (command, done.returncode, done.stderr)
        assert files_outside(device, *places) == [], command
    assert sorted(folder.rglob("*")) == before

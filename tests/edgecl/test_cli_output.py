"""What commands print: nothing that a terminal obeys, and counts of all that was thrown away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import build
from edgecl.cli.output import print_json, print_table, printable, say
from edgecl.home import Home
from peers import HEAD, Call, part, peer

SECRET = "S3CRET"
EVIL = "\x1b]0;PWNED\x07\x1b[31m\x9b31m\u202egpj\u200b\x7f"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cup", "cup"),
        ("Größe 杯 🥤 a\xa0b", "Größe 杯 🥤 a\xa0b"),
        ("\x1b[31m", "\\u001b[31m"),
        ("a\nb\tc\x9b", "a\\u000ab\\u0009c\\u009b"),
        ("\u202ecup\u200b\u2028", "\\u202ecup\\u200b\\u2028"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\udb40\\udc41"),
    ],
)
def test_what_a_terminal_obeys_or_hides_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(expected) == expected


def test_nothing_that_is_printed_holds_a_control_character(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say(f"skipped {EVIL}: broken")
    print_json({EVIL: EVIL})
    print_table(EVIL, (EVIL,), [(EVIL,)])
    out, err = capsys.readouterr()
    shown = (out + err).replace("\n", "")
    assert shown.isprintable()
    assert json.loads(out.splitlines()[0]) == {EVIL: EVIL}


def test_names_in_lines_of_a_peer_reach_no_terminal(home: Home) -> None:
    line = json.dumps({"path": EVIL, "label": "cup"}) + "\n"
    done = build.run_edgecl("train-stream", "-", "--home", home.path, stdin=line)
    assert done.returncode == 3
    assert "PWNED" in done.stderr
    assert (done.stdout + done.stderr).replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", f"rtsp://u:{SECRET}@h/"),
        (f"http://u:{SECRET}@h/",),
        ("train-stream", f"--http://u:{SECRET}@h"),
        ("train-stream", "x", "--metrics", f"u:{SECRET}@h:1"),
        ("train-stream", f"camera:rtsp://u:{SECRET}@h/"),
        ("train-stream", f"watch:http://u:{SECRET}@h/"),
        ("train-stream", f"http://u:{SECRET}#@10.0.0.9/"),
        ("predict", f"rtsp://u:{SECRET}/x@h/"),
        ("evaluate", f"mqtt://u:{SECRET}/x@h/t"),
        ("train-stream", "synthetic:", "--events", f"http://u:{SECRET}/x@h/"),
        ("train-stream", "synthetic:", "--labels", f"mqtt://u:{SECRET}/x@h/t"),
        ("import", f"http://u:{SECRET}@h/"),
        ("forget", "source", f"http://u:{SECRET}@h/", "--dry-run"),
    ],
)
def test_no_command_repeats_a_password(arguments: tuple[str, ...], home: Home) -> None:
    extra = [] if arguments[0].startswith("http") else ["--home", str(home.path)]
    done = build.run_edgecl(*arguments, *extra)
    assert done.returncode in (2, 3)
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def broken_camera(call: Call) -> None:
    pictures = [build.encode(build.part_picture("washer", i, 48)) for i in range(3)]
    call.send(HEAD.format("frame"))
    call.send(part(b"<alert/>").replace(b"image/jpeg", b"text/xml"))
    for picture in pictures:
        call.send(part(picture[: len(picture) // 2]))
        call.send(part(picture[:-2]))
        call.wait(0.3)
    call.until_closed()


def test_what_a_camera_sends_and_is_thrown_away_is_told_and_counted(
    home: Home, tmp_path: Path
) -> None:
    log, metrics = tmp_path / "log.jsonl", tmp_path / "m.prom"
    with peer(broken_camera) as server:
        done = build.run_edgecl(
            "train-stream", server.url(), "--label", "cup", "--home", home.path, "--limit", 3,
            "--json", "--log-json", log, "--metrics", metrics,
        )  # fmt: skip
    result = build.last_json(done)
    assert (result["seen"], result["broken"], result["not_pictures"]) == (3, 3, 1)
    assert (result["oversize"], result["repeated"]) == (0, 0)
    assert "a picture was left out (end missing); more of them are counted" in done.stderr
    assert "a part was left out (text/xml)" in done.stderr
    end = json.loads(log.read_text().splitlines()[-1])
    assert (end["event"], end["broken"], end["not_pictures"]) == ("end", 3, 1)
    assert "edgecl_frames_broken_total 3.0" in metrics.read_text()
    assert "edgecl_parts_not_pictures_total 1.0" in metrics.read_text()


def camera_with_token(call: Call) -> None:
    if f"Authorization: Bearer {SECRET}\r\n" not in call.head:
        return call.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    picture = build.encode(build.part_picture("washer", call.number, 48))
    call.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(picture)}\r\n\r\n")
    return call.send(picture)


def test_a_header_file_is_used_and_its_text_is_nowhere(
    taught_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home = copy_of(taught_home)
    path, log = tmp_path / "headers", tmp_path / "log.jsonl"
    path.write_text(f"Authorization: Bearer {SECRET}\n")
    path.chmod(0o644)
    with peer(camera_with_token) as server:
        command = ["train-stream", server.url("/api/camera_proxy/camera.door"), "--label", "cup"]
        common = ["--home", home, "--limit", 2, "--json", "--log-json", log]
        done = build.run_edgecl(*command, *common, "--header-file", path)
        assert build.last_json(done)["seen"] == 2
        assert f"every user of this machine can read {path}" in done.stderr
        path.chmod(0o600)
        path.write_text(f"Authorization: Bearer old-{SECRET}\n")
        refused = build.run_edgecl(*command, *common, "--header-file", path)
        assert refused.returncode == 3
        assert "refuses the Authorization of the header file (401)" in refused.stderr
        assert "every user" not in refused.stderr
    texts = done.stdout + done.stderr + refused.stdout + refused.stderr + log.read_text()
    assert SECRET not in texts
    for file in home.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()

"""No secret of an address or pipeline survives in a name or message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecl.runtime.redact import redacted

HIDDEN = "S3CRET"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://admin:S3CRET@10.0.0.9/live", "rtsp://***@10.0.0.9/live"),
        ("rtsp://S3CRET@cam/live", "rtsp://***@cam/live"),
        ("rtsp://admin:S3CRET@[::1]:8554/live", "rtsp://***@[::1]:8554/live"),
        ("http://u:p@S3CRET@cam:80/a?w=1", "http://***@cam:80/a?w=1"),
        ("http://u:p/S3CRET@cam/a", "http://***@cam/a"),
        ("http://u:p S3CRET@cam/a", "http://***@cam/a"),
        ("http:/u:S3CRET@cam/a", "http:/***@cam/a"),
        ("http:///u:S3CRET@cam/a", "http:///***@cam/a"),
        ("MQTT:u:S3CRET@cam/a", "MQTT:***@cam/a"),
        ("HTTP://cam/a?Token=S3CRET&w=1", "HTTP://cam/a?Token=***&w=1"),
        ("http://cam/a?w=1&accessToken=S3CRET#x", "http://cam/a?w=1&accessToken=***"),
        ("http://cam/a?p%61ssword=S3CRET", "http://cam/a?p%61ssword=***"),
        ("http://cam/a?X-Amz-Signature=S3CRET", "http://cam/a?X-Amz-Signature=***"),
        ("rtsp://u:S3@S3CRET#S3CRET@cam/a", "rtsp://***@cam/a"),
        ("rtsp://u:1234/S3CRET@cam:1/a", "rtsp://***@cam:1/a"),
        ("rtsps://u:S3?S3CRET@cam/a", "rtsps://***@cam/a"),
        ("rtmp:/u:S3CRET@cam/a", "rtmp:/***@cam/a"),
        ("rtsp://u:S3CRET/10.0.0.9", "rtsp://***/10.0.0.9"),
        ("rtsp://u:x@h:S3CRET/a", "rtsp://***@***/a"),
        ("http://u:S3CRET#", "http://***#"),
        ("http://cam:8080/a@b?w=640", "http://***@b?w=640"),
        ("http://cam/a?pwd=x#S3CRET&w=1", "http://cam/a?pwd=***&w=1"),
        ("http://cam/a?pwd=x&S3CRET&w=1", "http://cam/a?pwd=***&w=1"),
        ("http://cam/a?user=u&pwd=x@S3CRET&w=1", "http://***"),
        ("http://cam/a?loginuse=S3CRET&loginpas=S3CRET", "http://cam/a?loginuse=***&loginpas=***"),
        ("http://cam/a?pswd=S3CRET&psw=S3CRET", "http://cam/a?pswd=***&psw=***"),
        ("http://cam/a?pas=S3CRET&loginPas=S3CRET", "http://cam/a?pas=***&loginPas=***"),
        ("http://cam/a?u=S3CRET&p=S3CRET", "http://cam/a?u=***&p=***"),
        ("rtsp://cam/user=S3CRET_password=S3CRET_a.sdp", "rtsp://cam/user=***"),
        ("gst:rtspsrc location=rtsp://u:S3CRET@h/x ! a", "gst:rtspsrc location=rtsp://***@h/x ! a"),
        ('gst:x user-pw="a S3CRET" ! y w=1', "gst:x user-pw=*** ! y w=1"),
        (r'gst:x user-pw="a\" S3CRET" ! y', "gst:x user-pw=*** ! y"),
        ("gst:x user-id=S3CRET user-pw = S3CRET", "gst:x user-id=*** user-pw = ***"),
        ("gst:x user-pw=(string)S3CRET ! y", "gst:x user-pw=*** ! y"),
        ("gst:x user-pw=a,&;S3CRET ! y", "gst:x user-pw=*** ! y"),
        ('gst:x h="a,Authorization=Bearer S3CRET"', 'gst:x h="a,Authorization=***"'),
        ("header Authorization: Basic S3CRET==", "header Authorization: ***"),
        ("source u:S3CRET@cam/a is none", "source ***@cam/a is none"),
        ("//u:S3CRET@cam:554/a", "//***@cam:554/a"),
        ("http//u:S3CRET@cam/a", "http//***@cam/a"),
        ("http://ha:8123/api/webhook/S3CRET", "http://ha:8123/api/webhook/***"),
        ("https://h/api/webhooks/12/S3CRET?w=1", "https://h/api/webhooks/***?w=1"),
        ("https://h/bot12:S3CRET/sendPhoto", "https://h/***/sendPhoto"),
        ("rtsp://cam/live/admin:S3CRET/1", "rtsp://cam/live/***/1"),
        ("https://h/api/fn?code=S3CRET&w=1", "https://h/api/fn?code=***&w=1"),
        ("cannot open 'mqtt://u:S3CRET@h/t': refused", "cannot open 'mqtt://***@h/t': refused"),
    ],
)
def test_secrets_are_hidden_and_the_rest_stays(text: str, expected: str) -> None:
    assert HIDDEN not in redacted(text)
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "token",
    ["xZ8a9fJ2kLq0pR5t", "3fa85f64-5717-4562-b3fc-2c963f66afa6", "a1b2c3d4e5f60718",
     "xKqLmNoPqRsTuVwX", "x" * 8 + "9" * 24],
)  # fmt: skip
def test_a_part_of_a_path_that_is_drawn_by_lot_is_hidden_and_still_told_apart(token: str) -> None:
    names = {redacted(f"rtsps://nvr:7441/{t}?srtp=1: refused") for t in (token, token[::-1] + "1")}
    assert len(names) == 2
    for name in names:
        assert name.startswith("rtsps://nvr:7441/***")
        assert name.endswith("?srtp=1: refused")
        assert len(name) == len("rtsps://nvr:7441/***1234?srtp=1: refused")
        assert redacted(name) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "parts",
        "/data/parts@home/x.csv",
        "camera:/dev/video0",
        "http://cam:8080/a?p=640&h=480",
        "http://[::1]:80/a%40b",
        "expected http://HOST[:PORT]/PATH or mqtt://[user:password@]host[:port]/topic",
        "rtsp://10.0.0.9:554/live/1",
        "gst:nvarguscamerasrc ! video/x-raw(memory:NVMM),width=1280,framerate=30/1 ! nvvidconv",
        "mqtt://host/topic/+",
        "watch:/home/me@work/in",
        "give rtsp: or http: and me@work knows",
        "a digest of the frame, basic colours",
        "https://cam/axis-cgi/mjpg/video.cgi?resolution=640x480&codec=h264",
        "rtsp://10.0.0.9:554/Streaming/Channels/101",
        "http://h/api/camera_proxy/camera.front_door_1080p",
        "http://h/files/20261128T101010Z.jpg",
        "http://h/cam/realmonitor",
        "at 10:30@noon",
    ],
)
def test_what_holds_no_secret_is_left_as_it_is(text: str) -> None:
    assert redacted(text) == text


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


@given(words)
def test_hiding_twice_is_hiding_once(text: str) -> None:
    once = redacted(f"rtsp://{text}@host/x?key={text} {text} pw={text}")
    assert redacted(once) == once


@given(
    st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1, max_size=20)
)
def test_no_password_of_an_address_survives(password: str) -> None:
    secret = f"S3C{password}RET"
    out = redacted(f"rtsp://admin:{secret}@host/live")
    assert secret not in out
    assert "admin" not in out

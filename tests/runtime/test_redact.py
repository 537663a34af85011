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
        ("cannot open 'mqtt://u:S3CRET@h/t': refused", "cannot open 'mqtt://***@h/t': refused"),
    ],
)
def test_secrets_are_hidden_and_the_rest_stays(text: str, expected: str) -> None:
    assert HIDDEN not in redacted(text)
    assert redacted(text) == expected


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

"""The message that describes a device to Home Assistant, against what Home Assistant asks of it."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import jinja2
import pytest

from edgecl.errors import UsageError
from edgecl.runtime import homeassistant
from edgecl.runtime.discovery import About, discovery, parse_place, place_at, slug, without
from edgecl.runtime.redact import redacted
from edgecl.runtime.sources.messages import Command, LabelWindow, parse_message
from edgecl.types import Frame

PLACE = parse_place("homeassistant://me:hunter2@broker:1884/gate")
NAMES = ("cup", 'a "big" cup', "Schlüssel & Bund", "-", "unsure", "it's\\so")
WHOLE = discovery(PLACE, About("lite0, ridge", "0.2", True), NAMES)

# Of Home Assistant's core, by platform: what must be there, and what may (mqtt/*.py).
SHARED = {
    "platform", "unique_id", "default_entity_id", "name", "icon", "device_class",
    "entity_category", "json_attributes_topic",
}  # fmt: skip
MUST = {
    "sensor": {"state_topic"},
    "binary_sensor": {"state_topic"},
    "image": {"image_topic"},
    "select": {"command_topic", "options"},
    "text": {"command_topic"},
    "button": {"command_topic"},
}
MAY = {
    "sensor": {"value_template", "unit_of_measurement", "state_class", "options"},
    "binary_sensor": {"value_template"},
    "image": {"content_type"},
    "select": {"command_template", "state_topic"},
    "text": {"command_template"},
    "button": {"payload_press"},
}


def faults(message: dict[str, Any]) -> list[str]:
    """Return what Home Assistant would refuse."""
    found = []
    if set(message) != {"device", "origin", "availability_topic", "qos", "components"}:
        found.append("keys of the message")
    if not message["device"].get("identifiers"):
        found.append("a device needs identifiers or connections")
    if not message["origin"].get("name"):
        found.append("an origin needs a name")
    seen = set()
    for key, part in message["components"].items():
        platform = part.get("platform")
        if platform not in MUST:
            found.append(f"{key}: platform {platform}")
            continue
        found += [f"{key}: {name} is missing" for name in sorted(MUST[platform] - set(part))]
        unknown = set(part) - SHARED - MUST[platform] - MAY[platform]
        found += [f"{key}: {name} is unknown" for name in sorted(unknown)]
        if not re.fullmatch(r"[a-zA-Z0-9_-]+", key) or part["unique_id"] in seen:
            found.append(f"{key}: its ids")
        seen.add(part["unique_id"])
        if not re.fullmatch(rf"{platform}\.[a-z0-9_]+", part["default_entity_id"]):
            found.append(f"{key}: {part['default_entity_id']}")
        if "options" in part and len(set(part["options"])) != len(part["options"]):
            found.append(f"{key}: an option comes twice")
        if part.get("device_class") == "enum" and {"state_class", "unit_of_measurement"} & set(
            part
        ):
            found.append(f"{key}: an enum has no unit")
    return found


@pytest.mark.parametrize(
    "message",
    [
        WHOLE,
        discovery(PLACE, About(), ()),
        discovery(
            parse_place("homeassistant://h/Küche 1"), About("m", "1", True), NAMES, ("a", "b c")
        ),
    ],
)
def test_the_message_is_one_that_home_assistant_takes(message: dict[str, Any]) -> None:
    assert faults(message) == []
    assert json.loads(json.dumps(message)) == message
    assert "hunter2" not in json.dumps(message)


def test_a_fault_would_be_found() -> None:
    broken = json.loads(json.dumps(WHOLE))
    del broken["components"]["seen"]["state_topic"]
    broken["components"]["undo"]["object_id"] = "x"
    broken["components"]["teach"]["options"] *= 2
    assert len(faults(broken)) == 3


def test_what_is_there() -> None:
    assert set(WHOLE["components"]) == {
        "seen", "score", "frame", "unknown", "lost", "worse", "to_review", "teach", "new", "undo",
    }  # fmt: skip
    watched = discovery(PLACE, About(), NAMES)["components"]
    assert set(WHOLE["components"]) - set(watched) == {"teach", "new", "undo"}
    two = discovery(PLACE, About(), NAMES, ("front", "Hof"))["components"]
    assert two["seen_front"]["state_topic"] == "edgecl/gate/front/event"
    assert two[f"lost_{slug('Hof')}"]["state_topic"] == f"edgecl/gate/{slug('Hof')}/lost"
    assert "worse" in two


def render(template: str, **values: Any) -> str:
    """Render as Home Assistant does: `value_json` is there only if the payload is JSON."""
    value = values.get("value", "")
    try:
        values["value_json"] = json.loads(value)
    except ValueError:
        pass
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template).render(values)


@pytest.mark.parametrize("name", [*NAMES, "ไทย", "{{ value }}", "a/b"])
def test_what_home_assistant_sends_is_a_label_message(name: str) -> None:
    parts = WHOLE["components"]
    for key in ("teach", "new"):
        message = parse_message(render(parts[key]["command_template"], value=name), now=1.0)
        expected = None if (key, name) == ("teach", "-") else name
        assert message == LabelWindow(expected, 1.0)
    assert parse_message(parts["undo"]["payload_press"]) == Command("undo", 10)
    assert len({part["command_topic"] for part in parts.values() if "command_topic" in part}) == 1


@pytest.mark.parametrize(
    ("event", "seen", "score", "unknown"),
    [
        ({"label": "cup", "state": "known", "score": 0.974}, "cup", "97.4", "OFF"),
        ({"label": "cup", "state": "unsure", "score": 0.4}, "unsure", "40.0", "OFF"),
        ({"label": "unknown", "state": "unknown", "score": 0.9}, "unknown", "90.0", "ON"),
        (None, "unknown", "None", "OFF"),  # emptied by an unlearning
    ],
)
def test_what_home_assistant_shows(
    event: dict[str, Any] | None, seen: str, score: str, unknown: str
) -> None:
    parts, payload = WHOLE["components"], "" if event is None else json.dumps(event)
    shown = [
        render(parts[k]["value_template"], value=payload) for k in ("seen", "score", "unknown")
    ]
    assert shown == [seen, score, unknown]
    assert seen in parts["seen"]["options"]


def test_a_class_that_is_gone_is_in_no_options() -> None:
    left = without(json.loads(json.dumps(WHOLE)), ["cup"])
    assert left == discovery(PLACE, About("lite0, ridge", "0.2", True), ["cup"])


@pytest.mark.parametrize(
    ("spec", "address", "config"),
    [
        ("homeassistant://h/gate", "mqtt://h/edgecl/gate", "edgecl_gate"),
        ("homeassistants://u:p%40@h:99/a-b_1", "mqtts://h:99/edgecl/a-b_1", "edgecl_a-b_1"),
        ("HomeAssistant://h/x", "mqtt://h/edgecl/x", "edgecl_x"),
    ],
)
def test_addresses(spec: str, address: str, config: str) -> None:
    place = parse_place(spec)
    assert (place.address, place.config) == (address, f"homeassistant/device/{config}/config")
    again = place_at(address)
    assert (again.config, again.topic("event")) == (place.config, place.topic("event"))


@pytest.mark.parametrize("name", ["Gate", "gate ", "gäte", "gate_", "a.b", "a b", "Ä", "???"])
def test_other_names_have_other_ids(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9_-]+", slug(name))
    assert slug(name) != slug("gate")
    assert slug(name) != slug(name + " ")


@pytest.mark.parametrize(
    "spec", ["homeassistant://h", "homeassistant://h/", "homeassistant://h/a/b", "homeassistant:///x",
             "homeassistant://u:hunter2@/x", "homeassistants://u:hunter2@h/#"]
)  # fmt: skip
def test_an_address_that_is_none_is_told_in_its_own_words(spec: str) -> None:
    with pytest.raises(UsageError, match="homeassistant") as caught:
        parse_place(spec)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in redacted(spec)


def test_a_picture_that_is_encoded_while_something_is_forgotten_is_never_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published: list[tuple[str | None, bytes]] = []
    begun, goes_on = threading.Event(), threading.Event()

    class Peer:
        is_alive = True

        def __init__(self, *args: Any, **values: Any) -> None:
            pass

        def publish(self, payload: bytes, topic: str, *, retain: bool) -> None:
            published.append((topic, payload))

        def close(self) -> None:
            pass

    def encode(frame: Frame, side: int) -> bytes:
        begun.set()
        goes_on.wait(90)
        return b"a picture of what is gone"

    monkeypatch.setattr(homeassistant, "Connection", Peer)
    monkeypatch.setattr(homeassistant, "small_jpeg", encode)
    sink = homeassistant.HomeAssistant(PLACE, About())
    try:
        sink.show(Frame(id="1", encoded=b"x"))
        sink.emit({"label": "gone", "state": "known", "score": 1.0})
        assert begun.wait(90)
        threading.Timer(0.1, goes_on.set).start()
        sink.drop(["cup"])
        assert goes_on.is_set()  # what was on its way was waited for
    finally:
        sink.close()
    assert not [topic for topic, payload in published if b"a picture" in payload]
    assert (PLACE.topic("event"), b"") in published

"""What Home Assistant is told of a device over MQTT: topics, and one message that describes it.

The message is that of MQTT device discovery, retained on `homeassistant/device/ID/config` (Home
Assistant, "MQTT", section "Device discovery payload"; read in the code of its core, components
mqtt/{const,schemas,discovery,image,button,select}.py). Everything else stands below `edgecl/NAME/`:

    available      online or offline, also as the last will
    event          the newest event as JSON      frame    the picture it came with, JPEG
    lost           ON while the camera is away   teaching the class that is being taught, or -
    to_review      frames that wait for a name   worse    ON if a change is proved to be a loss
    labels         what Home Assistant says: label messages of sources/messages.py

With several sources `event`, `frame` and `lost` are below `edgecl/NAME/SOURCE/`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgecl.errors import UsageError

from .broker import Broker, parse_broker

SCHEMES = ("homeassistant://", "homeassistants://")
BIRTH = "homeassistant/status"
NOBODY = "-"
"""Option of the list of classes that ends teaching."""
UNDO_N = 10
# What may say a name, and is emptied by an unlearning.
SAYS_NAMES = ("event", "frame", "teaching")
_LABEL = '{"label": {{ value | tojson }}}'
_CHOICE = '{"label": {{ (none if value == "-" else value) | tojson }}}'
_SEEN = (
    "{{ (value_json.label if value_json.state == 'known' else value_json.state) "
    "if value_json is defined else 'unknown' }}"
)
_SCORE = "{{ (value_json.score * 100) | round(1) if value_json is defined else 'None' }}"
_UNKNOWN = "{{ 'ON' if value_json is defined and value_json.state == 'unknown' else 'OFF' }}"


@dataclass(frozen=True, slots=True)
class About:
    """What a device is.

    Args:
        model: Backbone and head.
        version: Of edgecl.
        can_teach: Whether it takes label messages.
        url: Of its page, or empty.
    """

    model: str = ""
    version: str = ""
    can_teach: bool = False
    url: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """How it stands with a device.

    Args:
        classes: Names of its classes.
        teaching: The class that frames are taught as now, or None.
        to_review: Frames that wait for a name.
        is_worse: Whether a change is proved to have made it know less.
        sources: Names of its sources; the only one has no name.
        lost: Those whose camera is away.
    """

    classes: tuple[str, ...] = ()
    teaching: str | None = None
    to_review: int = 0
    is_worse: bool = False
    sources: tuple[str, ...] = ("",)
    lost: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device is found.

    Args:
        broker: The broker; its topic is `edgecl/NAME`.
        name: NAME.
    """

    broker: Broker
    name: str

    @property
    def address(self) -> str:
        """The address below which it publishes, without user and password."""
        return self.broker.name

    @property
    def id(self) -> str:
        """What tells it from other devices, also in identifiers."""
        return f"edgecl_{slug(self.name)}"

    @property
    def config(self) -> str:
        """Topic of the message that describes it."""
        return f"homeassistant/device/{self.id}/config"

    def topic(self, leaf: str, source: str = "") -> str:
        """Return one of its topics."""
        return "/".join([self.broker.topic, *([slug(source)] if source else []), leaf])


def parse_place(spec: str) -> Place:
    """Read `homeassistant://[user:password@]host[:port]/NAME`, or `homeassistants` for TLS.

    Raises:
        UsageError: It is none; does not show the password.
    """
    try:
        broker = parse_broker(re.sub(r"(?i)^homeassistant", "mqtt", spec), may_match=False)
    except UsageError as error:
        text = re.sub(r"\bmqtt(s?)://", r"homeassistant\1://", str(error))
        raise UsageError(text.replace("/topic", "/NAME").replace("topic", "name")) from error
    if "/" in broker.topic:
        raise UsageError(
            f"the name of a device for Home Assistant is one word, as in {SCHEMES[0]}HOST/gate"
        )
    return Place(replace(broker, topic=f"edgecl/{broker.topic}"), broker.topic)


def place_at(address: str) -> Place:
    """Return the place that has this `address`, without an account."""
    broker = parse_broker(address, may_match=False)
    return Place(broker, broker.topic.removeprefix("edgecl/"))


def slug(name: str) -> str:
    """Return a name in the letters that ids and topics may have, still unlike other names'."""
    plain = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_")
    if plain == name:
        return name
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=3).hexdigest()
    return f"{plain}_{digest}".lstrip("_")


def discovery(
    place: Place, about: About, classes: Sequence[str], sources: Sequence[str] = ("",)
) -> dict[str, Any]:
    """Return the message that describes a device and its entities, JSON values."""
    device = {
        "identifiers": [place.id],
        "name": f"edgecl {place.name}",
        "manufacturer": "edgecl",
        "model": about.model,
        "sw_version": about.version,
        "configuration_url": about.url,
    }
    parts: dict[str, Any] = {}
    for source in sources:
        parts |= _seen(place, classes, source)
    parts |= _whole(place)
    if about.can_teach:
        parts |= _teach(place, classes)
    return {
        "device": {key: value for key, value in device.items() if value},
        "origin": {"name": "edgecl", "sw_version": about.version or "0"},
        "availability_topic": place.topic("available"),
        "qos": 1,
        "components": parts,
    }


def without(message: Any, classes: Sequence[str]) -> Any:
    """Return what `discovery` made, with no other class in its options than these."""
    for part in message["components"].values():
        if "options" in part:
            left = [name for name in part["options"] if name in classes]
            part["options"] = _seen_options(left) if part["platform"] == "sensor" else _taught(left)
    return message


def _seen_options(classes: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*classes, "unsure", "unknown"]))


def _taught(classes: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([NOBODY, *classes]))


def _part(place: Place, platform: str, key: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        key: {
            "platform": platform,
            "unique_id": f"{place.id}_{key}",
            "default_entity_id": f"{platform}.{place.id}_{key}".replace("-", "_"),
            "name": name,
            **more,
        }
    }


def _seen(place: Place, classes: Sequence[str], source: str) -> dict[str, Any]:
    """Entities of one source."""
    tail, suffix = (f" {source}", f"_{slug(source)}") if source else ("", "")
    event = {"state_topic": place.topic("event", source)}

    def part(platform: str, key: str, name: str, **more: Any) -> dict[str, Any]:
        return _part(place, platform, key + suffix, name + tail, **more)

    return {
        **part(
            "sensor", "seen", "Seen", icon="mdi:eye", device_class="enum",
            options=_seen_options(classes), value_template=_SEEN,
            json_attributes_topic=place.topic("event", source), **event,
        ),
        **part(
            "sensor", "score", "Score", unit_of_measurement="%", state_class="measurement",
            value_template=_SCORE, **event,
        ),
        **part(
            "image", "frame", "Frame", image_topic=place.topic("frame", source),
            content_type="image/jpeg",
        ),
        **part("binary_sensor", "unknown", "Unknown", value_template=_UNKNOWN, **event),
        **part(
            "binary_sensor", "lost", "Camera lost", device_class="problem",
            entity_category="diagnostic", state_topic=place.topic("lost", source),
        ),
    }  # fmt: skip


def _whole(place: Place) -> dict[str, Any]:
    """Entities of the device, whatever its sources."""
    return {
        **_part(
            place, "binary_sensor", "worse", "Knows less than before", device_class="problem",
            entity_category="diagnostic", state_topic=place.topic("worse"),
        ),
        **_part(
            place, "sensor", "to_review", "To review", icon="mdi:help-box-multiple",
            state_class="measurement", state_topic=place.topic("to_review"),
        ),
    }  # fmt: skip


def _teach(place: Place, classes: Sequence[str]) -> dict[str, Any]:
    """Entities by which it is taught."""
    to = {"command_topic": place.topic("labels")}
    return {
        **_part(
            place, "select", "teach", "Teach", options=_taught(classes),
            state_topic=place.topic("teaching"), command_template=_CHOICE, **to,
        ),
        **_part(place, "text", "new", "Teach new class", command_template=_LABEL, **to),
        **_part(
            place, "button", "undo", "Undo", entity_category="config",
            payload_press=f'{{"command": "undo", "n": {UNDO_N}}}', **to,
        ),
    }  # fmt: skip

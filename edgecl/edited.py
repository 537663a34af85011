"""Settings looked at, checked and changed one by one, in the file as somebody wrote it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgecl.config import Config
from edgecl.errors import ConfigError
from edgecl.runtime.files import write_whole
from edgecl.runtime.redact import redacted
from edgecl.settings import (
    REST,
    SECTIONS,
    config_of,
    config_text,
    from_environment,
    load_config,
    read_toml,
    text_of,
    toml_of,
    tomllib,
    unknown,
    value_of,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting in effect.

    Args:
        key: `store.capacity_samples`, or `source.NAME.url`.
        value: Its value, without secrets.
        origin: `file`, `default`, or the variable of the environment that gives it.
    """

    key: str
    value: Any
    origin: str


def settings_in_effect(path: Path, environ: Mapping[str, str]) -> list[Setting]:
    """Return all settings of a file and the environment, and where each comes from.

    Raises:
        ConfigError: As `load_config`.
    """
    raw, variables = read_toml(path), from_environment(environ)
    config = load_config(path, environ)
    found = []
    for section, values in asdict(config).items():
        for key, value in (values | values.pop(REST, {})).items() if section != "source" else ():
            origin = "file" if key in raw.get(section, {}) else "default"
            if (section, key) in variables:
                origin = f"EDGECL_{section}_{key}".upper()
            found.append(Setting(f"{section}.{key}", value, origin))
    for source, table in zip(config.source, raw.get("source", ()), strict=True):
        for f in fields(source):
            value = getattr(source, f.name)
            shown = redacted(value) if isinstance(value, str) else value
            origin = "file" if f.name in table else "default"
            if f.name != "name":
                found.append(Setting(f"source.{source.name}.{f.name}", shown, origin))
    return found


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a file of settings.

    Args:
        line: Line of it, from 1; 0 where it is no single one.
        key: The key, as in `Setting`, or a section; empty where the file is no TOML.
        text: What is wrong, in one line.
    """

    line: int
    key: str
    text: str


def faults_of(path: Path) -> list[Fault]:
    """Return all that is wrong with a file of settings.

    Raises:
        ConfigError: It cannot be read.
    """
    text = text_of(path)
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        at = re.search(r"at line (\d+)", str(error))
        return [Fault(int(at[1]) if at else 0, "", f"not TOML ({error})")]
    found: list[Fault] = []
    for section, values in raw.items():
        tables = values if isinstance(values, list) else [values]
        for i, table in enumerate(tables):
            name = table.get("name", f"{i + 1}") if isinstance(table, dict) else ""
            prefix = f"{section}.{name}" if section == "source" else section
            lines = text.splitlines()
            begin, end = _range_of(lines, section, i)
            # What is wrong with single keys is said of them instead of the table.
            keys = table if isinstance(table, dict) and section in SECTIONS else ()
            single = [
                Fault(_line_of(lines, begin, end, key), f"{prefix}.{key}", told)
                for key in keys
                for told in _key_faults(section, key, table[key], path)
            ]
            alone = {section: [table] if isinstance(values, list) else table}
            found += single or [Fault(begin, prefix, told) for told in _told(alone, path)]
    return found or [Fault(0, "", told) for told in _told(raw, path)]


def set_value(
    path: Path,
    key: str,
    text: str,
    check: Callable[[Config, Config], None] = lambda before, after: None,
) -> tuple[Any, Any]:
    """Change one setting in its file, checked as it is when it is read; comments stay.

    Args:
        path: The file.
        key: As in `Setting`; a source that is not there yet begins with its `url`.
        text: The value, as it is typed.
        check: Raises if the home cannot have these settings after those.

    Returns:
        The value before, and the one now.

    Raises:
        ConfigError: No such key, or a value that it cannot have; nothing is written.
    """
    section, _, rest = key.partition(".")
    name, _, field_ = rest.rpartition(".")
    if section not in SECTIONS:
        raise ConfigError(unknown(str(path), "section", section, SECTIONS))
    if not field_ or bool(name) is not (section == "source"):
        known = [*(s for s in SECTIONS if s != "source"), "source.NAME"]
        raise ConfigError(unknown(str(path), "setting", key, {f"{s}.KEY": 0 for s in known}))
    value = value_of(SECTIONS[section], field_, text, key)
    old_text = text_of(path)
    raw = read_toml(path)
    before = config_of(raw, str(path))
    place = 0
    if section == "source":
        tables = raw.setdefault("source", [])
        place = next((i for i, t in enumerate(tables) if t.get("name") == name), len(tables))
        if place == len(tables):
            tables.append({"name": name})
        tables[place][field_] = value
    else:
        raw.setdefault(section, {})[field_] = value
    after = config_of(raw, str(path))
    check(before, after)
    edited = _edited(old_text, section, place, name, f"{field_} = {toml_of(value)}")
    try:
        is_meant = config_of(tomllib.loads(edited), "") == after
    except (ConfigError, tomllib.TOMLDecodeError):
        is_meant = False
    # A file that is written in an unusual way is written anew.
    write_whole(path, (edited if is_meant else config_text(after)).encode(), mode=0o600)
    return _value(before, section, name, field_), value


def _value(config: Config, section: str, name: str, key: str) -> Any:
    part: Any = getattr(config, section)
    if section == "source":
        own = next((source for source in config.source if source.name == name), None)
        return getattr(own, key, None)
    return getattr(part, key) if hasattr(part, key) else getattr(part, REST).get(key)


def _told(raw: Mapping[str, Any], path: Path) -> list[str]:
    try:
        config_of(raw, path.name)
    except ConfigError as error:
        return [str(error).removeprefix(f"{path.name}: ")]
    return []


def _key_faults(section: str, key: str, value: Any, path: Path) -> list[str]:
    """Return what is wrong with one key alone; what two keys say together is the table's."""
    table = {key: value}
    if section == "source":
        table = {"name": "x", "url": "x", **({"motion": 0.5} if key == "interval" else {}), **table}
    whole: Any = [table] if section == "source" else table
    return [told.removeprefix("source x: ") for told in _told({section: whole}, path)]


def _range_of(lines: Sequence[str], section: str, place: int) -> tuple[int, int]:
    """Return the line of a section's n-th header, from 1, and that of its end; 0 without one."""
    header = re.compile(rf"\s*(\[\[?)\s*{section}\s*\]\]?\s*(#.*)?")
    begins = [i for i, line in enumerate(lines, 1) if header.fullmatch(line)]
    if place >= len(begins):
        return 0, 0
    begin = begins[place]
    ends = (i for i in range(begin + 1, len(lines) + 1) if lines[i - 1].lstrip().startswith("["))
    return begin, next(ends, len(lines) + 1)


def _line_of(lines: Sequence[str], begin: int, end: int, key: str) -> int:
    own = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=")
    return next((i for i in range(begin + 1, end) if own.match(lines[i - 1])), begin)


def _edited(text: str, section: str, place: int, name: str, line: str) -> str:
    """Return a file with one line changed or added."""
    lines = text.splitlines()
    begin, end = _range_of(lines, section, place)
    if not begin:
        head = ["[[source]]", f"name = {toml_of(name)}"] if name else [f"[{section}]"]
        return "\n".join([*lines, "", *head, line, ""])
    at = _line_of(lines, begin, end, line.split(" ")[0])
    if at == begin:
        lines.insert(begin + (1 if name else 0), line)
    else:
        lines[at - 1] = line
    return "\n".join([*lines, ""])

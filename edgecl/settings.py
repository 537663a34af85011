"""The file of settings: read, checked, overridden by the environment, and written.

`EDGECL_SECTION_KEY` in the environment counts more than the file, an option of the command line
more than both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgecl.config import Config, SourceConfig
from edgecl.errors import ConfigError
from edgecl.runtime.faults import in_words
from edgecl.runtime.files import read_own, write_whole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MOST_BYTES = 2**20
# Field of a section that takes the keys which are not known here.
REST = "options"
SECTIONS: dict[str, Any] = {
    f.name: SourceConfig if f.name == "source" else f.default_factory for f in fields(Config)
}
"""The class of each section."""


def load_config(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read settings; what the file leaves out has its default.

    Args:
        path: The file.
        environ: Variables that count more than the file: `EDGECL_STORE_CAPACITY_SAMPLES`; None
            takes none.

    Raises:
        ConfigError: Not TOML, an unknown section or key, a wrong type or a value out of range.
    """
    raw = read_toml(path)
    for (section, key), value in from_environment(environ or {}).items():
        if isinstance(raw.setdefault(section, {}), dict):
            raw[section][key] = value
    return config_of(raw, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a file of settings, unchecked.

    Raises:
        ConfigError: It cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(text_of(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML ({error}); mend that line") from error


def text_of(path: Path) -> str:
    """Read a file of settings as text.

    Raises:
        ConfigError: It cannot be read, or is none.
    """
    try:
        return read_own(path, _MOST_BYTES).decode()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read {in_words(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not TOML ({error}); mend that line") from error


def from_environment(environ: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    """Return the settings that variables give, by section and key.

    Raises:
        ConfigError: One names no key of its section, or has a value that is none.
    """
    found: dict[tuple[str, str], Any] = {}
    for name, section in variables_in(environ).items():
        key = name[len(f"EDGECL_{section}_") :].lower()
        found[section, key] = value_of(SECTIONS[section], key, environ[name], name)
    return found


def variables_in(environ: Iterable[str]) -> dict[str, str]:
    """Return the names of variables that are settings, with their sections."""
    return {
        name: section
        for section in SECTIONS
        for name in environ
        if section != "source" and name.startswith(f"EDGECL_{section.upper()}_")
    }


def value_of(kind: Any, key: str, text: str, where: str) -> Any:
    """Return the value of a key that was given as text.

    Args:
        kind: Class of the section.
        key: Name in it; one of the head's own may be any.
        text: The value.
        where: What gave it, for the error.

    Raises:
        ConfigError: No such key, or not of its type.
    """
    known = {f.name: f for f in fields(kind)}
    if known.pop(REST, None) is None and key not in known:
        raise ConfigError(unknown(where, "key", key, known))
    expected: Any = type(known[key].default) if key in known else str
    try:
        if expected is bool:
            return {"true": True, "false": False}[text.lower()]
        return expected(text)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{where}: {text!r} is no {expected.__name__}") from error


def config_of(raw: Mapping[str, Any], where: str) -> Config:
    """Check settings as TOML gives them.

    Raises:
        ConfigError: As `load_config`, but for TOML itself.
    """
    parts: dict[str, Any] = {}
    for name, values in raw.items():
        if name not in SECTIONS:
            raise ConfigError(unknown(where, "section", name, SECTIONS))
        if name == "source":
            if not isinstance(values, list) or not all(isinstance(v, dict) for v in values):
                raise ConfigError(f"{where}: source is no table; expected [[source]] for each")
            parts[name] = tuple(section_of(where, name, _as_text(v)) for v in values)
        elif not isinstance(values, dict):
            raise ConfigError(f"{where}: {name} is a value; expected a section [{name}]")
        else:
            parts[name] = section_of(where, name, values)
    try:
        return Config(**parts)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def config_text(config: Config) -> str:
    """Return settings as TOML."""
    lines = ["# Settings of this edgecl home; see docs/configuration.md", ""]
    for section, values in asdict(config).items():
        if section != "source":
            lines += [f"[{section}]", *_lines(values | values.pop(REST, {})), ""]
    for source in config.source:
        kept = {f.name: getattr(source, f.name) for f in fields(source)}
        lines += ["[[source]]", *_lines({k: v for k, v in kept.items() if v}), ""]
    return "\n".join(lines)


def save_config(config: Config, path: Path) -> None:
    """Write settings as TOML, in one step."""
    write_whole(path, config_text(config).encode(), mode=0o600)


def section_of(where: str, name: str, values: dict[str, Any]) -> Any:
    """Check one section.

    Raises:
        ConfigError: An unknown key, a wrong type or a value out of range.
    """
    kind: Any = SECTIONS[name]
    known = {f.name: f for f in fields(kind)}
    checked: dict[str, Any] = {}
    if known.pop(REST, None):
        checked[REST] = {key: value for key, value in values.items() if key not in known}
    for key, value in values.items():
        if key in checked.get(REST, ()):
            continue
        if key not in known:
            raise ConfigError(unknown(where, f"key in [{name}]", key, known))
        expected = type(known[key].default)
        fits = isinstance(value, expected) and isinstance(value, bool) is (expected is bool)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value, fits = float(value), True
        if not fits:
            raise ConfigError(
                f"{where}: {name}.{key} = {value!r} is {type(value).__name__}; "
                f"expected {expected.__name__}"
            )
        checked[key] = value
    try:
        return kind(**checked)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def unknown(where: str, what: str, given: str, known: Mapping[str, Any]) -> str:
    """Return what is said of a name that is not known."""
    near = get_close_matches(given, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"{where}: unknown {what} {given!r}; {hint}"


def toml_of(value: object) -> str:
    """Return a value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    # JSON's escapes are TOML's; it asks for one more.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lines(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {toml_of(value)}" for key, value in values.items()]


def _as_text(values: dict[str, Any]) -> dict[str, Any]:
    """Return a source's table with boxes as text: they may be written as lists."""
    found = dict(values)
    for key, joint in (("crop", ","), ("mask", ";")):
        if isinstance(found.get(key), list):
            found[key] = joint.join(map(str, found[key]))
    interval = found.get("interval")
    if isinstance(interval, int | float) and not isinstance(interval, bool):
        found["interval"] = f"{interval:g}s"
    return found

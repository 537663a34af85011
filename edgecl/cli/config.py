"""`edgecl config`: the settings of a home, where each comes from, and changing one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecl.cli.commands import Command
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.outcome import print_outcome
from edgecl.cli.output import print_json, print_table, printable
from edgecl.figures import counted

if TYPE_CHECKING:
    from edgecl.config import Config

config_app = typer.Typer(
    help="Look at, change or check the settings of a home.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@config_app.command("show", cls=Command)
def show(home: HomeOption = DEFAULT, json: JsonOption = False) -> None:
    """Print the settings in effect and where each comes from: file, environment or default."""
    import os

    from edgecl.edited import settings_in_effect

    found = settings_in_effect(_file(home), os.environ)
    if json:
        print_json({s.key: {"value": s.value, "from": s.origin} for s in found})
        return
    rows = [(s.key, "" if s.value == "" else str(s.value), s.origin) for s in found]
    print_table("settings", ("key", "value", "from"), rows)


@config_app.command("set", cls=Command)
def set_(
    key: Annotated[str, typer.Argument(help="As `config show` names it: store.capacity_samples.")],
    value: Annotated[str, typer.Argument(help="Its new value.")],
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Change a setting in the file, in one step, checked as it is when it is read."""
    import os

    from edgecl.edited import set_value
    from edgecl.runtime.redact import redacted
    from edgecl.settings import from_environment

    before, now = (
        redacted(v) if isinstance(v, str) else v
        for v in set_value(_file(home), key, value, lambda old, new: _check(home, old, new))
    )
    section, _, name = key.partition(".")
    covers = (section, name) in from_environment(os.environ)
    result = {"key": key, "before": before, "value": now, "is_covered": covers}
    if json:
        print_json(result)
        return
    text = f"{key} is {now!r} now, it was {before!r}"
    text += "; a stream that runs takes it when it is started again"
    if covers:
        text += f"; EDGECL_{section}_{name}".upper() + " says otherwise and counts more"
    print_outcome(text, result)


@config_app.command("check", cls=Command)
def check(home: HomeOption = DEFAULT, json: JsonOption = False) -> None:
    """Say all that is wrong with the file of settings, with line and key."""
    from edgecl.edited import faults_of
    from edgecl.errors import ConfigError

    path = _file(home)
    found = faults_of(path)
    if json:
        print_json({"faults": [{"line": f.line, "key": f.key, "text": f.text} for f in found]})
    else:
        for fault in found:
            where = f"{path}:{fault.line}" if fault.line else str(path)
            print(printable(": ".join(filter(None, (where, fault.key, fault.text)))))
    if found:
        raise ConfigError(f"{path} has {counted(len(found), 'fault')}; mend what is named above")
    if not json:
        print_outcome(f"{path} is in order", {"faults": []})


def _file(home: Path) -> Path:
    """Return the file of settings of a home, which may be one that cannot be opened for it."""
    from edgecl.home import is_home, no_home

    if not is_home(home):
        raise no_home(home)
    return home / "edgecl.toml"


def _check(path: Path, before: Config, after: Config) -> None:
    """Check a head that is set: it is fixed once something was learned with it.

    Raises:
        ConfigError: No such head or option.
        RequestError: Something was learned with another one.
    """
    from edgecl.errors import RequestError
    from edgecl.heads import check_head
    from edgecl.home import Home
    from edgecl.session import open_store

    if after.head == before.head:
        return
    check_head(after.head, path / "edgecl.toml")
    fixed = {"name": after.head.name, **after.head.options}
    was = {"name": before.head.name, **before.head.options}
    changed = [k for k in ("name", "values", "relation") if fixed.get(k) != was.get(k)]
    if not changed:
        return
    home = Home(path)
    with open_store(home, read_only=True) as store:
        if store.names or changed == ["name"]:
            raise RequestError(
                f"head.{changed[0]} is fixed: a home with another head is made with "
                f"`edgecl init --head {after.head.name} --home DIR`, or by `train-stream --head` "
                "while nothing is learned"
            )

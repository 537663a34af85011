"""How every command of the line looks: groups, examples, short options, nothing cut.

typer makes commands of these classes. Help is written by click, not by rich, so that
`edgecl --help` starts as fast as before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from edgecl.cli.handover import handed_over
from edgecl.cli.helps import EXAMPLES, PANELS
from edgecl.cli.output import Level, set_level

# Said once, so that a letter means the same everywhere.
SHORT = {
    "--home": "-H",
    "--json": "-j",
    "--limit": "-n",
    "--output": "-o",
    "--label": "-l",
    "--bundle": "-b",
    "--top": "-k",
    "--resume": "-r",
    "--unknown": "-u",
    "--force": "-f",
    "--yes": "-y",
    "--since": "-s",
    "--class": "-c",
    "--threads": "-t",
    "--version": "-V",
    "--quiet": "-q",
    "--verbose": "-v",
}
# Of `train-stream photos/*.jpg`, `forget class brass ring` and the like.
_MORE = "One is taken: name the folder of several files, and put quotes around a name with spaces."
_SHARED = ("quiet", "verbose")
_LAST = ("home", "json", "quiet", "verbose", "help")
# typer 0.12 to 0.29 write types in two ways; neither says more than these.
_TYPES = {
    r"<int range>|<int>|INTEGER RANGE|INTEGER": "N",
    r"<float range>|<float>|FLOAT RANGE|FLOAT": "NUMBER",
    r"<str>": "TEXT",
    r"<path>": "PATH",
}
_FAR = re.compile(r"(\d+)<=x<=\d{10,}")  # no limit that a person meets
# A default of a flag that says no more than that the flag was not given.
_NO_DEFAULT = re.compile(r"\s*\[default: no-\w+\]")


class Command(TyperCommand):
    """A command."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        _prepare(self.params)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse a line; what would be taken for something else is refused."""
        _check_dashes(self, ctx, args)
        words = list(args)  # what parses them takes them out
        try:
            left = super().parse_args(ctx, args)
        except Exception as error:  # click's own, of which typer may bring its copy
            text = str(getattr(error, "message", ""))
            if text.startswith("Got unexpected extra argument"):
                error.message = f"{text}. {_MORE}"  # type: ignore[attr-defined]
            raise
        _check_paths(self, ctx, words)
        return left

    def invoke(self, ctx: Any) -> Any:
        """Run it; what writes to a home that another process serves, that process runs."""
        status = _status_elsewhere(ctx)
        return super().invoke(ctx) if status is None else status

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, with `-q` and `-v`, which every command takes."""
        return _with_shared(ctx, super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what the usage line names; arguments without braces."""
        return [
            piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)
        ]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, text, examples, arguments and options."""
        _write_help(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands; its help names them under what they are for."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        _prepare(self.params)

    def invoke(self, ctx: Any) -> Any:
        """Run it as a command does, where it is one without a command behind it."""
        words = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        status = None if words else _status_elsewhere(ctx)
        return super().invoke(ctx) if status is None else status

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, with `-q` and `-v`, which every command takes."""
        return _with_shared(ctx, super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, text, examples, commands and options."""
        _write_help(self, ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write every command with its whole first sentence, by panel."""
        known = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        shown = {name: c for name, c in known.items() if c is not None and not c.hidden}
        panels = PANELS if ctx.parent is None else {"Commands": tuple(shown)}
        named = {name for names in panels.values() for name in names}
        left = tuple(name for name in shown if name not in named)
        width = max(map(len, shown), default=0)
        for title, names in {**panels, "More": left}.items():
            rows = [(f"{n:{width}}", first_sentence(shown[n].help)) for n in names if n in shown]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _status_elsewhere(ctx: Any) -> int | None:
    """Return the status of what the process that serves its home ran; None if none did."""
    home, arguments = ctx.params.get("home"), ctx.find_root().obj
    if home is None or not isinstance(arguments, list):
        return None
    return handed_over(path_of(ctx), arguments, Path(home))


def _check_dashes(command: Any, ctx: Any, args: list[str]) -> None:
    """Refuse `-label=cup`, which would be `-l abel=cup`, and as such a class."""
    known = {name for param in command.get_params(ctx) for name in param.opts}
    for word in args[: args.index("--")] if "--" in args else args:
        name = word.partition("=")[0]
        if re.fullmatch(r"-[a-z][a-z-]+", name) and f"-{name}" in known:
            ctx.fail(f"No such option: {name}. Did you mean -{name}?")


def _check_paths(command: Any, ctx: Any, args: list[str]) -> None:
    """Refuse an empty path, which would be this folder: a variable that a script never set."""
    here = [p for p in command.get_params(ctx) if Path() in _values(ctx.params.get(p.name))]
    given = command.make_parser(ctx).parse_args(args=args)[0] if here and args else {}
    for param in here:
        if "" in _values(given.get(param.name)):
            ctx.fail(f"{param.opts[-1]} is empty; name a path (. is this folder)")


def _values(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else (value,)


def first_sentence(text: str | None) -> str:
    """Return the first sentence of a help text, without its full stop."""
    first = " ".join((text or "").split("\n\n")[0].split())
    return first.removesuffix(".")


def quiet_and_verbose(ctx: typer.Context, param: Any, value: bool) -> None:
    """Note `-q` and `-v`, wherever they stand; every line begins anew."""
    if "edgecl.level" not in ctx.meta:  # shared by all contexts of a line
        ctx.meta["edgecl.level"] = True
        set_level(Level.NORMAL)
    if value:
        set_level(Level.QUIET if param.name == "quiet" else Level.VERBOSE)


def _prepare(params: list[Any]) -> None:
    """Give parameters their short names, and arguments a name in capitals, as the docs have it."""
    for param in params:
        if param.param_type_name == "argument":
            if param.metavar is None and param.name:
                param.metavar = param.name.rstrip("_").upper()
            continue
        for name, letter in SHORT.items():
            if name in param.opts and letter not in param.opts:
                param.opts.insert(0, letter)


def _with_shared(ctx: Any, params: list[Any]) -> list[Any]:
    if ctx.parent is not None:
        own = {param.name for param in params}
        root = ctx.find_root().command.params
        params = [*params, *(p for p in root if p.name in _SHARED and p.name not in own)]
    # What only this command has comes first.
    return sorted(params, key=lambda p: _LAST.index(p.name) + 1 if p.name in _LAST else 0)


def _write_help(command: Any, ctx: Any, formatter: Any) -> None:
    command.format_usage(ctx, formatter)
    command.format_help_text(ctx, formatter)
    examples = EXAMPLES.get(path_of(ctx), ())
    if examples:
        with formatter.section("Examples"):
            for line in examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")
    if isinstance(command, Group):
        command.format_commands(ctx, formatter)
    rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            if param.param_type_name == "argument":
                rows["Arguments"].append((record[0].split(" ")[0].strip("[]{}."), record[1]))
            else:
                rows["Options"].append(_plain(*record))
    for title, records in rows.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


def path_of(ctx: Any) -> str:
    """Return the words of a command behind `edgecl`."""
    words: list[str] = []
    while ctx.parent is not None:
        words.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join(words)


def _plain(names: str, text: str) -> tuple[str, str]:
    for pattern, word in _TYPES.items():
        names = re.sub(pattern, word, names)
    text = _FAR.sub(r"x>=\1", text)
    return names, _NO_DEFAULT.sub("", text)

"""`edgecl serve`."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.check import tell_notes
from edgecl.cli.learned import print_learned, taught_since
from edgecl.cli.observe import LogOption, MetricsOption, observing
from edgecl.cli.options import (
    DEFAULT,
    EventFormatOption,
    EventsHeaderOption,
    EventsOption,
    FallbackOption,
    HomeOption,
    JsonOption,
    ProviderOption,
    ThreadsOption,
    VoteOption,
)
from edgecl.cli.output import print_json, say, say_step
from edgecl.cli.running import To, followed, listening, opened_sink, result_of, stop_flag

if TYPE_CHECKING:
    from edgecl.cli.observe import Observer
    from edgecl.home import Home
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.runtime.sources import Source
    from edgecl.runtime.sources.several import Several
    from edgecl.serve.page.server import Wire
    from edgecl.serve.serving import Serving
    from edgecl.session import Session
    from edgecl.stream.run import StreamOptions


def serve(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Cameras and streams, as train-stream takes them; without any those of "
            "[[source]] in edgecl.toml, and the browser's own camera.",
            envvar="EDGECL_SOURCE",
        ),
    ] = None,
    home: HomeOption = DEFAULT,
    listen: Annotated[
        str | None, typer.Option(help="Where the page is, HOST:PORT (127.0.0.1:8765).")
    ] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Whether there is a page.")] = True,
    labels: Annotated[
        str | None,
        typer.Option(help="More labels: mqtt://host/topic or a file.", envvar="EDGECL_LABELS"),
    ] = None,
    events: EventsOption = None,
    event_format: EventFormatOption = "json",
    events_header_file: EventsHeaderOption = None,
    vote: VoteOption = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate of the page, for other than this machine.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key to it.")] = None,
    behind_proxy: Annotated[
        str, typer.Option(help="https://HOST of a proxy before the page, which does TLS.")
    ] = "",
    log_json: LogOption = None,
    metrics: MetricsOption = None,
    provider: ProviderOption = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    set_password: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help="Ask for the password of a role, look, teach or own, keep its hash, and end.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """See, be taught and be asked: a page, and commands from everywhere, while cameras run.

    Other commands on this home are carried out by this process, between two frames.
    """
    from edgecl.exporters.setup import Setup, open_or_set_up
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.serve.page.server import Wire

    if set_password is not None:
        _check_role(set_password)  # before a home is made
    observer = context.with_resource(observing(log_json, metrics, command="serve"))
    device = open_or_set_up(home.absolute(), Setup(), tell=say_step)
    if set_password is not None:
        _set_password(device, set_password)
        return
    wire = (
        Wire(listen or device.config.web.listen, tls_cert, tls_key, behind_proxy) if page else None
    )
    engines = EngineOptions(provider, threads, allow_fallback)
    asked = _Asked(labels, To(events, event_format, events_header_file), vote)
    result, taught = _serve(device, list(sources or ()), wire, asked, engines, observer)
    if json:
        print_json(result)
    else:
        print_learned(result, taught)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the stream does beside learning, as the options say."""

    labels: str | None
    to: To
    vote: int | None


def _serve(
    device: Home,
    specs: list[str],
    wire: Wire | None,
    asked: _Asked,
    engines: EngineOptions,
    observer: Observer,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Serve until somebody stops it; returns what is printed of it, and the classes it taught."""
    from edgecl.device import Device
    from edgecl.errors import RequestError
    from edgecl.serve.live import Live
    from edgecl.serve.run import served
    from edgecl.serve.serving import Serving
    from edgecl.serve.teacher import Teacher
    from edgecl.unlearning.request import writing

    with writing(device, engines) as session, stop_flag() as flag, ExitStack() as stack:
        queue = stack.enter_context(listening(device))
        if queue is None:
            raise RequestError("this home is served already; stop that process first")
        serving = Serving(Device(device, engines), queue, Live(), Teacher())
        source = _source(device, specs, serving)
        serving = replace(serving, sources=tuple(source.parts))
        tell_notes(source)
        options = _options(session, source, serving, asked, stack)
        before = session.store.n_seen()
        run = stack.enter_context(
            served(session, serving, source, options, should_stop=lambda: bool(flag), tell=say)
        )
        if wire is not None:
            _open_page(serving, wire, stack)
        progress = followed(run, observer, session.store, stack, total=0, done=0)
        taught = taught_since(session.store, before)
    return result_of(progress, source), taught


def _source(device: Home, specs: list[str], serving: Serving) -> Several:
    """Open what is named, or what the settings name, and what the page sends.

    Raises:
        UsageError: One is not live, or is named twice.
        SourceError: None of them can be opened.
    """
    from edgecl.errors import UsageError
    from edgecl.runtime.options import Part, split_options
    from edgecl.runtime.redact import redacted
    from edgecl.runtime.sources import is_address, open_source
    from edgecl.runtime.sources.several import Several
    from edgecl.serve.browser import ADDRESS, NAME
    from edgecl.sources import notes_of, parts_of

    if len(set(specs)) < len(specs):
        raise UsageError("a source is named twice; name each once")
    for spec in specs:
        if not is_address(spec):
            raise UsageError(
                f"{redacted(spec)} is no camera, stream or topic, as camera:0 or rtsp://HOST/PATH; "
                f"learn files beside it: `edgecl train-stream {shlex.quote(redacted(spec))}`"
            )
    parts = [Part(redacted(spec), *split_options(spec)) for spec in specs] or parts_of(device)
    notes = [] if specs else notes_of(device)

    def open_one(url: str) -> Source:
        if url == ADDRESS:
            return serving.browser
        return open_source(url, max_bytes=device.max_bytes)

    return Several([*parts, Part(NAME, ADDRESS)], open_one, notes)


def _options(
    session: Session, source: Source, serving: Serving, asked: _Asked, stack: ExitStack
) -> StreamOptions:
    """Open who labels frames and who hears of them; the stack closes them."""
    from edgecl.runtime.options import overruled
    from edgecl.runtime.sources.labels import JoinedFeeds, open_feed
    from edgecl.stream.keys import Keyboard, has_keyboard
    from edgecl.stream.labeller import Labeller
    from edgecl.stream.run import StreamOptions

    source.parts = overruled(source.parts, vote=asked.vote, threshold=None)
    sink = opened_sink(session, source, asked.to, stack)
    feed = open_feed(asked.labels, source, None if sink is None else sink.feed)
    feeds = JoinedFeeds([serving.teacher, *([feed] if feed is not None else [])])
    stack.callback(feeds.close)
    keyboard = None
    if asked.labels != "-" and has_keyboard():
        keyboard = stack.enter_context(Keyboard(sys.stdin.fileno()))

    def emit(event: dict[str, Any]) -> None:
        serving.live.tell("seen", event)
        if sink is not None:
            sink.emit(event)

    return StreamOptions(
        labeller=Labeller(
            lambda: session.learner.labels,
            read_keys=None if keyboard is None else keyboard.read,
            feed=feeds,
            sources=[*source.parts],
        ),
        emit=emit,
        illustrate=None if sink is None else sink.show,
        follow=None if sink is None else sink.follow,
        vote=session.home.config.live.vote if asked.vote is None else asked.vote,
        min_score=session.home.config.live.min_score,
        finds_unknown=True,
        meant=serving.meant,
        show=serving.live.show,
    )


def _open_page(serving: Serving, wire: Wire, stack: ExitStack) -> None:
    """Open the page, and say where it is."""
    from edgecl.serve.page.access import load_passwords
    from edgecl.serve.page.server import Page

    page = Page(serving, wire, load_passwords(serving.device.home.passwords))
    stack.callback(page.close)
    page.start()
    say(f"open {page.url} once; later {page.address} is enough")


def _check_role(role: str) -> None:
    from edgecl.errors import UsageError
    from edgecl.serve.page.access import ROLES

    if role not in ROLES:
        raise UsageError(f"role {role!r} is unknown; expected one of {', '.join(ROLES)}")


def _set_password(device: Home, role: str) -> None:
    """Ask for a password and keep its hash."""
    from getpass import getpass

    from edgecl.cli.confirm import is_terminal
    from edgecl.errors import UsageError
    from edgecl.serve.page.access import hashed, load_passwords, save_passwords

    if is_terminal():
        password = getpass(f"Password of {role}: ")
        if getpass("Once more: ") != password:
            raise UsageError("the two are not the same; nothing was changed")
    else:
        password = sys.stdin.readline().rstrip("\n")
    known = load_passwords(device.passwords) | {role: hashed(password)}
    save_passwords(device.passwords, known)
    say(f"the password of {role} is set; a page that runs takes it at its next start")

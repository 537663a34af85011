"""The page itself, its files, and the way in."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

import edgecl
from edgecl.device import Device
from edgecl.errors import RequestError, UsageError
from edgecl.serve.page.access import ROLES, SESSION_S, hashed, load_passwords, save_passwords
from edgecl.serve.page.context import Context, Endpoint, Refusal, answer, fields_of

_PACKAGE = "edgecl.serve.page"
_TYPES = {
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
    "json": "application/json",
    "woff2": "font/woff2",
    "html": "text/html",
}
_templates = Environment(loader=PackageLoader(_PACKAGE), autoescape=True)


def render(template: str, **values: Any) -> Response:
    """Return a page that is made here."""
    text = _templates.get_template(template).render(version=edgecl.__version__, **values)
    return Response(text, media_type="text/html")


async def index(context: Context, request: Request) -> Response:
    """The page."""
    return render("page.html", role=request.scope["role"])


async def static(context: Context, request: Request) -> Response:
    """A file that came with the package."""
    name = request.path_params["name"]
    file = files(_PACKAGE).joinpath("static", *name.split("/"))
    kind = _TYPES.get(name.rpartition(".")[2])
    if kind is None or ".." in name.split("/") or not file.is_file():
        raise Refusal(404, f"there is no file {name[:80]!r}", code=2)
    return Response(file.read_bytes(), media_type=kind)


async def favicon(context: Context, request: Request) -> Response:
    """The icon, where browsers look for it."""
    request.path_params["name"] = "icon.svg"
    return await static(context, request)


async def healthz(context: Context, request: Request) -> Response:
    """Say that the process answers, and nothing else."""
    return PlainTextResponse("ok")


async def openapi(context: Context, request: Request) -> Response:
    """The description of the interface."""
    text = files(_PACKAGE).joinpath("openapi.json").read_bytes()
    return Response(text, media_type="application/json")


async def login_page(context: Context, request: Request) -> Response:
    """Change a token for a session, or ask for a password."""
    token = request.query_params.get("token")
    if token is None:
        return render("login.html", has_password=bool(context.access.passwords), error="")
    _check_wait(context, request)
    role = context.access.redeem(token)
    context.access.note_try(_peer(request), is_right=role is not None)
    if role is None:
        page = render(
            "login.html",
            has_password=bool(context.access.passwords),
            error="This link was used already, or is none. Ask `edgecl serve` for a new one.",
        )
        page.status_code = 401
        return page
    return _let_in(context, RedirectResponse("/", 303), role)


async def login(context: Context, request: Request) -> Response:
    """Change a password for a session."""
    password = (await fields_of(request)).get("password", str)
    _check_wait(context, request)
    # It counts before it is looked at: many that come at once are as many tries.
    context.access.note_try(_peer(request), is_right=False)
    loop = asyncio.get_running_loop()
    role = await loop.run_in_executor(context.pool, context.access.role_of, password)
    if role is None:
        raise Refusal(401, "that password opens nothing")
    context.access.note_try(_peer(request), is_right=True)
    return _let_in(context, answer({"role": role}), role)


async def set_password(context: Context, request: Request) -> Response:
    """Set or remove the password of a role; everybody but who asked is logged out."""
    if request.scope["scheme"] != "https" and not _is_here(request):
        raise Refusal(403, "a password is taken over TLS, or from this machine only")
    _check_wait(context, request)
    fields, access = await fields_of(request), context.access
    role, is_removed = fields.get("role", str), not fields.has("password")
    if role not in ROLES:
        raise UsageError(f"role is {role[:20]!r}; expected one of {', '.join(ROLES)}")
    made = {}
    if not is_removed:
        loop, password = asyncio.get_running_loop(), fields.get("password", str)
        made = {role: await loop.run_in_executor(context.pool, hashed, password)}

    def write(device: Device) -> None:
        known = load_passwords(device.home.passwords)
        if is_removed and known.pop(role, None) is None:
            raise RequestError(f"the role {role} has no password")
        known |= made
        if not known and context.place.scheme == "https":
            raise RequestError("this page can be reached from elsewhere; it must keep a password")
        save_passwords(device.home.passwords, known)
        access.passwords = known

    await context.write("password", write)
    access.note_try(_peer(request), is_right=False)  # to try many costs what guessing does
    known = sorted(access.passwords, key=ROLES.index)
    return _let_in(context, answer({"roles": known}), request.scope["role"])


async def logout(context: Context, request: Request) -> Response:
    """Have the browser drop its session."""
    response = answer({})
    response.delete_cookie(context.cookie, samesite="strict", httponly=True)
    return response


def _let_in(context: Context, response: Response, role: str) -> Response:
    response.set_cookie(
        context.cookie,
        context.access.session(role),
        max_age=SESSION_S,
        httponly=True,
        samesite="strict",
        secure=context.place.scheme == "https",
    )
    return response


def _check_wait(context: Context, request: Request) -> None:
    wait = math.ceil(context.access.wait_of(_peer(request)))
    if wait:
        raise Refusal(429, f"too many wrong logins; try again in {wait} s", {"wait": wait})


def _is_here(request: Request) -> bool:
    try:
        return ipaddress.ip_address(_peer(request)).is_loopback
    except ValueError:
        return False


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


ENDPOINTS = (
    Endpoint("GET", "/", index),
    Endpoint("GET", "/static/{name:path}", static, ""),
    Endpoint("GET", "/favicon.ico", favicon, ""),
    Endpoint("GET", "/healthz", healthz, ""),
    Endpoint("GET", "/openapi.json", openapi),
    Endpoint("GET", "/login", login_page, ""),
    Endpoint("POST", "/login", login, ""),
    Endpoint("POST", "/logout", logout),
    Endpoint("POST", "/api/v1/password", set_password, "own"),
)

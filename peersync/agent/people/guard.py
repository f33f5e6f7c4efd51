"""What stands before every route of the people's listener: from where, who, and whether they may.

Owns the order: a request of another site is refused first, then who asks is looked up, then the
table of rights. It reads no body. A stream that is open when its session or token ends is cut.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Final

from aiohttp import web

from peersync.agent.people import rights
from peersync.agent.people.desk import Desk, Principal
from peersync.core.errors import BadRequest, Denied, LoginNeeded
from peersync.transport.app import Handler, Middleware
from peersync.transport.body import ASKER

log = logging.getLogger("peersync.people")

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
PRINCIPAL = web.RequestKey("PRINCIPAL", Principal)
_BEARER: Final = "bearer "
_PORT: Final = re.compile(r":([0-9]{1,5})$")
COOKIE: Final = "peersync"
HOST_COOKIE: Final = "__Host-peersync"  # a browser takes it over TLS only, from this host only


def guard(desk: Desk) -> Middleware:
    """The middleware. Handlers find who asks in `request[PRINCIPAL]`, but on open routes."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        token = bearer(request)
        if token is None and request.method not in SAFE:
            refuse_other_sites(request)
        pattern = pattern_of(request)
        wanted = rights.needed(request.method, pattern) if pattern is not None else None
        if wanted == "anyone" or (pattern is None and not request.path.startswith("/api/")):
            return await handler(request)
        principal = await _who(desk, request, token)
        if pattern is None:
            return await handler(request)  # says that there is no such route
        if wanted is None:
            raise Denied("nobody may use this route here", hint="use the command line")
        if not rights.may(principal.role, wanted):
            raise Denied(
                f"{principal.user} is {_a(principal.role)}, and this needs {_a(wanted)}",
                hint="ask an admin: peersync admin users set-role",
                role=principal.role,
                needed=wanted,
            )
        request[PRINCIPAL] = principal
        return await _served(desk, request, handler, principal)

    return check


async def _who(desk: Desk, request: web.Request, token: str | None) -> Principal:
    if token is not None:
        return desk.of_token(token)
    if "Authorization" in request.headers:
        raise LoginNeeded("only bearer tokens are known here", hint="peersync token create")
    return await desk.of_cookie(cookie(request))


async def _served(
    desk: Desk, request: web.Request, handler: Handler, principal: Principal
) -> web.StreamResponse:
    if request.method not in SAFE:
        words = (request.method, request.path, principal.kind, principal.user, request.remote)
        log.info("%s %s by %s %s from %s", *words)
    transport, own = request.transport, asyncio.current_task()
    if transport is None:
        raise ConnectionResetError("the client went away")

    def cut() -> None:
        # Not by what this request does itself: a logout is answered. Of another, what is still
        # to be read of the body never comes, and the handler does nothing.
        if asyncio.current_task() is not own:
            transport.abort()

    by_token = " (token)" if principal.kind == "token" else ""
    request[ASKER] = f"{principal.user}{by_token}"
    with desk.sessions.stream(principal.key, cut, lambda: desk.left_s(principal)):
        return await handler(request)


def require_admin(request: web.Request, what: str | None) -> None:
    """Denied for others than admins, where `what` they ask for is theirs alone; None is nothing."""
    principal = request.get(PRINCIPAL)
    if what is not None and principal is not None and principal.role != "admin":
        raise Denied(f"{what} needs the role admin", hint=f"{principal.user} is {principal.role}")


def pattern_of(request: web.Request) -> str | None:
    """The route as it was added to the router; None where there is none for this request."""
    resource = request.match_info.route.resource
    if resource is None or request.match_info.http_exception is not None:
        return None
    return resource.canonical


def refuse_other_sites(request: web.Request) -> None:
    """Denied for what another site's page may have sent with this browser's cookie."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = request.headers.get("Origin") == f"{request.scheme}://{request.host}"
    if not own:
        raise Denied(
            "this request does not come from the page of this server",
            hint="scripts send a token: peersync token create",
        )
    if request.can_read_body and request.content_type != "application/json":
        raise BadRequest("the body must be JSON", hint="send Content-Type: application/json")


def bearer(request: web.Request) -> str | None:
    """The token of the Authorization header; None without one, or for another kind."""
    given = request.headers.get("Authorization", "")
    return given[len(_BEARER) :].strip() if given.lower().startswith(_BEARER) else None


def cookie(request: web.Request) -> str | None:
    """The secret of the session that this browser has."""
    return request.cookies.get(cookie_name(request))


def cookie_name(request: web.Request) -> str:
    """Has the port in it, which browsers do not tell apart by themselves.

    So who looks at two servers through two tunnels of his machine stays logged in at both.
    """
    name = HOST_COOKIE if request.secure else COOKIE
    port = _PORT.search(request.host)
    return f"{name}-{port[1]}" if port else name


def _a(role: str) -> str:
    return f"{'an' if role[0] in 'ao' else 'a'} {role}"

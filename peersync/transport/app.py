"""The three aiohttp applications, and what every request passes through.

Owns the order of things before a handler: an id for the request, the translation of errors
to problem documents, who is asking, what is refused unread. The routes are given by others.

The peers' application lets a request without a known certificate reach nothing but the
routes of pairing and of a new certificate; who asks is looked up in the peer book each time,
so a removed peer is refused on its next request. The people's one answers to its own names
only; who may do what there is checked by what it is given. The control one trusts whoever could
open its Unix socket.
"""

from __future__ import annotations

import contextvars
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from peersync.core.errors import BadRequest, Denied, NotFound, PairingWaits, PeersyncError
from peersync.transport.identity import Identity, fingerprint, short_form
from peersync.transport.lines import Lines
from peersync.transport.listener import (
    DEFAULT_LIMITS,
    Connections,
    Limits,
    listen_tcp,
    peer_certificate,
)
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.problems import CONTENT_TYPE, to_problem
from peersync.transport.tls import server_context
from peersync.wire.address import Address
from peersync.wire.messages import MAX_MESSAGE_BYTES

PAIR_PATH = "/api/sync/pair"
SUCCESSION_PATH = "/api/sync/succession"
# What proves itself, and needs no certificate that is known here.
_OPEN = frozenset({("POST", PAIR_PATH), ("GET", SUCCESSION_PATH), ("POST", SUCCESSION_PATH)})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

PEER = web.RequestKey("PEER", Peer)
REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "interest-cohort=()",
    "Cache-Control": "no-store",
}

_log = logging.getLogger("peersync.http")
# When a peer was refused with which words: one that asks every 30 s is said once an hour.
_SAID: web.AppKey[dict[tuple[str, str, str], float]] = web.AppKey("_SAID")
_SAID_S = 3600.0
_SAID_MAX = 1000
_REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9-]{8,64}")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


def peer_app(book: PeerBook, routes: Iterable[web.RouteDef]) -> web.Application:
    """For the mTLS listener. Handlers find the peer that asks in `request[PEER]`."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = _who(request, book)
        if peer is not None:
            request[PEER] = peer
        elif (request.method, request.path) not in _OPEN:
            raise Denied(
                "this server talks to paired peers only", hint="pair first: peersync peer invite"
            )
        return await handler(request)

    return _app(routes, authenticate)


@asynccontextmanager
async def listen_peers(
    book: PeerBook,
    identity: Identity,
    routes: Iterable[web.RouteDef],
    host: str,
    port: int,
    *,
    lines: Lines | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Address]:
    """The peers' listener as a whole: TLS that follows the book, and a removed peer is cut off.

    With it end the `lines` that peers opened here. Gives the address that was bound;
    ConfigError when it cannot be had.
    """
    connections = Connections()

    def cut(peer: Peer) -> None:
        connections.close_node(peer.certificate_id)

    book.watch(removed=cut, replaced=cut)
    context = server_context(identity, book)
    app = peer_app(book, routes)
    if lines is not None:
        app.on_shutdown.append(_ends(lines))
    async with listen_tcp(
        app, host, port, tls=context, connections=connections, limits=limits
    ) as address:
        yield address


def _ends(lines: Lines) -> Callable[[web.Application], Awaitable[None]]:
    async def end(_app: web.Application) -> None:
        lines.close()

    return end


def people_app(
    routes: Iterable[web.RouteDef],
    *,
    allowed_hosts: Iterable[str] = (),
    checks: Iterable[Middleware] = (),
) -> web.Application:
    """For people: refuses other names in Host (DNS rebinding), and all that is not its own page.

    The address itself that was connected to is a good name: no foreign name leads there.
    """
    hosts = LOOPBACK_HOSTS | {name.lower() for name in allowed_hosts}

    @web.middleware
    async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = re.sub(r":\d+$", "", request.headers.get("Host", "")).lower()
        if name not in hosts and name.strip("[]") != _own_address(request):
            raise Denied(
                "this address does not answer to that host name",
                hint="add the name to allowed_hosts in [people], and restart the agent",
            )
        return await handler(request)

    app = _app(routes, check_host, *checks)
    app.on_response_prepare.append(_add_security_headers)
    return app


def _own_address(request: web.Request) -> str | None:
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return str(name[0]) if isinstance(name, tuple) else None


def control_app(routes: Iterable[web.RouteDef]) -> web.Application:
    """For the Unix socket of the CLI: whoever may open the socket may do everything."""
    return _app(routes)


def json_response(message: object, *, status: int = 200) -> web.Response:
    """A message, dict or list as JSON."""
    return web.Response(
        body=msgspec.json.encode(message), status=status, content_type="application/json"
    )


def _app(routes: Iterable[web.RouteDef], *checks: object) -> web.Application:
    app = web.Application(
        middlewares=[_identify_request, _explain_errors, *checks, _refuse_encoded],  # type: ignore[list-item]
        client_max_size=MAX_MESSAGE_BYTES,
    )
    app.on_response_prepare.append(_add_request_id)
    app.router.add_routes(routes)
    app[_SAID] = {}
    return app


def _who(request: web.Request, book: PeerBook) -> Peer | None:
    """The peer of the connection; None without a certificate; Denied for a removed peer."""
    if request.transport is None:
        raise ConnectionResetError("the client went away")
    certificate = peer_certificate(request.transport)
    if certificate is None:
        return None
    certificate_id = fingerprint(certificate)
    peer = book.find_certificate(certificate_id)
    if peer is None:
        raise Denied(
            f"this server does not know node {short_form(certificate_id)} any more",
            hint="pair again: peersync peer invite",
        )
    return peer


@web.middleware
async def _identify_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    given = request.headers.get("X-Request-ID", "")
    # Not reset at the end: the id is still needed when the answer is prepared, and every
    # request has a context of its own.
    REQUEST_ID.set(given if _REQUEST_ID_FORM.fullmatch(given) else secrets.token_hex(8))
    started = time.monotonic()
    try:
        return await handler(request)
    finally:
        seconds = time.monotonic() - started
        _log.debug("%s %s %.3f s [%s]", request.method, request.path, seconds, REQUEST_ID.get())


@web.middleware
async def _explain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except PeersyncError as error:
        level = logging.DEBUG if _was_said(request, error) else logging.INFO
        words = (request.method, request.path, error, REQUEST_ID.get())
        _log.log(level, "%s %s: %s [%s]", *words)
        return _answer(request, error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = _answer(request, _from_aiohttp(error), error.status)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except web.RequestPayloadError as error:
        return _answer(request, BadRequest("the body is not valid HTTP", detail=str(error)))
    except Exception as error:
        if isinstance(error, ConnectionError) and _is_gone(request):
            return _cut(request)
        _log.exception("internal error %s in %s %s", REQUEST_ID.get(), request.method, request.path)
        return _answer(
            request,
            PeersyncError(
                f"internal error {REQUEST_ID.get()}",
                hint="the log of the server that answered has the details under this id",
            ),
        )


def _was_said(request: web.Request, error: PeersyncError) -> bool:
    """Whether a peer that asks again and again was refused with these words a while ago.

    Who waits to be accepted asks every two seconds; that it waits is logged where that is noted.
    """
    if isinstance(error, PairingWaits):
        return True
    peer = request.get(PEER)
    if peer is None:
        return False
    said, key, now = request.app[_SAID], (peer.node_id, request.path, str(error)), time.monotonic()
    if now - said.get(key, now - _SAID_S) < _SAID_S:
        return True
    if len(said) >= _SAID_MAX:
        said.clear()
    said[key] = now
    return False


def _answer(request: web.Request, error: PeersyncError, status: int | None = None) -> web.Response:
    if request.writer.output_size > 0:
        return _cut(request)  # half an answer is out: there is no other way to say that it failed
    problem = to_problem(error, instance=REQUEST_ID.get(), status=status)
    body = msgspec.json.encode(problem, enc_hook=str)
    response = web.Response(body=body, status=problem.status, content_type=CONTENT_TYPE)
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if problem.status == 429 and "retry_after_s" in error.data:
        response.headers["Retry-After"] = str(error.data["retry_after_s"])
    if not request.content.is_eof():
        response.force_close()  # what is left of the body is not read
    return response


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _cut(request: web.Request) -> web.Response:
    """Ends the connection. The answer is for aiohttp, which finds that it cannot be sent."""
    if request.transport is not None:
        request.transport.abort()
    response = web.Response()
    response.force_close()
    return response


def _from_aiohttp(error: web.HTTPException) -> PeersyncError:
    if error.status == 404:
        return NotFound("there is no such route")
    return BadRequest(f"this request cannot be answered: {error.reason}")


@web.middleware
async def _refuse_encoded(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadRequest("a request must not have a Content-Encoding")
    return await handler(request)


async def _add_request_id(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Request-ID"] = REQUEST_ID.get()
    response.headers["Server"] = "peersync"


async def _add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)

"""Logging in and out over HTTP: only on the people's listener.

Owns the cookie. What a login is, is in `desk`.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from aiohttp import web

from peersync import __version__
from peersync.agent.people import guard
from peersync.agent.people.desk import Browser, Desk
from peersync.agent.people.sessions import Session
from peersync.core.errors import BadRequest
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.problems import clean

BODY_BYTES = 16 * 1024
BODY_S = 10.0


class LoginRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: str
    password: str


class LinkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`password`: what it shall be from now on; without it the page asks after the login."""

    secret: str
    password: str | None = None


class PasswordRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`old` may be missing after a login by a link."""

    new: str
    old: str | None = None


class LoggedIn(msgspec.Struct, frozen=True, kw_only=True):
    """`needs_password`: it was by a link, and none was set since."""

    user: str
    role: str
    needs_password: bool = False


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. `session_expires_at`: if it is not used; of a token, its end."""

    user: str
    role: str
    kind: str
    node: str
    version: str
    session_expires_at: str
    needs_password: bool = False


class LoginApi:
    """The handlers; `routes` lists them."""

    def __init__(self, desk: Desk, node: str) -> None:
        self._desk = desk
        self._node = node

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/login", self._login),
            web.post("/api/login/link", self._link),
            web.post("/api/logout", self._logout),
            web.get("/api/me", self._me),
            web.post("/api/me/password", self._password),
        ]

    async def _login(self, request: web.Request) -> web.Response:
        asked = await read_message(request, LoginRequest, limit=BODY_BYTES, timeout_s=BODY_S)
        begun = self._desk.login(asked.user, asked.password, _browser(request))
        return self._logged_in(request, *await begun)

    async def _link(self, request: web.Request) -> web.Response:
        asked = await read_message(request, LinkRequest, limit=BODY_BYTES, timeout_s=BODY_S)
        begun = self._desk.login_by_link(asked.secret, asked.password, _browser(request))
        return self._logged_in(request, *await begun)

    async def _logout(self, request: web.Request) -> web.Response:
        session = _own_session(request)
        await self._desk.logout(session)
        response = json_response({"user": session.user})
        name = guard.cookie_name(request)
        response.del_cookie(name, path="/", secure=request.secure, httponly=True, samesite="Strict")
        return response

    async def _me(self, request: web.Request) -> web.Response:
        who = request[guard.PRINCIPAL]
        ends_at = datetime.now(UTC).timestamp() + self._desk.left_s(who)
        return json_response(
            Me(
                user=who.user,
                role=who.role,
                kind=who.kind,
                node=self._node,
                version=__version__,
                session_expires_at=datetime.fromtimestamp(ends_at, UTC).isoformat(
                    timespec="seconds"
                ),
                needs_password=who.session is not None and who.session.first,
            )
        )

    async def _password(self, request: web.Request) -> web.Response:
        session = _own_session(request)
        asked = await read_message(request, PasswordRequest, limit=BODY_BYTES, timeout_s=BODY_S)
        changed = self._desk.change_password(session, asked.old, asked.new, _browser(request))
        return self._logged_in(request, *await changed)

    def _logged_in(self, request: web.Request, session: Session, secret: str) -> web.Response:
        user = self._desk.accounts.get(session.user)
        response = json_response(
            LoggedIn(user=user.name, role=user.role, needs_password=session.first)
        )
        response.set_cookie(
            guard.cookie_name(request),
            secret,
            max_age=int(self._desk.sessions.max_s),
            path="/",
            secure=request.secure,
            httponly=True,
            samesite="Strict",
        )
        return response


def _own_session(request: web.Request) -> Session:
    session = request[guard.PRINCIPAL].session
    if session is None:
        raise BadRequest("a token is no login", hint="to end it: peersync token revoke")
    return session


def _browser(request: web.Request) -> Browser:
    return Browser(
        request.remote or "",
        clean(request.headers.get("User-Agent", "")),
        guard.cookie(request),
    )

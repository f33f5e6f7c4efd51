"""Users, tokens, sessions and settings: for admins, on the page and on the command line.

Owns paths and JSON forms. The secrets that it tells (a link, a token) are told once, in the
answer that made them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from aiohttp import web

from peersync.agent.people import guard
from peersync.agent.people.accounts import Token, User
from peersync.agent.people.address import first_link
from peersync.agent.people.desk import Desk
from peersync.agent.people.rights import Role
from peersync.agent.people.sessions import Session
from peersync.config.model import Config
from peersync.config.shown import effective
from peersync.core.errors import BadRequest, NotFound
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.problems import clean
from peersync.transport.query import read_query

BODY_BYTES = 16 * 1024
Days = Annotated[float, msgspec.Meta(gt=0, le=3650)]
ThingName = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class UserQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`user`: whose sessions; without it everybody's but one's own."""

    user: str | None = None


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    role: Role = "viewer"


class UserChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is not named stays."""

    role: Role | None = None
    password: str | None = None


class NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    name: ThingName
    role: Role = "viewer"
    days: Days = 90.0
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = ""


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    """`link_expires_at`: of the one-time link that is open, if there is one.

    `revoked_tokens`: names of those that have ended with what was just changed.
    """

    name: str
    role: str
    created_at: str
    has_password: bool
    link_expires_at: str | None
    sessions: int
    revoked_tokens: tuple[str, ...] = ()


class OneTimeLink(msgspec.Struct, frozen=True, kw_only=True):
    """A one-time link. It is told here and never again."""

    user: str
    role: str
    link: str
    expires_at: str


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """`own`: of the browser that asks. `expires_at`: if it is not used any more."""

    id: str
    user: str
    address: str
    browser: str
    created_at: str
    seen_at: str
    expires_at: str
    own: bool


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """`token`: its text, only in the answer that made it. `last_used`: since the agent started.

    `owner`: the user with whom it ends; null of one that was made on the command line.
    """

    id: str
    name: str
    role: str
    created_at: str
    created_by: str
    expires_at: str
    expired: bool
    last_used: str | None
    owner: str | None
    token: str | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in use, its secrets masked, and where each value came from."""

    config: dict[str, Any]
    origins: dict[str, str]


class PeopleApi:
    """The handlers; `routes` lists them. On the Unix socket nobody is logged in."""

    def __init__(self, desk: Desk, config: Config, origins: Mapping[str, str]) -> None:
        self._desk = desk
        self._config = config
        self._origins = origins

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/users", self._users),
            web.post("/api/admin/users", self._add_user),
            web.patch("/api/admin/users/{name}", self._change_user),
            web.delete("/api/admin/users/{name}", self._remove_user),
            web.post("/api/admin/users/{name}/link", self._link),
            web.get("/api/admin/sessions", self._sessions),
            web.delete("/api/admin/sessions", self._end_sessions),
            web.delete("/api/admin/sessions/{id}", self._end_session),
            web.get("/api/admin/tokens", self._tokens),
            web.post("/api/admin/tokens", self._add_token),
            web.delete("/api/admin/tokens/{id}", self._revoke),
            web.get("/api/admin/settings", self._settings),
        ]

    # --- users --------------------------------------------------------------------------------
    async def _users(self, _request: web.Request) -> web.Response:
        return json_response([self._user_view(user) for user in self._desk.accounts.users()])

    async def _add_user(self, request: web.Request) -> web.Response:
        asked = await read_message(request, NewUser, limit=BODY_BYTES)
        await self._desk.accounts.add(asked.name, asked.role)
        return json_response(await self._new_link(asked.name), status=201)

    async def _change_user(self, request: web.Request) -> web.Response:
        asked = await read_message(request, UserChange, limit=BODY_BYTES)
        user, gone = self._desk.accounts.get(request.match_info["name"]), list[Token]()
        if asked.role is not None:
            user, gone = await self._desk.change_role(user.name, asked.role)
        if asked.password is not None:
            user = await self._desk.set_password(user.name, asked.password)
        return json_response(self._user_view(user, gone))

    async def _remove_user(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        sessions = sum(s.user == name for s in self._desk.sessions.all())
        view = self._user_view(*await self._desk.remove(name))
        return json_response(msgspec.structs.replace(view, sessions=sessions))

    async def _link(self, request: web.Request) -> web.Response:
        return json_response(await self._new_link(request.match_info["name"]), status=201)

    async def _new_link(self, name: str) -> OneTimeLink:
        user, secret = await self._desk.accounts.make_link(name)
        assert user.link is not None
        return OneTimeLink(
            user=user.name,
            role=user.role,
            link=first_link(self._config, secret),
            expires_at=user.link.expires_at,
        )

    def _user_view(self, user: User, gone: Sequence[Token] = ()) -> UserView:
        link = user.link
        open_link = link is not None and not self._desk.accounts.is_over(link.expires_at)
        return UserView(
            name=user.name,
            role=user.role,
            created_at=user.created_at,
            has_password=user.password is not None,
            link_expires_at=link.expires_at if link and open_link else None,
            sessions=sum(s.user == user.name for s in self._desk.sessions.all()),
            revoked_tokens=tuple(token.name for token in gone),
        )

    # --- sessions -----------------------------------------------------------------------------
    async def _sessions(self, request: web.Request) -> web.Response:
        own = _session_id(request)
        return json_response([self._session_view(s, own) for s in self._desk.sessions.all()])

    async def _end_sessions(self, request: web.Request) -> web.Response:
        """All of `?user=`, or all of everybody but the one that asks."""
        user, own = read_query(request, UserQuery).user, _session_id(request)
        gone = await self._desk.sessions.end(
            lambda s: s.user == user if user is not None else s.id != own
        )
        return json_response([self._session_view(s, own) for s in gone])

    async def _end_session(self, request: web.Request) -> web.Response:
        wanted, own = request.match_info["id"], _session_id(request)
        gone = await self._desk.sessions.end(lambda s: s.id == wanted)
        if not gone:
            raise NotFound("there is no such session", hint="peersync admin sessions")
        return json_response(self._session_view(gone[0], own))

    def _session_view(self, session: Session, own: str | None) -> SessionView:
        sessions = self._desk.sessions
        ends_at = min(session.seen_at + sessions.idle_s, session.created_at + sessions.max_s)
        return SessionView(
            id=session.id,
            user=session.user,
            address=session.address,
            browser=session.browser,
            created_at=_iso(session.created_at),
            seen_at=_iso(session.seen_at),
            expires_at=_iso(ends_at),
            own=session.id == own,
        )

    # --- tokens -------------------------------------------------------------------------------
    async def _tokens(self, _request: web.Request) -> web.Response:
        return json_response([self._token_view(t) for t in self._desk.accounts.tokens()])

    async def _add_token(self, request: web.Request) -> web.Response:
        asked = await read_message(request, NewToken, limit=BODY_BYTES)
        if not asked.name.strip() or clean(asked.name) != asked.name:
            raise BadRequest("the name of a token is a short text, to know it by")
        expires_at = datetime.now(UTC) + timedelta(days=asked.days)
        who = request.get(guard.PRINCIPAL)
        by = who.user if who else clean(asked.requested_by) or "command line"
        token, secret = await self._desk.accounts.add_token(
            asked.name, asked.role, expires_at, by=by, owner=who.owner if who else None
        )
        view = msgspec.structs.replace(self._token_view(token), token=secret)
        return json_response(view, status=201)

    async def _revoke(self, request: web.Request) -> web.Response:
        gone = await self._desk.revoke(request.match_info["id"])
        return json_response(self._token_view(gone))

    def _token_view(self, token: Token) -> TokenView:
        return TokenView(
            id=token.id,
            name=token.name,
            role=token.role,
            created_at=token.created_at,
            created_by=token.created_by,
            expires_at=token.expires_at,
            expired=self._desk.accounts.is_over(token.expires_at),
            last_used=self._desk.last_used(token.id),
            owner=token.owner,
        )

    async def _settings(self, _request: web.Request) -> web.Response:
        return json_response(Settings(config=effective(self._config), origins=dict(self._origins)))


def _session_id(request: web.Request) -> str | None:
    who = request.get(guard.PRINCIPAL)
    return who.session.id if who and who.session else None


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")

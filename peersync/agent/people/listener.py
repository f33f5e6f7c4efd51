"""The people's side of a node: its accounts, its routes, and the application that serves them.

Puts the parts of this package together for `node`. What may be asked here is what the Unix socket
may be asked, behind the guard; `[people] enabled = false` leaves health and metrics alone.
"""

from __future__ import annotations

import secrets
from asyncio import Task
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aiohttp import web

from peersync.agent.backups import Backups
from peersync.agent.jobs import Jobs
from peersync.agent.people import accounts, sessions
from peersync.agent.people.accounts import Accounts
from peersync.agent.people.address import host_names, tls_context
from peersync.agent.people.board import Board
from peersync.agent.people.collector import Collector
from peersync.agent.people.desk import Desk
from peersync.agent.people.guard import bearer, cookie, guard, pattern_of
from peersync.agent.people.login_api import LoginApi
from peersync.agent.people.lookout import Lookout
from peersync.agent.people.openapi import openapi_route
from peersync.agent.people.overview_api import OverviewApi
from peersync.agent.people.pagefiles import PageFiles
from peersync.agent.people.people_api import PeopleApi
from peersync.agent.people.sessions import Sessions
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.config.people import is_loopback
from peersync.transport.app import Handler, Middleware, people_app
from peersync.transport.files import sweep_private
from peersync.transport.identity import Identity
from peersync.wire.address import parse_address

HOUR_S = 3600.0


class PeopleSide:
    """Reads its files when it is made; ConfigError for one that is damaged. Blocks."""

    def __init__(
        self, config: Config, identity: Identity, workers: Workers, origins: Mapping[str, str]
    ) -> None:
        self._config = config
        self._workers = workers
        state_dir, people = Path(config.node.state_dir), config.people
        for name in (accounts.FILE, sessions.FILE):
            sweep_private(state_dir / name)
        self.desk = Desk(
            Accounts(state_dir),
            Sessions(
                state_dir,
                idle_s=people.session_idle_h * HOUR_S,
                max_s=people.session_max_h * HOUR_S,
            ),
            workers,
        )
        self._api = PeopleApi(self.desk, config, origins)
        self._board = Board(secrets.token_hex(4))
        self.tls = tls_context(config, identity)

    def routes(
        self, lookout: Lookout, jobs: Jobs, backups: Backups, spawn: Callable[..., Task[None]]
    ) -> list[web.RouteDef]:
        """What both this listener and the Unix socket answer."""
        collector = Collector(lookout, jobs, backups, self._board, spawn)
        return [*self._api.routes(), *OverviewApi(lookout, collector).routes()]

    def app(
        self, shared: Sequence[web.RouteDef], health: Sequence[web.RouteDef]
    ) -> web.Application:
        """`shared`: the routes of the Unix socket, but for its health, which says more."""
        loopback = is_loopback(parse_address(self._config.node.admin).host)
        closed = [] if loopback else [_hide_names(self.desk)]
        if not self._config.people.enabled:
            return people_app(health, allowed_hosts=host_names(self._config), checks=closed)
        routes = [
            *health,
            *shared,
            *LoginApi(self.desk, self._config.node.name).routes(),
            *PageFiles(self._workers).routes(),
        ]
        routes.append(openapi_route(routes))
        checks = [*closed, guard(self.desk)]
        app = people_app(routes, allowed_hosts=host_names(self._config), checks=checks)
        app.on_shutdown.append(self._end_streams)
        return app

    async def _end_streams(self, _app: web.Application) -> None:
        self._board.close()
        self.desk.sessions.cut_all()


def _hide_names(desk: Desk) -> Middleware:
    """Beyond loopback, what names peers and databases is for who has logged in or has a token.

    That is /metrics, and /readyz with a question: its answer says which names there are.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        pattern = pattern_of(request)
        if pattern == "/metrics" or (pattern == "/readyz" and request.query_string):
            token = bearer(request)
            if token is not None:
                desk.of_token(token)
            else:
                await desk.of_cookie(cookie(request))
        return await handler(request)

    return check

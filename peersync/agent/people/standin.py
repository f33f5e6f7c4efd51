"""Accounts while no agent runs: the first password is set before the first start.

Answers the same routes on a socket of its own, for as long as one command needs it, so that there
is one way to change an account and not two. It serves nothing else.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from peersync.agent.people.accounts import FIRST_USER, Accounts
from peersync.agent.people.address import first_link
from peersync.agent.people.desk import Desk
from peersync.agent.people.people_api import PeopleApi
from peersync.agent.people.sessions import Sessions
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.transport.app import control_app
from peersync.transport.listener import listen_unix

HOUR_S = 3600.0


@asynccontextmanager
async def standing_in(config: Config) -> AsyncIterator[Path]:
    """Gives the socket on which users and tokens can be asked for and changed."""
    state_dir, people = Path(config.node.state_dir), config.people
    workers = Workers(pumps=1)
    try:
        sessions = await workers.run(
            Sessions,
            state_dir,
            idle_s=people.session_idle_h * HOUR_S,
            max_s=people.session_max_h * HOUR_S,
        )
        desk = Desk(await workers.run(Accounts, state_dir), sessions, workers)
        with tempfile.TemporaryDirectory(prefix="peersync-") as directory:
            app = control_app(PeopleApi(desk, config, {}).routes())
            async with listen_unix(app, Path(directory) / "s") as path:
                yield path
    finally:
        workers.close()


async def make_first_link(config: Config) -> str | None:
    """A link for the first user, whom it makes; None where somebody has a password already."""
    accounts = await asyncio.to_thread(Accounts, Path(config.node.state_dir))
    if any(user.password for user in accounts.users()):
        return None
    if accounts.find(FIRST_USER) is None:
        await accounts.add(FIRST_USER, "admin")
    _, secret = await accounts.make_link(FIRST_USER)
    return first_link(config, secret)

"""How `admin` and `token` reach the accounts: the agent, or its files while none runs.

Never both: whoever changes the files while an agent runs would be overruled by what it has in
memory.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from peersync.cli.context import Context

if TYPE_CHECKING:
    from peersync.transport.local import AgentClient

T = TypeVar("T")
_NOBODY = frozenset({errno.ENOENT, errno.ECONNREFUSED})


def ask(ctx: Context, call: Callable[[AgentClient], Awaitable[T]]) -> T:
    """Runs `call` with whoever answers for the accounts of this node."""

    async def asked() -> T:
        from pathlib import Path

        from peersync.agent.people.standin import standing_in
        from peersync.transport.local import AgentClient

        path = Path(ctx.config.node.socket)
        if _answer(path) not in _NOBODY:
            async with AgentClient(path) as agent:
                return await call(agent)
        async with standing_in(ctx.config) as own, AgentClient(own) as agent:
            return await call(agent)

    return asyncio.run(asked())


def _answer(path: object) -> int:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path))

"""What the parts of a node all work with: made once for each run, and handed to each of them.

It owns nothing of this and does nothing: the node opens and closes what is in it. A part that needs
one or two of them only is given those, and not the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from peersync.agent.databases import Databases
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer, PeerBook


class Spawn(Protocol):
    """Begins a piece of work as a task of the node, which goes on when the work has a bug."""

    def __call__(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]: ...


@dataclass(frozen=True)
class Services:
    """`node_id` is this node's own; `client_for` gives the one client of a peer."""

    config: Config
    environ: Mapping[str, str]
    node_id: str
    databases: Databases
    book: PeerBook
    client_for: Callable[[Peer], PeerClient]
    workers: Workers
    spawn: Spawn

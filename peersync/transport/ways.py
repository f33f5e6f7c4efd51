"""How each peer is reached: at its address, or by the connections that it opens itself.

Remembers what worked and for how long to believe it, so that a request does not wait for a
firewall's silence each time. Owns the answer to a peer's question "can you connect to me?".
It dials nothing but the address that this node has stored for the peer, and that rarely,
however often it is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Literal

from peersync.core.errors import PeersyncError
from peersync.transport.lines import Lines
from peersync.transport.peers import Peer

BELIEVE_S = 150.0  # more than two rounds of a peer's asking
PROBE_EVERY_S = 20.0
PROBE_S = 10.0

Way = Literal["direct", "by its own connections", "not at all"]
Probe = Callable[[Peer], Awaitable[None]]


class Ways:
    """`probe` connects to a peer's address and raises when the peer does not answer there."""

    def __init__(
        self, lines: Lines, probe: Probe, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lines = lines
        self._probe = probe
        self._clock = clock
        self._direct: dict[tuple[str, str], tuple[bool, float]] = {}
        self._probed: dict[tuple[str, str], tuple[bool, float]] = {}
        self._told_no: dict[str, float] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def note(self, peer: Peer, *, direct: bool) -> None:
        """What came of connecting to the peer's address."""
        if peer.address is not None:
            self._direct[peer.node_id, peer.address] = (direct, self._clock())

    def direct(self, peer: Peer) -> bool | None:
        """Whether the peer answers at its address; None when that is not known (any more)."""
        if peer.address is None:
            return False
        return self._recent(self._direct, peer, BELIEVE_S)

    def needs_lines(self, node_id: str) -> bool:
        """False when the peer has answered at its address, whichever that was, of late."""
        return not any(
            direct and self._clock() - at < BELIEVE_S
            for (node, _address), (direct, at) in self._direct.items()
            if node == node_id
        )

    def expected(self, peer: Peer) -> bool:
        """Whether the peer should have lines open, because it was told that we need them."""
        told_at = self._told_no.get(peer.node_id)
        return told_at is not None and self._clock() - told_at < BELIEVE_S

    def by_line(self, peer: Peer) -> bool:
        """Whether a line is to be tried before the peer's address."""
        direct = self.direct(peer)
        if peer.address is None or direct:
            return not direct
        return self.lines.waiting(peer.node_id) > 0 or (direct is False and self.expected(peer))

    def way(self, peer: Peer) -> Way | None:
        """For people; None where nothing is known."""
        direct = self.direct(peer)
        if direct:
            return "direct"
        if self.lines.count(peer.node_id):
            return "by its own connections"
        return None if direct is None else "not at all"

    async def reach(self, peer: Peer) -> bool:
        """Tries the peer's address, unless that was done a moment ago. Raises nothing."""
        async with self._locks[peer.node_id]:
            reached = self._recent(self._probed, peer, PROBE_EVERY_S)
            if reached is None:
                reached = await self._try(peer)
                self.note(peer, direct=reached)
                if peer.address is not None:
                    self._probed[peer.node_id, peer.address] = (reached, self._clock())
        if reached:
            self._told_no.pop(peer.node_id, None)
        else:
            self._told_no[peer.node_id] = self._clock()
        return reached

    def forget(self, peer: Peer) -> None:
        """The peer is none any more, or may have another address."""
        for known in (self._direct, self._probed):
            for key in [key for key in known if key[0] == peer.node_id]:
                del known[key]
        self._told_no.pop(peer.node_id, None)

    async def _try(self, peer: Peer) -> bool:
        if peer.address is None:
            return False
        try:
            async with asyncio.timeout(PROBE_S):
                await self._probe(peer)
        except (PeersyncError, TimeoutError):
            return False
        return True

    def _recent(
        self, known: dict[tuple[str, str], tuple[bool, float]], peer: Peer, seconds: float
    ) -> bool | None:
        found = known.get((peer.node_id, peer.address or ""))
        if found is None or self._clock() - found[1] >= seconds:
            return None
        return found[0]

"""Which peers a complete sync takes, in which order, by which way, and who is passed over and why.

Decides; starts nothing and records nothing. The order is that in which the peers were added.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from peersync.agent.databases import Databases
from peersync.agent.orchestration.outcome import (
    NOT_DONE,
    CompletePlan,
    CompleteRequest,
    CompleteView,
    PlannedPeer,
    skipped_until,
)
from peersync.agent.orchestration.ways import Ways
from peersync.config.model import Config
from peersync.config.orchestration import PeerSettings
from peersync.core.errors import BadRequest, Locked
from peersync.core.words import counted
from peersync.postgres.complete import Completes, Failed
from peersync.transport.peers import Peer, PeerBook


class Turn(NamedTuple):
    """A peer, and what is planned for it."""

    peer: Peer
    planned: PlannedPeer


class Turns:
    """`of` a request."""

    def __init__(self, config: Config, databases: Databases, book: PeerBook, ways: Ways) -> None:
        self._config = config
        self._databases = databases
        self._book = book
        self._ways = ways

    async def of(
        self, wanted: CompleteRequest, earlier: CompleteView | None
    ) -> tuple[list[Turn], CompletePlan]:
        """The peers in order, and the same as it is shown. NotFound for a peer that is none.

        `earlier`: the run whose failed peers are tried again.
        """
        database = await self._databases.ready(wanted.database)
        chosen = self._chosen(wanted, earlier)
        named = bool(wanted.peers) or earlier is not None
        asked = [] if named else [peer.node_id for peer in chosen]
        failures = await Completes(database).failures(asked)
        turns = [
            Turn(peer, await self._planned(wanted.database, peer, failures)) for peer in chosen
        ]
        plan = CompletePlan(
            database=wanted.database,
            peers=[turn.planned for turn in turns],
            parallel=wanted.parallel or self._config.complete.parallel,
            reason=self._nothing(wanted.database, turns),
        )
        return turns, plan

    def _chosen(self, wanted: CompleteRequest, earlier: CompleteView | None) -> list[Peer]:
        names = {self._book.get(name).name for name in wanted.peers}
        if earlier is not None:
            failed = _failed_in(earlier)
            names = names & failed if wanted.peers else failed
            if not names:
                raise BadRequest(f"none of these peers failed in {earlier.id[:8]}")
        if names:
            return [peer for peer in self._book.peers() if peer.name in names]
        return [peer for peer in self._book.peers() if self._takes_part(peer, wanted.database)]

    def settings(self, peer: Peer) -> PeerSettings:
        return self._config.peer.get(peer.name) or PeerSettings()

    def _takes_part(self, peer: Peer, database: str) -> bool:
        settings = self.settings(peer)
        return settings.auto_sync and self._refused(peer, database) is None

    def _refused(self, peer: Peer, database: str) -> str | None:
        settings = self.settings(peer)
        if not settings.active:
            return f"peer.{peer.name}.active is false"
        if settings.databases and database not in settings.databases:
            return f"peer.{peer.name}.databases does not name {database}"
        return None

    async def _planned(
        self, database: str, peer: Peer, failures: Mapping[str, Failed]
    ) -> PlannedPeer:
        settings = self.settings(peer)
        reason, after_errors = self._refused(peer, database), False
        if reason is None and (failed := failures.get(peer.node_id)) is not None:
            reason = self._backing_off(peer, failed)
            after_errors = reason is not None
        return PlannedPeer(
            peer=peer.name,
            way=await self._ways.choose(database, settings.sync),
            reason=reason,
            price_per_gb=settings.price_per_gb,
            after_errors=after_errors,
        )

    def _backing_off(self, peer: Peer, failed: Failed) -> str | None:
        until = skipped_until(failed.times, failed.last_at, self._config.complete)
        if until is None or until <= datetime.now(UTC):
            return None
        return (
            f"{counted(failed.times, 'error')} in a row, the last: {failed.message or 'unknown'};"
            f" passed over until {until:%Y-%m-%d %H:%M:%S} UTC, or: --peers {peer.name}"
        )

    def _nothing(self, database: str, turns: list[Turn]) -> str | None:
        if not self._config.database[database].active:
            return f"database.{database}.active is false"
        if turns:
            return None
        return "no auto-sync peers" if self._book.peers() else "no peer is known"


def _failed_in(earlier: CompleteView) -> set[str]:
    if earlier.status == "running":
        raise Locked(
            f"{earlier.id[:8]} is still running",
            hint=f"watch it: peersync complete-sync show {earlier.id[:8]}",
        )
    left = {peer.peer for peer in earlier.left}
    return left | {peer.peer for peer in earlier.peers if peer.status in NOT_DONE}

"""Table sets: tables that are brought up to date in a way and at times of their own.

Owns which sets are due, with which peers and in which order, and the record of each run. What is
done is a turn's affair (`SetTurn`). Two runs of one set with one peer never overlap, whoever
starts them. One set's failure, even a bug, never keeps the next from its turn.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Literal

import msgspec

from peersync.agent.databases import Databases
from peersync.agent.jobs import Jobs
from peersync.agent.orchestration.setturn import SetTurn
from peersync.agent.orchestration.ways import Ways
from peersync.config.model import Config
from peersync.config.orchestration import TableSet
from peersync.core.errors import Locked, NotFound, PeersyncError
from peersync.core.results import ErrorRecord
from peersync.core.schedule import When
from peersync.postgres.locks import Holder
from peersync.postgres.sets import SetRun, SetRuns
from peersync.transport.peers import Peer, PeerBook
from peersync.wire.messages import Name, SyncType

log = logging.getLogger("peersync.sets")

Result = Literal["done", "partly", "failed", "nothing"]


class SetsRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """`POST /api/admin/sets/run`. `sets`: empty for all. `force`: also what is not due."""

    sets: Annotated[list[Name], msgspec.Meta(max_length=10_000)] = []
    force: bool = False
    sync_type: SyncType = "api"
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = "api"


class PlannedSet(msgspec.Struct, frozen=True, kw_only=True):
    """A set in its turn. `reason`: why it is not run now; null where it is.

    `problems`: what a peer would refuse, by its name; found by asking, in a dry run only.
    """

    set: str
    database: str
    method: str
    direction: str
    tables: tuple[str, ...]
    priority: int
    peers: tuple[str, ...]
    reason: str | None = None
    last: str | None = None
    next: str | None = None
    rows: int | None = None
    problems: dict[str, str] = {}


class SetsPlan(msgspec.Struct, frozen=True, kw_only=True):
    """In the order in which they would run."""

    sets: list[PlannedSet]


class SetsResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run. nothing: no set was due, or each was running already."""

    result: Result
    runs: list[SetRun]
    not_run: list[PlannedSet]


class TableSets:
    """Those of this node. `on_end` is called with each run that has ended, from the loop."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        book: PeerBook,
        jobs: Jobs,
        ways: Ways,
        zone: tzinfo,
        *,
        now: Callable[[tzinfo], datetime] = datetime.now,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._databases = databases
        self._book = book
        self._zone = zone
        self._now = now
        self.on_end: list[Callable[[SetRun], None]] = []

        self._turn = SetTurn(config, jobs, ways, chance)

    async def recover(self) -> None:
        """At the start: what a dead agent left running is interrupted."""
        for database in self._databases:
            try:
                runs = SetRuns(await self._databases.ready(database.name))
                for name, peer_id in await runs.running():
                    async with runs.held(name, peer_id, self._holder(name, peer_id[:8])):
                        log.warning("table set %s was interrupted: the agent ended", name)
                await runs.prune(self._config.statistics.keep_d)
            except Locked:
                continue  # another agent runs it
            except PeersyncError as error:
                log.warning("runs of table sets of %s: %s", database.name, error)

    # --- what there is ----------------------------------------------------------------------
    async def plan(self, wanted: SetsRequest, *, ask: bool = False) -> SetsPlan:
        """What `run` would do now. `ask`: the peers are asked whether they could."""
        planned = [await self._planned(one, wanted) for one in self._wanted(wanted.sets)]
        if ask:
            planned = [await self._asked(p) if p.reason is None else p for p in planned]
        return SetsPlan(sets=planned)

    async def history(self, limit: int, name: str | None = None) -> list[SetRun]:
        """Newest first; NotFound for a set that is not configured."""
        chosen = {self._database(one) for one in self._wanted([name] if name else [])}
        runs: list[SetRun] = []
        for database in sorted(chosen):
            try:
                runs += await SetRuns(await self._databases.ready(database)).newest(limit, name)
            except PeersyncError as error:
                log.warning("runs of table sets of %s: %s", database, error)
        return sorted(runs, key=lambda r: r.started_at, reverse=True)[:limit]

    def _wanted(self, names: Sequence[str]) -> list[TableSet]:
        """In their order: incremental ones first, then by priority."""
        sets = {one.name: one for one in self._config.table_set}
        for name in names:
            if name not in sets:
                raise NotFound(
                    f"there is no table set {name!r}",
                    detail=f"configured here: {', '.join(sets) or 'none'}",
                    hint="Add a [[table_set]] to the configuration and restart the agent.",
                )
        chosen = [one for one in sets.values() if not names or one.name in names]
        return sorted(chosen, key=lambda s: (s.method != "incremental", s.priority))

    def _database(self, one: TableSet) -> str:
        return one.database or next(iter(self._config.database))

    def _peers(self, one: TableSet) -> list[Peer]:
        """NotFound for a peer that is named and not known."""
        if one.peers:
            return [self._book.get(name) for name in one.peers]
        database, found = self._database(one), []
        for peer in self._book.peers():
            settings = self._config.peer.get(peer.name)
            if settings is None or (
                settings.active
                and settings.auto_sync
                and (not settings.databases or database in settings.databases)
            ):
                found.append(peer)
        return found

    async def _planned(self, one: TableSet, wanted: SetsRequest) -> PlannedSet:
        planned = PlannedSet(
            set=one.name, database=self._database(one), method=one.method,
            direction=one.direction, tables=one.tables, priority=one.priority, peers=(),
        )  # fmt: skip
        replace = msgspec.structs.replace
        try:
            peers = self._peers(one)
            planned = replace(planned, peers=tuple(peer.name for peer in peers))
            if not peers:
                return replace(planned, reason="it has no peer")
            last = await self._last(one, peers)
        except PeersyncError as error:
            return replace(planned, reason=error.message)
        now = self._now(self._zone)
        due = When.parse(one.schedule).after(last) if one.schedule and last else None
        if due is not None:
            planned = replace(planned, next=_iso(due))
        if last is not None:
            planned = replace(planned, last=_iso(last))
        return replace(planned, reason=self._not_now(one, wanted, due, now))

    @staticmethod
    def _not_now(
        one: TableSet, wanted: SetsRequest, due: datetime | None, now: datetime
    ) -> str | None:
        if wanted.force:
            return None
        if not one.schedule:
            return None if wanted.sets else f"it has no schedule: peersync run --set {one.name}"
        if one.paused and not wanted.sets:
            return "it is paused by the configuration"
        if due is not None and due.timestamp() > now.timestamp():
            return f"it is due {due:%Y-%m-%d %H:%M}; now: peersync run --set {one.name} --force"
        return None

    async def _last(self, one: TableSet, peers: Sequence[Peer]) -> datetime | None:
        """When it last began with the peer that was served longest ago; None: with one never."""
        begun = await SetRuns(await self._databases.ready(self._database(one))).last_begun(one.name)
        if any(peer.node_id not in begun for peer in peers):
            return None
        return min(begun[peer.node_id] for peer in peers).astimezone(self._zone)

    async def _asked(self, planned: PlannedSet) -> PlannedSet:
        """With what the peers say to it: how many rows, and what stands against it."""
        one = self._wanted([planned.set])[0]
        rows: list[int | None] = []
        problems: dict[str, str] = {}
        for peer in self._peers(one):
            try:
                rows.append(await self._turn.rows(one, planned.database, peer))
            except PeersyncError as error:
                problems[peer.name] = f"{error.message}\n{error.hint}" if error.hint else str(error)
        known = [number for number in rows if number is not None]
        total = sum(known) if known and len(known) == len(rows) else None
        return msgspec.structs.replace(planned, rows=total, problems=problems)

    # --- running ----------------------------------------------------------------------------
    async def run(self, wanted: SetsRequest) -> SetsResult:
        """Every set that is due, in order, with each of its peers; returns when all have ended."""
        plan = await self.plan(wanted)
        not_run = [p for p in plan.sets if p.reason is not None]
        runs: list[SetRun] = []
        for planned in (p for p in plan.sets if p.reason is None):
            one = self._wanted([planned.set])[0]
            for peer in self._peers(one):
                try:
                    runs.append(await self._one(one, planned.database, peer, wanted))
                except Locked as error:
                    log.warning("%s; it is not begun twice", error)
                    not_run.append(msgspec.structs.replace(planned, reason=error.message))
                except PeersyncError as error:  # the database: it can't even be recorded
                    log.error("table set %s with %s: %s", one.name, peer.name, error)  # noqa: TRY400
                    runs.append(_unrecorded(planned, peer, wanted, error))
        await self._prune({run.database for run in runs if run.id})
        return SetsResult(result=_summed(runs), runs=runs, not_run=not_run)

    async def _prune(self, databases: set[str]) -> None:
        for name in databases:
            try:
                await SetRuns(self._databases.get(name)).prune(self._config.statistics.keep_d)
            except PeersyncError as error:
                log.warning("old runs of table sets of %s: %s", name, error)

    async def _one(self, one: TableSet, database: str, peer: Peer, wanted: SetsRequest) -> SetRun:
        runs = SetRuns(await self._databases.ready(database))
        async with runs.held(one.name, peer.node_id, self._holder(one.name, peer.name)):
            run = await runs.begin(
                one.name, method=one.method, sync_type=wanted.sync_type, peer_id=peer.node_id,
                peer=peer.name, direction=one.direction, by=wanted.requested_by,
            )  # fmt: skip

            async def told(session: str) -> None:
                await runs.set_session(run, session)

            end = await self._turn.run(
                one, database, peer, by=wanted.requested_by, sync_type=wanted.sync_type, told=told
            )
            await runs.end(run, end)
            done = await runs.get(run)
        log.info("table set %s with %s: %s, %d rows", one.name, peer.name, done.status, done.rows)
        for tell in self.on_end:
            tell(done)
        return done

    def _holder(self, name: str, peer: str) -> Holder:
        return Holder(
            self._config.node.name, os.getpid(), secrets.token_hex(16), f"table set {name}, {peer}"
        )


def _unrecorded(
    planned: PlannedSet, peer: Peer, wanted: SetsRequest, error: PeersyncError
) -> SetRun:
    return SetRun(
        id=0, set=planned.set, database=planned.database, method=planned.method, peer=peer.name,
        direction=planned.direction, sync_type=wanted.sync_type,
        requested_by=wanted.requested_by, status="error", error=ErrorRecord.of(error),
        started_at=_iso(datetime.now(UTC)),
    )  # fmt: skip


def _summed(runs: Sequence[SetRun]) -> Result:
    """The worst, in the words of the whole."""
    states = [run.status for run in runs]
    if not states:
        return "nothing"
    if all(state == "success" for state in states):
        return "done"
    return "failed" if all(state == "error" for state in states) else "partly"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")

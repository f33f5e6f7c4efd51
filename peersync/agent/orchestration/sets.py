"""Table sets: tables that are brought up to date in a way and at times of their own.

Owns which sets are due, with which peers and in which order, and the record of each run. What is
done is a turn's affair (`SetTurn`). Two runs of one set with one peer never overlap, whoever
starts them. One set's failure, even a bug, never keeps the next from its turn.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo

import msgspec

from peersync.agent.databases import Databases
from peersync.agent.endings import Endings
from peersync.agent.jobs import Jobs
from peersync.agent.orchestration.line import Line
from peersync.agent.orchestration.sets_outcome import (
    PlannedSet,
    SetsPlan,
    SetsRequest,
    SetsResult,
    summed,
)
from peersync.agent.orchestration.setturn import FIRST_S, SetTurn, rank_of
from peersync.agent.orchestration.ways import Ways
from peersync.config.model import Config
from peersync.config.orchestration import TableSet
from peersync.core.errors import Locked, NotFound, PeersyncError, error_class
from peersync.core.results import ErrorRecord
from peersync.core.schedule import Budget, When
from peersync.postgres.locks import Holder
from peersync.postgres.sets import SetEnd, SetRun, SetRuns
from peersync.transport.peers import Peer, PeerBook

__all__ = ["PlannedSet", "SetsPlan", "SetsRequest", "SetsResult", "TableSets"]

log = logging.getLogger("peersync.sets")

_NEVER = datetime.min.replace(tzinfo=UTC)


class TableSets:
    """Those of this node. `on_end` is called with each run that has ended, from the loop."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        book: PeerBook,
        jobs: Jobs,
        ways: Ways,
        line: Line,
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
        self._chance = chance
        self.on_end: Endings[SetRun] = Endings()

        self._turn = SetTurn(config, jobs, ways, line, chance)

    async def recover(self) -> None:
        """At the start: what a dead agent left running is interrupted."""
        for database in self._databases:
            try:
                runs = SetRuns(await self._databases.ready(database.name))
                for name, peer_id in await runs.running():
                    await self._interrupted(runs, name, peer_id)
                await runs.prune(self._config.statistics.keep_d)
            except Locked:
                continue  # another agent runs it
            except PeersyncError as error:
                log.warning("runs of table sets of %s: %s", database.name, error)

    async def _interrupted(self, runs: SetRuns, name: str, peer_id: str) -> None:
        async with runs.held(name, peer_id, self._holder(name, peer_id[:8])) as ended:
            for run in ended:
                log.warning("table set %s was interrupted: the agent ended", name)
                self._tell(await runs.get(run))

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
        """In their order: incremental ones first, then by priority and name."""
        sets = {one.name: one for one in self._config.table_set}
        for name in names:
            if name not in sets:
                raise NotFound(
                    f"there is no table set {name!r}",
                    detail=f"configured here: {', '.join(sets) or 'none'}",
                    hint="Add a [[table_set]] to the configuration and restart the agent.",
                )
        chosen = [one for one in sets.values() if not names or one.name in names]
        return sorted(chosen, key=rank_of)

    def _database(self, one: TableSet) -> str:
        return one.database or next(iter(self._config.database))

    def _peers(self, one: TableSet) -> list[Peer]:
        """Those that are known."""
        if one.peers:
            unknown = self._unknown(one)
            return [self._book.get(name) for name in one.peers if name not in unknown]
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

    def _unknown(self, one: TableSet) -> dict[str, PeersyncError]:
        """Peers that it names and nobody has paired with, by name."""
        found: dict[str, PeersyncError] = {}
        for name in one.peers:
            try:
                self._book.get(name)
            except NotFound as error:
                found[name] = error
        return found

    async def _planned(self, one: TableSet, wanted: SetsRequest) -> PlannedSet:
        planned = PlannedSet(
            set=one.name, database=self._database(one), method=one.method,
            direction=one.direction, tables=one.tables, priority=one.priority, peers=(),
        )  # fmt: skip
        replace = msgspec.structs.replace
        peers, unknown = self._peers(one), self._unknown(one)
        problems = {name: error.message for name, error in unknown.items()}
        planned = replace(planned, peers=tuple(peer.name for peer in peers), problems=problems)
        if not peers and not unknown:
            return replace(planned, reason="it has no peer")
        try:
            last = await self._last(one, peers)
        except PeersyncError as error:
            return replace(planned, reason=error.message, error=ErrorRecord.of(error))
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
        begun = await self._begun(one)
        if not peers or any(peer.node_id not in begun for peer in peers):
            return None
        return min(begun[peer.node_id] for peer in peers).astimezone(self._zone)

    async def _begun(self, one: TableSet) -> dict[str, datetime]:
        runs = SetRuns(await self._databases.ready(self._database(one)))
        return await runs.last_begun(one.name)

    async def _asked(self, planned: PlannedSet) -> PlannedSet:
        """With what the peers say to it: how many rows, and what stands against it."""
        one = self._wanted([planned.set])[0]
        rows: list[int | None] = []
        problems = dict(planned.problems)
        for peer in self._peers(one):
            try:
                rows.append(await self._turn.rows(one, planned.database, peer))
            except PeersyncError as error:
                problems[peer.name] = f"{error.message}\n{error.hint}" if error.hint else str(error)
        known = [number for number in rows if number is not None]
        total = sum(known) if known and len(known) == len(rows) else None
        return msgspec.structs.replace(planned, rows=total, problems=problems)

    # --- running ----------------------------------------------------------------------------
    async def run(self, wanted: SetsRequest, *, since: datetime | None = None) -> SetsResult:
        """Every set that is due, in order, with each of its peers; returns when all have ended.

        `since`: a turn of that time is meant; what has begun since, anywhere, is not done again.
        """
        sets = self._wanted(wanted.sets)
        before = {one.name: await self._begun_before(one) for one in sets}
        runs: list[SetRun] = []
        not_run: list[PlannedSet] = []
        for planned in [await self._surely_planned(one, wanted) for one in sets]:
            one = self._wanted([planned.set])[0]
            if planned.error is not None:
                runs += self._unanswered(one, planned, wanted)
            elif planned.reason is not None:
                not_run.append(planned)
            else:
                runs += await self._due(one, planned, wanted, not_run, before[one.name], since)
        await self._prune({run.database for run in runs if run.id})
        return SetsResult(result=summed(runs), runs=runs, not_run=not_run)

    async def _due(
        self,
        one: TableSet,
        planned: PlannedSet,
        wanted: SetsRequest,
        not_run: list[PlannedSet],
        before: Mapping[str, datetime] | None,
        since: datetime | None,
    ) -> list[SetRun]:
        """One set with each of its peers."""
        runs = []
        for name, error in self._unknown(one).items():
            runs.append(await self._refused(one, planned, name, wanted, error))
        for peer in self._peers(one):
            earlier = since
            if since is None and before is not None and not wanted.force:
                earlier = before.get(peer.node_id, _NEVER)
            try:
                runs.append(await self._one(one, planned.database, peer, wanted, earlier))
            except Locked as error:
                log.warning("%s; it is not begun twice", error)
                not_run.append(msgspec.structs.replace(planned, reason=error.message))
            except PeersyncError as error:  # the database: it can't even be recorded
                runs.append(self._unrecorded(planned, peer.name, wanted, ErrorRecord.of(error)))
        return runs

    async def _begun_before(self, one: TableSet) -> dict[str, datetime] | None:
        try:
            return await self._begun(one)
        except PeersyncError:  # is told where it is planned
            return None

    async def _surely_planned(self, one: TableSet, wanted: SetsRequest) -> PlannedSet:
        """A database that does not answer is asked again, as a peer is."""
        settings, failures = self._config.complete, 0
        budget = Budget(settings.retries, first_s=FIRST_S)
        while True:
            planned = await self._planned(one, wanted)
            if planned.error is None or not error_class(planned.error.code).retryable:
                return planned
            failures += 1
            pause_s = budget.pause_s(failures, settings.timeout_s, self._chance())
            if pause_s is None:
                return planned
            await asyncio.sleep(pause_s)

    def _unanswered(self, one: TableSet, planned: PlannedSet, wanted: SetsRequest) -> list[SetRun]:
        """It is not known whether it is due; a paused one, and one without a time, is not."""
        assert planned.error is not None
        if not wanted.force and not wanted.sets and (one.paused or not one.schedule):
            return []
        names = planned.peers or one.peers
        return [self._unrecorded(planned, name, wanted, planned.error) for name in names]

    async def _refused(
        self,
        one: TableSet,
        planned: PlannedSet,
        peer: str,
        wanted: SetsRequest,
        error: PeersyncError,
    ) -> SetRun:
        """A run that can't be, on record all the same."""
        why = ErrorRecord.of(error)
        try:
            runs = SetRuns(await self._databases.ready(planned.database))
            run = await runs.begin(
                one.name, method=one.method, sync_type=wanted.sync_type, peer_id="", peer=peer,
                direction=one.direction, by=wanted.requested_by,
            )  # fmt: skip
            await runs.end(run, SetEnd(status="error", error=why, tries=0))
            return self._tell(await runs.get(run))
        except PeersyncError:
            return self._unrecorded(planned, peer, wanted, why)

    async def _prune(self, databases: set[str]) -> None:
        for name in databases:
            try:
                await SetRuns(self._databases.get(name)).prune(self._config.statistics.keep_d)
            except PeersyncError as error:
                log.warning("old runs of table sets of %s: %s", name, error)

    async def _one(
        self,
        one: TableSet,
        database: str,
        peer: Peer,
        wanted: SetsRequest,
        earlier: datetime | None,
    ) -> SetRun:
        """Raises Locked where it runs, or has begun after `earlier` and went well."""
        runs = SetRuns(await self._databases.ready(database))
        holder = self._holder(one.name, peer.name)
        async with runs.held(one.name, peer.node_id, holder) as interrupted:
            for number in interrupted:
                self._tell(await runs.get(number))
            begun = (await runs.last_begun(one.name)).get(peer.node_id, _NEVER)
            if earlier is not None and begun > earlier:
                at = f"{begun.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
                raise Locked(f"table set {one.name}, {peer.name}: this turn was done, begun {at}")
            run = await runs.begin(
                one.name, method=one.method, sync_type=wanted.sync_type, peer_id=peer.node_id,
                peer=peer.name, direction=one.direction, by=wanted.requested_by,
            )  # fmt: skip

            async def told(session: str) -> None:
                await runs.set_session(run, session)

            async def waits(words: str) -> None:
                await runs.waits(run, words)

            end = await self._turn.run(
                one, database, peer, by=wanted.requested_by, sync_type=wanted.sync_type, told=told,
                waits=waits,
            )  # fmt: skip
            await runs.end(run, end)
            done = await runs.get(run)
        log.info("table set %s with %s: %s, %d rows", one.name, peer.name, done.status, done.rows)
        return self._tell(done)

    def _tell(self, run: SetRun) -> SetRun:
        self.on_end.tell(run)
        return run

    def _unrecorded(
        self, planned: PlannedSet, peer: str, wanted: SetsRequest, error: ErrorRecord
    ) -> SetRun:
        """A run that its database has no record of is told all the same."""
        log.error("table set %s with %s: %s", planned.set, peer, error.message)
        now = _iso(datetime.now(UTC))
        run = SetRun(
            id=0, set=planned.set, database=planned.database, method=planned.method, peer=peer,
            direction=planned.direction, sync_type=wanted.sync_type,
            requested_by=wanted.requested_by, status="error", error=error, started_at=now,
            completed_at=now,
        )  # fmt: skip
        return self._tell(run)

    def _holder(self, name: str, peer: str) -> Holder:
        return Holder(
            self._config.node.name, os.getpid(), secrets.token_hex(16), f"table set {name}, {peer}"
        )


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")

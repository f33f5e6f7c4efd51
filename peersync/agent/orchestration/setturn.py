"""One table set with one peer: a proof of periodic sync, or a full sync of tables or of rows.

Owns what a set's method means for a peer, and how often a failure is tried again. It records
nothing. A sync of some rows updates and inserts; where the other side would not understand
which rows are meant, it is not begun. Whoever is at work in the database is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from peersync.agent.jobs import Jobs
from peersync.agent.jobview import JobView
from peersync.agent.orchestration.line import Line, Patience, Rank
from peersync.agent.orchestration.ways import Ways
from peersync.agent.plan import Plan
from peersync.config.model import Config
from peersync.config.orchestration import TableSet
from peersync.core.errors import BadRequest, Locked, PeersyncError, ProtocolError
from peersync.core.results import ErrorRecord
from peersync.core.schedule import Budget, parse_span
from peersync.core.words import counted
from peersync.postgres.sets import SetEnd, SetStatus
from peersync.transport.peers import Peer
from peersync.wire.messages import Options, SyncType
from peersync.wire.narrow import Narrow, Newer, RowCondition

log = logging.getLogger("peersync.sets")

JOB_S: Final = 0.3
FIRST_S: Final = 2.0  # the pause after the first failure, at most
_OF_STATE: Final[dict[str, SetStatus]] = {
    "done": "success", "partly": "partial", "failed": "error", "cancelled": "error",
}  # fmt: skip
Told = Callable[[str], Awaitable[None]]


class SetTurn:
    """`run` one; `rows` says whether it could be run."""

    def __init__(
        self, config: Config, jobs: Jobs, ways: Ways, line: Line, chance: Callable[[], float]
    ) -> None:
        self._settings = config.complete
        self._jobs = jobs
        self._ways = ways
        self._line = line
        self._chance = chance

    async def rows(self, one: TableSet, database: str, peer: Peer) -> int | None:
        """About how many rows would travel; None: unknown. Raises what the peer refuses with."""
        if one.method == "incremental":
            await self._refuse_no_member(one, database, peer)
            await self._ways.reach(peer)
            return None
        return (await self._plan(one, database, peer)).rows

    async def run(
        self,
        one: TableSet,
        database: str,
        peer: Peer,
        *,
        by: str,
        sync_type: SyncType,
        told: Told,
        waits: Told,
    ) -> SetEnd:
        """Tried again while that can help. Never raises but for the end of the agent.

        `waits` is told for whom. Where their work lasts too long this one is "skipped".
        """
        who = f"table set {one.name} with {peer.name}"
        patience = Patience(self._settings.timeout_s, who, waits)
        try:
            if one.method == "incremental":  # it copies nothing, so it is in nobody's way
                return await self._tried(one, database, peer, by, sync_type, told, patience)
            together = sync_type == "scheduled"
            async with self._line.turn(
                database, who, patience, rank=rank_of(one), together=together
            ):
                return await self._tried(one, database, peer, by, sync_type, told, patience)
        except Locked as error:
            return SetEnd(status="skipped", reason=error.message)

    async def _tried(
        self,
        one: TableSet,
        database: str,
        peer: Peer,
        by: str,
        sync_type: SyncType,
        told: Told,
        patience: Patience,
    ) -> SetEnd:
        """Raises Locked when the patience is over."""
        budget, tries = Budget(self._settings.retries, first_s=FIRST_S), 0
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.timeout_s
        while True:
            tries += 1
            try:
                end = await self._once(one, database, peer, by, sync_type, told)
            except Locked as error:
                await patience.wait(error)
                tries -= 1
                continue
            except PeersyncError as error:
                end = SetEnd(status="error", error=ErrorRecord.of(error))
                asked = error.data.get("retry_after_s")
                pause = budget.pause_s(tries, deadline - loop.time(), self._chance(), asked)
                if pause is not None and (error.retryable or error.data.get("peer_retryable")):
                    log.warning("table set %s, %s: %s; again", one.name, peer.name, error)
                    await asyncio.sleep(pause)
                    continue
            except Exception:
                log.exception("internal error in table set %s with %s", one.name, peer.name)
                words = "internal error; the agent's log has the traceback"
                end = SetEnd(status="error", error=ErrorRecord("failed", words))
            if tries > 1 and end.status == "success":
                reason = f"recovered after {counted(tries - 1, 'error')}"
                log.info("table set %s, %s: %s", one.name, peer.name, reason)
                end = msgspec.structs.replace(end, reason=reason)
            return msgspec.structs.replace(end, tries=tries)

    async def _once(
        self, one: TableSet, database: str, peer: Peer, by: str, sync_type: SyncType, told: Told
    ) -> SetEnd:
        if one.method == "incremental":
            await self._refuse_no_member(one, database, peer)
            settings = self._settings
            proof = await self._ways.prove(database, peer, settings.timeout_s, settings.retries)
            return msgspec.convert(proof, SetEnd, from_attributes=True)
        options = options_of(one)
        if one.direction == "push" and options.narrow is not None:
            await self._plan(one, database, peer)  # one that takes all rows must not begin
        start = self._jobs.start if one.direction == "pull" else self._jobs.pushes.start
        started = await start(peer.name, database, options, by=by, sync_type=sync_type)
        assert started.job is not None
        await told(started.job)
        while True:
            await asyncio.sleep(JOB_S)
            view = await self._jobs.views.get(started.job)
            if view.completed_at is not None:
                return _of_job(view)

    async def _refuse_no_member(self, one: TableSet, database: str, peer: Peer) -> None:
        if await self._ways.choose(database, "periodic") != "periodic":
            raise PeersyncError(
                f"{database} takes no part in periodic sync, which an incremental set needs",
                hint=f"peersync join {peer.name} --database {database}\n"
                f'or set method = "full" of table set {one.name}',
            )

    async def _plan(self, one: TableSet, database: str, peer: Peer) -> Plan:
        options = options_of(one)
        if one.direction == "push":
            plan = await self._jobs.pushes.plan(peer.name, database, options)
            if options.narrow is not None and plan.narrowed is None:
                raise ProtocolError(
                    f"{peer.name} can't take only some rows of a table",
                    hint=f"Install the same version of peersync on {peer.name}.",
                )
            return plan
        return (await self._jobs.plan(peer.name, database, options, count=False))[0]


def rank_of(one: TableSet) -> Rank:
    """By which sets that are due together are sorted."""
    return one.method != "incremental", one.priority, one.name


def options_of(one: TableSet) -> Options:
    """What a set asks of a full sync. BadRequest for a condition that can't be one."""
    try:
        conditions = tuple(
            RowCondition(column=c.column, op=c.op, value=c.value) for c in one.filter
        )
    except ValueError as error:
        raise BadRequest(
            f"the filter of table set {one.name} is not valid: {error}",
            hint="Correct [[table_set]] and restart the agent.",
        ) from error
    newer = None
    if one.method == "window":
        newer = Newer(column=one.column, span_s=parse_span(one.span))
    narrow = Narrow(conditions=conditions, newer=newer) if conditions or newer else None
    return Options(tables=one.tables, narrow=narrow)


def _of_job(view: JobView) -> SetEnd:
    """Raises Locked where another process was quicker."""
    if view.error is not None and view.error.code == Locked.code:
        raise Locked(view.error.message, detail=view.error.detail, hint=view.error.hint)
    progress, status = view.progress, _OF_STATE.get(view.state, "error")
    show = f"peersync jobs show {view.id[:8]}"
    left = sum(t.result != "done" for t in view.tables)
    return SetEnd(
        status=status,
        reason=f"{counted(left, 'table')} not wholly done: {show}" if status == "partial" else None,
        error=(view.error or ErrorRecord("failed", f"it was {view.state}", None, show))
        if status == "error"
        else None,
        rows=progress.rows if progress else 0,
        raw_bytes=progress.raw_bytes if progress else 0,
        wire_bytes=progress.wire_bytes if progress else 0,
    )

"""Complete syncs of this node's databases: started, watched, cancelled, and remembered.

A run holds a lease of its database, so there is one at a time, whichever agent has begun it,
and a run whose agent died is known by the lease that nobody holds. It belongs to the agent, not
to who asked for it. What is done for a peer is `ways`, who is done and when `turns` and `run`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from peersync.agent.databases import Databases
from peersync.agent.endings import Endings
from peersync.agent.orchestration.line import Line
from peersync.agent.orchestration.outcome import (
    CompletePlan,
    CompleteRequest,
    CompleteView,
    overall,
)
from peersync.agent.orchestration.run import Run, configuration_of
from peersync.agent.orchestration.turns import Turns
from peersync.agent.orchestration.ways import Ways
from peersync.config.model import Config
from peersync.core.errors import BadRequest, Locked, NotFound, PeersyncError
from peersync.postgres.complete import AGENT_ENDED, LEASE, Completes
from peersync.postgres.locks import Holder, lease
from peersync.postgres.pool import Database
from peersync.transport.peers import PeerBook
from peersync.transport.problems import clean

log = logging.getLogger("peersync.complete")

WHAT: Final = "a complete sync"
LAST_WORDS_S: Final = 5.0  # for the record, when the agent stops
AGAIN_S: Final = 2.0
LOOK_S: Final = 0.5
_ID = re.compile(r"[0-9a-f]{1,32}")


class CompleteSyncs:
    """All of this node. `on_end` is called with each that has ended, from the event loop."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        book: PeerBook,
        ways: Ways,
        line: Line,
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        self._config = config
        self._databases = databases
        self._turns = Turns(config, databases, book, ways)
        self._ways = ways
        self._line = line
        self._spawn = spawn
        self._runs: dict[str, Run] = {}
        self.on_end: Endings[CompleteView] = Endings()

    # --- starting -----------------------------------------------------------------------
    async def plan(self, wanted: CompleteRequest) -> CompletePlan:
        """What `start` would do. It changes nothing."""
        _, plan = await self._turns.of(wanted, await self._earlier(wanted))
        return plan

    async def start(
        self,
        wanted: CompleteRequest,
        *,
        bulk: str | None = None,
        noted: Mapping[str, str] | None = None,
        since: datetime | None = None,
    ) -> CompleteView:
        """Recorded, and running. `noted` is kept with its configuration.

        `since`: a turn of that time is meant, which another agent may have done. Raises Locked,
        naming the holder, while one runs or where the turn is done (`data["done"]`), and NotFound
        where there is nothing to do (`data["nothing"]`).
        """
        wanted = msgspec.structs.replace(wanted, requested_by=clean(wanted.requested_by)[:150])
        earlier = await self._earlier(wanted)
        turns, plan = await self._turns.of(wanted, earlier)
        if plan.reason is not None:
            raise NotFound(
                f"{wanted.database} has nothing to sync with: {plan.reason}",
                hint="peersync peer list, and: peersync config show",
                nothing=True,
            )
        database, settings = self._databases.get(wanted.database), self._config.complete
        run = Run(
            secrets.token_hex(16), database, wanted, turns, plan.parallel, settings, self._ways,
            self._line,
        )  # fmt: skip
        currency = self._config.statistics.currency
        configuration = configuration_of(wanted, turns, plan.parallel, settings, currency)
        record = {
            "bulk": bulk,
            "retry_of": earlier.id if earlier else None,
            "configuration": {**configuration, **(noted or {})},
        }
        self._runs[run.id] = run
        run.task = self._spawn(self._run(run, record, since), name=f"complete-{run.id[:8]}")
        await run.began
        return await self.get(wanted.database, run.id)

    async def _earlier(self, wanted: CompleteRequest) -> CompleteView | None:
        if wanted.retry_failed is None:
            return None
        return await self.get(wanted.database, wanted.retry_failed)

    # --- running ------------------------------------------------------------------------
    async def _run(self, run: Run, record: dict[str, Any], since: datetime | None) -> None:
        """From the lease to the record of its end."""
        closed = False
        try:
            holder = Holder(self._config.node.name, os.getpid(), run.id, WHAT)
            async with lease(run.database, LEASE, holder):
                await _refuse_done(run, since)
                await self._close_left(run.database)
                await run.records.create(
                    run.id,
                    run.turned,
                    node=self._config.node.name,
                    sync_type=run.wanted.sync_type,
                    requested_by=run.wanted.requested_by,
                    **record,
                )
                run.recorded = True
                if not run.began.done():  # whoever asked may have gone away
                    run.began.set_result(None)
                log.info("complete sync %s of %s begins", run.id[:8], run.database.name)
                await run.work()
                status = overall(run.statuses, left=run.left)
                await run.records.close(run.id, status, AGENT_ENDED)
                closed = True
        except asyncio.CancelledError:
            await self._last_words(run)
            raise
        except Exception as error:
            self._broken(run, error)
        finally:
            self._runs.pop(run.id, None)
            run.ended.set()
            if not run.began.done():
                run.began.cancel()
        if closed:
            await self._tell_end(run)

    def _broken(self, run: Run, error: Exception) -> None:
        """Refused before it began; or its own database went away, or a bug."""
        if not run.recorded:
            if not run.began.done():
                run.began.set_exception(_refusal(run.database.name, error))
            return
        log.error("complete sync %s of %s: %s", run.id[:8], run.database.name, error)
        if not isinstance(error, (PeersyncError, BaseExceptionGroup)):
            log.error("internal error", exc_info=error)
        self._spawn(
            self._recover(run.database, why=str(error)),
            name=f"complete-recover-{run.database.name}",
        )

    async def _last_words(self, run: Run) -> None:
        """Cancelled, or the agent stops: the record says so if the database answers."""
        if not run.recorded:
            return
        why = f"cancelled by {run.cancelled_by}" if run.cancelled_by else AGENT_ENDED
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await run.records.close(run.id, "interrupted", why)
            await self._tell_end(run)
        except (PeersyncError, TimeoutError) as error:
            log.warning("complete sync %s is not recorded as ended: %s", run.id[:8], error)

    async def _tell_end(self, run: Run) -> None:
        view = await self.get(run.database.name, run.id)
        log.info("complete sync %s of %s: %s", run.id[:8], view.database, view.status)
        self.on_end.tell(view)

    async def wait(self, database: str, complete: str) -> CompleteView:
        """How it ended, when it has."""
        while (view := await self.get(database, complete)).status == "running":
            run = self._runs.get(view.id)
            if run is not None:
                await run.ended.wait()
            await asyncio.sleep(0 if run is not None else LOOK_S)
        return view

    async def cancel(self, database: str, complete: str, *, by: str = "request") -> CompleteView:
        """Ends it; what was done stays. Harmless when it has ended. Locked: another node's."""
        view = await self.get(database, complete)
        run = self._runs.get(view.id)
        if run is not None and run.task is not None:
            run.cancelled_by = clean(by)[:150]
            await run.stop_jobs()
            run.task.cancel()
            await run.ended.wait()
        elif view.status == "running":
            raise Locked(
                f"complete sync {view.id[:8]} does not run in this agent but on {view.node}",
                hint=f"on {view.node}: peersync complete-sync cancel {view.id[:8]}",
            )
        return await self.get(database, view.id)

    # --- looking ------------------------------------------------------------------------
    async def get(self, database: str, complete: str) -> CompleteView:
        """By the beginning of its id. NotFound, or BadRequest if it is unclear."""
        prefix = complete.replace("-", "").lower()
        records = Completes(self._databases.get(database))
        found = await records.history(2, prefix=prefix) if _ID.fullmatch(prefix) else []
        if len(found) > 1:
            raise BadRequest(f"{complete!r} could be several runs", hint="Give more of the id.")
        if not found:
            raise NotFound(
                f"there is no complete sync {complete[:40]!r} of {database}",
                hint="See: peersync complete-sync history",
            )
        return _view(found[0])

    async def find(self, complete: str) -> CompleteView:
        """The same in any database; one that can't be reached has none."""
        for name in self._databases.names():
            try:
                return await self.get(name, complete)
            except NotFound:
                continue
            except PeersyncError as error:
                if isinstance(error, BadRequest):
                    raise
                log.warning("complete syncs of %s: %s", name, error.message)
        raise NotFound(
            f"there is no complete sync {complete[:40]!r}",
            hint="See: peersync complete-sync history",
        )

    async def history(
        self, limit: int, *, database: str | None = None, bulk: str | None = None
    ) -> list[CompleteView]:
        """Newest first; a database that can't be reached leaves out its own, unless it is named."""
        names = [database] if database is not None else list(self._databases.names())
        views: list[CompleteView] = []
        for name in names:
            try:
                found = await Completes(self._databases.get(name)).history(limit, bulk=bulk)
            except PeersyncError as error:
                if database is not None:
                    raise
                log.warning("complete syncs of %s: %s", name, error.message)
                continue
            views += [_view(one) for one in found]
        return sorted(views, key=lambda view: view.started_at, reverse=True)[:limit]

    async def by_request_key(self, database: str, key: str) -> tuple[CompleteView, str] | None:
        """What this Idempotency-Key started, and the digest of its request."""
        found = await Completes(await self._databases.ready(database)).by_request_key(key)
        return (await self.get(database, found[0]), found[1]) if found is not None else None

    # --- after a crash ------------------------------------------------------------------
    async def recover(self) -> None:
        """At start: what a dead agent left is "interrupted". Each database by itself."""
        async with asyncio.TaskGroup() as group:
            for database in self._databases:
                name = f"complete-recover-{database.name}"
                group.create_task(self._recover(database), name=name)

    async def _recover(self, database: Database, why: str = AGENT_ENDED) -> None:
        """Tried until the database answers; whoever holds the lease looks after its own."""
        while True:
            try:
                await self._interrupt(database, why)
            except Locked:
                return
            except PeersyncError as error:
                if not error.retryable:
                    log.warning("complete syncs of %s: %s", database.name, error.message)
                    return
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _interrupt(self, database: Database, why: str) -> None:
        await self._databases.ready(database.name)
        records = Completes(database)
        newest = await records.history(1)
        if not newest or newest[0]["status"] != "running":
            return
        job = newest[0]["id"]  # that of the dead: its connection may be there for a moment
        holder = Holder(self._config.node.name, os.getpid(), job, WHAT)
        async with lease(database, LEASE, holder):
            await self._close_left(database, why)

    async def _close_left(self, database: Database, why: str = AGENT_ENDED) -> None:
        """Its caller holds the lease: what is recorded as running belongs to the dead."""
        ended = await Completes(database).close(None, "interrupted", why)
        for complete in ended:
            log.warning("complete sync %s of %s was interrupted", complete[:8], database.name)
            self.on_end.tell(await self.get(database.name, complete))


async def _refuse_done(run: Run, since: datetime | None) -> None:
    found = await run.records.begun_since(since) if since is not None else None
    if found is not None:
        complete, node, at = found
        raise Locked(
            f"{run.database.name} has had this turn: {node} began it at"
            f" {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            hint=f"peersync complete-sync show {complete[:8]}",
            done=True,
        )


def _view(entry: dict[str, Any]) -> CompleteView:
    currency = entry["configuration"].get("currency", "")
    return msgspec.convert({**entry, "currency": currency}, CompleteView)


def _refusal(database: str, error: Exception) -> Exception:
    """The lease speaks of jobs; a complete sync is watched and stopped otherwise."""
    holder = error.data.get("holder") if isinstance(error, Locked) else None
    if not isinstance(error, Locked) or not isinstance(holder, dict):
        return error
    complete = str(holder.get("job"))[:8]
    return Locked(
        f"{database} is busy: {holder.get('what')} is running (id {complete}, "
        f"node {holder.get('node')}, pid {holder.get('pid')}, since {holder.get('since')})",
        hint=f"Look at it: peersync complete-sync show {complete}\n"
        f"or stop it: peersync complete-sync cancel {complete}",
        holder=holder,
    )

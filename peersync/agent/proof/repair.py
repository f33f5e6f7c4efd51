"""One repair: two servers are compared, what differs is taken from one of them, and proved again.

What changes rows is a full sync of exactly the tables that differ, so its plan, its undo journal
and its rules for unsent work hold: a row that was changed since, and that the other side has not
seen, is kept. Each step is written down before it is taken, so that an agent which stops in the
middle knows afterwards what to go on with.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

from peersync.agent.jobs import Jobs
from peersync.agent.plan import Plan
from peersync.agent.proof.pairs import SPLIT_OTHERWISE
from peersync.agent.proof.repair_sync import LOOK_S, wait_ended
from peersync.agent.proof.repair_view import RepairView
from peersync.agent.proof.verifies import Verifies
from peersync.agent.proof.view import TableProof, VerifyRequest, VerifyView
from peersync.agent.requests import FullSyncRequest, start
from peersync.core.errors import BadRequest, Cancelled, NotFound, PeersyncError, error_class
from peersync.core.names import TableName
from peersync.core.results import ErrorRecord
from peersync.core.words import counted

log = logging.getLogger("peersync.verify")

AT_ONCE: Final = 100  # tables of one repair; more are a full sync of the database
_NOT_BEGUN: Final = "the agent stopped as it was about to write: nothing was changed"
_NOT_NEWER: Final = (
    "no membership tells what is newer: what is changed on {} from now on, until the rows are "
    "locked, is overwritten, too"
)
_SPLIT: Final = (
    "its rows are in other partitions on the two sides, or in none on one: peersync pull says what "
    "it can do for each of its partitions"
)


class Repair:
    """`compare`, then `write`. `view` says how far it is; `note` writes it down."""

    def __init__(
        self,
        view: RepairView,
        wanted: VerifyRequest,
        verifies: Verifies,
        jobs: Jobs,
        note: Callable[[RepairView], Awaitable[None]],
    ) -> None:
        self.view = view
        self.cancelled = False
        self._cancelled_by = ""
        self._just_planned = False
        self._wanted = wanted
        self._verifies = verifies
        self._jobs = jobs
        self._note = note

    @property
    def changed(self) -> str:
        """The side that is changed, in words."""
        return "this server" if self.view.side == "peer" else self.view.peer

    async def compare(self) -> bool:
        """Up to the plan. Whether there is something to write; else it has ended."""
        before = await self._compared("before", self._wanted)
        wrong = [table for table in before.tables if table.result == "differs"]
        split = [table for table in wrong if SPLIT_OTHERWISE in table.notes]
        self.set(left_out=tuple((f"{t.schema}.{t.name}", _SPLIT) for t in split))
        wrong = [table for table in wrong if table not in split]
        if not wrong:
            await self._end(before)
            return False
        if len(wrong) > AT_ONCE:
            raise BadRequest(
                f"{counted(len(wrong), 'table')} differ, which is more than a repair",
                hint=f"take the database anew: peersync pull {self.view.peer}; or name tables",
            )
        warnings = () if before.matched else (_NOT_NEWER.format(self.changed),)
        plan = await self._plan(wrong)
        self._refuse_cancelled()
        self._just_planned = True
        self.set(state="planned", plan=plan, warnings=warnings)
        await self._note(self.view)
        self._refuse_cancelled()
        return True

    async def write(self) -> None:
        """The full sync and the proof. A session that is known already is only waited for."""
        job = self.view.session
        if job is None:
            assert self.view.before is not None
            split = {name for name, _ in self.view.left_out}
            wrong = [
                t
                for t in self.view.before.tables
                if t.result == "differs" and f"{t.schema}.{t.name}" not in split
            ]
            self.set(state="writing")
            if not self._just_planned:
                await self._plan(wrong)
            job = secrets.token_hex(16)
            # before there is one: an agent that stops from here on finds it again by its id
            await self._note(msgspec.structs.replace(self.view, session=job))
            self._refuse_cancelled()
            started = await start(self._jobs, self._request(wrong, dry_run=False), job)
            self.set(plan=started.plan, session=job)
            if self.cancelled:  # while it was being planned
                await self._jobs.cancel(job, self._cancelled_by)
            await self._note(self.view)
        ended = await wait_ended(self._jobs, job)
        if ended is None:
            self.set(session=None)
            raise PeersyncError(_NOT_BEGUN)
        if ended.state == "cancelled":
            raise Cancelled("cancelled while rows were written")
        if ended.state == "failed":
            why = ended.error or ErrorRecord.of(PeersyncError("the full sync failed"))
            raise error_class(why.code)(why.message, hint=why.hint)
        self.set(state="proving")
        await self._note(self.view)
        tables = self._tables()
        after = await self._compared("after", msgspec.structs.replace(self._wanted, tables=tables))
        await self._end(after)

    async def cancel(self, by: str) -> None:
        """Stops whatever it waits for, and what it would do next."""
        self.cancelled, self._cancelled_by = True, by
        view = self.view
        if view.state == "writing" and view.session is not None:
            with suppress(NotFound):  # the peer knows nothing of it (yet)
                await self._jobs.cancel(view.session, by)
        run = view.before if view.state == "comparing" else view.after
        if view.state in ("comparing", "proving") and run is not None:
            await self._verifies.cancel(run.id)

    # --- steps --------------------------------------------------------------------------
    async def _compared(self, field: str, wanted: VerifyRequest) -> VerifyView:
        (run,) = await self._verifies.start(wanted)
        while run.state in ("waiting", "running"):
            self.set(**{field: run})
            if self.cancelled:
                await self._verifies.cancel(run.id)
            await asyncio.sleep(LOOK_S)
            run = await self._verifies.get(run.id)
        self.set(**{field: run})
        if run.state == "cancelled" and self.view.session is not None:
            raise Cancelled(
                "cancelled when the rows were written: they were not compared again",
                hint=f"to put back what was changed: peersync undo {self.view.session[:8]}",
            )
        if run.state == "cancelled":
            raise Cancelled("cancelled while rows were compared")
        if run.error is not None:
            raise error_class(run.error.code)(run.error.message, hint=run.error.hint)
        return run

    def _refuse_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled("cancelled: nothing was changed")

    async def _plan(self, wrong: list[TableProof]) -> Plan:
        """BadRequest where a table was dropped since: a repair creates none."""
        plan = (await start(self._jobs, self._request(wrong, dry_run=True))).plan
        gone = [f"{t.schema}.{t.name}" for t in plan.tables if t.action == "create"]
        if gone:
            raise BadRequest(
                f"{', '.join(gone)}: not on {self.changed} any more; nothing was changed",
                hint="compare again: peersync repair, or create tables with: peersync pull",
            )
        return plan

    def _tables(self) -> tuple[str, ...]:
        """Those that were written, and nothing else."""
        assert self.view.plan is not None
        return tuple(TableName(t.schema, t.name).sql for t in self.view.plan.tables)

    def _request(self, wrong: list[TableProof], *, dry_run: bool) -> FullSyncRequest:
        return FullSyncRequest(
            action="pull" if self.view.side == "peer" else "push",
            peer=self.view.peer,
            database=self.view.database,
            tables=tuple(TableName(table.schema, table.name).sql for table in wrong),
            mirror=self.view.mirror,
            dry_run=dry_run,
            requested_by=self.view.requested_by,
        )

    async def _end(self, last: VerifyView) -> None:
        before = self.view.before
        assert before is not None
        known = [t for t in before.tables if t.result in ("equal", "differs") or t.intended]
        whole = len(known) == len(before.tables) and not self.view.left_out
        await self.end("done" if last.result == "identical" and whole else "partly")

    # --- how far it is ------------------------------------------------------------------
    def set(self, **given: object) -> None:
        self.view = msgspec.structs.replace(self.view, **given)

    async def end(self, state: str, error: PeersyncError | None = None) -> None:
        self.set(
            state=state,
            completed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            error=ErrorRecord.of(error) if error is not None else None,
        )
        try:
            await self._note(self.view)
        except (PeersyncError, NotFound) as exc:
            log.warning("repair %s: its end could not be written down: %s", self.view.id[:8], exc)

"""Which schedules this node has, what each starts, and the zone in which their hours are.

A table set that has a schedule of its own is one, named set.NAME.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from peersync.agent.orchestration.bulk import BulkSyncs
from peersync.agent.orchestration.bulk_outcome import BulkDatabase, BulkRequest
from peersync.agent.orchestration.complete import CompleteSyncs
from peersync.agent.orchestration.entries import Asked, Entry, Outcome
from peersync.agent.orchestration.outcome import CompleteRequest
from peersync.agent.orchestration.schedule_state import Result
from peersync.agent.orchestration.sets import SetsRequest, TableSets
from peersync.config.model import Config
from peersync.config.orchestration import Schedule
from peersync.core.errors import NotFound, error_class
from peersync.core.schedule import When
from peersync.core.words import counted

log = logging.getLogger("peersync.schedule")

LOCALTIME: Final = Path("/etc/localtime")
Do = Callable[[Asked], Awaitable[Outcome]]
_OF_SETS: Final[dict[str, Result]] = {
    "done": "success", "partly": "partial", "failed": "error", "nothing": "skipped",
}  # fmt: skip


def local_zone(environ: Mapping[str, str]) -> tzinfo:
    """The server's zone, with its changes of the clocks: TZ, or /etc/localtime. Blocks."""
    name = environ.get("TZ", "").lstrip(":")
    try:
        if name and not name.startswith("/"):
            return ZoneInfo(name)
        with (Path(name) if name else LOCALTIME).open("rb") as file:
            return ZoneInfo.from_file(file, key=name or str(LOCALTIME))
    except (OSError, ValueError, ZoneInfoNotFoundError) as error:
        if name:
            log.warning("the time zone TZ=%s is not known (%s); hours are UTC's", name, error)
        return UTC


class Starts:
    """Makes the entries of the scheduler."""

    def __init__(
        self, config: Config, completes: CompleteSyncs, bulks: BulkSyncs, sets: TableSets
    ) -> None:
        self._config = config
        self._completes = completes
        self._bulks = bulks
        self._sets = sets

    def entries(self) -> list[Entry]:
        """Those of the configuration, in its order, then those of table sets."""
        found = [self._of_schedule(one) for one in self._config.schedule]
        for one in self._config.table_set:
            if one.schedule:
                found.append(
                    Entry(
                        f"set.{one.name}",
                        f"table set {one.name}",
                        When.parse(one.schedule),
                        self._set_of(one.name),
                        paused=one.paused,
                    )
                )
        return found

    def _of_schedule(self, one: Schedule) -> Entry:
        database = one.database or next(iter(self._config.database), "")
        kinds: dict[str, tuple[str, Do]] = {
            "bulk": ("bulk sync", self._bulk),
            "complete": (f"complete sync of {database}", self._complete_of(database)),
            "sets": ("the table sets that are due", self._due_sets),
        }
        what, do = kinds[one.run]
        return Entry(
            one.name, what, When.parse(one.at), do, jitter_s=one.jitter_s, catch_up=one.catch_up,
            paused=one.paused,
        )  # fmt: skip

    async def _bulk(self, asked: Asked) -> Outcome:
        wanted = BulkRequest(
            databases=list(asked.again), sync_type="scheduled", requested_by=asked.by
        )
        started = await self._bulks.start(wanted, since=asked.since)
        view = await self._bulks.wait(started.id)
        again = tuple(one.database for one in view.databases if _may_pass(one))
        outcome = _of_run(view)
        return msgspec.structs.replace(outcome, retry=bool(again), again=again)

    def _complete_of(self, database: str) -> Do:
        async def do(asked: Asked) -> Outcome:
            wanted = CompleteRequest(
                database=database, sync_type="scheduled", requested_by=asked.by
            )
            try:
                started = await self._completes.start(wanted, since=asked.since)
            except NotFound as error:
                if not error.data.get("nothing"):
                    raise
                return Outcome(result="skipped", message=error.message)
            view = await self._completes.wait(database, started.id)
            words = f"{view.peers_successful} of {counted(view.peers_total, 'peer')}"
            if view.left:
                words += "; passed over: " + "; ".join(f"{p.peer}: {p.reason}" for p in view.left)
            if view.peers_skipped == view.peers_total and not view.left:  # paused, all of them
                return Outcome(result="skipped", message=f"{words}, all are passed over")
            return _of_run(view, words)

        return do

    async def _due_sets(self, asked: Asked) -> Outcome:
        return await self._run_sets(SetsRequest(sync_type="scheduled", requested_by=asked.by))

    def _set_of(self, name: str) -> Do:
        async def do(asked: Asked) -> Outcome:  # that it is due is the scheduler's affair
            wanted = SetsRequest(
                sets=[name], force=True, sync_type="scheduled", requested_by=asked.by
            )
            return await self._run_sets(wanted, asked.since)

        return do

    async def _run_sets(self, wanted: SetsRequest, since: datetime | None = None) -> Outcome:
        done = await self._sets.run(wanted, since=since)
        failed = [run for run in done.runs if run.status != "success"]
        words = counted(len(done.runs), "run")
        if failed:
            why = failed[0].error.message if failed[0].error else failed[0].reason
            words = f"{failed[0].set} with {failed[0].peer}: {why or failed[0].status}"
        elif not done.runs:
            words = done.not_run[0].reason or "nothing is due" if done.not_run else "nothing is due"
        unanswered = [run for run in failed if not run.id and run.error is not None]
        retry = any(error_class(run.error.code).retryable for run in unanswered if run.error)
        return Outcome(result=_OF_SETS[done.result], message=words, retry=retry)


def _may_pass(one: BulkDatabase) -> bool:
    """A database that did not answer; what came of peers was tried again already."""
    error = one.error if one.status == "error" and one.complete_id is None else None
    return error is not None and error_class(error.code).retryable


def _of_run(view: Any, words: str | None = None) -> Outcome:
    """Of a bulk or a complete sync that has ended; each has tried again what could help."""
    result: Result = view.status if view.status in ("success", "partial", "error") else "error"
    if view.status == "interrupted":
        result = "interrupted"
    if view.status == "nothing":
        result = "skipped"
    return Outcome(result=result, message=words or getattr(view, "message", None) or view.status)

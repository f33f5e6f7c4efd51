"""The repairs of this node: started, watched, told to go on, cancelled, remembered.

They belong to the agent, not to who asked for them: one whose window is closed goes on, and one
whose agent stopped while rows were written is proved when the agent is back.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from peersync.agent.databases import Databases
from peersync.agent.jobs import Jobs
from peersync.agent.proof.repair import Repair
from peersync.agent.proof.repair_view import ENDED, RepairRequest, RepairView
from peersync.agent.proof.verifies import Verifies
from peersync.agent.proof.view import VerifyRequest
from peersync.core.errors import BadRequest, Cancelled, Locked, NotFound, PeersyncError, root_error
from peersync.postgres.repairs import RepairRecords
from peersync.transport.peers import PeerBook
from peersync.transport.problems import clean

log = logging.getLogger("peersync.verify")

AGAIN_S: Final = 5.0
SHOWN_KEYS: Final = 1000  # of each table that would be changed
_ID = re.compile(r"[0-9a-f]{1,32}")
_STOPPED: Final = "the agent stopped while rows were compared: nothing was changed"
_NOT_KNOWN: Final = "the agent stopped, and its peer was removed"
_SAYS: Final = "what was written: peersync jobs list"


class Repairs:
    """All of this node."""

    def __init__(
        self,
        databases: Databases,
        book: PeerBook,
        verifies: Verifies,
        jobs: Jobs,
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        self._databases = databases
        self._book = book
        self._verifies = verifies
        self._jobs = jobs
        self._spawn = spawn
        self._runs: dict[str, Repair] = {}  # those that something is done for
        self._deciding = asyncio.Lock()  # whether one that was planned goes on, or is cancelled

    # --- what people ask ----------------------------------------------------------------
    async def start(self, wanted: RepairRequest) -> RepairView:
        """Compares at once, and writes unless it is a dry run."""
        database, peer = self._databases.get(wanted.database).name, self._book.get(wanted.peer)
        self._refuse_busy(database, peer.name)
        view = RepairView(
            id=secrets.token_hex(16),
            database=database,
            peer=peer.name,
            side=wanted.side,
            mirror=wanted.mirror,
            state="comparing",
            requested_by=clean(wanted.requested_by)[:150],
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        run = self._run_of(view, wanted.tables, wanted.exclude_tables)
        self._runs[view.id] = run  # at once: who asks while this waits finds it busy
        try:
            await self._databases.ready(database)
            await self._note(peer.node_id, view)
        except BaseException:
            del self._runs[view.id]
            raise
        self._begin(run, lambda: _compare(run, go_on=not wanted.dry_run))
        return run.view

    async def apply(self, id_: str) -> RepairView:
        """Goes on with one that was planned."""
        async with self._deciding:
            view = await self.get(id_)
            if view.state != "planned":
                raise BadRequest(
                    f"repair {view.id[:8]} is {view.state}: only a planned one can go on"
                )
            self._refuse_busy(view.database, view.peer)
            run = self._run_of(view)
            run.set(state="writing", completed_at=None)
            self._begin(run, run.write)
            return run.view

    async def cancel(self, id_: str, by: str) -> RepairView:
        """Stops one that runs; one that was planned goes no further."""
        async with self._deciding:
            view = await self.get(id_)
            run = self._runs.get(view.id)
            if run is None and view.state == "planned":
                run = self._run_of(view)
                await run.end("cancelled", Cancelled("cancelled: nothing was changed"))
        if run is None:
            return view
        if run.view.id in self._runs:
            await run.cancel(by)
        return run.view

    async def get(self, id_: str) -> RepairView:
        """By the beginning of its id."""
        prefix = id_.replace("-", "").lower()
        if not _ID.fullmatch(prefix):
            raise NotFound(f"there is no repair {id_[:40]!r}", hint="see: peersync repair --list")
        found = {run.view.id: run.view for key, run in self._runs.items() if key.startswith(prefix)}
        for name in self._databases.names():
            for text in await RepairRecords(self._databases.get(name)).views(2, prefix):
                view = msgspec.json.decode(text, type=RepairView)
                found.setdefault(view.id, view)
        if len(found) > 1:
            raise BadRequest(f"{id_!r} could be several repairs", hint="Give more of the id.")
        if not found:
            raise NotFound(f"there is no repair {id_[:40]!r}", hint="see: peersync repair --list")
        return next(iter(found.values()))

    async def history(self, limit: int, database: str | None = None) -> list[RepairView]:
        """Newest first, without plans and tables."""
        found = {run.view.id: run.view for run in self._runs.values()}
        for name in [database] if database is not None else list(self._databases.names()):
            try:
                texts = await RepairRecords(self._databases.get(name)).views(limit)
            except PeersyncError as error:
                log.warning("repairs of %s: %s", name, error.message)
                continue
            for text in texts:
                view = msgspec.json.decode(text, type=RepairView)
                found.setdefault(view.id, view)
        wanted = [view for view in found.values() if database in (None, view.database)]
        newest = sorted(wanted, key=lambda view: view.started_at, reverse=True)[:limit]
        return [_short(view) for view in newest]

    def _refuse_busy(self, database: str, peer: str) -> None:
        for run in self._runs.values():
            if (run.view.database, run.view.peer) == (database, peer):
                raise Locked(
                    f"{database} is being repaired with {peer} already (id {run.view.id[:8]})",
                    hint=f"look at it: peersync repair --show {run.view.id[:8]}",
                    holder={"job": run.view.id, "what": "a repair"},
                )

    # --- running ------------------------------------------------------------------------
    def _run_of(
        self,
        view: RepairView,
        tables: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        *,
        of: str | None = None,
    ) -> Repair:
        wanted = VerifyRequest(
            peer=view.peer,
            database=view.database,
            tables=tables,
            exclude_tables=exclude,
            keys=SHOWN_KEYS,
            fresh=True,
            requested_by=view.requested_by,
        )
        peer_id = of or self._book.get(view.peer).node_id
        return Repair(
            view, wanted, self._verifies, self._jobs, lambda now: self._note(peer_id, now)
        )

    def _begin(self, run: Repair, work: Callable[[], Awaitable[None]]) -> None:
        self._runs[run.view.id] = run
        self._spawn(self._work(run, work), name=f"repair-{run.view.id[:8]}")

    async def _work(self, run: Repair, work: Callable[[], Awaitable[None]]) -> None:
        """A repair that the agent leaves stays as it is written down: see `begin`."""
        try:
            await work()
        except Exception as exc:
            error = root_error(exc) if isinstance(exc, BaseExceptionGroup) else exc
            if not isinstance(error, PeersyncError):
                await run.end("failed", PeersyncError(f"internal error: {type(error).__name__}"))
                raise
            await run.end("cancelled" if isinstance(error, Cancelled) else "failed", error)
            log.warning("repairing %s: %s", run.view.database, error.message)
        finally:
            self._runs.pop(run.view.id, None)

    async def _note(self, peer_id: str, view: RepairView) -> None:
        records = RepairRecords(self._databases.get(view.database))
        text = msgspec.json.encode(view).decode()
        began = datetime.fromisoformat(view.started_at)
        await records.note(view.id, peer_id, began, text, ended=view.state in ENDED)

    # --- after a restart ----------------------------------------------------------------
    async def begin(self) -> None:
        """Goes on with what an agent has left in the middle, as soon as each database answers."""
        waiting = list(self._databases.names())
        while waiting:
            for name in list(waiting):
                try:
                    database = await self._databases.ready(name)
                    left = await RepairRecords(database).unfinished()
                except PeersyncError as error:
                    if error.retryable:
                        continue
                    log.warning("repairs of %s: %s", name, error.message)
                    left = []
                waiting.remove(name)
                for peer_id, text in left:
                    await self._go_on(peer_id, msgspec.json.decode(text, type=RepairView))
            if waiting:
                await asyncio.sleep(AGAIN_S)

    async def _go_on(self, peer_id: str, view: RepairView) -> None:
        if view.id in self._runs:
            return
        peer = self._book.find(peer_id)
        if peer is not None:
            view = msgspec.structs.replace(view, peer=peer.name)
        run = self._run_of(view, of=peer_id)
        if peer is None:
            await run.end("failed", NotFound(_NOT_KNOWN, hint=_SAYS))
        elif view.session is None:
            await run.end("failed", PeersyncError(_STOPPED))
        else:
            self._begin(run, run.write)


async def _compare(run: Repair, *, go_on: bool) -> None:
    if await run.compare() and go_on:
        await run.write()


def _short(view: RepairView) -> RepairView:
    without = {
        name: msgspec.structs.replace(run, tables=())
        for name, run in (("before", view.before), ("after", view.after))
        if run is not None
    }
    return msgspec.structs.replace(view, plan=None, **without)

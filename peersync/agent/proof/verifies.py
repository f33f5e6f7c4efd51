"""The verifications of this node: started, one after the other, watched, cancelled, remembered.

They belong to the agent, not to who asked for them. Values of rows are kept in memory only, and
for as long as the verification is among the newest. What was proved stays in each database.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import msgspec

from peersync.agent.databases import Databases
from peersync.agent.periodic.loop import Periodic
from peersync.agent.periodic.positions import Positions
from peersync.agent.proof.matched import Waits
from peersync.agent.proof.verify import Verification, without_values
from peersync.agent.proof.view import (
    ProofSummary,
    ProofView,
    VerifyRequest,
    VerifyView,
)
from peersync.config.model import Config
from peersync.core.errors import BadRequest, Locked, NotFound, PeersyncError, root_error
from peersync.core.results import ErrorRecord
from peersync.postgres.proofs import Proofs
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.problems import clean

log = logging.getLogger("peersync.verify")

KEPT: Final = 20  # that have ended, in memory
AGAIN_S: Final = 5.0
_ID = re.compile(r"[0-9a-f]{1,32}")


class Totals:
    """Counters since the agent started, for metrics."""

    def __init__(self) -> None:
        self.ended: dict[str, int] = {}
        self.rows = 0
        self.seconds = 0.0


class Verifies:
    """All of this node. `summaries`: by (database, peer), as they were last read."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        book: PeerBook,
        client_for: Callable[[Peer], PeerClient],
        periodic: Periodic,
        positions: Positions,
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        self._config = config
        self._databases = databases
        self._book = book
        self._client_for = client_for
        self._periodic = periodic
        self._positions = positions
        self._spawn = spawn
        self._turn = asyncio.Semaphore(1)
        self._runs: OrderedDict[str, Verification] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.summaries: dict[tuple[str, str], ProofSummary] = {}
        self.totals = Totals()

    # --- starting -----------------------------------------------------------------------
    async def start(self, wanted: VerifyRequest) -> list[VerifyView]:
        """Each database with each peer that is meant. Locked while one of them runs."""
        wanted = msgspec.structs.replace(wanted, requested_by=clean(wanted.requested_by)[:150])
        pairs = [
            (database, peer)
            for database in self._names(wanted.database)
            for peer in self._peers(wanted.peer)
            if wanted.peer is not None or await self._is_synced(database, peer)
        ]
        if not pairs:
            raise NotFound(
                "there is nothing to verify: no database was ever synced with a peer",
                hint="peersync verify PEER --database NAME compares all the same",
            )
        for database, peer in pairs:
            self._refuse_busy(database, peer)
        return [self._start_one(database, peer, wanted).view for database, peer in pairs]

    def _start_one(self, database: str, peer: Peer, wanted: VerifyRequest) -> Verification:
        hub = self._periodic.hubs.get(database)
        run = Verification(
            secrets.token_hex(16),
            self._config,
            self._databases,
            database,
            peer,
            self._client_for(peer),
            Waits(self._databases.get(database), hub, peer, self._positions),
            wanted,
        )
        self._runs[run.id] = run
        self._tasks[run.id] = self._spawn(self._run(run), name=f"verify-{run.id[:8]}")
        while len(self._runs) > KEPT + len(self._tasks):
            del self._runs[next(i for i in self._runs if i not in self._tasks)]
        return run

    def _names(self, database: str | None) -> list[str]:
        if database is not None:
            return [self._databases.get(database).name]
        return list(self._databases.names())

    def _peers(self, peer: str | None) -> list[Peer]:
        return [self._book.get(peer)] if peer is not None else list(self._book.peers())

    async def _is_synced(self, database: str, peer: Peer) -> bool:
        """Whether rows ever went between them: what never did differs of course."""
        ready = await self._databases.ready(database)
        return await Proofs(ready).is_synced(peer.node_id)

    def _refuse_busy(self, database: str, peer: Peer) -> None:
        for run in self._runs.values():
            if run.id in self._tasks and (run.database, run.peer.name) == (database, peer.name):
                raise Locked(
                    f"{database} is being verified with {peer.name} already (id {run.id[:8]})",
                    hint=f"look at it: peersync verify show {run.id[:8]}",
                    holder={"job": run.id, "what": "a verification"},
                )

    # --- running ------------------------------------------------------------------------
    async def _run(self, run: Verification) -> None:
        try:
            async with self._turn:
                await self._worked(run)
        except asyncio.CancelledError:
            run.finish("cancelled")
            raise
        finally:
            self._tasks.pop(run.id, None)
            ended = run.view.result or run.view.state
            self.totals.ended[ended] = self.totals.ended.get(ended, 0) + 1
            self.totals.rows += run.view.rows
            self.totals.seconds += run.view.seconds

    async def _worked(self, run: Verification) -> None:
        limit = run.wanted.timeout_s
        try:
            async with asyncio.timeout(limit) as timer:
                await run.work()
        except Exception as exc:
            error = root_error(exc) if isinstance(exc, BaseExceptionGroup) else exc
            if isinstance(error, TimeoutError) and timer.expired():
                error = PeersyncError(
                    f"the verification was not done within {limit:g} s",
                    hint="give it more time with --timeout, or fewer tables with --tables",
                )
            if not isinstance(error, PeersyncError):
                bug = PeersyncError(f"internal error: {type(error).__name__}: {error}")
                run.finish("failed", error=ErrorRecord.of(bug))
                raise
            run.finish("failed", error=ErrorRecord.of(error))
            log.warning("verifying %s with %s: %s", run.database, run.peer.name, error.message)
            return
        await self.read_summaries(run.database)
        log.info("%s with %s: %s", run.database, run.peer.name, run.view.result)

    async def cancel(self, id_: str) -> VerifyView:
        """Ends one that runs or waits. What it found is not recorded."""
        run = self._find(id_)
        if run is None:
            raise NotFound(f"no verification {id_[:40]!r} runs here")
        task = self._tasks.get(run.id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        return without_values(run.view)

    # --- looking ------------------------------------------------------------------------
    async def wait(self, id_: str, timeout_s: float) -> None:
        """Until it has ended, but no longer; one that does not run here has."""
        run = self._find(id_)
        task = self._tasks.get(run.id) if run is not None else None
        if task is not None and timeout_s > 0:
            await asyncio.wait({task}, timeout=timeout_s)

    async def get(self, id_: str, *, values: bool = False) -> VerifyView:
        """By the beginning of its id; with `values` those that it was asked to keep."""
        run = self._find(id_)
        if run is not None:
            return run.view if values else without_values(run.view)
        prefix = _checked(id_)
        for name in self._databases.names():
            found = await Proofs(self._databases.get(name)).runs(2, prefix)
            if found:
                return msgspec.json.decode(found[0], type=VerifyView)
        raise NotFound(f"there is no verification {id_[:40]!r}", hint="see: peersync verify list")

    async def history(self, limit: int, database: str | None = None) -> list[VerifyView]:
        """Newest first, with those that run; of tables only what is wrong with them."""
        views = {r.id: without_values(r.view) for r in self._runs.values() if r.id in self._tasks}
        for name in self._names(database):
            try:
                found = await Proofs(self._databases.get(name)).runs(limit)
            except PeersyncError as error:
                log.warning("verifications of %s: %s", name, error.message)
                continue
            decoded = (msgspec.json.decode(one, type=VerifyView) for one in found)
            views |= {view.id: view for view in decoded}
        wanted = [v for v in views.values() if database is None or v.database == database]
        newest = sorted(wanted, key=lambda v: v.started_at, reverse=True)[:limit]
        return [msgspec.structs.replace(view, tables=()) for view in newest]

    async def proofs(self, database: str | None, peer: str | None) -> list[ProofView]:
        """The last state of every table."""
        node = self._book.get(peer) if peer is not None else None
        found: list[ProofView] = []
        for name in self._names(database):
            rows = await Proofs(self._databases.get(name)).tables(node.node_id if node else None)
            names = {p.node_id: p.name for p in self._book.peers()}
            found += [_proof(name, names[r["peer_id"]], r) for r in rows if r["peer_id"] in names]
        return found

    async def read_summaries(self, database: str) -> dict[str, ProofSummary]:
        """By the names of peers, from the database; kept in `summaries`."""
        rows = await Proofs(self._databases.get(database)).summaries()
        names = {p.node_id: p.name for p in self._book.peers()}
        found = {names[i]: _summary(row) for i, row in rows.items() if i in names}
        for key in [key for key in self.summaries if key[0] == database]:
            del self.summaries[key]
        self.summaries |= {(database, peer): summary for peer, summary in found.items()}
        return found

    async def begin(self) -> None:
        """Reads what was proved before this agent started, as soon as each database answers."""
        waiting = list(self._databases.names())
        while waiting:
            for name in list(waiting):
                try:
                    await self._databases.ready(name)
                    await self.read_summaries(name)
                except PeersyncError as error:
                    if error.retryable:
                        continue
                    log.warning("what was proved of %s: %s", name, error.message)
                waiting.remove(name)
            if waiting:
                await asyncio.sleep(AGAIN_S)

    def running(self) -> list[VerifyView]:
        return [without_values(self._runs[id_].view) for id_ in self._tasks if id_ in self._runs]

    def _find(self, id_: str) -> Verification | None:
        prefix = _checked(id_)
        found = [run for key, run in self._runs.items() if key.startswith(prefix)]
        if len(found) > 1:
            raise BadRequest(f"{id_!r} could be several verifications", hint="Give more of the id.")
        return found[0] if found else None


def _checked(id_: str) -> str:
    prefix = id_.replace("-", "").lower()
    if not _ID.fullmatch(prefix):
        raise NotFound(f"there is no verification {id_[:40]!r}", hint="see: peersync verify list")
    return prefix


def _summary(row: Any) -> ProofSummary:
    return ProofSummary(
        checked_at=row["checked_at"].isoformat(),
        proved_at=_iso(row["proved_at"]),
        differs_since=_iso(row["differs_since"]),
        tables=row["tables"],
        differing=row["differing"],
        not_compared=row["not_compared"],
    )


def _proof(database: str, peer: str, row: Any) -> ProofView:
    return ProofView(
        database=database,
        peer=peer,
        schema=row["table_schema"],
        name=row["table_name"],
        result=row["result"],
        checked_at=row["checked_at"].isoformat(),
        proved_at=_iso(row["proved_at"]),
        differs_since=_iso(row["differs_since"]),
        reason=row["reason"],
        different=row["different"],
        missing=row["missing"],
        extra=row["extra"],
    )


def _iso(then: Any) -> str | None:
    return then.isoformat() if then is not None else None

"""One verification: a database here held against a peer's, table by table, to its record.

Tables are looked at one after the other on one connection here and one there; then what differed
is looked at again, all tables together. One table that can't be read is said, and the others go
on; a peer that can't be reached ends it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import asyncpg
import msgspec

from peersync.agent.databases import Databases
from peersync.agent.proof.both import read_both
from peersync.agent.proof.first import KEPT_CHARACTERS, look_at_table
from peersync.agent.proof.kept import ask_to_keep
from peersync.agent.proof.matched import Passed, Unsettled, Waits, settle
from peersync.agent.proof.pairs import Comparable
from peersync.agent.proof.remote import of_shape
from peersync.agent.proof.verdict import Judge, Looked, error_of_table, proof_of, proof_of_left
from peersync.agent.proof.view import RunResult, TableProof, VerifyRequest, VerifyView
from peersync.config.model import Config
from peersync.core.errors import PeersyncError
from peersync.core.names import TableName
from peersync.postgres.errors import TRANSLATED
from peersync.postgres.pool import Database
from peersync.postgres.proofs import Proofs, Run, TableState
from peersync.postgres.rangetotals import share_out
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer

LOCK_S: Final = 10.0
SETTLED_TOGETHER: Final = 50_000  # rows that differ, of all tables that wait to be looked at again
AGAIN: Final = 2  # times for a table where more differed than was kept, and all that was is settled


class Verification:
    """`work` does it; `view` is how far it is, at any time."""

    def __init__(
        self,
        id_: str,
        config: Config,
        databases: Databases,
        database: str,
        peer: Peer,
        client: PeerClient,
        waits: Waits,
        wanted: VerifyRequest,
    ) -> None:
        self.id = id_
        self.database = database
        self.peer = peer
        self.wanted = wanted
        self._config = config
        self._databases = databases
        self._client = client
        self._waits = waits
        self._began = time.monotonic()
        self._done_rows = 0
        self._tables: list[TableProof] = []
        self.view = VerifyView(
            id=id_,
            database=database,
            peer=peer.name,
            state="waiting",
            requested_by=wanted.requested_by,
            started_at=_now(),
        )

    # --- its life -----------------------------------------------------------------------
    async def work(self) -> None:
        """Everything but what becomes of an error. The record is written at the end."""
        self._began = time.monotonic()
        self._set(state="running", started_at=_now())
        database = await self._databases.ready(self.database)
        async with database.connect("verify", what="comparing rows", lock_timeout_s=LOCK_S) as conn:
            await share_out(conn, self._config.verify.processes)
            pairs, directions = await read_both(
                conn, self._client, self._config, self._databases, self.database, self.wanted
            )
            self._judge = Judge(conn, self.peer.name, directions, self.wanted)
            self._set(tables_total=len(pairs.comparable))
            self._tables = [proof_of_left(one) for one in pairs.left]
            await self._compare(conn, pairs.comparable)
        self._tables.sort(key=lambda t: (t.schema, t.name))
        self.finish("done")
        await self._store(database)

    def finish(self, state: str, **given: object) -> None:
        """Sums up what was found; the keyword arguments are fields of the view."""
        self._set(
            state=state,
            completed_at=_now(),
            table=None,
            tables=tuple(self._tables),
            result=_result(self._tables) if state == "done" else None,
            **given,
        )

    def _set(self, **given: object) -> None:
        seconds = time.monotonic() - self._began
        view = msgspec.structs.replace(self.view, **given)
        self.view = msgspec.structs.replace(
            view,
            seconds=round(seconds, 3),
            rows_s=round(view.rows / seconds, 1) if view.rows and seconds > 0 else None,
            different=sum(t.different for t in self._tables),
            missing=sum(t.missing for t in self._tables),
            extra=sum(t.extra for t in self._tables),
            in_flight=sum(t.in_flight for t in self._tables),
            one_way=sum(t.one_way for t in self._tables),
            not_compared=sum(
                t.result in ("not compared", "failed") and not t.intended for t in self._tables
            ),
        )

    # --- tables -------------------------------------------------------------------------
    async def _compare(self, conn: asyncpg.Connection, tables: Sequence[Comparable]) -> None:
        """First looks, and second ones whenever enough wait for them."""
        waiting: list[Looked] = []
        for one in tables:
            looked = await self._counted(conn, one)
            if isinstance(looked, TableProof):
                self._add(looked)
                continue
            if not looked.unsettled.pending:
                self._add(await self._judge.decide(looked))
                continue
            waiting.append(looked)
            if _enough(waiting):
                await self._settle(conn, waiting)
                waiting = []
        await self._settle(conn, waiting)

    def _add(self, proof: TableProof) -> None:
        self._tables.append(proof)
        self._set(tables_done=self.view.tables_done + 1)

    async def _first(
        self, conn: asyncpg.Connection, one: Comparable, *, fresh: bool = True
    ) -> Looked | TableProof:
        """A table that was looked at, or the reason why it could not be."""
        self._set(table=str(one.table))
        began = time.monotonic()
        remote = of_shape(
            self._client, self.database, one.shape, one.types_there, only=one.only_there
        )
        try:
            look = await look_at_table(conn, remote, one.shape, self._report, fresh=fresh)
        except (PeersyncError, *TRANSLATED) as exc:
            error, seconds = error_of_table(exc, conn), time.monotonic() - began
            return proof_of(one, "failed", reason=error.message, seconds=seconds)
        self._done_rows += look.rows_there
        unsettled = Unsettled(one.shape, remote, look)
        return Looked(one, unsettled, time.monotonic() - began)

    async def _counted(self, conn: asyncpg.Connection, one: Comparable) -> Looked | TableProof:
        """The first look, once more where the numbers of rows differ, and no row does.

        Rows that came between the blocks and the rows of them are seen by the next look.
        """
        fresh = self.wanted.fresh or not self._config.verify.continuous_budget
        if not fresh and not one.filtered:
            await ask_to_keep(self._config, self._databases.get(self.database), one.shape)
        looked = await self._first(conn, one, fresh=fresh or one.filtered)
        for _ in range(AGAIN):
            if isinstance(looked, TableProof) or looked.unsettled.pending or not looked.miscounted:
                break
            self._done_rows -= looked.unsettled.look.rows_there
            looked = await self._first(conn, one)
        return looked

    def _report(self, rows: int) -> None:
        self._set(rows=self._done_rows + rows)

    async def _settle(self, conn: asyncpg.Connection, waiting: Sequence[Looked]) -> None:
        """Until each of them has its result."""
        for turn in range(AGAIN + 1):
            if not waiting:
                return
            passed = await settle(conn, [w.unsettled for w in waiting], self._waits.wait)
            self._note(passed)
            again = []
            for looked in waiting:
                if looked.is_open and turn < AGAIN and (passed is None or passed.decides):
                    anew = await self._first(conn, looked.one)
                    if isinstance(anew, Looked):
                        self._done_rows -= anew.unsettled.look.rows_there
                        again.append(anew)
                    else:
                        self._add(anew)
                else:
                    self._add(await self._judge.decide(looked))
            waiting = again

    def _note(self, passed: Passed | None) -> None:
        if passed is not None and (self.view.matched is not False):
            self._set(matched=passed.matched, unmatched=passed.why)

    # --- its record ---------------------------------------------------------------------
    async def _store(self, database: Database) -> None:
        began = datetime.fromisoformat(self.view.started_at)
        run = Run(
            id=self.id,
            peer_id=self.peer.node_id,
            peer_name=self.peer.name,
            result=self.view.result,
            requested_by=self.view.requested_by,
            started_at=began,
            completed_at=datetime.now(UTC),
            view=msgspec.json.encode(without_values(self.view)).decode(),
        )
        chosen = bool(self.wanted.tables or self.wanted.exclude_tables)
        states = [
            TableState(
                table=TableName(t.schema, t.name),
                result=t.result,
                intended=t.intended,
                reason=t.reason or "; ".join(t.notes) or None,
                checked_at=began,  # what was proved was so when it began, at the latest
                different=t.different,
                missing=t.missing,
                extra=t.extra,
            )
            for t in self._tables
        ]
        await Proofs(database).store(run, states, whole=not chosen)


def without_values(view: VerifyView) -> VerifyView:
    """The same for whoever may not see what is in the rows."""
    return msgspec.structs.replace(
        view,
        tables=tuple(
            msgspec.structs.replace(
                table,
                keys=tuple(msgspec.structs.replace(k, there=None, here=None) for k in table.keys),
            )
            for table in view.tables
        ),
    )


def _enough(waiting: Sequence[Looked]) -> bool:
    """So many rows wait to be looked at again, or with such long keys, that it is time."""
    keys = sum(len(one.unsettled.pending) for one in waiting)
    characters = sum(one.unsettled.look.kept_characters for one in waiting)
    return keys >= SETTLED_TOGETHER or characters >= KEPT_CHARACTERS


def _result(tables: Sequence[TableProof]) -> RunResult:
    results = {t.result for t in tables if not t.intended}
    if "differs" in results:
        return "differs"
    if "in flight" in results:
        return "in flight"
    return "partly" if results - {"equal"} else "identical"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

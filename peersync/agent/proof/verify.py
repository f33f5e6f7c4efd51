"""One verification: a database here held against a peer's, table by table, to its record.

Tables are looked at one after the other on one connection here and one there; then what differed
is looked at again, all tables together. One table that can't be read is said, and the others go
on; a peer that can't be reached ends it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import asyncpg
import msgspec

from peersync.agent.databases import Databases
from peersync.agent.proof.first import KEPT_CHARACTERS, look_at_table
from peersync.agent.proof.kept import ask_to_keep
from peersync.agent.proof.matched import Passed, Unsettled, Waits, settle
from peersync.agent.proof.oneway import Aside, Directions, read_directions, set_aside
from peersync.agent.proof.pairs import Comparable, NotCompared, Pairs, Sides, pair_tables
from peersync.agent.proof.remote import of_shape, read_probe
from peersync.agent.proof.rows import key_views
from peersync.agent.proof.view import TableProof, VerifyRequest, VerifyView
from peersync.config.model import Config
from peersync.core.errors import (
    DatabaseUnreachable,
    Denied,
    NotFound,
    PeersyncError,
    PeerUnreachable,
    ProtocolError,
)
from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.core.words import counted
from peersync.postgres.catalog import read_catalog
from peersync.postgres.digest import probe
from peersync.postgres.errors import TRANSLATED, translate
from peersync.postgres.pool import Database
from peersync.postgres.proofs import Proofs, Run, TableState
from peersync.postgres.rangetotals import share_out
from peersync.postgres.rights import read_rights, unreadable
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer
from peersync.wire.messages import Catalogue, DescribeRequest

LOCK_S: Final = 10.0
SETTLED_TOGETHER: Final = 50_000  # rows that differ, of all tables that wait to be looked at again
AGAIN: Final = 2  # times for a table where more differed than was kept, and all that was is settled
_ENDS_ALL: Final = (PeerUnreachable, ProtocolError, Denied, DatabaseUnreachable)


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
        self._directions = Directions()
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
            pairs = await self._pairs(conn)
            self._directions = await read_directions(conn, self.peer.node_id)
            self._set(tables_total=len(pairs.comparable))
            self._tables = [_left(one) for one in pairs.left]
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

    async def _pairs(self, conn: asyncpg.Connection) -> Pairs:
        """What both sides have, as shapes that both hash alike."""
        asked = DescribeRequest(database=self.database)
        source = await self._client.call("POST", "/api/sync/describe", asked, Catalogue)
        try:
            there = await read_probe(self._client, self.database)
        except NotFound as error:
            raise ProtocolError(
                f"{self.peer.name} runs a version of peersync that can't be verified with",
                hint=f"upgrade peersync on {self.peer.name}",
            ) from error
        chosen = Patterns(self.wanted.tables or ("*",), self.wanted.exclude_tables)
        pairs = pair_tables(
            Sides(
                there=source,
                here=await read_catalog(conn),
                peer=self.peer.name,
                patterns=self._databases.patterns(self.database),
                chosen=chosen,
                everything=not self.wanted.tables,
                closed=unreadable(await read_rights(conn)).tables,
                own_filters=frozenset(f.name for f in self._config.database[self.database].filter),
            )
        )
        portable, wide = there != await probe(conn), self.wanted.paranoid
        pairs.comparable = [
            replace(one, shape=replace(one.shape, portable=portable, wide=wide))
            for one in pairs.comparable
        ]
        _refuse_no_such(self.wanted, pairs, self.peer.name)
        return pairs

    # --- tables -------------------------------------------------------------------------
    async def _compare(self, conn: asyncpg.Connection, tables: Sequence[Comparable]) -> None:
        """First looks, and second ones whenever enough wait for them."""
        waiting: list[_Looked] = []
        for one in tables:
            looked = await self._counted(conn, one)
            if isinstance(looked, TableProof):
                self._add(looked)
                continue
            if not looked.unsettled.pending:
                self._add(await self._ended(conn, looked))
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
    ) -> _Looked | TableProof:
        """A table that was looked at, or the reason why it could not be."""
        self._set(table=str(one.table))
        began = time.monotonic()
        remote = of_shape(
            self._client, self.database, one.shape, one.types_there, only=one.only_there
        )
        try:
            look = await look_at_table(conn, remote, one.shape, self._report, fresh=fresh)
        except (PeersyncError, *TRANSLATED) as exc:
            error = _own(exc, conn)
            return _proof(one, "failed", reason=error.message, seconds=time.monotonic() - began)
        self._done_rows += look.rows_there
        unsettled = Unsettled(one.shape, remote, look)
        return _Looked(one, unsettled, time.monotonic() - began)

    async def _counted(self, conn: asyncpg.Connection, one: Comparable) -> _Looked | TableProof:
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

    async def _settle(self, conn: asyncpg.Connection, waiting: Sequence[_Looked]) -> None:
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
                    if isinstance(anew, _Looked):
                        self._done_rows -= anew.unsettled.look.rows_there
                        again.append(anew)
                    else:
                        self._add(anew)
                else:
                    self._add(await self._ended(conn, looked))
            waiting = again

    def _note(self, passed: Passed | None) -> None:
        if passed is not None and (self.view.matched is not False):
            self._set(matched=passed.matched, unmatched=passed.why)

    async def _ended(self, conn: asyncpg.Connection, looked: _Looked) -> TableProof:
        one, unsettled = looked.one, looked.unsettled
        look, notes = unsettled.look, list(one.notes)
        if looked.is_open:  # what was not kept is no more decided than what was
            unsettled.changing += look.differing
            unsettled.in_flight += look.differing
            look.missing = look.extra = look.different = 0
        matched = max(0, look.rows_there - look.missing - look.different)
        aside = Aside()
        try:
            aside = await set_aside(conn, unsettled, self._directions, self.peer.name)
        except (PeersyncError, *TRANSLATED) as exc:
            notes.append(f"what is kept back could not be read: {_own(exc, conn).message}")
        notes += aside.notes
        if one.filtered and look.extra:
            notes.append(f"{counted(look.extra, 'row')} {_is(look.extra)} only here")
            look.extra = 0
            unsettled.drift = {
                k: pair for k, pair in unsettled.drift.items() if pair[0] is not None
            }
        try:
            keys = await key_views(
                conn, unsettled, self.wanted.keys,
                fields=self.wanted.rows or self.wanted.values,
                values=self.wanted.values,
            )  # fmt: skip
        except (PeersyncError, *TRANSLATED) as exc:
            keys = ()
            notes.append(f"the rows could not be read again: {_own(exc, conn).message}")
        result = "differs" if look.differing else "in flight" if unsettled.changing else "equal"
        if result == "equal" and looked.miscounted and not aside.rows:
            notes.append("the two sides have not as many rows, and none was found to differ")
            result = "in flight"
        if result == "equal" and one.partly:
            result = "partly"
        return _proof(
            one,
            result,
            rows_there=look.rows_there,
            rows_here=look.rows_here,
            matched=matched,
            different=look.different,
            missing=look.missing,
            extra=look.extra,
            in_flight=unsettled.in_flight,
            one_way=aside.rows,
            exact=not look.more,
            kept_at=look.kept_at,
            notes=tuple(notes),
            seconds=looked.seconds,
            keys=keys,
        )

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


class _Looked:
    """A table after its first look, until it is decided."""

    def __init__(self, one: Comparable, unsettled: Unsettled, seconds: float) -> None:
        self.one = one
        self.unsettled = unsettled
        self.seconds = seconds

    @property
    def is_open(self) -> bool:
        """More differed than was kept, and none of what was kept does any more."""
        return self.unsettled.look.more and not self.unsettled.drift

    @property
    def miscounted(self) -> bool:
        """The numbers of rows differ, and nothing that was found says why."""
        look, none_found = self.unsettled.look, not self.unsettled.in_flight
        return none_found and not self.one.filtered and look.rows_there != look.rows_here


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


def _own(exc: Exception, conn: asyncpg.Connection) -> PeersyncError:
    """The error of one table; one that ends the whole verification is raised."""
    error = exc if isinstance(exc, PeersyncError) else translate(exc, what="comparing rows")
    if isinstance(error, _ENDS_ALL) or conn.is_closed():
        raise error from exc
    return error


def _enough(waiting: Sequence[_Looked]) -> bool:
    """So many rows wait to be looked at again, or with such long keys, that it is time."""
    keys = sum(len(one.unsettled.pending) for one in waiting)
    characters = sum(one.unsettled.look.kept_characters for one in waiting)
    return keys >= SETTLED_TOGETHER or characters >= KEPT_CHARACTERS


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _refuse_no_such(wanted: VerifyRequest, pairs: Pairs, peer: str) -> None:
    """NotFound where the tables that were asked for are on neither side."""
    if wanted.tables and not pairs.comparable and not pairs.left:
        raise NotFound(
            f"no table here or on {peer} is meant by {', '.join(wanted.tables)}",
            hint='patterns are psql\'s: public.order_* or "Odd name".*',
        )


def _left(one: NotCompared) -> TableProof:
    schema, _, name = one.name.partition(".")
    return TableProof(
        schema=schema, name=name, result="not compared", reason=one.reason, intended=one.intended
    )


def _proof(one: Comparable, result: str, **given: object) -> TableProof:
    proof = TableProof(
        schema=one.table.schema,
        name=one.table.name,
        result=result,  # type: ignore[arg-type]  # one of its names
        key_columns=one.shape.key,
        notes=one.notes,
    )
    return msgspec.structs.replace(proof, **given)


def _result(tables: Sequence[TableProof]) -> str:
    results = {t.result for t in tables if not t.intended}
    if "differs" in results:
        return "differs"
    if "in flight" in results:
        return "in flight"
    return "partly" if results - {"equal"} else "identical"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

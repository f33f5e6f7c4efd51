"""Writes staged rows into their tables, and keeps the rows that a table refuses apart.

First all of it at once. When the database refuses, nothing of that is there, and it is tried
table by table; a table that refuses is halved, and where few rows are left they are tried alone:
exactly the refused ones go to quarantine with the database's own words. Two things are not the
rows' fault and are raised: what another transaction holds (the run is tried again), and what the
table is not (it is parked, and the other tables go on).

Unique values that change places inside a batch fail in any order of upserts, so rows that collide
are deleted first and inserted then.
"""

from __future__ import annotations

from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from typing import Final

import asyncpg

from peersync.core.names import TableName
from peersync.postgres.log.apply_statements import NO_KEYS, Batch, Statements
from peersync.postgres.log.late import LateKey, check_sql
from peersync.postgres.log.parking import park
from peersync.postgres.log.refused import (
    CHUNK,
    END,
    PLACE,
    REFUSED,
    TAKE_AGAIN,
    begin_sql,
    each_sql,
)
from peersync.postgres.log.rows import (
    Target,
)
from peersync.postgres.log.staging import IN, shapes_sql

Heads = Callable[[], Awaitable[None]]

# Nobody's fault but the moment's: the whole run is rolled back and tried again.
NOT_NOW: Final = ("40", "53", "55P", "57", "58", "08", "25", "XX", "0L", "28")
_NOT_THIS_TABLE: Final = ("42", "0A", "3F")
_NO_RIGHT: Final = "42501"  # or row security hides rows from this role

_QUARANTINE: Final = """
INSERT INTO peersync.quarantine AS q (
       cause, origin, position, ordinal, hlc, changed_at, tbl, schema_name, table_name,
       shape, op, key, image, old, sqlstate, reason)
SELECT '{cause}', i.origin, i.position, i.ordinal,
       coalesce(t.hlc, (SELECT k.hlc FROM peersync.transaction AS k  -- one of ours, written again
                         WHERE k.origin = i.origin AND k.position = i.position), 0),
       i.at::timestamptz, s.tbl, s.schema_name, s.table_name,
       i.shape, i.op, i.key, i.image, i.old, {words}
  FROM {table} AS i LEFT JOIN peersync_tx AS t USING (origin, position)
  JOIN {shapes} USING (shape){more}
 WHERE {where} ORDER BY i.n
ON CONFLICT (origin, position, ordinal) DO UPDATE
   SET tries = q.tries + 1, tried_at = clock_timestamp(), state = 'waiting',
       cause = excluded.cause, sqlstate = excluded.sqlstate, reason = excluded.reason"""
_SUPERSEDE: Final = """
UPDATE peersync.quarantine AS q
   SET state = 'superseded', settled_at = clock_timestamp(), settled_by = 'a later change'
  FROM {table} AS i JOIN peersync_tx AS t USING (origin, position) JOIN {shapes} USING (shape)
 WHERE q.state = 'waiting' AND q.cause = 'row' AND q.tbl = s.tbl
   AND (i.op = 'T' OR q.key = i.key)
   AND (q.hlc, q.origin, q.position) < (t.hlc, i.origin, i.position)"""
# Of rows without a key any is as good as an equal one: which delete takes which does not matter,
# as long as it takes one that its origin had.
_TAKE_WAITING: Final = """
WITH d AS MATERIALIZED (
    SELECT i.n, i.origin, i.position, s.tbl, i.shape, i.image, t.hlc, t.seen,
           row_number() OVER (PARTITION BY i.shape, i.image ORDER BY i.n) AS nth
      FROM {table} AS i JOIN peersync_tx AS t USING (origin, position) JOIN {shapes} USING (shape)
     WHERE i.op = 'D' AND i.key IS NULL
       AND s.tbl NOT IN (SELECT s.tbl FROM {table} AS c JOIN {shapes} USING (shape)
                          WHERE c.op = 'T')
), w AS MATERIALIZED (
    SELECT q.id, q.shape, q.image, row_number() OVER (
               PARTITION BY q.shape, q.image ORDER BY q.hlc, q.origin, q.position, q.ordinal) AS nth
      FROM peersync.quarantine AS q
     WHERE q.state = 'waiting' AND q.cause = 'row' AND q.op = 'I' AND q.key IS NULL
       AND EXISTS (SELECT FROM d
                    WHERE d.tbl = q.tbl AND d.shape = q.shape AND d.image = q.image
                      AND CASE WHEN d.origin = q.origin THEN d.position >= q.position
                               WHEN d.seen IS NULL THEN d.hlc > q.hlc
                               ELSE (d.seen ->> q.origin::text)::bigint >= q.position END)
), taken AS (
    UPDATE peersync.quarantine AS q
       SET state = 'superseded', settled_at = clock_timestamp(), settled_by = 'a later change'
      FROM w JOIN d USING (shape, image, nth) WHERE q.id = w.id AND q.state = 'waiting'
    RETURNING d.n)
DELETE FROM {table} AS i USING taken AS t WHERE i.n = t.n"""


class TableRefuses(Exception):
    """The table cannot take what is staged for it, whatever the row."""

    def __init__(self, target: Target, error: asyncpg.PostgresError) -> None:
        super().__init__(str(error))
        self.target = target
        self.error = error


class Writer:
    """Writes what one staging table holds, inside the transaction of the run.

    `tables`: shape → number and name of its table. `heads` stages the heads of the transactions,
    which only few need. `late`: oid → what the replica role leaves unchecked.
    """

    def __init__(
        self,
        conn: asyncpg.Connection,
        batches: Sequence[Batch],
        tables: Mapping[int, tuple[int, TableName]],
        heads: Heads,
        *,
        table: str = IN,
        survivors: bool = False,
        late: Mapping[int, Sequence[LateKey]] = NO_KEYS,
    ) -> None:
        self._conn = conn
        self._heads = heads
        self._batches = batches
        self._shapes = shapes_sql(tables)
        self._tables = tables
        self._table = table
        self.staged_in = table
        self._sql = Statements(table, late, survivors=survivors)
        self.quarantined = 0
        self.parked: set[TableName] = set()

    async def write(self, compact: Sequence[str] = ()) -> bool:
        """Writes all; refused rows are in quarantine afterwards.

        `compact`: statements that leave one change a key, where there may be more. They are run
        only where the last of each key isn't found without; gives whether they were. A table that
        refuses every row is parked. Raises the driver's errors for what may work at another moment.
        """
        last = bool(compact) and all(batch.simple for batch in self._batches)
        before = [] if last else compact
        statements = [
            sql
            for b in self._ordered(deletes=True)
            for sql in self._sql.clearing(b, None, last=last)
        ] + [
            sql
            for b in self._ordered(deletes=False)
            for sql in self._sql.writing(b, None, last=last)
        ]
        for batch in self._batches:
            statements += check_sql(self._sql.check(batch, None, last=last))
        if not statements and not before:
            return False
        if await self._try([*before, *statements]) is None:
            return bool(before)
        if compact:
            await self._conn.execute(";\n".join(compact))
        await self._write_each()
        return True

    async def _write_each(self) -> None:
        """Table by table: one that refuses is put back, and parked."""
        for batch in self._ordered(deletes=False):
            await self._conn.execute("SAVEPOINT peersync_table")
            try:
                await self._write_apart(batch)
            except TableRefuses as refused:
                await self._conn.execute("ROLLBACK TO peersync_table")
                await self._park(batch, refused.error)
            await self._conn.execute("RELEASE peersync_table")

    async def quarantine(
        self, where: str, sqlstate: str | None, reason: str, cause: str = "row"
    ) -> int:
        """Moves staged changes into quarantine; gives how many."""
        return await self._quarantine(where, "$1::text, $2::text", "", cause, sqlstate, reason)

    async def _quarantine(
        self, where: str, words: str, more: str, cause: str, *args: str | None
    ) -> int:
        """`words`: the columns sqlstate and reason, `more`: what to join for them."""
        await self._heads()
        table, shapes = self._table, self._shapes
        sql = _QUARANTINE.format(
            cause=cause, table=table, shapes=shapes, where=where, words=words, more=more
        )
        status: str = await self._conn.execute(sql, *args)
        await self._conn.execute(f"DELETE FROM {table} AS i WHERE {where}")
        return int(status.rpartition(" ")[2])

    async def take_waiting(self) -> None:
        """A delete of a row without a key takes one that waits, rather than one that is there."""
        await self._heads()
        sql = _TAKE_WAITING.format(table=self._table, shapes=self._shapes)
        await self._conn.execute(sql)

    async def supersede(self) -> None:
        """Refused rows that a staged change has overtaken wait no more."""
        await self._heads()
        await self._conn.execute(_SUPERSEDE.format(table=self._table, shapes=self._shapes))

    async def _park(self, batch: Batch, error: asyncpg.PostgresError) -> None:
        target = batch.target
        words = f"{target.name} refuses what comes: {_words(error)}"
        if error.sqlstate == _NO_RIGHT:
            words += "\nwhat helps: peersync grants --mode periodic --missing"
        await park(self._conn, target.tbl or 0, words)
        where = f"i.shape IN ({batch.shapes})"
        await self.quarantine(where, error.sqlstate, words, "table")
        self.parked.add(target.name)

    # --- one table after another --------------------------------------------------------
    async def _write_apart(self, batch: Batch) -> None:
        check = check_sql(self._sql.check(batch, None))
        everything = [*self._sql.clearing(batch, None), *self._sql.writing(batch, None), *check]
        error = await self._try(everything)
        if error is None:
            return
        self._raise_unless_rows(batch, error)
        if _collides(error) and await self._try(self._sql.anew(batch, None)) is None:
            return
        clears = list(self._sql.clearing(batch, None, rows=False))
        if clears and (refused := await self._try(clears)) is not None:
            self._raise_unless_rows(batch, refused)
            raise TableRefuses(batch.target, refused)
        await self._conn.execute(begin_sql(self._table))
        await self._halve(batch, batch.low, batch.high)
        await self._once_more(batch)
        where = f"i.shape IN ({batch.shapes}) AND i.n IN (SELECT r.n FROM {REFUSED} AS r)"
        words, more = "r.sqlstate, r.reason", f" JOIN {REFUSED} AS r ON r.n = i.n"
        self.quarantined += await self._quarantine(where, words, more, "row")
        await self._conn.execute(END)

    async def _halve(self, batch: Batch, low: int, high: int) -> None:
        """Lists the rows that are refused; all others are written."""
        if high - low < CHUNK:
            await self._each(batch, f"i.n BETWEEN {low} AND {high}")
            return
        places = (low, high)
        check = check_sql(self._sql.check(batch, places))
        error = await self._try(
            [
                *self._sql.clearing(batch, places, clears=False),
                *self._sql.writing(batch, places),
                *check,
            ]
        )
        if error is None:
            return
        self._raise_unless_rows(batch, error)
        middle = (low + high) // 2
        await self._halve(batch, low, middle)
        await self._halve(batch, middle + 1, high)

    async def _once_more(self, batch: Batch) -> None:
        """Those that other rows were in the way of: together, as they may collide; then alone."""
        places = [row["n"] for row in await self._conn.fetch(TAKE_AGAIN)]
        if not places:
            return
        meant = f"i.n IN ({', '.join(map(str, places))})"
        if len(places) > 1 and await self._try(self._sql.anew(batch, meant)) is None:
            return
        await self._each(batch, meant)

    async def _each(self, batch: Batch, meant: str) -> None:
        """Row by row."""
        place = f"i.n = {PLACE}"
        statements = [
            *self._sql.clearing(batch, place, clears=False),
            *self._sql.writing(batch, place),
        ]
        where = f"i.shape IN ({batch.shapes}) AND {meant}"
        raised, check = (*NOT_NOW, *_NOT_THIS_TABLE), self._sql.check(batch, place)
        error = await self._try([each_sql(self._table, where, statements, raised, check)])
        if error is not None:
            raise TableRefuses(batch.target, error)

    async def _try(self, statements: Sequence[str]) -> asyncpg.PostgresError | None:
        """All of them or none; the error of the one that was refused."""
        if not statements:
            return None
        try:
            await self._conn.execute(
                "SAVEPOINT peersync_rows;\n" + ";\n".join(statements) + ";\nRELEASE peersync_rows"
            )
        except asyncpg.PostgresError as error:
            if error.sqlstate is None or error.sqlstate.startswith(NOT_NOW):
                raise
            await self._conn.execute("ROLLBACK TO peersync_rows; RELEASE peersync_rows")
            return error
        return None

    @staticmethod
    def _raise_unless_rows(batch: Batch, error: asyncpg.PostgresError) -> None:
        if str(error.sqlstate).startswith(_NOT_THIS_TABLE):
            raise TableRefuses(batch.target, error)

    def _ordered(self, *, deletes: bool) -> Collection[Batch]:
        """Parents before children; the other way round to delete."""
        return self._batches[::-1] if deletes else self._batches


def _collides(error: asyncpg.PostgresError) -> bool:
    return error.sqlstate in ("23505", "23P01")


def _words(error: asyncpg.PostgresError) -> str:
    """The database's message and detail."""
    detail = getattr(error, "detail", None)
    return f"{error.message}\n{detail}" if detail else str(error.message)

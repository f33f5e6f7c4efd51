"""Staged rows of one table that are left out of it, for whatever reason.

They are taken from the staging table, so that what is left there is exactly what the table
must hold, and their keys are remembered: rows here that have such a key are neither "only
here" nor deleted by a mirror. Keys with unsent changes of this server are among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import psycopg

from peersync.core.names import TableName, quote_ident
from peersync.postgres.merge import Merge, copy_into

Reason = tuple[str, str]  # why one row is left out, and several, with {} for the number
_MOST_SHOWN: Final = 1000  # characters


@dataclass
class _Counts:
    rows: int = 0  # of the source
    kept_staged: int = 0  # of the source, in favour of ours
    kept_local: int = 0  # keys
    reasons: dict[Reason, int] = field(default_factory=dict)


class Aside:
    """What is left out of one table. Its counts do not know of savepoints: see `counts`."""

    def __init__(self, connection: psycopg.Connection, merge: Merge) -> None:
        self._connection = connection
        self._merge = merge
        self._counts = _Counts()

    @property
    def rows(self) -> int:
        """Rows of the source that are left out, without those that give way to ours."""
        return self._counts.rows

    @property
    def kept_staged(self) -> int:
        """Rows of the source that give way to unsent changes of ours."""
        return self._counts.kept_staged

    @property
    def kept_local(self) -> int:
        """Keys with unsent changes of ours that either side has a row of."""
        return self._counts.kept_local

    @property
    def any(self) -> bool:
        counts = self._counts
        return bool(counts.rows or counts.kept_local)

    @property
    def words(self) -> list[str]:
        """Why rows were left out: each reason with its number."""
        return [why[number != 1].format(number) for why, number in self._counts.reasons.items()]

    def counts(self) -> object:
        """What `back_to` wants, once the savepoint that follows has been rolled back."""
        return replace(self._counts, reasons=dict(self._counts.reasons))

    def back_to(self, counts: object) -> None:
        assert isinstance(counts, _Counts)
        self._counts = counts

    def take(self, condition: str, reason: Reason) -> int:
        """Leaves out the staged rows `s` that meet the condition."""
        if self._merge.key is not None:
            self._connection.execute(_create(self._merge).encode())
        number = self._connection.execute(_leave_out(self._merge, condition).encode()).rowcount
        if number:
            self._counts.rows += number
            reasons = self._counts.reasons
            reasons[reason] = reasons.get(reason, 0) + number
        return number

    def put(self, places: Sequence[str], reason: Reason) -> int:
        """Leaves out the staged rows at these places (ctids as text)."""
        if not places:
            return 0
        array = "'{" + ",".join(f'"{place}"' for place in places) + "}'::tid[]"
        return self.take(f"s.ctid = ANY ({array})", reason)

    def keep(self, keys: Sequence[tuple[str, ...]]) -> None:
        """Protects the rows with these keys, here or staged. First of all, if at all.

        Raises psycopg.DataError for what is not a key of this table.
        """
        merge = self._merge
        if merge.key is None:
            raise psycopg.DataError("it has no key, so unsent changes of its rows can't be told")
        wrong = next((k for k in keys if len(k) != len(merge.key.columns)), None)
        if wrong is not None:
            raise psycopg.DataError(f"{len(wrong)} values for a key of {len(merge.key.columns)}")
        self._connection.execute(_create(merge).encode())
        with self._connection.cursor() as cursor:
            with cursor.copy(copy_into(aside_table(merge), merge.key.columns).encode()) as copy:
                for key in keys:
                    copy.write_row(key)
            cursor.execute(f"ANALYZE {aside_table(merge).sql}".encode())
        self._counts.kept_local = self._number(_count_known(merge))
        self._counts.kept_staged = self._connection.execute(
            _leave_out_kept(merge).encode()
        ).rowcount

    def some_keys(self, limit: int) -> list[str]:
        """The keys of some rows that are left out, as people read them."""
        row = self._merge.row("s", _columns(self._merge))
        query = (
            f"SELECT DISTINCT {row}::text FROM {aside_table(self._merge).sql} AS s LIMIT {limit}"
        )
        return [key for (key,) in self._connection.execute(query.encode()).fetchall()]

    def select(self, limit: int, more: Sequence[str]) -> str | None:
        """What shows some of the rows that are left out, on the source: their key and `more`.

        None where it would be too long to be read.
        """
        columns, few = _columns(self._merge), f"SELECT DISTINCT {{}} FROM {{}} AS s LIMIT {limit}"
        values = ", ".join(f"pg_catalog.quote_literal(s.{quote_ident(c)}::text)" for c in columns)
        row = f"'(' || pg_catalog.concat_ws(', ', {values}) || ')'"
        query = few.format(row, aside_table(self._merge).sql)
        keys = ", ".join(key for (key,) in self._connection.execute(query.encode()).fetchall())
        listed = self._merge.listed(tuple(dict.fromkeys((*columns, *more))))
        found = (
            f"SELECT {listed} FROM {self._merge.table.name.sql} "
            f"WHERE ({self._merge.listed(columns)}) IN ({keys})"
        )
        return found if len(found) <= _MOST_SHOWN else None

    def here(self) -> int:
        """How many rows of the table have the key of a row that was left out."""
        if not self.any or self._merge.key is None:
            return 0
        return self._number(_count_here(self._merge))

    def _number(self, query: str) -> int:
        row: Any = self._connection.execute(query.encode()).fetchone()
        return int(row[0])


def aside_table(merge: Merge) -> TableName:
    """Where the keys of rows are that are left out."""
    return TableName(merge.stage.schema, f"{merge.stage.name}_aside")


def is_aside(merge: Merge, alias: str) -> str:
    """The row has the key of one that was left out."""
    return f"EXISTS (SELECT FROM {aside_table(merge).sql} AS s WHERE {merge.on(alias)})"


def _columns(merge: Merge) -> tuple[str, ...]:
    return merge.key.columns if merge.key else ()


def _create(merge: Merge) -> str:
    return (
        f"CREATE UNLOGGED TABLE IF NOT EXISTS {aside_table(merge).sql} AS "
        f"SELECT {merge.listed(_columns(merge))} FROM ONLY {merge.table.name.sql} WITH NO DATA"
    )


def _leave_out(merge: Merge, condition: str) -> str:
    """Takes staged rows `s` away and remembers their keys; affects as many rows."""
    delete = f"DELETE FROM {merge.stage.sql} AS s WHERE {condition}"
    if merge.key is None:
        return delete
    listed = merge.listed(_columns(merge))
    return (
        f"WITH gone AS ({delete} RETURNING {merge.listed(_columns(merge), 's')}) "
        f"INSERT INTO {aside_table(merge).sql} ({listed}) SELECT {listed} FROM gone"
    )


def _leave_out_kept(merge: Merge) -> str:
    """Takes the staged rows away whose keys are aside already."""
    return f"DELETE FROM {merge.stage.sql} AS t WHERE {is_aside(merge, 't')}"


def _count_known(merge: Merge) -> str:
    """How many of the keys aside, each counted once, are of a row here or in the stage."""
    return (
        f"SELECT count(DISTINCT ({merge.listed(_columns(merge), 's')})) "
        f"FROM {aside_table(merge).sql} AS s "
        f"WHERE EXISTS (SELECT FROM {merge.stage.sql} AS t WHERE {merge.on()}) "
        f"OR EXISTS (SELECT FROM ONLY {merge.table.name.sql} AS t WHERE {merge.on()})"
    )


def _count_here(merge: Merge) -> str:
    return f"SELECT count(*) FROM ONLY {merge.table.name.sql} AS t WHERE {is_aside(merge, 't')}"

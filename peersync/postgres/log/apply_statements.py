"""The SQL that makes staged changes into rows of their table: all of them, some, or one.

It runs nothing. Which statements are tried together, and what becomes of refused rows, is
`apply_write`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from peersync.postgres.log.late import LateKey, check_body, check_sql
from peersync.postgres.log.rows import (
    ShapeLike,
    Target,
    clear_sql,
    delete_sql,
    insert_sql,
    remove_sql,
    upsert_sql,
)
from peersync.postgres.log.staging import Group

NO_KEYS: Final[Mapping[int, Sequence[LateKey]]] = MappingProxyType({})
_WRITES: Final = "i.op IN ('I', 'U')"


@dataclass(frozen=True)
class Batch:
    """What is staged for one table, by shape."""

    target: Target
    parts: tuple[tuple[Group, ShapeLike], ...]

    @property
    def shapes(self) -> str:
        return ", ".join(str(shape.shape) for _, shape in self.parts)

    @property
    def truncates(self) -> bool:
        return any(group.truncated is not None for group, _ in self.parts)

    @property
    def simple(self) -> bool:
        """Whether each key's last change alone says what its row is, and is easily found."""
        (group, shape), *more = self.parts
        return bool(shape.key) and not more and group.truncated is None and not group.keyless

    @property
    def low(self) -> int:
        return min(group.low for group, _ in self.parts)

    @property
    def high(self) -> int:
        return max(group.high for group, _ in self.parts)


class Statements:
    """Over one staging table. `places` means the rows: by their numbers, by a condition, or all.

    `late`: oid → what the replica role leaves unchecked. `survivors`: rows that were kept against
    a TRUNCATE stay.
    """

    def __init__(
        self, table: str, late: Mapping[int, Sequence[LateKey]], *, survivors: bool
    ) -> None:
        self._table = table
        self._late = late
        self._survivors = survivors

    def clearing(
        self,
        batch: Batch,
        places: tuple[int, int] | str | None,
        *,
        clears: bool = True,
        rows: bool = True,
        last: bool = False,
    ) -> Iterator[str]:
        target = batch.target
        for group, shape in batch.parts:
            if clears and group.truncated is not None:
                keys = (
                    "SELECT k.key AS literal FROM peersync_kept AS k JOIN peersync_clash AS c "
                    "USING (origin, position, ordinal) "
                    f"WHERE c.kept_wins AND k.tbl = {target.tbl or 0}"
                )
                kept = keys if self._survivors and shape.key else None
                yield clear_sql(target, tuple(shape.key), kept)
        for group, shape in batch.parts:
            if rows and group.deletes:
                column = "key" if shape.key else "image"
                source = self._source(column, shape, "i.op = 'D'", places, last=last)
                yield (delete_sql if shape.key else remove_sql)(target, shape, source)

    def writing(
        self, batch: Batch, places: tuple[int, int] | str | None, *, last: bool = False
    ) -> Iterator[str]:
        for group, shape in batch.parts:
            if group.writes or group.pairs:
                target, which = batch.target, _WRITES
                source = self._source("image", shape, which, places, last=last)
                source += _in_order(shape)
                if shape.key and target.merges(shape.key):
                    yield upsert_sql(target, shape, source)
                    continue
                if shape.key:
                    keys = self._source("key", shape, which, places, last=last)
                    yield delete_sql(target, shape, keys)
                yield insert_sql(target, shape, source)

    def anew(self, batch: Batch, places: str | None) -> list[str]:
        """The rows that are to be written are deleted first, with those that are to go."""
        target, found = batch.target, list[str]()
        if places is None:
            found += self.clearing(batch, None, rows=False)
        for _, shape in batch.parts:
            column, ops = ("key", "'I', 'U', 'D'") if shape.key else ("image", "'D'")
            source = self._source(column, shape, f"i.op IN ({ops})", places)
            found.append((delete_sql if shape.key else remove_sql)(target, shape, source))
        return [*found, *self.writing(batch, places), *check_sql(self.check(batch, places))]

    def check(
        self, batch: Batch, places: tuple[int, int] | str | None, *, last: bool = False
    ) -> str:
        """plpgsql that raises where rows that were written are twice in a deferrable key."""
        keys = self._late.get(batch.target.oid or 0, ())
        if not keys:
            return ""
        return "".join(
            check_body(
                batch.target, keys, shape, self._source("key", shape, _WRITES, places, last=last)
            )
            for group, shape in batch.parts
            if group.writes or group.pairs
        )

    def _source(
        self,
        column: str,
        shape: ShapeLike,
        which: str,
        places: tuple[int, int] | str | None,
        *,
        last: bool = False,
    ) -> str:
        """The literals of the staged rows that are meant; `last`: only each key's last one."""
        if last:
            return (
                f"SELECT i.{column} AS literal FROM (SELECT DISTINCT ON (l.key) l.key, l.op, "
                f"l.image FROM {self._table} AS l WHERE l.shape = {shape.shape} "
                f"ORDER BY l.key, l.n DESC) AS i WHERE {which}"
            )
        more = ""
        if isinstance(places, str):
            more = f" AND {places}"
        elif places is not None:
            more = f" AND i.n BETWEEN {places[0]} AND {places[1]}"
        return (
            f"SELECT i.{column} AS literal FROM {self._table} AS i "
            f"WHERE i.shape = {shape.shape} AND {which}{more}"
        )


def _in_order(shape: ShapeLike) -> str:
    """Rows that lie side by side are written one after another: two thirds of the time."""
    return " ORDER BY i.key" if shape.key else ""

"""Rows in conflict whose strategy asks for more than the newest change.

Most changes of such a table are in conflict with nothing and are written like any other: the
image of a change that had seen all the others is the row. A row of which two changes had not seen
each other is set aside, and made anew from all that the log has kept of it (`core.order.fold`).
That happens only while nobody publishes (ORDER R2), so that nothing of it is missing.

Below the kept changes lies the row as it was before them. It is the old row of the one with the
lowest version: that one had seen none of the others, and all that is gone. It is written down
(`row_base`), which also keeps the row's changes in the log until they may go (`prune_rows`).

Finding a row's changes reads the whole log, which has no index by key: an index would cost every
write of every application something, and conflicts are rare.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from peersync.core.order.chain import net
from peersync.core.order.change import Change, Columns, Image, Op, Version
from peersync.core.order.conflict import Conflict, conflicts
from peersync.core.order.fold import Function, Row, Strategy, by_version, causally_last, fold, saw
from peersync.postgres.log.apply_conflicts import find_clashes, keep_window
from peersync.postgres.log.apply_session import Session
from peersync.postgres.log.apply_statements import Batch
from peersync.postgres.log.literal import format_record, parse_record
from peersync.postgres.log.members import decode_vector
from peersync.postgres.log.merge_function import call_function
from peersync.postgres.log.rows import Shape, read_shapes
from peersync.postgres.log.staging import AGAIN, IN
from peersync.postgres.log.strategy import function_of, is_merging, strategy_of

Place = tuple[int, str]  # a row: number of its table, key

_FOUND: Final = f"""
SELECT DISTINCT s.tbl, c.key
  FROM peersync_clash AS c JOIN {IN} AS i ON i.n = c.n JOIN {{shapes}} ON s.shape = i.shape"""
# What waited for a table may be of several origins, which had not seen each other.
_AMONG_THEMSELVES: Final = f"""
SELECT s.tbl, i.key
  FROM {IN} AS i JOIN {{shapes}} USING (shape)
 WHERE s.tbl = ANY ($1::int[]) AND i.key IS NOT NULL
 GROUP BY s.tbl, i.key HAVING count(DISTINCT i.origin) > 1"""
_SET_ASIDE: Final = f"""
UPDATE {IN} AS i SET op = 'F'
  FROM {{shapes}}, unnest($1::int[], $2::text[]) AS k (tbl, key)
 WHERE s.shape = i.shape AND k.tbl = s.tbl AND k.key COLLATE "C" = i.key AND i.op <> 'T'"""
ENTRIES: Final = """
WITH k AS MATERIALIZED (SELECT * FROM unnest($1::int[], $2::text[]) AS k (tbl, key))
SELECT e.*, e.seen::text AS had_seen
  FROM (SELECT t.origin, t.position, c.id AS ordinal, t.hlc, t.seen, c.at, c.tbl, c.shape, c.op,
               c.key, c.image, c.old
          FROM peersync.transaction AS t JOIN peersync.change AS c ON c.xid = t.xid
         UNION ALL
        SELECT t.origin, t.position, r.ordinal, t.hlc, t.seen, r.at, r.tbl, r.shape, r.op,
               r.key, r.image, r.old
          FROM peersync.transaction AS t JOIN peersync.relayed AS r USING (origin, position)) AS e
  JOIN peersync.member AS m ON m.origin = e.origin AND m.floor < e.position
 WHERE e.op <> 'X' AND e.tbl = ANY ($1::int[])
   AND (e.op = 'T' OR (e.tbl, e.key) IN (SELECT k.tbl, k.key FROM k))
 ORDER BY e.origin, e.position, e.ordinal"""
BASES: Final = """
SELECT b.tbl, b.key, b.shape, b.image
  FROM peersync.row_base AS b JOIN unnest($1::int[], $2::text[]) AS k (tbl, key)
    ON b.tbl = k.tbl AND b.key = k.key
   AND hashtextextended(b.key, 0) = hashtextextended(k.key, 0)"""
_KEEP_BASES: Final = """
INSERT INTO peersync.row_base (tbl, key, shape, image)
SELECT * FROM unnest($1::int[], $2::text[], $3::bigint[], $4::text[])
    ON CONFLICT (tbl, hashtextextended(key, 0), hashtextextended(key, 1)) DO NOTHING"""
_STAGE: Final = f"""
INSERT INTO {AGAIN} (origin, position, ordinal, at, shape, op, key, image)
SELECT w.origin, w.position, w.ordinal, w.at, w.shape, w.op::"char", w.key, w.image
  FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::bigint[],
              $6::text[], $7::text[], $8::text[])
       AS w (origin, position, ordinal, at, shape, op, key, image)"""
_RECORD: Final = """
INSERT INTO peersync.conflict (
       tbl, schema_name, table_name, key, kind, strategy, winner, reason, state,
       kept_origin, kept_position, kept_hlc, kept_op, kept_shape, kept_image,
       in_origin, in_position, in_ordinal, in_hlc, in_op, in_shape, in_image)
SELECT y.tbl, y.schema_name, y.table_name, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::"char",
       $12, $13, $14, $15, $16, $17, $18::text::"char", $19, $20
  FROM peersync.synced_table AS y WHERE y.tbl = $1"""


@dataclass
class Kept:
    """All that the log has kept of one row. `rows`: the log's own row of each change.

    `base`: what lies beneath, and in which shape; None where it was never written down.
    """

    changes: list[Change] = field(default_factory=list)
    rows: dict[Version, Any] = field(default_factory=dict)
    base: tuple[int, Image | None] | None = None

    def beneath(self) -> tuple[int, Image | None]:
        if self.base is not None:
            return self.base
        first = by_version(self.changes)[0]
        return self.rows[first.version]["shape"], first.old


class Merging:
    """The part of one apply that merges. `origin`: whose changes are staged, None for several."""

    def __init__(self, session: Session, origin: int | None) -> None:
        self._conn = session.conn
        self._own = session.origin
        self._origin = origin
        self._told: dict[Place, list[tuple[Any, ...]]] = {}
        self._waited: set[tuple[int, int]] = set()  # transactions, where they waited for a table

    async def find(
        self,
        after: Mapping[int, int],
        upto: Mapping[int, int] | None,
        batches: Collection[Batch],
        shapes: str,
        staged: int,
    ) -> set[Place]:
        """Rows of which a staged change and a kept one above `after` had not seen each other."""
        tables = [batch.target.tbl or 0 for batch in batches]
        cleared = [batch.target.tbl or 0 for batch in batches if batch.truncates]
        found: set[Place] = set()
        if await keep_window(self._conn, after, upto, tables, cleared, staged):
            await find_clashes(self._conn, shapes)
            rows = await self._conn.fetch(_FOUND.format(shapes=shapes))
            found.update((row["tbl"], row["key"]) for row in rows)
            await self._conn.execute("DELETE FROM peersync_kept; DELETE FROM peersync_clash")
        if self._origin is None and upto is not None:
            rows = await self._conn.fetch(_AMONG_THEMSELVES.format(shapes=shapes), tables)
            found.update((row["tbl"], row["key"]) for row in rows)
            rows = await self._conn.fetch(f"SELECT DISTINCT origin, position FROM {IN}")
            self._waited = {(row["origin"], row["position"]) for row in rows}
        return found

    async def set_aside(self, places: Collection[Place], shapes: str) -> None:
        """Staged changes of these rows are not written as they are."""
        await self._conn.execute(_SET_ASIDE.format(shapes=shapes), *_columns(places))

    async def stage(self, places: Collection[Place], batches: Iterable[Batch]) -> int:
        """Stages these rows as they are to be, to be written over what is there.

        The publish lock is held. Gives in how many of them there was a conflict.
        """
        strategies = {b.target.tbl or 0: b.target.strategy for b in batches}
        rows = await self._conn.fetch("SELECT origin, node_name FROM peersync.member")
        names = {row["origin"]: str(row["node_name"]) for row in rows}
        kept, shapes = await read_kept(self._conn, places)
        staged: list[tuple[Any, ...]] = []
        bases: list[tuple[Any, ...]] = []
        for place in sorted(places):
            tbl, key = place
            if not (mine := kept[place]).changes:
                continue
            mine.changes = self._not_overtaken(mine.changes)
            shape, base = mine.beneath()
            bases.append((tbl, key, shape, literal_of(base, shapes[shape])))
            text = strategies[tbl]
            row, note = await self._folded(text, strategy_of(text, names), base, mine.changes)
            incoming = self._incoming(mine.changes)
            self._told[place] = _records(tbl, key, text, row, note, incoming, mine, names)
            staged.append(_staged(key, row, incoming, mine, shapes))
        if staged:
            await self._conn.execute(_STAGE, *map(list, zip(*staged, strict=True)))
            await self._conn.execute(_KEEP_BASES, *map(list, zip(*bases, strict=True)))
        return len(staged)

    async def record(self) -> int:
        """Tells of the conflicts of all rows that were staged; gives how many."""
        records = [record for of_row in self._told.values() for record in of_row]
        if records:
            await self._conn.executemany(_RECORD, records)
        return len(records)

    async def _folded(
        self, text: str, strategy: Strategy, base: Image | None, changes: list[Change]
    ) -> tuple[Row, str]:
        """The row, and a word more about it for people."""
        if not isinstance(strategy, Function):
            row = fold(strategy, base, changes)
            lost = f"; {len(row.lost)} earlier change(s) of its sums count for nothing"
            return row, lost if row.lost else ""
        candidates = causally_last(changes)
        if len(candidates) == 1:
            return fold(strategy, base, changes), ""
        image, failed = await call_function(self._conn, function_of(text), candidates)
        if failed:
            newest = candidates[-1]
            return Row(newest.image, newest.version), f"; its function failed: {failed}"
        return fold(Function(lambda _: image), base, changes), ""

    def _not_overtaken(self, changes: list[Change]) -> list[Change]:
        """Without what waited while a later change of ours took its place everywhere.

        That change has no part of it in its row, though it counts as having seen it.
        """
        ours = [c for c in changes if c.origin == self._own]
        waited = [c for c in changes if (c.origin, c.version.position) in self._waited]
        gone = {c.version for c in waited if any(saw(later, c) for later in ours)}
        return [c for c in changes if c.version not in gone]

    def _incoming(self, changes: Collection[Change]) -> Change:
        """The staged change that the row's conflict is told by: the newest."""
        theirs = [c for c in changes if c.origin == self._origin]
        return by_version(theirs or [c for c in changes if c.origin != self._own] or changes)[-1]


# --- reading ----------------------------------------------------------------------------------
async def read_kept(
    conn: asyncpg.Connection, places: Collection[Place]
) -> tuple[dict[Place, Kept], dict[int, Shape]]:
    """What the log has of these rows above its floors, one change a transaction, and its shapes.

    The publish lock is held, or the bases may be others than those of these changes.
    """
    rows = await conn.fetch(ENTRIES, *_columns(places))
    bases = await conn.fetch(BASES, *_columns(places))
    shapes = await read_shapes(conn, list({row["shape"] for row in (*rows, *bases)}))
    kept = {place: Kept() for place in places}
    of_table: dict[int, list[Place]] = {}
    for place in places:
        of_table.setdefault(place[0], []).append(place)
    seen: dict[str, dict[int, int]] = {}
    runs: dict[tuple[Place, int, int], list[tuple[Change, Any]]] = {}
    for row in rows:
        change = _change(row, shapes, seen)
        for place in of_table[row["tbl"]] if change.key is None else [(row["tbl"], change.key)]:
            runs.setdefault((place, row["origin"], row["position"]), []).append((change, row))
    for (place, _, _), made in runs.items():
        whole = net([change for change, _ in made])
        kept[place].changes.append(whole)
        kept[place].rows[whole.version] = made[-1][1]
    for row in bases:
        image = _image(row["image"], shapes[row["shape"]])
        kept[row["tbl"], row["key"]].base = row["shape"], image
    return kept, shapes


def _change(row: Any, shapes: Mapping[int, Shape], seen: dict[str, dict[int, int]]) -> Change:
    text = row["had_seen"]
    if text not in seen:
        seen[text] = decode_vector(text)
    op: Op = row["op"].decode()
    shape = shapes[row["shape"]]
    return Change(
        Version(row["hlc"], row["origin"], row["position"], row["ordinal"]),
        op,
        None if op == "T" else row["key"],
        _image(row["image"], shape),
        _image(row["old"], shape),
        seen[text],
    )


def _image(literal: str | None, shape: Shape) -> Columns | None:
    if literal is None:
        return None
    return dict(zip(shape.columns, parse_record(literal), strict=True))


def literal_of(image: Image | None, shape: Shape) -> str | None:
    if image is None:
        return None
    assert not isinstance(image, str)
    return format_record(image.get(name) for name in shape.columns)


def _columns(places: Collection[Place]) -> tuple[list[int], list[str]]:
    return [tbl for tbl, _ in places], [key for _, key in places]


# --- writing ----------------------------------------------------------------------------------
def _staged(
    key: str, row: Row, incoming: Change, kept: Kept, shapes: Mapping[int, Shape]
) -> tuple[Any, ...]:
    """origin, position, ordinal, at, shape, op, key, image: under the name of what came in."""
    version = incoming.version
    told = kept.rows[version]
    shape = shapes[told["shape"]]
    if row.image is not None:
        shape = fitting(row.image, kept, shapes)
    return (
        version.origin,
        version.position,
        version.ordinal,
        told["at"],
        shape.shape,
        "D" if row.image is None else "I",
        key,
        literal_of(row.image, shape),
    )


def fitting(image: Image, kept: Kept, shapes: Mapping[int, Shape]) -> Shape:
    """The newest shape all of whose columns a row has; the base's is there at the latest."""
    newest = [kept.rows[c.version]["shape"] for c in reversed(by_version(kept.changes))]
    candidates = [shapes[number] for number in (*newest, kept.beneath()[0])]
    return next(
        (shape for shape in candidates if all(name in image for name in shape.columns)),
        candidates[0],
    )


def _records(
    tbl: int,
    key: str,
    text: str,
    row: Row,
    note: str,
    incoming: Change,
    kept: Kept,
    names: Mapping[int, str],
) -> list[tuple[Any, ...]]:
    others = [c for c in kept.changes if c.version != incoming.version]
    strategy = strategy_of(text, names)
    told = conflicts(
        strategy, others, incoming, row, name=lambda origin: names.get(origin, str(origin))
    )
    row_of = (tbl, key)
    return [
        (*row_of, c.kind, text, c.winner, c.reason + note, _state(c, note), *_both(c, kept))
        for c in told
    ]


def _state(conflict: Conflict, note: str) -> str:
    return "open" if conflict.parked or "failed" in note else "resolved"


def _both(one: Conflict, kept: Kept) -> tuple[Any, ...]:
    first, second = kept.rows[one.kept.version], kept.rows[one.incoming.version]
    return (
        first["origin"],
        first["position"],
        first["hlc"],
        one.kept.op,
        first["shape"],
        None if one.kept.removes else first["image"],
        second["origin"],
        second["position"],
        second["ordinal"],
        second["hlc"],
        one.incoming.op,
        second["shape"],
        None if one.incoming.removes else second["image"],
    )


def merging_of(batches: Iterable[Batch]) -> tuple[list[Batch], list[Batch]]:
    """The batches that are decided by version alone, and those that are merged."""
    plain: list[Batch] = []
    merging: list[Batch] = []
    for batch in batches:
        merges = is_merging(batch.target.strategy) and all(shape.key for _, shape in batch.parts)
        (merging if merges else plain).append(batch)
    return plain, merging

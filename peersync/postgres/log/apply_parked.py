"""Applies what waited for a table, once the table fits.

What waits is a list of changes in the order of their versions, of one or more origins. It is
applied as a run is, against what the log has kept of the rows since, in one transaction; newer
changes of the table take their turn behind it, because parking and resuming lock the same row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from peersync.core.names import TableName
from peersync.postgres.log.apply_conflicts import (
    drop_losers,
    find_clashes,
    keep_window,
    record_clashes,
)
from peersync.postgres.log.apply_session import Session
from peersync.postgres.log.apply_write import Batch, Writer
from peersync.postgres.log.members import read_vector
from peersync.postgres.log.parking import Parked
from peersync.postgres.log.rows import ShapeLike, read_shapes, read_target
from peersync.postgres.log.staging import ANALYZE_FROM, IN, compact_sql, shapes_sql

_STAGE: Final = f"""
INSERT INTO {IN} (origin, position, ordinal, at, shape, op, key, image, old)
SELECT origin, position, ordinal, changed_at, shape, op, key, image, old FROM peersync.quarantine
 WHERE tbl = $1 AND state = 'waiting' AND cause = 'table'
 ORDER BY hlc, origin, position, ordinal"""
_HEADS: Final = """
INSERT INTO peersync_tx (origin, position, hlc, seen)
SELECT q.origin, q.position, min(q.hlc), min(t.seen::text)::jsonb
  FROM peersync.quarantine AS q LEFT JOIN peersync.transaction AS t USING (origin, position)
 WHERE q.tbl = $1 AND q.state = 'waiting' AND q.cause = 'table'
 GROUP BY q.origin, q.position"""


@dataclass(frozen=True)
class Resumed:
    """A table that takes changes again."""

    name: TableName
    changes: int
    conflicts: int
    quarantined: int


async def resume(session: Session, parked: Parked) -> Resumed | None:
    """None where the table still does not fit: its reason is written anew, if it changed."""
    if parked.misfit is not None:
        await session.execute("repark", parked.tbl, str(parked.misfit))
        return None
    conn = session.conn
    async with session.transaction(parked.waiting):
        await session.fetch("lock_parked", parked.tbl)
        await conn.execute(_STAGE, parked.tbl)
        await conn.execute(_HEADS, parked.tbl)
        groups = await session.survey(IN)
        shapes: dict[int, ShapeLike] = dict(await read_shapes(conn, [g.shape for g in groups]))
        await session.learn(shapes.values())
        target = await read_target(conn, parked.tbl)
        batch = Batch(target, tuple((group, shapes[group.shape]) for group in groups))
        tables = {shape: (parked.tbl, parked.name) for shape in shapes}
        changes, conflicts = sum(group.changes for group in groups), 0
        writer = Writer(conn, (batch,), tables, survivors=True)
        if groups:
            await session.execute("resumed", parked.tbl)
            conflicts = await _settle(session, batch, tables, changes)
            await writer.write()
            await writer.supersede()
            if not session.replica_role:
                await session.execute("forget_own")
        elif not groups:
            await session.execute("resumed", parked.tbl)
    return Resumed(parked.name, changes, conflicts, writer.quarantined)


async def _settle(
    session: Session, batch: Batch, tables: dict[int, tuple[int, TableName]], changes: int
) -> int:
    """The last change of each row, and of those the ones that nothing kept has overtaken."""
    conn, shapes = session.conn, shapes_sql(tables)
    groups = [group for group, _ in batch.parts]
    for statement in compact_sql(shapes, groups):
        await conn.execute(statement)
    if changes > ANALYZE_FROM:
        await conn.execute(f"ANALYZE {IN}")
    await session.fetch("publish")
    everything = dict.fromkeys(await read_vector(conn), 0)
    cleared = [batch.target.tbl or 0] if any(g.truncated is not None for g in groups) else []
    if not await keep_window(conn, everything, None, [batch.target.tbl or 0], cleared, changes):
        return 0
    if not await find_clashes(conn, shapes):
        return 0
    conflicts = await record_clashes(conn, shapes)
    await drop_losers(conn)
    return conflicts

"""Applies what waited for a table, once the table fits.

What waits is a list of changes in the order of their versions, of one or more origins. It is
applied as a run is, against what the log has kept of the rows since, in one transaction; newer
changes of the table take their turn behind it, because parking and resuming lock the same row.

What its origin made before it altered the table is applied in the shape that it had afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from peersync.core.names import TableName
from peersync.postgres.log.apply_session import Session
from peersync.postgres.log.apply_settle import Settling
from peersync.postgres.log.parking import Parked, misfit, outlive
from peersync.postgres.log.reshape import Later, later_shape, renames, reshape
from peersync.postgres.log.rows import ShapeLike, Target, read_shapes, read_target
from peersync.postgres.log.staging import IN

_STAGE: Final = f"""
INSERT INTO {IN} (origin, position, ordinal, at, shape, op, key, image, old)
SELECT origin, position, ordinal, changed_at, shape, op, key, image, old FROM peersync.quarantine
 WHERE tbl = $1 AND state = 'waiting' AND cause = 'table'
 ORDER BY hlc, origin, position, ordinal"""
# Without its `seen`, when its transaction has left the log, a change is judged by version alone.
_HEADS: Final = """
INSERT INTO peersync_tx (origin, position, hlc, seen)
SELECT q.origin, q.position, min(q.hlc), min(t.seen::text)::jsonb
  FROM peersync.quarantine AS q LEFT JOIN peersync.transaction AS t USING (origin, position)
 WHERE q.tbl = $1 AND q.state = 'waiting' AND q.cause = 'table'
 GROUP BY q.origin, q.position"""

_LOST: Final = (
    "it is of a time before the columns or the key of {} were altered, and does not tell which row "
    "it is for now. What helps: change that row at its origin, then peersync quarantine skip"
)
_UNBUILT: Final = "the row is larger than any text its server could build"


@dataclass(frozen=True)
class Resumed:
    """A table that takes changes again; `quarantined`: rows of it that it refused."""

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
        target = await read_target(conn, parked.tbl)
        if target.state == "excluded":
            await session.execute("left_out", parked.tbl)
        await outlive(conn, target, parked.outlived)
        vector = await session.vector()
        later = await _later(session, parked, target)
        await conn.execute(_STAGE, parked.tbl)
        await conn.execute(_HEADS, parked.tbl)
        for one in later:
            await reshape(conn, one, target)
        groups = await session.survey(IN)
        shapes: dict[int, ShapeLike] = dict(await read_shapes(conn, [g.shape for g in groups]))
        await session.learn(shapes.values())
        changes = sum(group.changes for group in groups)
        settling = Settling(
            session, shapes, origin=None, vector=vector, changes=changes, heads=_put
        )
        await session.execute("resumed", parked.tbl)
        if groups:
            targets = await settling.targets(list(shapes.values()))
            batches = settling.batches(groups, targets)
            await settling.write(batches, {}, supersede=True)
    if settling.outcome.parked:
        return None
    outcome = settling.outcome
    return Resumed(parked.name, changes, outcome.conflicts, outcome.quarantined)


async def _put() -> None:
    """The heads are staged already."""


async def _later(session: Session, parked: Parked, target: Target) -> list[Later]:
    """Shapes that fit no more, and what becomes of them; what has no place waits alone."""
    found: dict[int, Later] = {}
    for chain in parked.chains:
        for n, shape in enumerate(chain[:-1]):
            renamed = any(map(renames, chain[n:], chain[n + 1 :]))
            if shape.shape not in found and (renamed or misfit(target, shape) is not None):
                found[shape.shape] = await later_shape(session.conn, chain[n:], target)
    await session.learn(later.new for later in found.values())
    for later in found.values():
        if later.lost:
            args = (parked.tbl, later.old.shape, list(later.lost), _LOST.format(target.name))
            await session.execute("aside", *args)
    for number in {shape.shape for chain in parked.chains for shape in chain}:
        await session.execute("aside", parked.tbl, number, ["X"], _UNBUILT)
    return list(found.values())

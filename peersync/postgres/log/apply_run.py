"""One run of incoming transactions becomes one transaction here.

Owns its beginning and its end: the origin is locked and looked at first, so that a run is applied
once whoever tries; what another member may still need is kept; what no table can take is put
aside; and how far the origin is stands in the same commit as its rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from peersync.core.names import TableName
from peersync.core.order.plan import Run
from peersync.postgres.log.apply_session import Session
from peersync.postgres.log.apply_settle import Outcome, Settling
from peersync.postgres.log.apply_statements import Batch
from peersync.postgres.log.apply_write import Writer
from peersync.postgres.log.decided import apply_decided
from peersync.postgres.log.members import encode_vector, read_members
from peersync.postgres.log.membership import apply_event, counting
from peersync.postgres.log.oneway import note_direction
from peersync.postgres.log.parking import misfit, park
from peersync.postgres.log.rows import ShapeLike, Target
from peersync.postgres.log.staging import IN, Group, check, shapes_sql, transaction_rows
from peersync.wire.feed import TransactionHead

Fill = Callable[[], Awaitable[int]]
_COUNTS: Final = ("member", "joining")
_KEEP_HEADS: Final = """
INSERT INTO peersync.transaction (origin, position, hlc, kind, changes, bytes, at, seen, info)
SELECT t.origin, t.position, t.hlc, t.kind, t.changes, coalesce(b.bytes, 0), t.at, t.seen, t.info
  FROM peersync_tx AS t
  LEFT JOIN (SELECT position, sum(coalesce(octet_length(key), 0) + coalesce(octet_length(image), 0)
                                  + coalesce(octet_length(old), 0)) AS bytes
               FROM peersync_in GROUP BY position) AS b USING (position)"""
_KEEP_CHANGES: Final = """
INSERT INTO peersync.relayed (origin, position, ordinal, at, tbl, shape, op, key, image, old)
SELECT i.origin, i.position, i.ordinal, i.at::timestamptz, s.tbl, i.shape, i.op, i.key,
       i.image, i.old
  FROM peersync_in AS i JOIN {shapes} USING (shape)"""


class Overtaken(Exception):
    """Another session has applied this origin meanwhile: plan anew."""


async def apply_run(
    session: Session,
    run: Run,
    heads: Mapping[tuple[int, int], TransactionHead],
    shapes: Mapping[int, ShapeLike],
    fill: Fill,
) -> Outcome:
    """Applies it and commits. `fill` stages its changes, inside the transaction.

    Raises Overtaken, ProtocolError, and the driver's errors.
    """
    async with session.transaction(run.changes):
        return await _Apply(session, run, heads, shapes).run(fill)


class _Apply:
    def __init__(
        self,
        session: Session,
        run: Run,
        heads: Mapping[tuple[int, int], TransactionHead],
        shapes: Mapping[int, ShapeLike],
    ) -> None:
        self._session = session
        self._conn = session.conn
        self._run = run
        self._heads = heads
        self._shapes = shapes
        self._heads_put = False

    async def run(self, fill: Fill) -> Outcome:
        run, outcome = self._run, Outcome()
        vector, keep, refused = await self._begin()
        staged = await fill()
        if keep:
            await self._put_heads()
            await self._conn.execute(_KEEP_HEADS)
        if (run.changes or staged) and self._session.direction != "give":
            outcome = await self._changes(vector, keep, refused)
        for t in run.transactions:
            if t.kind == "c":  # also of a conflict that this very run has brought
                info = self._heads[t.origin, t.position].info
                await apply_decided(self._conn, t.origin, t.position, t.seen, info)
        last = run.transactions[-1]
        await self._session.execute(
            "finish", last.origin, last.position, last.hlc, encode_vector(last.seen), keep
        )
        return outcome

    async def _put_heads(self) -> None:
        """Stages them, once: few runs need them."""
        if not self._heads_put:
            self._heads_put = True
            rows = transaction_rows(self._run.transactions, self._heads)
            await self._session.execute("put_transactions", *rows)

    async def _begin(self) -> tuple[dict[int, int], bool, bool]:
        """What is applied here, whether others may need the run, whether any row is refused."""
        run = self._run
        states = await self._session.fetch("begin", run.origin)
        vector = {row["origin"]: row["applied"] for row in states}
        if vector.get(run.origin) != run.first - 1:
            raise Overtaken
        for t in run.transactions:
            if t.kind in ("j", "l", "e", "w"):
                info = self._heads[t.origin, t.position].info
                await apply_event(self._conn, t.origin, t.position, t.kind, info, t.seen)
                states = await self._session.fetch("begin", run.origin)
            elif t.kind == "b":
                await note_direction(self._conn, t.origin, self._heads[t.origin, t.position].info)
        ours = (self._session.origin, run.origin)
        counts = [m["origin"] for m in states if m["state"] in _COUNTS]
        if any(m["state"] == "expired" for m in states):  # of whom something may still come
            counts = [m.origin for m in counting(await read_members(self._conn))]
        keep = any(origin not in ours for origin in counts)
        keep = keep or any(row["merging"] for row in states)
        keep = keep and self._session.direction != "give"  # it has no rows to relay
        return vector, keep, any(row["refused"] for row in states)

    async def _changes(self, vector: dict[int, int], keep: bool, refused: bool) -> Outcome:
        run = self._run
        groups = await self._session.survey(IN)
        check(groups, self._shapes, run)
        settling = Settling(
            self._session,
            self._shapes,
            origin=run.origin,
            vector=vector,
            changes=run.changes,
            heads=self._put_heads,
        )
        targets = await settling.targets([self._shapes[g.shape] for g in groups])
        if keep:
            await self._conn.execute(_KEEP_CHANGES.format(shapes=shapes_sql(settling.tables)))
        batches = await self._fitting(settling, groups, targets)
        if batches:
            await settling.write(batches, run.least_seen, supersede=refused)
        elif settling.outcome.parked:  # what was written here so far has not seen what now waits
            await self._session.fetch("publish")
        return settling.outcome

    async def _fitting(
        self, settling: Settling, groups: list[Group], targets: Mapping[TableName, Target]
    ) -> list[Batch]:
        """What can be written; the changes of the other tables are put aside."""
        outcome = settling.outcome
        aside = Writer(self._conn, (), settling.tables, self._put_heads)
        waiting = self._waiting(groups, targets)
        for name, reason in waiting.items():
            await park(self._conn, targets[name].tbl or 0, reason)
            await aside.quarantine(_of_table(settling, name), None, reason, "table")
            outcome.parked.add(name)
        if any(group.unbuilt for group in groups):
            outcome.quarantined += await aside.quarantine(
                "i.op = 'X'", None, "the row is larger than any text its server could build"
            )
        excluded = {name for name, target in targets.items() if target.state == "excluded"}
        for name in excluded:
            await self._conn.execute(f"DELETE FROM {IN} AS i WHERE {_of_table(settling, name)}")
        left = {n: t for n, t in targets.items() if n not in waiting and n not in excluded}
        return await self._session.in_order(settling.batches(groups, left))

    def _waiting(
        self, groups: list[Group], targets: Mapping[TableName, Target]
    ) -> dict[TableName, str]:
        """Tables that cannot take what came for them, and why."""
        reasons: dict[TableName, str] = {}
        for group in groups:
            shape = self._shapes[group.shape]
            name = TableName(shape.schema, shape.table)
            found = misfit(targets[name], shape)
            reason = str(found) if found else targets[name].parked
            if reason and targets[name].state != "excluded":
                reasons.setdefault(name, reason)
        return reasons


def _of_table(settling: Settling, name: TableName) -> str:
    numbers = [str(shape) for shape, (_, table) in settling.tables.items() if table == name]
    return f"i.shape IN ({', '.join(numbers)})"

"""One run of incoming transactions becomes one transaction here.

Owns the order of the steps, which is what makes it right: the origin is locked and looked at
first (so a run is applied once, whoever tries), rows are written, and only then, with their locks
held and nobody publishing, it looks whether a change of ours or of another applier got its place
meanwhile (ORDER R2). Without that look such a change would later count as newer than the rows
that had overwritten it. What is found is decided by version, written, and looked at again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from peersync.core.names import TableName
from peersync.core.order.plan import Run
from peersync.postgres.log.apply_conflicts import (
    drop_losers,
    find_clashes,
    forget_window,
    keep_window,
    record_clashes,
    stage_winners,
)
from peersync.postgres.log.apply_session import Session
from peersync.postgres.log.apply_write import Batch, Writer
from peersync.postgres.log.members import encode_vector
from peersync.postgres.log.membership import apply_event
from peersync.postgres.log.parking import misfit, number_tables, park
from peersync.postgres.log.rows import ShapeLike, Target, read_shapes
from peersync.postgres.log.staging import (
    AGAIN,
    ANALYZE_FROM,
    IN,
    Group,
    check,
    compact_sql,
    shapes_sql,
    transaction_rows,
)
from peersync.wire.feed import TransactionHead

Fill = Callable[[], Awaitable[int]]
_COUNTS = ("member", "joining")
_RELAY = """
INSERT INTO peersync.transaction (origin, position, hlc, kind, changes, bytes, at, seen, info)
SELECT t.origin, t.position, t.hlc, t.kind, t.changes, coalesce(b.bytes, 0), t.at, t.seen, t.info
  FROM peersync_tx AS t
  LEFT JOIN (SELECT position, sum(coalesce(octet_length(key), 0) + coalesce(octet_length(image), 0)
                                  + coalesce(octet_length(old), 0)) AS bytes
               FROM peersync_in GROUP BY position) AS b USING (position);
INSERT INTO peersync.relayed (origin, position, ordinal, at, tbl, shape, op, key, image, old)
SELECT i.origin, i.position, i.ordinal, i.at, s.tbl, i.shape, i.op, i.key, i.image, i.old
  FROM peersync_in AS i JOIN {shapes} USING (shape)"""
_NOTHING_STAGED = "(VALUES (0::bigint, 0, '', '')) AS s (shape, tbl, schema_name, table_name)"


class Overtaken(Exception):  # noqa: N818
    """Another session has applied this origin meanwhile: plan anew."""


@dataclass
class Outcome:
    """What a run did. `parked`: tables whose changes wait since, or still do."""

    conflicts: int = 0
    quarantined: int = 0
    parked: set[TableName] = field(default_factory=set)


async def apply_run(
    session: Session,
    run: Run,
    heads: Mapping[tuple[int, int], TransactionHead],
    shapes: Mapping[int, ShapeLike],
    fill: Fill,
) -> Outcome:
    """Applies it and commits. Raises Overtaken, ProtocolError, and the driver's errors."""
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
        self._shapes = dict(shapes)
        self._vector: dict[int, int] = {}
        self._outcome = Outcome()
        self._keep = False
        self._refused = False

    async def run(self, fill: Fill) -> Outcome:
        await self._begin()
        staged = await fill()
        if self._run.changes or staged or self._keep:
            rows = transaction_rows(self._run.transactions, self._heads)
            await self._session.execute("put_transactions", *rows)
        if self._run.changes or staged:
            await self._changes()
        elif self._keep:
            await self._conn.execute(_RELAY.format(shapes=_NOTHING_STAGED))
        last = self._run.transactions[-1]
        await self._session.execute(
            "finish", last.origin, last.position, last.hlc, encode_vector(last.seen), self._keep
        )
        return self._outcome

    async def _begin(self) -> None:
        run = self._run
        states = await self._session.fetch("begin", run.origin)
        self._vector = {row["origin"]: row["applied"] for row in states}
        self._refused = any(row["refused"] for row in states)
        if self._vector.get(run.origin) != run.first - 1:
            raise Overtaken
        for t in run.transactions:
            if t.kind in ("j", "l", "e"):
                info = self._heads[t.origin, t.position].info
                await apply_event(self._conn, t.origin, t.position, t.kind, info, t.seen)
                states = await self._session.fetch("begin", run.origin)
        ours = (self._session.origin, run.origin)
        self._keep = any(m["state"] in _COUNTS and m["origin"] not in ours for m in states)

    # --- the changes --------------------------------------------------------------------
    async def _changes(self) -> None:
        groups = await self._session.survey(IN)
        check(groups, self._shapes, self._run)
        if self._run.changes > ANALYZE_FROM:
            await self._conn.execute(f"ANALYZE {IN}")
        targets = await self._targets(self._shapes[g.shape] for g in groups)
        self._number(targets)
        if self._keep:
            await self._conn.execute(_RELAY.format(shapes=shapes_sql(self._tables)))
        batches = await self._fitting(groups, targets)
        if batches:
            await self._write(batches)

    async def _write(self, batches: list[Batch]) -> None:
        groups = [group for batch in batches for group, _ in batch.parts]
        shapes = shapes_sql(self._tables)
        compact = compact_sql(shapes, groups)
        seen = self._run.least_seen
        after = {
            origin: seen.get(origin, 0)
            for origin, applied in self._vector.items()
            if origin != self._run.origin and applied > seen.get(origin, 0)
        }
        survivors = False
        if after:
            if compact:
                await self._conn.execute(";\n".join(compact))
            compact = []
            survivors = await self._clash(after, self._vector, batches) > 0
            if survivors:
                await drop_losers(self._conn)
        writer = self._writer(batches, IN, survivors=survivors)
        await writer.write(compact)
        if self._refused:
            await writer.supersede()
        self._count(writer)
        if not self._session.replica_role:
            await self._session.execute("forget_own")
        await self._look(batches)

    async def _clash(
        self, after: Mapping[int, int], upto: Mapping[int, int] | None, batches: list[Batch]
    ) -> int:
        """Pairs of staged and kept changes in conflict, which are told of; gives how many."""
        tables = [batch.target.tbl or 0 for batch in batches]
        cleared = [
            batch.target.tbl or 0
            for batch in batches
            if any(group.truncated is not None for group, _ in batch.parts)
        ]
        kept = await keep_window(self._conn, after, upto, tables, cleared, self._run.changes)
        if not kept:
            return 0
        shapes = shapes_sql(self._tables)
        clashes = await find_clashes(self._conn, shapes)
        if clashes:
            self._outcome.conflicts += await record_clashes(self._conn, shapes)
        return clashes

    async def _look(self, batches: list[Batch]) -> None:
        """R2: whose change got a place while this run was being written."""
        while True:
            await self._session.fetch("publish")
            now = {row["origin"]: row["applied"] for row in await self._session.fetch("vector_now")}
            after = {
                origin: self._vector.get(origin, 0)
                for origin, applied in now.items()
                if origin != self._run.origin and applied > self._vector.get(origin, 0)
            }
            if not after:
                return
            self._vector.update({origin: now[origin] for origin in after})
            await forget_window(self._conn)
            if not await self._clash(after, None, batches):
                return
            await stage_winners(self._conn)
            await self._write_again()

    async def _write_again(self) -> None:
        groups = await self._session.survey(AGAIN)
        unknown = [g.shape for g in groups if g.shape not in self._shapes]
        if unknown:
            self._shapes.update(await read_shapes(self._conn, unknown))
        targets = await self._targets(self._shapes[g.shape] for g in groups)
        self._number(targets)
        writer = self._writer(self._batches(groups, targets), AGAIN)
        await writer.write()
        self._count(writer)
        if not self._session.replica_role:
            await self._session.execute("forget_own")

    # --- tables -------------------------------------------------------------------------
    async def _targets(self, shapes: Iterable[ShapeLike]) -> dict[TableName, Target]:
        """The tables as they are now; those that only the peer knows get their number."""
        names = {TableName(shape.schema, shape.table) for shape in shapes}
        targets = await self._session.targets(names)
        new = [target.name for target in targets.values() if target.tbl is None]
        if new:
            numbers = await number_tables(self._conn, new)
            targets.update({name: replace(targets[name], tbl=numbers[name]) for name in new})
        return targets

    def _number(self, targets: Mapping[TableName, Target]) -> None:
        self._tables = {
            number: (targets[name].tbl or 0, name)
            for number, shape in self._shapes.items()
            if (name := TableName(shape.schema, shape.table)) in targets
        }

    async def _fitting(
        self, groups: list[Group], targets: Mapping[TableName, Target]
    ) -> list[Batch]:
        """What can be written; the changes of the other tables are put aside."""
        reasons: dict[TableName, str] = {}
        for group in groups:
            shape = self._shapes[group.shape]
            name = TableName(shape.schema, shape.table)
            found = misfit(targets[name], shape)
            reason = str(found) if found else targets[name].parked
            if reason and targets[name].state != "excluded":
                reasons.setdefault(name, reason)
        writer = self._writer((), IN)
        for name, reason in reasons.items():
            await park(self._conn, targets[name].tbl or 0, reason)
            await writer.quarantine(self._of_table(name), None, reason, "table")
            self._outcome.parked.add(name)
        if any(group.unbuilt for group in groups):
            self._outcome.quarantined += await writer.quarantine(
                "i.op = 'X'", None, "the row is larger than any text its server could build"
            )
        excluded = {name for name, target in targets.items() if target.state == "excluded"}
        for name in excluded:
            await self._conn.execute(f"DELETE FROM {IN} AS i WHERE {self._of_table(name)}")
        left = {
            name: target
            for name, target in targets.items()
            if name not in reasons and name not in excluded
        }
        return await self._session.in_order(self._batches(groups, left))

    def _of_table(self, name: TableName) -> str:
        numbers = [str(shape) for shape, (_, table) in self._tables.items() if table == name]
        return f"i.shape IN ({', '.join(numbers)})"

    def _batches(self, groups: Iterable[Group], targets: Mapping[TableName, Target]) -> list[Batch]:
        parts: dict[TableName, list[tuple[Group, ShapeLike]]] = {}
        for group in groups:
            shape = self._shapes[group.shape]
            name = TableName(shape.schema, shape.table)
            if name in targets and group.changes > group.unbuilt:
                parts.setdefault(name, []).append((group, shape))
        return [Batch(targets[name], tuple(found)) for name, found in parts.items()]

    def _writer(self, batches: Iterable[Batch], table: str, *, survivors: bool = False) -> Writer:
        return Writer(self._conn, tuple(batches), self._tables, table=table, survivors=survivors)

    def _count(self, writer: Writer) -> None:
        self._outcome.quarantined += writer.quarantined
        self._outcome.parked |= writer.parked

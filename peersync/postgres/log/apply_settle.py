"""What is staged becomes rows, against what the log has kept of them.

The order of the steps is what makes it right. What is known of conflicts is decided first, the
rows are written, and only then, with their locks held and nobody publishing, it looks whether a
change of ours or of another applier got its place meanwhile (ORDER R2). Without that look such a
change would later count as newer than the rows that had overwritten it. What the look finds is
decided by version, written over, and looked at again. Rows that are merged (`apply_merge`) are
decided there only, each from all its changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from peersync.core.names import TableName
from peersync.postgres.log.apply_conflicts import (
    drop_losers,
    find_clashes,
    forget_window,
    keep_window,
    record_clashes,
    stage_winners,
)
from peersync.postgres.log.apply_merge import Merging, Place, merging_of
from peersync.postgres.log.apply_session import Session
from peersync.postgres.log.apply_statements import Batch
from peersync.postgres.log.apply_write import Heads, Writer
from peersync.postgres.log.dirty import mark_staged
from peersync.postgres.log.oneway import give_way, last_withheld
from peersync.postgres.log.parking import number_tables
from peersync.postgres.log.rows import ShapeLike, Target, read_shapes
from peersync.postgres.log.staging import (
    AGAIN,
    ANALYZE_FROM,
    IN,
    Group,
    compact_sql,
    shapes_sql,
)


@dataclass
class Outcome:
    """What was done. `parked`: tables whose changes wait since, or still do."""

    conflicts: int = 0
    quarantined: int = 0
    parked: set[TableName] = field(default_factory=set)


class Settling:
    """Writes staged changes inside an open transaction.

    `origin` is whose changes they are, None for several: its own kept changes are none that they
    could be in conflict with. `vector` is what was applied here when the transaction began. `heads`
    stages the heads of their transactions, unless that was done: only who looks for conflicts
    needs them, as it needs one change a key.
    """

    def __init__(
        self,
        session: Session,
        shapes: Mapping[int, ShapeLike],
        *,
        origin: int | None,
        vector: Mapping[int, int],
        changes: int,
        heads: Heads,
    ) -> None:
        self.outcome = Outcome()
        self.tables: dict[int, tuple[int, TableName]] = {}
        self._session = session
        self._conn = session.conn
        self._shapes = dict(shapes)
        self._origin = origin
        self._vector = dict(vector)
        self._changes = changes
        self._heads = heads
        self._compact: list[str] = []
        self._analyzed = False
        self._merging = Merging(session, origin)

    async def write(
        self, batches: list[Batch], seen: Mapping[int, int], *, supersede: bool
    ) -> None:
        """Decides and writes all that is staged of these tables, and looks.

        `seen`: what every staged change had seen at least. `supersede`: some row waits in
        quarantine, perhaps for one of these changes.
        """
        plain, merging = merging_of(batches)
        after = self._grown(self._vector, seen)
        if supersede or (after and self._receives):
            await self._analyze()
        pending: set[Place] = set()
        if merging and (after or self._origin is None):
            pending = await self._find(after, self._vector, merging)
            if pending:
                await self._merging.set_aside(pending, shapes_sql(self.tables))
        self._compact = compact_sql(
            shapes_sql(self.tables), [group for batch in batches for group, _ in batch.parts]
        )
        withheld = await last_withheld(self._conn) if self._receives else 0
        survivors = False
        if after and plain and await self._clash(after, self._vector, plain):
            survivors = True
            await drop_losers(self._conn)
        late = self._session.late
        writer = Writer(
            self._conn, batches, self.tables, self._heads, survivors=survivors, late=late
        )
        if supersede and any(g.keyless and g.deletes for batch in batches for g, _ in batch.parts):
            for statement in self._compact:
                await self._conn.execute(statement)
            self._compact = []
            await writer.take_waiting()
        if await self._write_with(writer, self._compact):
            self._compact = []
        if supersede:
            await writer.supersede()
        if self._receives:
            await self._over_own(batches, withheld)
        await self._look(plain, merging, pending)
        self.outcome.conflicts += await self._merging.record()

    async def targets(self, shapes: Iterable[ShapeLike]) -> dict[TableName, Target]:
        """The tables as they are now; those that only a peer knows get their number."""
        names = {TableName(shape.schema, shape.table) for shape in shapes}
        targets = await self._session.targets(names)
        new = [target.name for target in targets.values() if target.tbl is None]
        if new:
            numbers = await number_tables(self._conn, new)
            targets.update({name: replace(targets[name], tbl=numbers[name]) for name in new})
        self.tables = {
            number: (targets[name].tbl or 0, name)
            for number, shape in self._shapes.items()
            if (name := TableName(shape.schema, shape.table)) in targets
        }
        return targets

    def batches(self, groups: Iterable[Group], targets: Mapping[TableName, Target]) -> list[Batch]:
        """What is staged by table; what no server could build is left out."""
        parts: dict[TableName, list[tuple[Group, ShapeLike]]] = {}
        for group in groups:
            shape = self._shapes[group.shape]
            name = TableName(shape.schema, shape.table)
            if name in targets and group.changes > group.unbuilt:
                parts.setdefault(name, []).append((group, shape))
        return [Batch(targets[name], tuple(found)) for name, found in parts.items()]

    # --- conflicts ----------------------------------------------------------------------
    def _grown(self, now: Mapping[int, int], then: Mapping[int, int]) -> dict[int, int]:
        """Origins that are further now, with where they were then."""
        return {
            origin: then.get(origin, 0)
            for origin, applied in now.items()
            if origin != self._origin and applied > then.get(origin, 0)
        }

    async def _clash(
        self, after: Mapping[int, int], upto: Mapping[int, int] | None, batches: list[Batch]
    ) -> int:
        """Pairs of staged and kept changes in conflict, which are told of; gives how many."""
        tables = [batch.target.tbl or 0 for batch in batches]
        cleared = [batch.target.tbl or 0 for batch in batches if batch.truncates]
        self._session.window_used = True
        if not await keep_window(self._conn, after, upto, tables, cleared, self._changes):
            return 0
        await self._analyze()
        await self._heads()
        for statement in self._compact:
            await self._conn.execute(statement)
        self._compact = []
        shapes = shapes_sql(self.tables)
        clashes = await find_clashes(self._conn, shapes)
        if clashes:
            self.outcome.conflicts += await record_clashes(self._conn, shapes)
        return clashes

    async def _find(
        self, after: Mapping[int, int], upto: Mapping[int, int] | None, batches: list[Batch]
    ) -> set[Place]:
        """Rows to be merged. The stages of conflicts are empty afterwards."""
        self._session.window_used = True
        await self._analyze()
        await self._heads()
        shapes = shapes_sql(self.tables)
        return await self._merging.find(after, upto, batches, shapes, self._changes)

    async def _analyze(self) -> None:
        """Once, for joins; what only reads the staged rows through does without."""
        if self._changes > ANALYZE_FROM and not self._analyzed:
            self._analyzed = True
            await self._conn.execute(f"ANALYZE {IN}")

    async def _look(self, plain: list[Batch], merging: list[Batch], pending: set[Place]) -> None:
        """R2: whose change got a place while these were being written. `pending`: to be merged."""
        while True:
            await self._session.fetch("publish")
            now = await self._session.vector()
            after = self._grown(now, self._vector)
            if not after and not pending:
                return
            self._vector.update({origin: now[origin] for origin in after})
            await forget_window(self._conn)
            if after and merging:
                pending |= await self._find(after, None, merging)
            staged = 0
            if after and plain and await self._clash(after, None, plain):
                staged = await stage_winners(self._conn)
            if pending:
                self._session.window_used = True
                staged += await self._merging.stage(pending, merging)
                pending = set()
            if not staged:
                return
            await self._write_again()
            if self._receives:
                await self._give_way(AGAIN)

    async def _over_own(self, batches: list[Batch], known: int) -> None:
        """Own changes of these rows give way. `known`: the last that was withheld before.

        One that came since may have got past the write, where its row was not there to be locked:
        then all is written once more. Rows without a key take nobody's place.
        """
        keyed = [b for b in batches if not any(group.keyless for group, _ in b.parts)]
        late = self._session.late
        while True:
            await self._session.fetch("publish")
            last = await self._give_way(IN)
            if last <= known or not keyed:
                return
            known = last
            writer = Writer(self._conn, keyed, self.tables, self._heads, late=late)
            if await self._write_with(writer, self._compact):
                self._compact = []

    async def _give_way(self, table: str) -> int:
        """The highest id of what gave way."""
        await self._heads()
        conflicts, last = await give_way(self._conn, table, shapes_sql(self.tables))
        self.outcome.conflicts += conflicts
        return last

    @property
    def _receives(self) -> bool:
        return self._session.direction == "receive"

    async def _write_again(self) -> None:
        groups = await self._session.survey(AGAIN)
        unknown = [group.shape for group in groups if group.shape not in self._shapes]
        if unknown:
            self._shapes.update(await read_shapes(self._conn, unknown))
            await self._session.learn(self._shapes[shape] for shape in unknown)
        targets = await self.targets([self._shapes[group.shape] for group in groups])
        batches = await self._session.in_order(self.batches(groups, targets))
        late = self._session.late
        writer = Writer(self._conn, batches, self.tables, self._heads, table=AGAIN, late=late)
        await self._write_with(writer, [])

    async def _write_with(self, writer: Writer, compact: list[str]) -> bool:
        if await self._session.fetchval("proofs_kept"):
            shapes, quiet = shapes_sql(self.tables), self._session.replica_role
            await mark_staged(self._conn, writer.staged_in, shapes, quiet=quiet)
        compacted = await writer.write(compact)
        if not self._session.replica_role:
            await self._session.execute("forget_own")
        self.outcome.quarantined += writer.quarantined
        self.outcome.parked |= writer.parked
        return compacted

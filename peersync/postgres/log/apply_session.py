"""The database session that applies: its settings, its temporary tables, its prepared queries.

It writes in the replica role where that is granted: triggers of the application stay quiet, and
ours do not catch as a new change what a peer sent. Without the grant foreign keys are checked as
rows are written, so tables are written parents first. Commits are durable whatever the role's
default is: peers prune what we say we have.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from peersync.core.names import TableName
from peersync.postgres.log.apply_statements import Batch
from peersync.postgres.log.late import LATE_KEYS, LateKey
from peersync.postgres.log.parking import note_shapes
from peersync.postgres.log.rows import ShapeLike, Target, ensure_fields, target_of
from peersync.postgres.log.staging import ANALYZE_FROM, CREATE, PREPARED, STAGES, Group
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries

_SQL: Final = {
    **PREPARED,
    **queries("apply"),
    "late_keys": LATE_KEYS,
    "publish": queries("publish")["publish"],
    "proofs_kept": queries("proof_blocks")["any"],
    "replica": queries("members")["replica"],
    "members": queries("members")["members"],
}
_TRUNCATE_AFTER: Final = 500  # runs whose rows were deleted one by one
# Temporary buffers hold a frame; a plan for a few rows must not be kept for many. An agent that is
# frozen in the middle of a run must not keep people from its rows.
_SETTINGS: Final = (
    "SET synchronous_commit = on; SET work_mem = '64MB'; SET temp_buffers = '32MB'; SET jit = off;"
    " SET idle_in_transaction_session_timeout = '15s'"
)

# What is kept for others is decided by who they are when a run begins: nobody is admitted between
# that and its commit (sql/queries/baseline.sql).
_GATE: Final = (
    "SELECT pg_catalog.pg_advisory_xact_lock_shared(x'70737963'::int, pg_catalog.hashtext('join'))"
)


class Session:
    """One connection. `origin` is this database's own; `replica_role`: triggers are quiet.

    `window_used`: the stages of conflicts are not empty. `direction`: see `oneway`. `late`: the
    deferrable constraints of the tables that `targets` was asked for, by oid.
    """

    def __init__(self, conn: asyncpg.Connection, origin: int, *, replica_role: bool) -> None:
        self.conn = conn
        self.origin = origin
        self.replica_role = replica_role
        self.window_used = False
        self.direction = "both"  # of this database, read for each frame
        self.late: dict[int, tuple[LateKey, ...]] = {}
        self._prepared: dict[str, Any] = {}
        self._known: set[int] = set()
        self._targets: dict[TableName, tuple[str, Target]] = {}
        self._since = 0

    @classmethod
    async def open(
        cls, stack: AsyncExitStack, database: Database, origin: int, lock_timeout_s: float
    ) -> Session:
        """A new connection, which lives as long as `stack`."""
        conn = await stack.enter_async_context(
            database.connect(
                "apply", what="applying changes of a peer", lock_timeout_s=lock_timeout_s
            )
        )
        may = bool(await conn.fetchval(_SQL["may_set_replica"]))
        role = "SET session_replication_role = replica; " if may else ""
        await conn.execute(f"{role}{_SETTINGS};\n{CREATE}")
        return cls(conn, origin, replica_role=may)

    async def fetch(self, name: str, *args: Any) -> list[Any]:
        """A named query, planned once: none of them touches a staging or a user's table."""
        found: list[Any] = await (await self._statement(name)).fetch(*args)
        return found

    async def fetchval(self, name: str, *args: Any) -> Any:
        return await (await self._statement(name)).fetchval(*args)

    async def execute(self, name: str, *args: Any) -> None:
        await (await self._statement(name)).fetch(*args)

    @asynccontextmanager
    async def transaction(self, rows: int = 0) -> AsyncIterator[None]:
        """One transaction, with empty stages. `rows` that it will stage: many are cut off whole."""
        self._since += 1 + rows
        many = rows > ANALYZE_FROM or self._since > _TRUNCATE_AFTER
        stages = STAGES if self.window_used else STAGES[:2]
        clean = [f"TRUNCATE {', '.join(STAGES)}"] if many else [f"DELETE FROM {t}" for t in stages]
        self.window_used = False
        if many:
            self._since = rows
        await self.conn.execute(";".join(["BEGIN ISOLATION LEVEL READ COMMITTED", _GATE, *clean]))
        try:
            yield
        except BaseException:
            self.window_used = True  # the emptying is taken back, too
            if not self.conn.is_closed():
                # a session that was told FATAL takes nothing more: what it did first is the error
                with suppress(asyncpg.InterfaceError, asyncpg.InternalClientError):
                    await self.conn.execute("ROLLBACK")
            raise
        await self.conn.execute("COMMIT")

    async def survey(self, table: str) -> list[Group]:
        """What is staged, by shape."""
        return [Group(**row) for row in await self.fetch(f"survey_{table}")]

    async def vector(self) -> dict[int, int]:
        """What is applied of every origin, as it is committed now."""
        return {row["origin"]: row["applied"] for row in await self.fetch("vector_now")}

    async def targets(self, names: Collection[TableName]) -> dict[TableName, Target]:
        """The tables as they are now. Read again only where something about them has changed."""
        schemas, tables = [n.schema for n in names], [n.name for n in names]
        stamps = {
            TableName(row["schema_name"], row["table_name"]): row["stamp"]
            for row in await self.fetch("stamps", schemas, tables)
        }
        old = [n for n in names if self._targets.get(n, ("",))[0] != stamps[n]]
        if old:
            rows = await self.fetch("targets", [n.schema for n in old], [n.name for n in old])
            found = [target_of(row) for row in rows]
            oids = [target.oid for target in found if target.oid]
            late = [LateKey(**row) for row in await self.fetch("late_keys", oids)] if oids else []
            for oid in oids:
                self.late[oid] = tuple(key for key in late if key.oid == oid)
            for target in found:
                self._targets[target.name] = (stamps[target.name], target)
        return {name: self._targets[name][1] for name in names}

    async def learn(self, shapes: Iterable[ShapeLike]) -> None:
        """Makes shapes of a frame known to this database, and the types to read them with."""
        new = [shape for shape in shapes if shape.shape not in self._known]
        if not new:
            return
        await ensure_fields(self.conn, {n for s in new for n in (len(s.columns), len(s.key))})
        await note_shapes(self.conn, new)
        self._known |= {shape.shape for shape in new}

    async def in_order(self, batches: Collection[Batch]) -> list[Batch]:
        """Parents before children, where the database will ask."""
        found = list(batches)
        if self.replica_role or len(found) < 2:
            return found
        rows = await self.fetch("references", [batch.target.oid for batch in found])
        parents: dict[int, set[int]] = {}
        for row in rows:
            parents.setdefault(row["child"], set()).add(row["parent"])
        ordered: list[Batch] = []
        while found:
            waiting = {batch.target.oid for batch in found}
            free = [b for b in found if not parents.get(b.target.oid or 0, set()) & waiting]
            ordered += free or found  # a cycle: as they came
            found = [batch for batch in found if free and batch not in free]
        return ordered

    async def _statement(self, name: str) -> Any:
        if name not in self._prepared:
            self._prepared[name] = await self.conn.prepare(_SQL[name])
        return self._prepared[name]

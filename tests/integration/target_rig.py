"""The second half of a full sync alone: pg_dump's output, staged and committed into a target.

No agents and no network: what a test asks of the final transaction takes half a second.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import psycopg

from peersync.agent.leftovers import stage_prefix
from peersync.core.names import TableName
from peersync.core.results import TableResult
from peersync.dump.pieces import Statement
from peersync.postgres import bulk
from peersync.postgres.catalog import DatabaseCatalog, read_catalog
from peersync.postgres.compared import Comparison, Seen, form_sql
from peersync.postgres.conninfo import resolve
from peersync.postgres.load import Loading, TableLoad, create_stages, load_part
from peersync.postgres.meanwhile import file_sql
from peersync.postgres.migrate import migrate
from peersync.postgres.restore import Final, commit_session
from peersync.postgres.schema import Definitions, drop_stages
from peersync.postgres.sqlfiles import queries, shipped
from peersync.wire.messages import Baseline
from tests.plugins.clusters import Database
from tests.plugins.compare import pg_dump

queries("catalog")  # read now: later, the loop would wait for a file
shipped()
Results = dict[str, TableResult]


@dataclass
class Session:
    """One sync that is staged: `commit` is the final transaction."""

    id: str
    connection: psycopg.Connection
    loading: Loading
    left_out: list[TableResult]
    created: Mapping[str, str]  # tables that this session creates: their definitions come later
    target: Database

    def commit(self, **options: Any) -> Results:
        given: dict[str, Any] = {
            "session": self.id,
            "fence": 1,
            "baseline": Baseline(
                node_id="a", snapshot="1:1:", taken_at="2026-01-01 00:00:00+00", vector={}
            ),
            "definitions": Definitions(partial=True),
            "left_out": self.left_out,
            "rest": (),
            "verify": True,
            "replica_role": True,
            "lock_timeout_s": 5,
            "restored": lambda load: None,
            "verified": lambda load: None,
            "look_back": self._look_back,
        }
        final = Final(**{**given, **options})
        return {r.name: r for r in commit_session(self.connection, self.loading, final)}

    def _look_back(self) -> AbstractContextManager[psycopg.Connection]:
        resolved = resolve(self.target.conninfo())
        return bulk.connect(resolved, "back", self.loading.stop, what="reading rows as they were")


@dataclass
class Rig:
    """`source` is dumped with pg_dump and taken into `target`, by the role of `target`."""

    source: Database
    target: Database
    sessions: list[str] = field(default_factory=list)

    @contextmanager
    def staged(
        self,
        *,
        blocked: Collection[str] = (),
        without: Collection[str] = (),
        delta: bool = False,
    ) -> Iterator[Session]:
        """`blocked` tables are left out by the plan, `without` are no part of the sync.

        `delta`: only the rows that differ are staged, as if the others had not been sent.
        """
        data = pg_dump(self.source, "--data-only").encode()
        catalog = asyncio.run(self._prepare(session := uuid.uuid4().hex))
        self.sessions.append(session)
        there = asyncio.run(_catalog_of(self.source)).tables
        loads = {}
        for number, name in enumerate(sorted(there.keys() & catalog.tables.keys())):
            if name.name not in {*blocked, *without}:
                stage = TableName("peersync", f"{stage_prefix(session)}_{number}")
                loads[name] = TableLoad(catalog.tables[name], False, stage)
        stop = bulk.Stop()
        loading = Loading(
            tables=loads,
            large_objects=TableName("peersync", f"{stage_prefix(session)}_lo"),
            take_large_objects=True,
            stop=stop,
        )
        left_out = [
            TableResult(schema="public", name=name, result="blocked", error="so it was planned")
            for name in blocked
        ]
        resolved = resolve(self.target.conninfo())
        with bulk.connect(resolved, "rig", stop, what="staging") as connection:
            create_stages(connection, loading)
            try:
                load_part(connection, iter([data]), loading)
                with _held_view(self.target) as exported:
                    for load in loads.values() if delta else ():
                        _compare(connection, load, exported)
                    yield Session(session, connection, loading, left_out, {}, self.target)
            finally:
                drop_stages(connection, stage_prefix(session))

    def sync(
        self,
        *,
        blocked: Collection[str] = (),
        without: Collection[str] = (),
        delta: bool = False,
        **options: Any,
    ) -> Results:
        """Stages and commits. `options` are those of Final. Results by the table's name."""
        with self.staged(blocked=blocked, without=without, delta=delta) as session:
            return session.commit(**options)

    async def _prepare(self, session: str) -> DatabaseCatalog:
        connection = await asyncpg.connect(self.target.url())
        try:
            await migrate(connection)
            await connection.execute(
                "INSERT INTO peersync.leases (name, fence, holder) VALUES ('full_sync', 1, '{}')"
                " ON CONFLICT (name) DO NOTHING"
            )
            await connection.execute(
                "INSERT INTO peersync.full_sync_sessions (session_id, role, action,"
                " database_name, peer_id, peer_name, requested_by, state, phase)"
                f" VALUES ('{session}', 'target', 'pull', 'shop', 'a', 'a', 'me', 'running',"
                " 'restore')"
            )
            return await read_catalog(connection)
        finally:
            await connection.close()

    def record(self) -> dict[str, Any]:
        """What the record of the last session says: committed, tables by name, baselines."""
        session = self.sessions[-1]
        text = self.target.psql(
            "SELECT json_build_object('committed', committed_at IS NOT NULL, 'tables', tables,"
            " 'baselines', (SELECT count(*) FROM peersync.baselines b"
            " WHERE b.session_id = s.session_id))"
            f" FROM peersync.full_sync_sessions s WHERE session_id = '{session}'"
        )
        found: dict[str, Any] = json.loads(text)
        found["tables"] = {t["name"]: t for t in found["tables"]}
        return found


@contextmanager
def _held_view(database: Database) -> Iterator[str]:
    """A snapshot of what is compared, which is held until the sync has ended."""
    with psycopg.connect(database.conninfo()) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        row = holder.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        yield row[0]


def _compare(connection: psycopg.Connection, load: TableLoad, exported: str) -> None:
    """Leaves in the stage what differs, and notes what a comparison would have found."""
    merge, table = load.merge, f"ONLY {load.table.name.sql}"
    if merge.key is None or not load.loaded:
        return
    only_here = TableName("peersync", f"{load.stage.name}_only")
    connection.execute(
        f"CREATE UNLOGGED TABLE {only_here.sql} AS SELECT {merge.listed(merge.key.columns)} "
        f"FROM {table} AS t WHERE NOT EXISTS "
        f"(SELECT FROM {load.stage.sql} AS s WHERE {merge.on()})".encode()
    )
    equal = connection.execute(
        f"DELETE FROM {load.stage.sql} AS s USING {table} AS t WHERE {merge.on()} "
        f"AND {merge.row('t')} OPERATOR(pg_catalog.*=) {merge.row('s')}".encode()
    ).rowcount
    with connection.transaction():
        row = connection.execute(
            "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,"
            f" (SELECT count(*) FROM {table}), {file_sql(load.table.name)}".encode()
        ).fetchone()
        form = connection.execute(form_sql(load.table.name).encode()).fetchone()
    assert row is not None
    assert form is not None
    there, load.rows = load.rows, load.rows - equal
    seen = Seen(row[0], form[0], row[2], exported)
    load.compared = Comparison(seen, there, row[1], only_here, 1, 1, load.rows)


async def _catalog_of(database: Database) -> DatabaseCatalog:
    connection = await asyncpg.connect(database.url())
    try:
        return await read_catalog(connection)
    finally:
        await connection.close()


def broken_foreign_keys(database: Database) -> str:
    """What PostgreSQL says when it validates every foreign key anew; empty if all hold."""
    return database.cluster.psql(
        """
        DO $$
        DECLARE k record; said text;
        BEGIN
          FOR k IN SELECT conrelid::regclass AS child, conname, pg_get_constraintdef(oid) AS def
                     FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
                     AND convalidated AND connamespace::regnamespace::text <> 'peersync'
          LOOP
            BEGIN
              EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', k.child, k.conname);
              EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', k.child, k.conname, k.def);
            EXCEPTION WHEN foreign_key_violation THEN
              said := concat_ws(E'\\n', said, SQLERRM);
            END;
          END LOOP;
          PERFORM set_config('rig.said', coalesce(said, ''), false);
        END $$;
        SELECT current_setting('rig.said');
        """,
        database.name,
    ).strip()


MakeRig = Callable[[str, str], Rig]
Keys = Mapping[TableName, Sequence[tuple[str, ...]]]
__all__ = ["Keys", "MakeRig", "Results", "Rig", "Session", "Statement", "broken_foreign_keys"]

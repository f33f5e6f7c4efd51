from __future__ import annotations
from contextlib import AsyncExitStack
import asyncpg, pytest
from collections.abc import AsyncIterator
from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from tests.integration.apply_rig import Node, drain, make_group
from tests.integration.test_hx_rig import report, rows
from tests.plugins.clusters import MakeDatabase

ALL = Patterns(["*"])


@pytest.fixture
async def stack(make_database: MakeDatabase) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.parametrize("others", ["", "CREATE TABLE public.other (id int PRIMARY KEY);"])
async def test_all_tables_are_made_again(stack, make_database, others: str) -> None:
    sql = "CREATE TABLE public.t (id int PRIMARY KEY, v text);" + others
    a, b = await make_group(stack, make_database(18), make_database(18, nth=1), sql=sql)
    for node in (a, b):
        await enrol(node.conn, ALL, lock_timeout_s=5)
    await a.execute("INSERT INTO t VALUES (1, 'old')")
    await drain(a, b)
    for node in (b, a):
        rows_ = "INSERT INTO t SELECT g, 'new' FROM generate_series(1, 3) g; INSERT INTO u VALUES (1);" if node is a else ""
        await node.execute(f"BEGIN; DROP TABLE public.t; CREATE TABLE public.t (id int PRIMARY KEY, v text); CREATE TABLE public.u (id int PRIMARY KEY); {rows_} COMMIT")
        states = await enrol(node.conn, ALL, lock_timeout_s=5)
        print(node.name, [(str(s.name), s.state, s.reason) for s in states])
    await drain(a, b)
    await report(a, b, "t")
    await report(a, b, "u")
    assert await rows(a, "t") == await rows(b, "t")
    assert await rows(a, "u") == await rows(b, "u")


async def test_two_new_keys_of_one_row(stack, make_database) -> None:
    a, b = await make_group(stack, make_database(18), make_database(18, nth=1),
                            sql="CREATE TABLE public.t (id int PRIMARY KEY, v text)")
    await a.execute("INSERT INTO t VALUES (1, 'one row')")
    await drain(a, b)
    await a.execute("UPDATE t SET id = 2")
    await b.execute("UPDATE t SET id = 3")
    await drain(a, b)
    await report(a, b, "t")
    assert (await a.rows("SELECT count(*) FROM peersync.conflict"))[0][0]


async def test_row_security(stack, make_database) -> None:
    sql = "CREATE TABLE public.t (id int PRIMARY KEY, tenant text, v text)"
    a, b = await make_group(stack, make_database(18), make_database(18, nth=1, owner="hx_owner"), sql=sql)
    await a.execute("INSERT INTO t VALUES (1, 'x', 'v'), (2, 'x', 'v')")
    await drain(a, b)
    await b.execute("""ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON t USING (tenant = current_setting('app.tenant', true)) WITH CHECK (true)""")
    await a.execute("DELETE FROM t WHERE id = 1")
    print(await b.pull(a))
    found = b.test.cluster.psql("SELECT t::text FROM public.t ORDER BY 1", b.test.name, user="postgres") if False else None
    await b.execute("SET app.tenant = 'x'")
    await report(a, b, "t")
    print(await b.rows("SELECT parked FROM peersync.synced_table"))
    assert await rows(a, "t") == await rows(b, "t")

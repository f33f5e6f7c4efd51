"""Capture where two things happen at once, and where equal keys are written in several ways."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import catalog_stamp
from peersync.postgres.log.members import found
from peersync.postgres.log.onerow import canonical_key
from peersync.postgres.log.parking import number_tables
from peersync.postgres.log.rows import read_targets
from peersync.postgres.pool import PINNED
from tests.integration.capture_rig import take
from tests.integration.log_rig import Connect

BOTH = pytest.mark.parametrize("database", [15, 18], indirect=True)
ALL = Patterns(["*"])
LOG = "SELECT op::text, key, image FROM peersync.change ORDER BY id"


@pytest.fixture
async def agent(agent: asyncpg.Connection) -> asyncpg.Connection:
    """Of an active member."""
    await found(agent, "a" * 32, "alpha")
    return agent


async def log(agent: asyncpg.Connection) -> list[tuple[str, str | None, str | None]]:
    return [tuple(row) for row in await agent.fetch(LOG)]


async def somebody_waits(conn: asyncpg.Connection) -> None:
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
    while not await conn.fetchval(waiting):
        await asyncio.sleep(0.01)


# --- rows that were there before ------------------------------------------------------------
@BOTH
async def test_rows_of_a_new_table_are_logged_once_also_when_a_peer_has_just_named_it(
    agent: asyncpg.Connection, app: asyncpg.Connection, connect: Connect
) -> None:
    """The applier gives the table its number in a transaction that is still open."""
    applier = await connect(**PINNED)
    await app.execute("CREATE TABLE lk (k text, v text); INSERT INTO lk VALUES ('x', 1), ('y', 2)")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group, applier.transaction():
        await number_tables(applier, [TableName("public", "lk")])
        group.create_task(take(agent))
        await somebody_waits(app)
    assert (await take(agent))["lk"].state == "captured"
    assert await log(agent) == [("I", None, "(x,1)"), ("I", None, "(y,2)")]
    await app.execute("INSERT INTO lk VALUES ('z', 3)")
    assert len(await log(agent)) == 3


@BOTH
async def test_rows_of_a_new_table_are_logged_once_by_two_that_look_at_the_same_time(
    agent: asyncpg.Connection, app: asyncpg.Connection, connect: Connect
) -> None:
    other = await connect(**PINNED)
    await app.execute("CREATE TABLE lk (k text); INSERT INTO lk VALUES ('x')")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group, app.transaction():
        await app.execute("INSERT INTO lk VALUES ('y')")
        for conn in (agent, other):
            group.create_task(take(conn))
        await somebody_waits(app)
        await asyncio.sleep(0.2)  # the other one has read its list of tables, too
    assert await log(agent) == [("I", None, "(x)"), ("I", None, "(y)")]


async def test_rows_that_were_committed_while_the_capture_waited_are_logged(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    """Also where the database's transactions are SERIALIZABLE unless somebody says otherwise."""
    await agent.execute("SET default_transaction_isolation = 'serializable'")
    await app.execute("CREATE TABLE lk (k text)")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group, app.transaction():
        await app.execute("INSERT INTO lk VALUES ('x')")
        group.create_task(take(agent))
        await somebody_waits(app)
    assert await log(agent) == [("I", None, "(x)")]


# --- the row as the statement left it -------------------------------------------------------
@BOTH
async def test_serializable_inserts_of_different_rows_do_not_fail(
    agent: asyncpg.Connection, app: asyncpg.Connection, connect: Connect
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    await take(agent)
    other = await connect()
    for n in range(10):
        first, second = app.transaction(isolation="serializable"), None
        await first.start()
        second = other.transaction(isolation="serializable")
        await second.start()
        await app.execute("INSERT INTO t VALUES ($1, 'a')", 2 * n)
        await other.execute("INSERT INTO t VALUES ($1, 'b')", 2 * n + 1)
        await first.commit()
        await second.commit()
    assert len(await log(agent)) == 20


@BOTH
async def test_a_trigger_of_the_application_is_noticed_by_sessions_with_warm_plans(
    agent: asyncpg.Connection, app: asyncpg.Connection, connect: Connect
) -> None:
    await app.execute("""
        CREATE TABLE t (id int PRIMARY KEY, n int);
        CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE t SET n = n + 1 WHERE id = NEW.id AND n < 5; RETURN NULL; END $$
    """)
    await take(agent)
    for n in range(10):
        await app.execute(f"INSERT INTO t VALUES ({n}, 9); UPDATE t SET n = 8 WHERE id = {n}")
    stamp = await catalog_stamp(agent)
    await (await connect()).execute(
        "CREATE TRIGGER more AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION more()"
    )
    assert await catalog_stamp(agent) != stamp
    await app.execute("INSERT INTO t VALUES (20, 1)")
    assert (await log(agent))[-1][1:] == ("(20)", "(20,5)")
    await take(agent)
    await app.execute("UPDATE t SET n = 2 WHERE id = 1")
    assert (await log(agent))[-1][1:] == ("(1)", "(1,5)")


@BOTH
async def test_an_update_that_moves_keys_logs_what_is_gone_and_what_is_there(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    await agent.execute("DELETE FROM peersync.change")
    await app.execute("UPDATE t SET id = greatest(id, 3 * (2 - id))")
    assert await log(agent) == [("D", "(1)", None), ("U", "(3)", "(3,a)"), ("U", "(2)", "(2,b)")]


async def test_a_cascade_that_comes_back_to_the_table_is_logged_as_it_ended(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute(
        "CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t ON UPDATE CASCADE, v text)"
    )
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1, NULL, 'a'), (2, 1, 'b')")
    await app.execute("UPDATE t SET id = id + 10, v = 'c'")
    there = {row["r"] for row in await app.fetch("SELECT t::text AS r FROM t")}
    last = {key: (op, image) for op, key, image in await log(agent)}
    assert {image for op, image in last.values() if op != "D"} == there == {
        "(11,,c)",
        "(12,11,c)",
    }  # fmt: skip


# --- TRUNCATE -------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("shape", ["", "PARTITION BY LIST (a)"])
async def test_a_truncated_table_without_a_key_is_logged_row_by_row(
    agent: asyncpg.Connection, app: asyncpg.Connection, shape: str
) -> None:
    await app.execute(f"CREATE TABLE t (a int, b text) {shape}")
    if shape:
        await app.execute("CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)")
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1, 'x'), (1, 'x'), (1, NULL)")
    await agent.execute("DELETE FROM peersync.change")
    await app.execute("TRUNCATE t")
    assert sorted(await log(agent)) == [
        ("D", None, "(1,)"),
        ("D", None, "(1,x)"),
        ("D", None, "(1,x)"),
    ]


@BOTH
async def test_truncate_is_logged_also_when_the_key_came_or_went_a_moment_ago(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE got (a int); CREATE TABLE lost (a int PRIMARY KEY)")
    await take(agent)
    await app.execute(
        "ALTER TABLE got ADD PRIMARY KEY (a); ALTER TABLE lost DROP CONSTRAINT lost_pkey"
    )
    await app.execute("TRUNCATE got; TRUNCATE lost")
    assert [op for op, _, _ in await log(agent)] == ["T", "T"]
    await take(agent)
    await app.execute("TRUNCATE got; TRUNCATE lost; INSERT INTO lost VALUES (1); TRUNCATE lost")
    assert [op for op, _, _ in await log(agent)][2:] == ["T", "I", "D"]


# --- keys -----------------------------------------------------------------------------------
KEYS = [
    ("numeric", "1.0", "1.000", "(1)"),
    ("numeric(8,2)", "1", "1.00", "(1)"),
    ("float8", "-0", "0", "(0)"),
    ("float4", "0.1", "0.10", "(0.1)"),
    ("char(4)", "a b", "a b  ", '("a b")'),
    ("bpchar", "a", "a  ", "(a)"),
    ("citext", "ÄB", "äb", "(äb)"),
    ("text", "a", "a", "(a)"),
    ("varchar(9)", "a", "a", "(a)"),
    ("int[]", "{1,2}", "{1,2}", '("{1,2}")'),
    ("int4range", "[1,2]", "[1,3)", '("[1,3)")'),
    ("inet", "10.0.0.1", "10.0.0.1/32", "(10.0.0.1)"),
    ("time", "01:00", "01:00:00", "(01:00:00)"),
    ("bit(2)", "01", "01", "(01)"),
    ("money", "1", "1.00", '($1.00)'),
    ("uuid", "A" * 32, "a" * 32, "(aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa)"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("type_name", "one", "same", "key"), KEYS, ids=[k[0] for k in KEYS])
async def test_equal_keys_have_one_text(
    agent: asyncpg.Connection,
    app: asyncpg.Connection,
    type_name: str,
    one: str,
    same: str,
    key: str,
) -> None:
    if type_name == "citext":
        await app.execute("CREATE EXTENSION citext")
    await app.execute(
        f"CREATE DOMAIN d AS {type_name}; CREATE TABLE t (id {type_name} PRIMARY KEY, n int);"
        "CREATE TABLE e (id d PRIMARY KEY, n int)"
    )
    assert {s.state for s in (await take(agent)).values()} == {"captured"}
    for table in ("t", "e"):
        await app.execute(
            f"INSERT INTO {table} VALUES ('{one}', 1); UPDATE {table} SET id = '{same}', n = 2;"
            f"DELETE FROM {table}; INSERT INTO {table} VALUES ('{same}', 1);"
        )
    log_ = await log(agent)
    assert [(op, found_) for op, found_, _ in log_] == [(op, key) for op in "IUDIIUDI"]
    text = await app.fetchval(f"SELECT id = '{key[1:-1].strip(chr(34))}'::{type_name} FROM t")
    assert text is True
    targets = await read_targets(agent, [TableName("public", "t")])
    target = targets[TableName("public", "t")]
    assert {await canonical_key(agent, target, {"id": v}) for v in (one, same)} == {key}


@BOTH
@pytest.mark.parametrize(
    "type_name",
    ["interval", "jsonb", "numeric[]", "numrange", "pair", "tsvector", "text COLLATE any_case"],
)
async def test_a_key_that_can_be_written_in_many_ways_is_refused_or_another_one_is_used(
    agent: asyncpg.Connection, app: asyncpg.Connection, type_name: str
) -> None:
    if "any_case" in type_name:
        if await app.fetchval("SHOW server_version_num") >= "180000":
            return  # the tests' server 18 is built without ICU, and has no such collations
        await app.execute(
            "CREATE COLLATION any_case "
            "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    await app.execute(f"""
        CREATE TYPE pair AS (a numeric, b int);
        CREATE TABLE t (id {type_name} PRIMARY KEY, n int);
        CREATE TABLE u (id {type_name} PRIMARY KEY, n int NOT NULL UNIQUE)
    """)
    states = await take(agent)
    assert states["t"].state == "refused"
    assert "key column id" in (states["t"].reason or "")
    assert "another unique key" in (states["t"].reason or "")
    assert states["u"].state == "captured"
    key = await agent.fetchval("SELECT key FROM peersync.shape WHERE table_name = 'u'")
    assert key == ["n"]


@pytest.mark.parametrize("database", [15], indirect=True)  # the tests' server 18 has no ICU
async def test_a_key_of_which_the_index_tells_more_apart_than_the_column_is_refused(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute(
        "CREATE COLLATION any_case "
        "(provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        "CREATE TABLE t (id text COLLATE any_case NOT NULL);"
        "CREATE UNIQUE INDEX ON t (id COLLATE \"C\"); INSERT INTO t VALUES ('a'), ('A')"
    )
    states = await take(agent)
    assert states["t"].state == "refused"
    assert "key column id" in (states["t"].reason or "")


@BOTH
async def test_a_table_whose_key_was_refused_is_logged_with_its_rows_when_it_has_another(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id interval PRIMARY KEY); INSERT INTO t VALUES ('1 day')")
    await take(agent)
    await take(agent)
    assert await log(agent) == []
    await app.execute("ALTER TABLE t ADD n int NOT NULL UNIQUE DEFAULT 7")
    assert (await take(agent))["t"].state == "captured"
    assert await log(agent) == [("I", "(7)", '("1 day",7)')]

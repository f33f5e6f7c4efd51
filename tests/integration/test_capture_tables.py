"""Which tables are captured, how that follows the schema, and that every type survives."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from peersync.agent.periodic import capturing
from peersync.agent.periodic.hub import Hub
from peersync.core.names import TableName
from peersync.postgres.conninfo import resolve
from peersync.postgres.log import capture
from peersync.postgres.log.capture import TableState, catalog_stamp, remove, table_states
from peersync.postgres.log.members import found
from peersync.postgres.log.membership import dissolve
from peersync.postgres.migrate import migrate, uninstall
from peersync.postgres.pool import PINNED
from peersync.postgres.pool import Database as Pool
from tests.integration.capture_rig import take
from tests.integration.log_rig import Connect
from tests.plugins.clusters import Database, MakeDatabase

BOTH = pytest.mark.parametrize("database", [15, 18], indirect=True)


@BOTH
async def test_a_table_that_is_made_during_the_look_is_found_by_the_next_one(
    database: Database,
    agent: asyncpg.Connection,
    app: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = capture.enrol

    async def slow(*args: Any, **options: Any) -> list[TableState]:
        states = await real(*args, **options)
        await app.execute("CREATE TABLE IF NOT EXISTS meanwhile (a int PRIMARY KEY)")
        return states

    monkeypatch.setattr(capturing, "enrol", slow)
    hub = Hub("shop", Pool("shop", resolve(database.conninfo())))
    await found(agent, "a" * 32, "alpha")
    for _ in range(2):
        await capturing.capture_tables(hub, agent)
    states = {s.name.name: s.state for s in await table_states(agent)}
    assert states == {"meanwhile": "captured"}
    async with hub.capturing:  # it leaves while a peer waits for a look
        look = asyncio.create_task(capturing.capture_tables(hub, agent, patience_s=1))
        await asyncio.sleep(0)
        await dissolve(agent)
    await look
    assert await triggers(agent) == 0


async def triggers(agent: asyncpg.Connection) -> int:
    count: int = await agent.fetchval(
        r"SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'peersync\_%'"
    )
    return count


@BOTH
async def test_what_is_not_captured_says_why(
    database: Database, agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("""
        CREATE EXTENSION file_fdw; CREATE SERVER s FOREIGN DATA WRAPPER file_fdw;
        CREATE FOREIGN TABLE elsewhere (a int) SERVER s OPTIONS (filename '/dev/null');
        CREATE UNLOGGED TABLE fleeting (a int); CREATE TABLE nothing ();
        CREATE TEMP TABLE mine (a int);
        CREATE TABLE left_out (a int); CREATE TABLE part (a int) PARTITION BY LIST (a);
        CREATE FOREIGN TABLE part1 PARTITION OF part FOR VALUES IN (1)
            SERVER s OPTIONS (filename '/dev/null');
        CREATE TABLE good (a int); CREATE TABLE owned (a int);
        ALTER EXTENSION file_fdw ADD TABLE owned;
    """)
    states = await take(agent, "left_*")
    assert {name: state.state for name, state in states.items()} == {
        "elsewhere": "excluded",
        "fleeting": "excluded",
        "good": "captured",
        "left_out": "excluded",
        "nothing": "refused",
        "owned": "excluded",
        "part": "refused",
    }
    assert all(bool(s.reason) == (s.state != "captured") for s in states.values())
    assert "part1" in str(states["part"].reason)
    await app.execute("INSERT INTO fleeting VALUES (1); INSERT INTO left_out VALUES (1)")
    assert await agent.fetchval("SELECT count(*) FROM peersync.change") == 0


@BOTH
async def test_nothing_changed_costs_no_lock_and_no_write(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int)")
    await take(agent, "u")
    stamp, before = await catalog_stamp(agent), await agent.fetchval("SELECT txid_current()")
    async with app.transaction():
        await app.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE; LOCK TABLE u")
        await take(agent, "u", lock_timeout_s=0.2)
    assert await agent.fetchval("SELECT txid_current()") <= before + 2  # the app's and this one's
    assert await catalog_stamp(agent) == stamp


async def test_every_change_of_the_schema_changes_the_stamp(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await take(agent)
    seen = {await catalog_stamp(agent)}
    for ddl in (
        "CREATE TABLE t (id int PRIMARY KEY, v varchar(5))",
        "ALTER TABLE t RENAME v TO w",
        "ALTER TABLE t ALTER w TYPE varchar(50)",
        "ALTER TABLE t DROP COLUMN w",
        "ALTER TABLE t ADD x int",
        "ALTER TABLE t RENAME TO u",
        "CREATE UNIQUE INDEX i ON u (x)",
        "ALTER TABLE u ENABLE ROW LEVEL SECURITY",
        "CREATE TABLE c () INHERITS (u)",
        "ALTER TABLE c NO INHERIT u",
        "ALTER SCHEMA public RENAME TO p; ALTER SCHEMA p RENAME TO public",
        "DROP TABLE c",
    ):
        await app.execute(ddl)
        stamp = await catalog_stamp(agent)
        assert stamp not in seen, ddl
        seen.add(stamp)
    await app.execute("CREATE TABLE plain (id int PRIMARY KEY)")
    before = await catalog_stamp(agent)
    await app.execute("CREATE TEMP TABLE mine (a int)")
    await app.execute("VACUUM ANALYZE plain")
    assert await catalog_stamp(agent) == before


@BOTH
async def test_a_busy_table_is_said_to_be_locked_and_does_not_hold_up_the_others(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute(
        "CREATE TABLE a (id int); CREATE TABLE busy (id int); CREATE TABLE z (id int)"
    )
    async with app.transaction():
        await app.execute("INSERT INTO busy VALUES (1)")
        states = await take(agent, lock_timeout_s=0.2)
    assert {n: s.state for n, s in states.items()} == {
        "a": "captured",
        "busy": "refused",
        "z": "captured",
    }
    assert states["busy"].reason == capture.LOCKED
    assert (await take(agent))["busy"].state == "captured"


@BOTH
async def test_a_new_table_of_an_active_member_is_logged_with_its_rows(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE old (id int PRIMARY KEY); INSERT INTO old VALUES (1)")
    await app.execute("CREATE TABLE left_out (id int); INSERT INTO left_out VALUES (1)")
    await take(agent, "left_*")
    await found(agent, "node", "name")
    await app.execute(
        "CREATE TABLE new (id int PRIMARY KEY, v text); INSERT INTO new VALUES (1, 'a')"
    )
    await take(agent)
    log = await agent.fetch("SELECT op::text, key, image FROM peersync.change")
    assert [tuple(row) for row in log] == [("I", "(1)", "(1,a)")]
    await app.execute(
        "DROP TABLE new; CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (2)"
    )
    await take(agent)
    assert await agent.fetchval("SELECT max(image) FROM peersync.change WHERE key = '(2)'") == "(2)"


@BOTH
async def test_a_dropped_and_a_renamed_table_are_gone(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE a (id int); CREATE TABLE b (id int)")
    await take(agent)
    await app.execute("DROP TABLE a; ALTER TABLE b RENAME TO c")
    states = await take(agent)
    assert {n: s.state for n, s in states.items()} == {"a": "gone", "b": "gone", "c": "captured"}
    functions = await agent.fetchval(
        "SELECT count(*) FROM pg_proc WHERE proname ~ '^capture_[0-9]'"
    )
    assert functions == 1


@BOTH
async def test_triggers_that_were_switched_off_are_said(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await take(agent)
    await app.execute("ALTER TABLE t DISABLE TRIGGER ALL")
    (state,) = await table_states(agent)
    assert state.state == "refused"
    assert "peersync_" in str(state.reason)
    assert (await take(agent))["t"].state == "refused"  # and not switched on behind one's back
    await app.execute("ALTER TABLE t ENABLE TRIGGER ALL")
    assert (await take(agent))["t"].state == "captured"
    await app.execute("DROP TRIGGER peersync_u ON t")
    assert (await take(agent))["t"].state == "captured"
    assert await triggers(agent) == 4


@BOTH
async def test_a_table_that_is_excluded_later_is_not_captured_any_more(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int); CREATE TABLE u (id int)")
    await take(agent)
    assert (await take(agent, "t"))["t"].state == "excluded"
    assert await triggers(agent) == 4
    await remove(agent, [TableName("public", "u")])
    assert await triggers(agent) == 0
    await take(agent)
    assert await triggers(agent) == 8
    await remove(agent)
    assert await triggers(agent) == 0
    assert {s.state for s in await table_states(agent)} == {"excluded"}


@BOTH
async def test_uninstall_leaves_nothing_of_capture(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    await app.execute("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9)")
    await take(agent)
    assert await triggers(agent) == 9
    assert await agent.fetchval("SELECT count(*) FROM pg_event_trigger") == 1
    await uninstall(agent, dry_run=False)
    assert await triggers(agent) == 0
    assert await agent.fetchval("SELECT count(*) FROM pg_event_trigger") == 0
    await app.execute("INSERT INTO t VALUES (1); TRUNCATE t")


@BOTH
async def test_the_right_to_make_triggers_is_enough_and_named_where_it_is_missing(
    make_database: MakeDatabase, database: Database
) -> None:
    database.cluster.createrole("guest")
    database.psql("CREATE TABLE t (id int PRIMARY KEY); CREATE SCHEMA peersync AUTHORIZATION guest")
    conn = await asyncpg.connect(database.url(user="guest"), server_settings=PINNED)
    try:
        await migrate(conn)
        state = (await take(conn))["t"]
        assert state.state == "refused"
        assert "GRANT TRIGGER" in str(state.reason)
        database.psql(
            "GRANT TRIGGER ON t TO guest"
        )  # not SELECT: the row of the statement is logged
        assert (await take(conn))["t"].state == "captured"
        database.psql("INSERT INTO t VALUES (1); UPDATE t SET id = 2")
        log = await conn.fetch("SELECT op::text, key, image FROM peersync.change ORDER BY id")
        expected = [("I", "(1)", "(1)"), ("D", "(1)", None), ("U", "(2)", "(2)")]
        assert [tuple(row) for row in log] == expected
        database.psql("GRANT SELECT ON t TO guest; INSERT INTO t VALUES (3)")
        database.psql("REVOKE SELECT ON t FROM guest; INSERT INTO t VALUES (4)")
        assert (await take(conn))["t"].state == "captured"
        await remove(conn)
        assert await triggers(conn) == 0
    finally:
        await conn.close()


async def test_ddl_wakes_the_agent_and_never_fails(
    agent: asyncpg.Connection, app: asyncpg.Connection, connect: Connect
) -> None:
    await take(agent)
    heard: list[str] = []
    await agent.add_listener("peersync", lambda *args: heard.append(args[2]))
    await agent.execute("SELECT pg_advisory_lock(x'70737963'::int, hashtext('awake'))")
    await app.execute("CREATE TABLE t (id int)")
    await agent.execute("SELECT pg_sleep(0.1)")
    assert len(heard) == 1
    await agent.execute("ALTER FUNCTION peersync.wake() RENAME TO broken")
    await app.execute("ALTER TABLE t ADD v text")


VALUES = {
    "bool": ["t", "f"],
    "int2": ["-32768", "32767"],
    "int8": ["-9223372036854775808", "9223372036854775807"],
    "numeric": ["NaN", "Infinity", "-Infinity", "0.000", "1" * 400 + "." + "2" * 300],
    "numeric(10,3)": ["1.500", "-9999999.999"],
    "float4": ["1e-45", "3.4028235e+38", "-0", "NaN", "0.1"],
    "float8": ["5e-324", "1.7976931348623157e+308", "-0", "-Infinity", "0.30000000000000004"],
    "money": ["-92233720368547758.08", "12.34"],
    "text": ["", " ", "a\nb\tc\\N", '"quoted"", (x),{y}', "\\", "ÿ€😀", "NULL"],
    "varchar(3)": ["", "abc"],
    "char(5)": ["", "ab"],
    '"char"': ["a"],
    "name": ["n" * 63],
    "bytea": ["\\x", "\\x00ff5c27"],
    "date": ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"],
    "time": ["24:00:00", "00:00:00.000001"],
    "timetz": ["24:00:00-15:59", "12:00:00+05:45"],
    "timestamp": ["infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"],
    "timestamptz": ["-infinity", "1883-11-18 12:00:00+00", "294276-12-31 23:59:59.999999+00"],
    "interval": ["178000000 years", "-1 mons +2 days -03:04:05.6", "00:00:00"],
    "uuid": ["ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "inet": ["::ffff:1.2.3.4/128", "10.0.0.1/8"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "bit(3)": ["101"],
    "varbit": ["", "1" * 99],
    "json": ['{"a": 1,  "a":null}', "null", '"\\u00e9"'],
    "jsonb": ["null", '{"a": [1.00, "x\\"y"]}', "-0"],
    "jsonpath": ['$."a"[*]'],
    "tsvector": ["'a b':1A,2 'c''d'"],
    "tsquery": ["'a' & !'b' <-> 'c'"],
    "point": ["(1.1,-0)"],
    "line": ["{1,2,3}"],
    "box": ["(1,1),(0,0)"],
    "path": ["[(0,0),(1,1)]"],
    "polygon": ["((0,0),(1,1),(0.1,2))"],
    "circle": ["<(0,0),1.5>"],
    "int4range": ["empty", "[1,)", "(,)"],
    "numrange": ["(1.0,2.00]"],
    "tstzrange": ['["2024-01-01 00:00:00+00",infinity)'],
    "datemultirange": ["{}", "{[2024-01-01,2024-02-01),[2025-01-01,)}"],
    "int4[]": ["{}", "{NULL,1}", "[0:1]={1,2}", "{{1,2},{3,4}}"],
    "text[]": ['{"","NULL",NULL,"a,b","\\"q\\\\"}'],
    "oid": ["4294967295"],
    "regclass": ["pg_class"],
    "regtype": ["integer"],
    "pg_lsn": ["FFFFFFFF/FFFFFFFF"],
    "xid8": ["18446744073709551615"],
    "txid_snapshot": ["10:20:10,14"],
    "tid": ["(4294967295,65535)"],
    "mood": ['b"(,', ""],
    "pair": ['(1,"a,""b")', "(,)"],
    "short": ["", "abc"],
    "pair[]": ['{"(1,\\"x y\\")",NULL}'],
}


@BOTH
async def test_every_type_comes_back_from_its_image(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    """Image → fields → column, as the other side reads it."""
    await app.execute("CREATE TYPE mood AS ENUM ('', 'b\"(,'); CREATE DOMAIN short AS varchar(3)")
    await app.execute("CREATE TYPE pair AS (a int, b text)")
    await app.execute(
        "CREATE EXTENSION IF NOT EXISTS citext; CREATE EXTENSION IF NOT EXISTS hstore"
    )
    values = {**VALUES, "citext": ["Aa"], "hstore": ['"a"=>NULL, "b\\"c"=>"d,e"']}
    own = ("mood", "pair", "short", "citext", "hstore")
    types = [f"public.{t}" if t.removesuffix("[]") in own else t for t in values]
    columns = ", ".join(f"c{n} {kind}" for n, kind in enumerate(types))
    await app.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    await take(agent)
    rows = max(len(v) for v in values.values())
    await app.execute(
        "INSERT INTO t SELECT generate_series(0, $1::int - 1)".replace("$1", str(rows))
    )
    for n, (kind, texts) in enumerate(zip(types, values.values(), strict=True)):
        for i, text in enumerate(texts):
            literal = "'" + text.replace("'", "''") + "'"
            await app.execute(f"UPDATE t SET c{n} = {literal}::{kind} WHERE id = {i}")
    fields = ", ".join(f"c{n} text" for n in range(len(types)))
    back = ", ".join(f"((r).c{n})::{kind}" for n, kind in enumerate(types))
    await agent.execute(f"CREATE TYPE peersync.fields_test AS (id text, {fields})")
    differing = await agent.fetch(f"""
        SELECT t.id FROM public.t AS t JOIN LATERAL (
            SELECT ROW(((r).id)::int, {back})::text AS again, image FROM (
                SELECT image::peersync.fields_test AS r, image FROM peersync.change
                 WHERE key = ROW(t.id)::text ORDER BY change.id DESC LIMIT 1 OFFSET 0) AS s
            ) AS c ON true
         WHERE c.again IS DISTINCT FROM t::text OR c.image IS DISTINCT FROM t::text""")
    assert not differing


async def test_a_huge_value_is_logged_and_an_impossible_one_is_marked(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY, b bytea)")
    await app.execute("ALTER TABLE t ALTER b SET STORAGE EXTERNAL")
    await take(agent)
    await app.execute("INSERT INTO t SELECT 1, decode(repeat('00', 200000000), 'hex')")
    await app.execute("INSERT INTO t SELECT 2, convert_to(repeat('a', 540000000), 'UTF8')")
    await app.execute("UPDATE t SET id = 3 WHERE id = 2")
    log = await agent.fetch(
        "SELECT op::text, key, octet_length(image) AS n FROM peersync.change ORDER BY id"
    )
    assert [(r["op"], r["key"]) for r in log[:2]] == [("I", "(1)"), ("X", "(2)")]
    assert log[0]["n"] > 400_000_000
    assert {(r["op"], r["key"]) for r in log[2:]} == {("D", "(2)"), ("X", "(3)")}

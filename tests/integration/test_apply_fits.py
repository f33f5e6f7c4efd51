"""Tables that differ in what is easily overlooked (keys, digits, numbers, rules) wait, or fit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.onerow import write_values
from peersync.postgres.log.rows import read_targets
from tests.integration.apply_rig import Node, drain, make_group
from tests.plugins.clusters import MakeDatabase

PARKED = "SELECT parked FROM peersync.synced_table WHERE table_name = 't'"
ROWS = "SELECT t::text FROM t ORDER BY 1"
WAITING = "SELECT key, reason FROM peersync.quarantine WHERE state = 'waiting' ORDER BY id"


@pytest.fixture
async def two(make_database: MakeDatabase) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield await make_group(
            stack, *(make_database(18, nth=n, migrated=True) for n in (0, 1)), sql="SELECT 1"
        )


async def look(*nodes: Node) -> None:
    """What the agent does each second: captures what is new."""
    for node in nodes:
        await enrol(node.conn, Patterns(["*"]), lock_timeout_s=0.2)


async def create(two: list[Node], *sql: str) -> None:
    """The same on both, or one for each; captured."""
    for node, statements in zip(two, sql * (3 - len(sql)), strict=False):
        await node.execute(statements)
    await look(*two)


async def equal(two: list[Node]) -> list[str]:
    """The rows, which both have."""
    await drain(*two)
    a, b = [await node.rows(ROWS) for node in two]
    assert a == b
    assert [await node.rows(WAITING) for node in two] == [[], []]
    return [row[0] for row in a]


async def parked(node: Node) -> str:
    ((reason,),) = await node.rows(PARKED)
    return str(reason or "")


# --- keys -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "columns",
    [
        "id int NOT NULL, code text NOT NULL",
        "span interval NOT NULL DEFAULT '1 day', id int NOT NULL, code text NOT NULL",
    ],
)
async def test_two_unique_keys_are_preferred_alike_whatever_their_indexes_are_called(
    two: list[Node], columns: str
) -> None:
    a, b = two
    table = f"CREATE TABLE public.t ({columns}, v text);"
    if "span" in columns:  # a key of many texts, which neither side can use
        table = table.replace("DEFAULT '1 day'", "UNIQUE")
    make = table + "CREATE UNIQUE INDEX {} ON t (id); CREATE UNIQUE INDEX b ON t (code)"
    await create(two, make.format("a"), make.format("x"))
    values = "'1 day', 1, 'A', '0'), ('2 days', 2, 'B', '0'"
    if "span" not in columns:
        values = "1, 'A', '0'), (2, 'B', '0'"
    await a.execute(f"INSERT INTO t VALUES ({values})")
    await equal(two)
    await a.execute("UPDATE t SET v = 'a'")
    await b.execute("UPDATE t SET v = 'b' WHERE id = 1; DELETE FROM t WHERE id = 2")
    assert len(await equal(two)) == 1
    assert {await parked(node) for node in two} == {""}
    assert await a.rows("SELECT count(*) FROM peersync.conflict") == [(2,)]
    targets = await read_targets(a.conn, [TableName("public", "t")])
    assert [target.key for target in targets.values()] == [("code",)]


async def test_a_table_whose_key_is_another_there_waits_until_both_have_the_same(
    two: list[Node],
) -> None:
    a, b = two
    await create(
        two, "CREATE TABLE public.t (id int PRIMARY KEY, code text NOT NULL UNIQUE, v text)"
    )
    await a.execute("INSERT INTO t VALUES (1, 'A', '0'), (2, 'B', '0'), (3, 'C', '0')")
    await equal(two)
    await a.execute("UPDATE t SET v = '1' WHERE id = 2; INSERT INTO t VALUES (4, 'D', '0')")
    await a.execute("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD UNIQUE (id), ADD PRIMARY KEY (code)")
    await look(a)
    await a.execute("DELETE FROM t WHERE id = 4; UPDATE t SET v = '2' WHERE id = 2")
    before = await b.rows(ROWS)
    await b.execute("UPDATE t SET v = 'b' WHERE id = 3")
    for node, other in ((b, a), (a, b)):
        assert {str(name) for name in (await node.pull(other)).parked} == {"public.t"}
        assert "are told apart by" in await parked(node)
    assert len(await b.rows(ROWS)) == len(before)
    helps = (await parked(b)).partition("What helps: ")[2]
    assert helps == (
        'ALTER TABLE "public"."t" DROP CONSTRAINT "t_pkey", ADD UNIQUE ("id"), '
        'ADD PRIMARY KEY ("code");'
    )
    await b.execute(helps)
    await look(b)
    assert [str(done.name) for done in await b.applier.resume_parked()] == ["public.t"]
    await b.execute("UPDATE t SET v = 'B' WHERE id = 1")
    await drain(*two)
    assert [str(done.name) for done in await a.applier.resume_parked()] == ["public.t"]
    assert await equal(two) == ["(1,A,B)", "(2,B,2)", "(3,C,b)"]


async def test_a_key_that_is_checked_late_is_none_on_both_sides(two: list[Node]) -> None:
    a, _ = two
    await create(two, "CREATE TABLE public.t (id int NOT NULL UNIQUE DEFERRABLE, v text)")
    await a.execute("INSERT INTO t VALUES (1, 'x'), (2, 'y')")
    await a.execute("UPDATE t SET v = 'z' WHERE id = 1; DELETE FROM t WHERE id = 2")
    assert await equal(two) == ["(1,z)"]


# --- columns that no UPDATE can set, or that nobody writes --------------------------------
async def test_an_identity_that_is_no_key_gets_the_number_of_the_newer_row(
    two: list[Node],
) -> None:
    a, b = two
    await create(
        two,
        "CREATE TABLE public.t (k text PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text)",
    )
    await b.execute("ALTER TABLE t ADD COLUMN mine text DEFAULT 'd'")
    await a.execute("INSERT INTO t (k, v) VALUES ('x', '1'), ('y', '1'), ('z', '1')")
    await b.pull(a)
    await b.execute("UPDATE t SET mine = 'kept' WHERE k = 'z'")
    await a.execute("BEGIN; DELETE FROM t WHERE k = 'x'; INSERT INTO t (k) VALUES ('x'); COMMIT")
    await a.execute("UPDATE t SET n = DEFAULT WHERE k = 'y'; UPDATE t SET v = '2' WHERE k = 'z'")
    await b.pull(a)
    rows = "SELECT k, n, v FROM t ORDER BY k"
    assert await b.rows(rows) == [("x", 4, None), ("y", 5, "1"), ("z", 3, "2")]
    assert await b.rows("SELECT mine FROM t WHERE k = 'z'") == [("kept",)]
    await b.execute("ALTER TABLE t ADD CHECK (v <> 'bad')")
    await a.execute("UPDATE t SET n = DEFAULT; UPDATE t SET v = 'bad' WHERE k = 'x'")
    assert (await b.pull(a)).quarantined == 1
    assert await b.rows(rows) == [("x", 4, None), ("y", 7, "1"), ("z", 8, "2")]


async def test_the_row_that_wins_a_conflict_keeps_its_number_on_both_sides(
    two: list[Node],
) -> None:
    a, b = two
    await create(
        two,
        "CREATE TABLE public.t (k text PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text)",
    )
    await a.execute("INSERT INTO t (k, v) VALUES ('q', '1'), ('x', 'from a')")
    await b.execute("INSERT INTO t (k, v) VALUES ('x', 'from b')")
    assert await equal(two) == ["(q,1,1)", '(x,1,"from b")']


async def test_a_person_can_give_a_row_the_number_of_the_other_side(two: list[Node]) -> None:
    a, _ = two
    await create(
        two,
        "CREATE TABLE public.t (k text PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text)",
    )
    await a.execute("INSERT INTO t (k, v) VALUES ('x', '1'), ('y', '1')")
    target = (await read_targets(a.conn, [name := TableName("public", "t")]))[name]
    await write_values(a.conn, target, {"k": "x"}, {"k": "x", "n": "9"})
    assert await equal(two) == ["(x,9,1)", "(y,2,1)"]
    await a.execute("CREATE TABLE public.child (k text REFERENCES t ON DELETE CASCADE)")
    await a.execute("INSERT INTO child VALUES ('y')")
    await write_values(a.conn, target, {"k": "y"}, {"k": "y", "n": "8", "v": "2"})
    assert await equal(two) == ["(x,9,1)", "(y,2,2)"]
    assert await a.rows("SELECT k FROM child") == [("y",)]


@pytest.mark.parametrize("kind", ["VIRTUAL", "STORED"])
async def test_rows_without_a_key_are_found_whatever_makes_their_columns(
    two: list[Node], kind: str
) -> None:
    a, b = two
    table = "CREATE TABLE public.t (x text, y text GENERATED ALWAYS AS (x || '!') {})"
    await create(two, table.format("VIRTUAL"), table.format(kind))
    await a.execute("""INSERT INTO t VALUES ('1'), ('"a, b'), ('3'), (NULL), (''), ('3')""")
    await equal(two)
    await a.execute("""DELETE FROM t WHERE x = '1'; UPDATE t SET x = '5' WHERE x = '"a, b'""")
    await b.execute("DELETE FROM t WHERE x IS NULL; DELETE FROM t WHERE x = ''")
    await a.execute("DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE x = '3')")
    assert await equal(two) == ["(3,3!)", "(5,5!)"]


# --- values that would change on their way ------------------------------------------------
@pytest.mark.parametrize(
    ("there", "here", "value"),
    [
        ("numeric", "numeric(10,2)", "1.234"),
        ("numeric(10,3)", "numeric(12,2)", "1.234"),
        ("numeric(10,3)[]", "numeric(10,2)[]", "{1.234}"),
        ("integer", "numeric(3,-2)", "149"),
        ("timestamptz", "timestamptz(0)", "2026-01-01 00:00:00.5+00"),
        ("timestamp(6)", "timestamp(3)", "2026-01-01 00:00:00.1234"),
        ("time", "time(0)", "12:00:00.5"),
        ("timetz(2)", "timetz(1)", "12:00:00.55+01"),
        ("interval", "interval(0)", "1.5 s"),
        ("interval day to second", "interval day to second(0)", "1.5 s"),
    ],
)
@pytest.mark.parametrize("key", ["id int PRIMARY KEY", "id int"])
async def test_a_value_is_not_rounded_without_a_word(
    two: list[Node], there: str, here: str, value: str, key: str
) -> None:
    a, b = two
    await create(two, *(f"CREATE TABLE public.t ({key}, x {kind})" for kind in (there, here)))
    await a.execute(f"INSERT INTO t VALUES (1, '{value}')")
    assert {str(name) for name in (await b.pull(a)).parked} == {"public.t"}
    assert "values would be rounded" in await parked(b)
    await b.execute((await parked(b)).partition("What helps: ")[2])
    await look(b)
    assert len(await b.applier.resume_parked()) == 1
    await a.execute("DELETE FROM t WHERE id = 2; UPDATE t SET id = 3")
    assert len(await equal(two)) == 1


@pytest.mark.parametrize(
    ("there", "here", "value"),
    [
        ("numeric(10,2)", "numeric", "1.50"),
        ("numeric(10,2)", "numeric(8,2)", "1.50"),
        ("numeric(10)", "numeric(8,0)", "150"),
        ("integer", "numeric(12,0)", "7"),
        ("timestamp(3)", "timestamp(6)", "2026-01-01 00:00:00.123"),
        ("interval(2)", "interval", "1.25 s"),
        ("varchar(9)", "varchar(3)", "abc"),
    ],
)
async def test_types_that_keep_every_digit_fit(
    two: list[Node], there: str, here: str, value: str
) -> None:
    a, b = two
    await create(two, *(f"CREATE TABLE public.t (x {kind})" for kind in (there, here)))
    await a.execute(f"INSERT INTO t VALUES ('{value}'), (NULL)")
    await b.pull(a)
    await a.execute("DELETE FROM t WHERE x IS NOT NULL")
    await b.pull(a)
    assert await parked(b) == ""
    assert await b.rows("SELECT x::text FROM t") == [(None,)]


@pytest.mark.parametrize(
    ("there", "here"), [("numeric(9,2)", "numeric(9,4)"), ("char(3)", "char(5)")]
)
async def test_more_digits_wait_only_where_rows_are_found_by_their_texts(
    two: list[Node], there: str, here: str
) -> None:
    a, b = two
    await create(two, *(f"CREATE TABLE public.t (x {kind})" for kind in (there, here)))
    keyed = "CREATE TABLE public.u (x {0} PRIMARY KEY, y {0})"
    await create(two, *(keyed.format(kind) for kind in (there, here)))
    await a.execute("INSERT INTO t VALUES ('1.5'); INSERT INTO u VALUES ('1.5', '1.5'), (2, 2)")
    assert {str(name) for name in (await b.pull(a)).parked} == {"public.t"}
    assert "would not look equal" in await parked(b)
    await a.execute("DELETE FROM u WHERE x = '1.5'")
    await b.pull(a)
    assert await b.rows("SELECT x::numeric::int FROM u") == [(2,)]


# --- rules ------------------------------------------------------------------------------
async def test_rules_of_the_application_do_nothing_to_what_comes(two: list[Node]) -> None:
    a, b = two
    await create(
        two,
        "CREATE TABLE public.t (id int PRIMARY KEY, v text); CREATE TABLE public.audit (v text);"
        "CREATE RULE u AS ON UPDATE TO t DO ALSO INSERT INTO audit VALUES (new.v);"
        "CREATE RULE i AS ON INSERT TO t WHERE new.v = 'no' DO INSTEAD NOTHING;"
        "CREATE RULE d AS ON DELETE TO t DO ALSO INSERT INTO audit VALUES ('gone')",
    )
    await a.execute("INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'no')")
    await b.pull(a)
    await a.execute("UPDATE t SET v = 'no' WHERE id = 1; DELETE FROM t WHERE id = 2")
    assert await equal(two) == ["(1,no)"]
    for node in two:
        assert await node.rows("SELECT v FROM audit ORDER BY v") == [("gone",), ("no",)]


async def test_a_rule_that_would_take_incoming_rows_away_is_named(two: list[Node]) -> None:
    a, b = two
    await create(two, "CREATE TABLE public.t (id int PRIMARY KEY, v text)")
    await a.execute("INSERT INTO t VALUES (1, 'x')")
    await equal(two)
    await b.execute("CREATE RULE soft AS ON DELETE TO t DO INSTEAD NOTHING")
    await b.execute("ALTER TABLE t ENABLE ALWAYS RULE soft")
    await a.execute("DELETE FROM t")
    assert len((await b.pull(a)).parked) == 1
    assert "the rule soft" in await parked(b)
    await b.execute((await parked(b)).partition("What helps: ")[2])
    assert len(await b.applier.resume_parked()) == 1
    assert await equal(two) == []

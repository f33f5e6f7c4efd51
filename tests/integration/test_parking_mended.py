"""Tables that are altered on both sides, made anew, or not captured yet: nothing waits for ever."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import psycopg
import pytest

from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.parking import parked_tables
from tests.integration.apply_rig import Node, drain, make_group
from tests.integration.periodic_rig import make_group as make_pair
from tests.integration.periodic_rig import wait_equal, wait_until
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import TwoNodes

TABLES = """
CREATE TABLE public.acc (id int PRIMARY KEY, n bigint, note text, extra text);
INSERT INTO public.acc SELECT g, g, 'k' || g, 'x' FROM generate_series(1, 4) g;
CREATE TABLE public.bag (k text, v text);
"""
ACC = "SELECT to_jsonb(t)::text FROM acc t ORDER BY id"
PARKED = "SELECT parked FROM peersync.synced_table WHERE table_name = $1"
WAITING = "SELECT cause, op::text, key FROM peersync.quarantine WHERE state = 'waiting' ORDER BY id"


@pytest.fixture
async def two(make_database: MakeDatabase) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        nodes = await make_group(stack, make_database(18), make_database(18, nth=1), sql=TABLES)
        for node in nodes:
            await look(node)
        yield nodes


async def look(node: Node) -> None:
    """What the agent does each second: captures what is new."""
    await enrol(node.conn, Patterns(["*"]), lock_timeout_s=0.2)


async def test_rows_of_a_table_that_is_unlogged_here_still_wait_until_it_is_not(
    two: list[Node],
) -> None:
    a, b = two
    for node in two:
        await node.execute("CREATE UNLOGGED TABLE public.load (id int PRIMARY KEY)")
        await look(node)
    await a.execute("INSERT INTO load VALUES (1), (2)")
    await a.execute("ALTER TABLE load SET LOGGED")
    await look(a)
    assert [str(name) for name in (await b.pull(a)).parked] == ["public.load"]
    ((reason,),) = await b.rows(PARKED, "load")
    assert reason.startswith("the changes of public.load are not captured here yet: it is unlogged")
    (parked,) = await parked_tables(b.conn)
    assert parked.misfit is not None
    assert parked.misfit.sql == 'ALTER TABLE "public"."load" SET LOGGED;'
    await b.execute("ALTER TABLE load SET LOGGED")
    assert await b.applier.resume_parked() == []
    await look(b)
    assert [done.changes for done in await b.applier.resume_parked()] == [2]
    await drain(*two)
    assert await a.rows("SELECT id FROM load") == await b.rows("SELECT id FROM load")
    assert await b.rows("SELECT count(*) FROM load") == [(2,)]


async def test_rows_of_a_peer_are_not_sent_again_as_rows_of_a_table_that_is_new_here(
    two: list[Node],
) -> None:
    a, b = two
    sql = "CREATE TABLE public.new (id int PRIMARY KEY, v text); CREATE TABLE public.kept (v text)"
    for node in two:
        await node.execute(sql)
    await look(a)
    await a.execute("INSERT INTO new VALUES (1, 'old'), (2, 'old'); INSERT INTO kept VALUES ('x')")
    await b.execute("INSERT INTO kept VALUES ('mine')")
    assert {str(n) for n in (await b.pull(a)).parked} == {"public.new", "public.kept"}
    ((reason,),) = await b.rows(PARKED, "new")
    assert reason == "the changes of public.new are not captured here yet"
    assert await b.rows("SELECT * FROM new") == []
    assert await b.applier.resume_parked() == []
    await a.execute("UPDATE new SET v = 'NEW' WHERE id = 1; DELETE FROM new WHERE id = 2")
    await look(b)
    assert {str(done.name) for done in await b.applier.resume_parked()} == {
        "public.new",
        "public.kept",
    }
    await drain(a, b)
    for node in two:
        assert await node.rows("SELECT id, v FROM new") == [(1, "NEW")]
        assert await node.rows("SELECT v FROM kept ORDER BY v") == [("mine",), ("x",)]


async def test_a_new_partition_that_is_not_captured_yet_takes_no_rows_of_a_peer(
    two: list[Node],
) -> None:
    a, b = two
    for node in two:
        await node.execute(
            "CREATE TABLE public.part (id int PRIMARY KEY) PARTITION BY RANGE (id);"
            "CREATE TABLE public.part_1 PARTITION OF part FOR VALUES FROM (0) TO (10)"
        )
        await look(node)
        await node.execute(
            "CREATE TABLE public.part_2 PARTITION OF part FOR VALUES FROM (10) TO (20)"
        )
    await look(a)
    await a.execute("INSERT INTO part VALUES (1), (11)")
    assert len((await b.pull(a)).parked) == 1
    await look(b)
    assert await b.rows("SELECT count(*) FROM peersync.change") == [(0,)]
    (done,) = await b.applier.resume_parked()
    assert done.changes == 2
    assert await b.rows("SELECT id FROM part ORDER BY id") == [(1,), (11,)]


async def test_a_table_that_an_operator_leaves_out_waits_for_nothing(two: list[Node]) -> None:
    a, b = two
    for node in two:
        await node.execute("CREATE TABLE public.new (id int PRIMARY KEY)")
    await look(a)
    await a.execute("INSERT INTO new VALUES (1)")
    await b.pull(a)
    await enrol(b.conn, Patterns(["public.acc"]), lock_timeout_s=0.2)
    await b.applier.resume_parked()
    assert await b.rows(PARKED, "new") == [(None,)]
    assert await b.rows("SELECT state FROM peersync.quarantine") == [("skipped",)]
    assert await b.rows("SELECT * FROM new") == []


@pytest.mark.parametrize(
    ("alter", "words", "changes"),
    [
        ("DROP COLUMN extra", "has dropped it too", "UPDATE acc SET n = 30 WHERE id = 1"),
        ("DROP COLUMN note", "has dropped it too", "UPDATE acc SET n = 30 WHERE id = 1"),
        ("RENAME COLUMN note TO memo", "renamed there too", "UPDATE acc SET n = 30 WHERE id = 1"),
        ("RENAME COLUMN id TO nr", "renamed there too", "UPDATE acc SET n = 30 WHERE n = 10"),
        ("ALTER n TYPE int", "altered likewise", "UPDATE acc SET n = 30 WHERE id = 1"),
        (
            "ALTER note SET NOT NULL, DROP CONSTRAINT acc_pkey, ADD PRIMARY KEY (id, note)",
            "goes on",
            "UPDATE acc SET n = 30 WHERE id = 1",
        ),
        ("DROP COLUMN note, ADD COLUMN w int DEFAULT 7", "no column", "UPDATE acc SET w = 8"),
    ],
)
@pytest.mark.parametrize("first", ["receiver", "origin"])
async def test_a_table_altered_on_both_sides_goes_on_with_the_first_change_after_it(
    two: list[Node], alter: str, words: str, changes: str, first: str
) -> None:
    a, b = two
    if first == "receiver":
        await b.execute(f"ALTER TABLE acc {alter}")
        await look(b)
    await a.execute(
        "UPDATE acc SET n = 10 WHERE id = 1; DELETE FROM acc WHERE id = 2; "
        "INSERT INTO acc VALUES (9, 9, 'nine', 'y'), (8, 8, 'eight', 'y'); "
        "DELETE FROM acc WHERE id = 8; UPDATE acc SET n = 33 WHERE id = 3"
    )
    if first == "receiver":
        assert len((await b.pull(a)).parked) == 1
        assert await b.applier.resume_parked() == []
        ((reason,),) = await b.rows(PARKED, "acc")
        assert words in reason
        assert "ADD COLUMN" not in reason or "w int" in alter
    await a.execute(f"ALTER TABLE acc {alter}")
    await look(a)
    await a.execute(changes)
    if first == "origin":
        await b.pull(a)
        await b.execute(f"ALTER TABLE acc {alter}")
        await look(b)
    await b.pull(a)
    await b.applier.resume_parked()
    assert await b.rows(PARKED, "acc") == [(None,)]
    assert await b.rows(WAITING) == []
    rows = ACC.replace("ORDER BY id", "ORDER BY t.*::text")
    assert await b.rows(rows) == await a.rows(rows)


async def test_what_a_second_peer_had_written_before_goes_on_with_it(
    make_database: MakeDatabase,
) -> None:
    async with AsyncExitStack() as stack:
        databases = [make_database(18, nth=nth) for nth in range(3)]
        a, b, c = await make_group(stack, *databases, sql=TABLES)
        await b.execute("ALTER TABLE acc DROP COLUMN extra")
        await a.execute("UPDATE acc SET n = 10 WHERE id = 1")
        await c.execute("UPDATE acc SET n = 20 WHERE id = 2")
        await b.pull(a)
        await b.pull(c)
        await a.execute("ALTER TABLE acc DROP COLUMN extra; UPDATE acc SET n = 30 WHERE id = 3")
        await b.pull(a)
        await b.applier.resume_parked()
        assert await b.rows("SELECT n FROM acc ORDER BY id") == [(10,), (20,), (30,), (4,)]
        assert await b.rows(WAITING) == []


async def test_a_value_that_fits_no_more_waits_alone(two: list[Node]) -> None:
    a, b = two
    await b.execute("ALTER TABLE acc ALTER note TYPE int USING NULL")
    await a.execute(
        "UPDATE acc SET note = 'word' WHERE id = 1; UPDATE acc SET note = '2' WHERE id = 2"
    )
    await b.pull(a)
    await a.execute("ALTER TABLE acc ALTER note TYPE int USING NULL")
    await a.execute("UPDATE acc SET note = 3 WHERE id = 3")
    await b.pull(a)
    await b.applier.resume_parked()
    assert await b.rows(WAITING) == [("row", "U", "(1)")]
    assert await b.rows("SELECT note FROM acc WHERE id IN (2, 3) ORDER BY id") == [(2,), (3,)]


async def test_a_table_without_a_key_loses_a_column_on_both_sides(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO bag VALUES ('a', '1'), ('b', '2'), ('c', '3')")
    await drain(a, b)
    await b.execute("ALTER TABLE bag DROP COLUMN v")
    await a.execute("UPDATE bag SET k = 'bb' WHERE k = 'b'; DELETE FROM bag WHERE k = 'c'")
    await b.pull(a)
    await a.execute("ALTER TABLE bag DROP COLUMN v; INSERT INTO bag VALUES ('d')")
    await b.pull(a)
    await b.applier.resume_parked()
    assert await b.rows(PARKED, "bag") == [(None,)]
    for node in two:
        assert await node.rows("SELECT k FROM bag ORDER BY k") == [("a",), ("bb",), ("d",)]


async def test_a_table_gets_a_key_on_both_sides(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO bag VALUES ('a', '1'), ('b', '2'), ('c', '3')")
    await drain(a, b)
    await b.execute("ALTER TABLE bag ADD PRIMARY KEY (k)")
    await a.execute("UPDATE bag SET k = 'bb' WHERE k = 'b'; DELETE FROM bag WHERE k = 'c'")
    await a.execute("UPDATE bag SET v = '9' WHERE k = 'a'")
    await b.pull(a)
    await a.execute("ALTER TABLE bag ADD PRIMARY KEY (k); INSERT INTO bag VALUES ('d', '4')")
    await b.pull(a)
    await b.applier.resume_parked()
    assert await b.rows(PARKED, "bag") == [(None,)]
    rows = "SELECT k, v FROM bag ORDER BY k"
    assert await b.rows(rows) == await a.rows(rows) == [("a", "9"), ("bb", "2"), ("d", "4")]


async def test_changes_of_a_dropped_table_are_not_applied_to_a_new_one_of_its_name(
    two: list[Node],
) -> None:
    a, b = two
    await b.execute("DROP TABLE acc")
    await look(b)
    await a.execute("UPDATE acc SET n = 10 WHERE id = 1; INSERT INTO acc VALUES (99, 1, 'z', 'z')")
    await b.pull(a)
    make = "CREATE TABLE public.acc (id int PRIMARY KEY, n bigint, note text, extra text)"
    await a.execute(f"DROP TABLE acc; {make}; INSERT INTO acc VALUES (1, 1, 're', 'a')")
    await look(a)
    await b.execute(f"{make}; INSERT INTO acc VALUES (2, 2, 'rb', 'b')")
    await b.pull(a)  # of the new table: waits until it is captured
    await look(b)
    await b.applier.resume_parked()
    await drain(a, b)
    for node in two:
        assert await node.rows("SELECT id, note FROM acc ORDER BY id") == [(1, "re"), (2, "rb")]
    states = "SELECT key, state, reason FROM peersync.quarantine ORDER BY id"
    found = await b.rows(states)
    assert [row[:2] for row in found] == [
        ("(1)", "superseded"),
        ("(99)", "superseded"),
        ("(1)", "applied"),
    ]
    assert "was dropped here since" in found[0][2]


async def test_what_a_peer_has_in_a_new_table_waits_for_the_new_one_here(two: list[Node]) -> None:
    a, b = two
    make = "DROP TABLE acc; CREATE TABLE public.acc (nr int PRIMARY KEY, what text)"
    await a.execute(make)
    await look(a)
    await a.execute("INSERT INTO acc VALUES (1, 'new')")
    await b.pull(a)
    await b.execute(make)
    await look(b)
    await b.applier.resume_parked()
    assert await b.rows("SELECT * FROM acc") == [(1, "new")]


def test_a_table_made_on_both_while_somebody_holds_it_has_the_same_rows(pair_18: TwoNodes) -> None:
    a, b = pair_18
    make_pair(a, b)
    make = "CREATE TABLE bag (k text, v text); CREATE TABLE ke (id int PRIMARY KEY, v text)"
    with psycopg.connect(b.database.conninfo()) as hold:
        hold.execute(make.encode())
        hold.commit()
        hold.execute("LOCK TABLE bag, ke IN ROW EXCLUSIVE MODE")
        a.database.psql(
            f"{make}; INSERT INTO bag VALUES ('x', '1'), ('y', '2');"
            "INSERT INTO ke VALUES (1, 'old'), (2, 'old')"
        )
        parked = "SELECT count(*) FROM peersync.synced_table WHERE parked IS NOT NULL"
        wait_until("they wait", lambda: b.database.psql(parked) == "2")
        assert b.database.psql("SELECT count(*) FROM bag") == "0"
        a.database.psql("UPDATE ke SET v = 'NEW' WHERE id = 1; DELETE FROM ke WHERE id = 2")
    wait_until("they go on", lambda: b.database.psql(parked) == "0")
    a.run("sync", "now", "--wait")
    b.run("sync", "now", "--wait")
    assert b.database.psql("SELECT count(*) FROM peersync.change") == "0", "none of its own"
    for node in (a, b):
        assert node.database.psql("SELECT id, v FROM ke") == "1|NEW"
        assert node.database.psql("SELECT k FROM bag ORDER BY k") == "x\ny"


def test_tables_made_with_rows_on_both_at_once_have_the_rows_of_both_once(
    pair_18: TwoNodes,
) -> None:
    a, b = pair_18
    make_pair(a, b)
    for number in range(10):
        makers = [
            threading.Thread(
                target=node.database.psql,
                args=(
                    f"CREATE TABLE lk{number} (k text); "
                    f"INSERT INTO lk{number} VALUES ('{node.name}'), ('both')",
                ),
            )
            for node in (a, b)
        ]
        for maker in makers:
            maker.start()
        for maker in makers:
            maker.join()
    for number in range(10):
        wait_equal(a, b, table=f"lk{number}")
        counted = f"SELECT count(*) FROM lk{number} HAVING count(*) = 4"
        wait_until("the rows of both are there", functools.partial(a.database.psql, counted))
        wait_equal(a, b, table=f"lk{number}")

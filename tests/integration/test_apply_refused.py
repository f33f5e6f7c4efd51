"""Rows that a database refuses, and tables that are not what the peer's are: they wait apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from peersync.postgres.log.quarantine import retry
from tests.integration.apply_rig import Node, drain, make_group
from tests.integration.operators_rig import connect
from tests.plugins.clusters import MakeDatabase

TABLES = """
CREATE TABLE public.acc (id int PRIMARY KEY, n int, note varchar(20) UNIQUE);
CREATE TABLE public.other (id int PRIMARY KEY);
"""
WAITING = (
    "SELECT key, sqlstate, reason FROM peersync.quarantine WHERE state = 'waiting' ORDER BY id"
)


@pytest.fixture
async def two(make_database: MakeDatabase) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield await make_group(
            stack, *(make_database(18, nth=n, migrated=True) for n in (0, 1)), sql=TABLES
        )


async def test_refused_rows_wait_alone_and_the_others_are_applied(two: list[Node]) -> None:
    a, b = two
    await b.execute(
        "ALTER TABLE acc ADD CHECK (n < 100), ALTER COLUMN note TYPE varchar(4), "
        "ALTER COLUMN n SET NOT NULL"
    )
    await a.execute("INSERT INTO acc SELECT g, g, 'k' || g FROM generate_series(1, 40) g")
    await a.execute("UPDATE acc SET n = 500 WHERE id = 7; UPDATE acc SET n = NULL WHERE id = 30")
    await a.execute("UPDATE acc SET note = 'far too long' WHERE id = 12")
    await a.execute("INSERT INTO other VALUES (1)")
    applied = await b.pull(a)
    assert applied.quarantined == 3
    waiting = await b.rows(WAITING)
    assert [w[:2] for w in waiting] == [("(7)", "23514"), ("(30)", "23502"), ("(12)", "22001")]
    assert "violates check constraint" in waiting[0][2]
    assert "(7, 500, k7)" in waiting[0][2]
    assert await b.rows("SELECT count(*) FROM acc") == [(37,)]
    assert await b.rows("SELECT count(*) FROM other") == [(1,)]
    assert applied.vector[a.origin] == 4


async def test_a_later_change_of_a_refused_row_takes_its_place(two: list[Node]) -> None:
    a, b = two
    await b.execute("ALTER TABLE acc ADD CHECK (n < 100)")
    await a.execute("INSERT INTO acc VALUES (1, 500, 'a'), (2, 500, 'b')")
    await b.pull(a)
    assert len(await b.rows(WAITING)) == 2
    await a.execute("UPDATE acc SET n = 5 WHERE id = 1; DELETE FROM acc WHERE id = 2")
    assert (await b.pull(a)).quarantined == 0
    assert await b.rows(WAITING) == []
    states = await b.rows("SELECT key, state FROM peersync.quarantine ORDER BY id")
    assert states == [("(1)", "superseded"), ("(2)", "superseded")]
    assert await b.rows("SELECT id, n FROM acc") == [(1, 5)]


async def test_unique_values_may_change_places(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc SELECT g, g, 'k' || g FROM generate_series(1, 9) g")
    await drain(a, b)
    await a.execute(
        "BEGIN; UPDATE acc SET note = NULL WHERE id = 1; UPDATE acc SET note = 'k1' WHERE id = 2;"
        "UPDATE acc SET note = 'k2' WHERE id = 1; COMMIT"
    )
    assert (await b.pull(a)).quarantined == 0
    rows = "SELECT t::text FROM acc t ORDER BY id"
    assert await b.rows(rows) == await a.rows(rows)


async def test_a_unique_value_that_another_row_has_here_is_refused_with_its_name(
    two: list[Node],
) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'taken'), (3, 3, 'c')")
    await b.execute("INSERT INTO acc VALUES (2, 2, 'taken')")
    assert (await b.pull(a)).quarantined == 1
    assert [w[:2] for w in await b.rows(WAITING)] == [("(1)", "23505")]
    assert await b.rows("SELECT id FROM acc ORDER BY id") == [(2,), (3,)]


async def test_a_newer_row_of_our_own_that_is_refused_waits_under_its_own_version(
    two: list[Node],
) -> None:
    """The peer's rows come first; then our own row, which was not published, has no place."""
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'first')")
    await drain(a, b)
    await a.execute(
        "BEGIN; UPDATE acc SET note = 'z' WHERE id = 1; INSERT INTO acc VALUES (2, 2, 'y'); COMMIT"
    )
    await a.conn.execute("SELECT peersync.publish()")
    await b.execute("UPDATE acc SET note = 'y' WHERE id = 1")
    await b.pull(a)
    assert await b.rows("SELECT key, origin FROM peersync.quarantine") == [("(1)", b.origin)]
    await drain(a, b)
    await a.execute("UPDATE acc SET note = 'w' WHERE id = 2")  # makes room
    await drain(a, b)
    for node in two:
        conn = await connect(node.test)
        for (number,) in await node.rows("SELECT id FROM peersync.quarantine ORDER BY id"):
            assert (await retry(conn, number, by="me")).result == "applied"
        await conn.close()
    await drain(a, b)
    found = await a.rows("SELECT id, note FROM acc ORDER BY id")
    assert found == await b.rows("SELECT id, note FROM acc ORDER BY id") == [(1, "y"), (2, "w")]


@pytest.mark.parametrize(
    ("change", "words", "help_"),
    [
        ("ALTER TABLE acc DROP COLUMN n", "no column n", 'DROP COLUMN "n"'),
        ("ALTER TABLE acc ALTER n TYPE date USING NULL", "is date here", 'COLUMN "n" TYPE integer'),
        ("DROP TABLE acc", "no table public.acc", 'CREATE TABLE "public"."acc" ("id" integer'),
        ("ALTER TABLE acc DROP CONSTRAINT acc_pkey", "no unique key (id)", 'PRIMARY KEY ("id")'),
    ],
)
async def test_a_table_that_does_not_fit_waits_in_order_and_resumes(
    two: list[Node], change: str, words: str, help_: str
) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'one'), (2, 2, 'two')")
    await drain(a, b)
    await b.execute(change)
    await a.execute("UPDATE acc SET n = 10; INSERT INTO other VALUES (1)")
    await a.execute("INSERT INTO acc VALUES (3, 3, 'three'); DELETE FROM acc WHERE id = 2")
    applied = await b.pull(a)
    assert {str(name) for name in applied.parked} == {"public.acc"}
    assert applied.vector[a.origin] == (await a.rows("SELECT position FROM peersync.replica"))[0][0]
    assert await b.rows("SELECT id FROM other") == [(1,)], "other tables go on"
    reason = (await b.rows("SELECT parked FROM peersync.synced_table WHERE table_name = 'acc'"))[0]
    assert words in reason[0]
    assert help_ in reason[0]
    assert await b.applier.resume_parked() == []
    helps = reason[0].partition("What helps: ")[2]
    if helps.startswith("at the peer"):  # or, where it was dropped by mistake:
        helps = "ALTER TABLE acc ADD COLUMN n integer"
    await b.execute(helps)
    if change == "DROP TABLE acc":
        assert await b.applier.resume_parked() == [], "not before its changes are captured"
        await b.execute(
            "SELECT peersync.capture_install('acc'::regclass, tbl, false, true) "
            "FROM peersync.synced_table WHERE table_name = 'acc'"
        )
    await a.execute("INSERT INTO acc VALUES (4, 4, 'four')")
    await b.pull(a)  # still waits behind the others
    (resumed,) = await b.applier.resume_parked()
    assert (str(resumed.name), resumed.changes, resumed.quarantined) == ("public.acc", 5, 0)
    found = await b.rows("SELECT id, n, note FROM acc ORDER BY id")
    assert found == await a.rows("SELECT id, n, note FROM acc ORDER BY id")
    assert await b.rows("SELECT parked FROM peersync.synced_table WHERE table_name = 'acc'") == [
        (None,)
    ]
    await a.execute("UPDATE acc SET n = 99")
    assert (await b.pull(a)).parked == frozenset()
    assert await b.rows("SELECT DISTINCT n FROM acc") == [(99,)]


async def test_what_waited_does_not_overwrite_what_is_newer_here(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'one'), (2, 2, 'two')")
    await drain(a, b)
    await b.execute("ALTER TABLE acc RENAME COLUMN n TO m")
    await a.execute("UPDATE acc SET n = 10")
    await b.pull(a)
    await b.execute("ALTER TABLE acc RENAME COLUMN m TO n")
    await b.execute("UPDATE acc SET n = 20 WHERE id = 1")
    (resumed,) = await b.applier.resume_parked()
    assert resumed.changes == 2
    await drain(a, b)
    for node in two:
        assert await node.rows("SELECT id, n FROM acc ORDER BY id") == [(1, 20), (2, 10)]


async def test_columns_and_wider_types_that_are_only_here_keep_their_values(
    two: list[Node],
) -> None:
    a, b = two
    await b.execute("ALTER TABLE acc ADD COLUMN extra text DEFAULT 'd', ALTER COLUMN n TYPE bigint")
    await a.execute("INSERT INTO acc VALUES (1, 1, 'one')")
    await b.pull(a)
    await b.execute("UPDATE acc SET extra = 'mine'")
    await a.execute("UPDATE acc SET n = 2; INSERT INTO acc VALUES (3, 3, 'three')")
    await b.pull(a)
    found = await b.rows("SELECT id, n, extra FROM acc ORDER BY id")
    assert found == [(1, 2, "mine"), (3, 3, "d")]

"""What one-way databases do with rows, frame by frame: which one stands, and what leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from peersync.postgres.log.conflicts import resolve
from peersync.postgres.log.feed import open_feed
from peersync.postgres.log.members import read_replica
from peersync.postgres.log.oneway import set_direction
from peersync.wire.feed import FeedRequest
from tests.integration.apply_rig import Node, make_group
from tests.plugins.clusters import MakeDatabase

SQL = (
    "CREATE TABLE public.price (id int PRIMARY KEY, v text);"
    "CREATE TABLE public.stock (id int PRIMARY KEY, a text, b text);"
    "CREATE TABLE public.note (v text)"
)
ROWS = "SELECT id, v FROM price ORDER BY id"
LOCK = "SELECT {}(x'70737963'::int, hashtext('publish'))"
WAITS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.fixture
async def nodes(make_database: MakeDatabase) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        databases = [make_database(18, nth=nth, migrated=True) for nth in range(3)]
        yield await make_group(stack, *databases, sql=SQL)


async def test_what_comes_in_takes_the_place_of_what_a_receiver_has_changed(
    nodes: list[Node],
) -> None:
    hq, branch, other = nodes
    await hq.execute("INSERT INTO price SELECT n, 'p' || n FROM generate_series(1, 9) AS n")
    await branch.pull(hq)
    await set_direction(branch.conn, "receive")
    await branch.execute(
        "UPDATE price SET v = 'mine' WHERE id < 5; INSERT INTO price VALUES (20, 'm')"
    )
    await branch.execute("DELETE FROM price WHERE id = 5; INSERT INTO note VALUES ('mine')")
    head, rows = await branch.frame(hq)
    assert ([t.kind for t in head.transactions], rows, head.shapes) == (["b"], [], ())

    await hq.execute(
        "UPDATE price SET v = 'hq' WHERE id IN (1, 5); DELETE FROM price WHERE id = 2;"
        "INSERT INTO price VALUES (20, 'hq'); INSERT INTO note VALUES ('hq')"
    )
    applied = await branch.pull(hq)
    assert (applied.conflicts, applied.quarantined) == (4, 0)
    assert [r for r in await branch.rows(ROWS) if r[0] in (1, 2, 3, 5, 20)] == [
        (1, "hq"), (3, "mine"), (5, "hq"), (20, "hq"),
    ]  # fmt: skip
    found = await branch.rows(
        "SELECT key, kind, kept_image, in_image, strategy, winner"
        "  FROM peersync.conflict ORDER BY key"
    )
    assert found == [
        ("(1)", "update_origin_differs", "(1,mine)", "(1,hq)", "source_wins", "incoming"),
        ("(2)", "delete_origin_differs", "(2,mine)", None, "source_wins", "incoming"),
        ("(20)", "insert_exists", "(20,m)", "(20,hq)", "source_wins", "incoming"),
        ("(5)", "update_missing", None, "(5,hq)", "source_wins", "incoming"),
    ]
    assert await branch.rows("SELECT v FROM note ORDER BY v") == [("hq",), ("mine",)]
    # told once: the next change of the row meets nothing
    await hq.execute("UPDATE price SET v = 'hq again' WHERE id = 1")
    assert (await branch.pull(hq)).conflicts == 0

    # what it passes on is whole, and its own is not among it
    await other.pull(branch)
    assert await other.rows(ROWS) == await hq.rows(ROWS)
    await hq.execute("TRUNCATE price")
    assert (await branch.pull(hq)).conflicts == 2  # of the rows 3 and 4
    assert await branch.rows(ROWS) == []


async def test_a_row_that_is_made_while_its_delete_comes_in_goes_too(nodes: list[Node]) -> None:
    """The delete found no row that it could have locked."""
    hq, branch, _ = nodes
    await hq.execute("INSERT INTO price VALUES (5, 'hq')")
    await branch.pull(hq)
    await set_direction(branch.conn, "receive")
    await branch.execute("DELETE FROM price")
    await hq.execute("DELETE FROM price")
    await branch.feed.execute(LOCK.format("pg_advisory_lock"))
    async with asyncio.TaskGroup() as group:
        head, rows = await hq.frame(branch)

        async def pieces() -> AsyncIterator[bytes]:
            for row in rows:
                yield row

        applying = group.create_task(branch.applier.apply(head, pieces()), name="apply")
        async with asyncio.timeout(20):
            while not await branch.conn.fetchval(WAITS):
                await asyncio.sleep(0.02)
        await branch.execute("INSERT INTO price VALUES (5, 'in between')")
        await branch.feed.execute(LOCK.format("pg_advisory_unlock"))
    assert applying.result().conflicts == 1
    assert await branch.rows(ROWS) == []


async def test_conflicts_of_others_end_on_a_receiver_as_everywhere(nodes: list[Node]) -> None:
    hq, branch, other = nodes
    for node in nodes:
        await node.execute(
            "UPDATE peersync.synced_table SET strategy = 'merge_columns' WHERE table_name = 'stock'"
        )
        await node.execute(
            "SELECT peersync.capture_install(relation, tbl, true, false)"
            " FROM peersync.synced_table WHERE table_name = 'stock'"
        )
    await hq.execute("INSERT INTO stock VALUES (1, 'a', 'b')")
    for node in (branch, other):
        await node.pull(hq)
    await set_direction(branch.conn, "receive")
    await branch.execute("UPDATE stock SET a = 'mine', b = 'mine'")
    await hq.execute("UPDATE stock SET a = 'of hq'")
    await other.execute("UPDATE stock SET b = 'of other'")
    for giver in (other, hq):
        await branch.pull(giver)
    await hq.pull(other)
    await other.pull(hq)
    rows = [await node.rows("SELECT * FROM stock") for node in nodes]
    assert rows == [[(1, "of hq", "of other")]] * 3
    told = "SELECT DISTINCT in_op FROM peersync.conflict WHERE strategy = 'source_wins'"
    assert await branch.rows(told) == [(b"U",)]
    assert await branch.rows("SELECT id FROM peersync.withheld") == []


async def test_a_decision_on_a_receiver_is_for_it_alone(nodes: list[Node]) -> None:
    hq, branch, other = nodes
    await hq.execute("INSERT INTO price VALUES (1, 'old')")
    for node in (branch, other):
        await node.pull(hq)
    await set_direction(branch.conn, "receive")
    await branch.execute("UPDATE peersync.synced_table SET strategy = 'manual'")
    for node in (hq, other):
        await node.execute("UPDATE price SET v = $1", node.name)
        await branch.pull(node)
    (number,) = (await branch.rows("SELECT id FROM peersync.conflict WHERE state = 'open'"))[0]
    await resolve(branch.conn, number, choice="set", values={"v": "here"}, force=False, by="me")
    await branch.conn.execute("SELECT peersync.publish()")
    assert await branch.rows(ROWS) == [(1, "here")]
    said = "SELECT DISTINCT kind FROM peersync.transaction WHERE origin = $1"
    assert await branch.rows(said, branch.origin) == [(b"b",)]


async def test_a_giver_takes_positions_and_no_rows(nodes: list[Node]) -> None:
    hq, branch, other = nodes
    await set_direction(branch.conn, "give")
    await hq.execute("INSERT INTO price VALUES (1, 'of hq')")
    await branch.execute("INSERT INTO price VALUES (2, 'sold')")
    await hq.feed.execute("SELECT peersync.publish()")
    replica = await read_replica(hq.feed)
    assert replica is not None
    asked = FeedRequest(
        database="shop", group=replica.group_id, origin=branch.origin, vector={}, rows=False
    )
    pieces: list[bytes] = []

    async def write(data: bytes) -> None:
        pieces.append(data)

    feed = await open_feed(hq.feed, asked)
    await feed.send(write)
    assert (feed.head.changes, feed.head.shapes, b"of hq" in b"".join(pieces)) == (0, (), False)
    assert [t.kind for t in feed.head.transactions] == ["d"]

    # a frame with rows that was on its way already is applied without them
    applied = await branch.pull(hq)
    assert applied.vector[hq.origin] == 1
    assert await branch.rows(ROWS) == [(2, "sold")]
    kept = "SELECT count(*) FROM peersync.transaction WHERE origin <> $1"
    assert await branch.rows(kept, branch.origin) == [(0,)]
    # whoever asks it for those of hq gets nothing instead of something empty
    head, _ = await branch.frame(other)
    assert {t.origin for t in head.transactions} == {branch.origin}
    assert (await other.pull(branch)).vector.get(hq.origin, 0) == 0
    for node in (hq, other):
        for source in (branch, hq):
            if node is not source:
                await node.pull(source)
        assert await node.rows(ROWS) == [(1, "of hq"), (2, "sold")]

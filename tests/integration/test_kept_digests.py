"""Kept digests of a table: in any view they are what reading the table gives, or they are not used.

The oracle reads: every block that the list tells is hashed anew, in the same view.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from peersync.agent.proof.continuous import Worker
from peersync.core.patterns import Patterns
from peersync.postgres.conninfo import resolve
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.prune import prune
from peersync.postgres.log.publish import publish
from peersync.postgres.pool import Database
from peersync.postgres.proof_blocks import (
    compare_kept,
    kept_blocks,
    open_kept,
)
from peersync.postgres.proof_lists import register
from peersync.postgres.proof_work import work
from tests.integration.digest_rig import shape_of
from tests.integration.kept_rig import Rig, open_rig, stream
from tests.plugins.clusters import MakeDatabase

_LISTS = """
SELECT string_agg(l.table_name || CASE WHEN b.unread = 0 THEN ' complete' ELSE ' begun' END, ', '
                  ORDER BY l.table_name)
  FROM peersync.proof_list AS l
 CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE b.digest IS NULL) AS unread
                       FROM peersync.proof_block AS b WHERE b.list = l.list) AS b
 WHERE l.snapshot IS NOT NULL
"""


@pytest.fixture
async def rig(make_database: MakeDatabase) -> AsyncIterator[Rig]:
    async with open_rig(make_database(18)) as made:
        yield made


async def test_what_is_kept_is_what_reading_gives_whatever_is_written(rig: Rig) -> None:
    t, words = await rig.keep("t"), await rig.keep("words")
    p1, p2 = await rig.keep("p1"), await rig.keep("p2")
    shapes = (t, words, p1, p2)
    chance = random.Random(7)
    statements = (
        "UPDATE t SET v = v || '!' WHERE id % 97 = {n} % 97",
        "DELETE FROM t WHERE id BETWEEN {n} AND {n} + 90",
        "INSERT INTO t SELECT g, 'new' FROM generate_series({n}, {n} + 200) AS g"
        " ON CONFLICT (id) DO UPDATE SET v = 'again'",
        "UPDATE t SET id = -id WHERE id % 50 = {n} % 50 AND id > 0",
        "UPDATE words SET n = n + 1000 WHERE word = 'w{n}'",
        "UPDATE words SET n = n + 0.00 WHERE word < 'w2'",
        "DELETE FROM words WHERE word LIKE 'w{n}%'",
        "INSERT INTO words VALUES ('', {n}, NULL), ('\u00e4\u00f6', {n}, '[]')"
        " ON CONFLICT DO NOTHING",
        "UPDATE parted SET day = '2024-01-01'::date + (id + {n}) % 366 WHERE id % 20 = {n} % 20",
        "DELETE FROM parted WHERE id % 100 = {n} % 100",
        "BEGIN; UPDATE t SET v = 'gone'; ROLLBACK",
        "BEGIN; UPDATE t SET v = 'kept' WHERE id = {n}; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s;"
        " INSERT INTO t VALUES ({n} + 100000, 'x') ON CONFLICT DO NOTHING; RELEASE s; COMMIT",
    )
    used = 0
    for turn in range(40):
        await rig.app.execute(chance.choice(statements).format(n=chance.randint(1, 3000)))
        if turn % 3 == 0:
            await publish(rig.agent)
        for shape in shapes:
            used += await rig.told(shape) is not None
        if turn % 4 == 0:
            await rig.work_off(rows=chance.choice((100, 1000)))
            for shape in shapes:
                assert await rig.told(shape) is not None, shape.table
    assert used > 100


async def test_nothing_is_read_of_a_table_that_nobody_writes(rig: Rig) -> None:
    t = await rig.keep("t")
    before = await rig.reads("t")
    async with rig.agent.transaction(isolation="repeatable_read"):
        kept = await open_kept(rig.agent, t)
        assert kept is not None
        told = [block async for some in kept_blocks(rig.agent, kept) for block in some]
        ranges = [some async for some in compare_kept(rig.agent, kept, stream(told))]
    await rig.work_off()
    assert sum(block.rows for block in told) == 3000 and not ranges
    assert await rig.reads("t") == before
    await rig.app.execute("UPDATE t SET v = 'new' WHERE id = 700")
    before = await rig.reads("t")
    async with rig.agent.transaction(isolation="repeatable_read"):
        kept = await open_kept(rig.agent, t)
        assert kept is not None
        now = [block async for some in kept_blocks(rig.agent, kept) for block in some]
    assert sum(one != two for one, two in zip(told, now, strict=True)) == 1
    assert 0 < await rig.reads("t") - before < 1500


async def test_a_transaction_that_was_open_when_the_list_was_made_is_seen(rig: Rig) -> None:
    inside = rig.other.transaction()
    await inside.start()
    await rig.other.execute("UPDATE t SET v = 'late' WHERE id = 5; DELETE FROM t WHERE id = 2500")
    t = await rig.keep("t")
    old = await rig.told(t)
    assert old is not None
    await rig.app.execute("UPDATE t SET v = 'sooner' WHERE id = 1500")
    await publish(rig.agent)
    await rig.work_off()
    await inside.commit()
    assert await rig.told(t) != old  # told() has read it
    await rig.work_off()
    assert await rig.told(t) is not None


ALTERED = (
    "TRUNCATE t",
    "TRUNCATE t; INSERT INTO t VALUES (1, 'one')",
    "ALTER TABLE t ALTER COLUMN v TYPE varchar",
    "ALTER TABLE t ALTER COLUMN id TYPE bigint",
    "ALTER TABLE t DROP COLUMN v; ALTER TABLE t ADD COLUMN v text",
    "ALTER TABLE t ADD COLUMN w int DEFAULT 7",
    "ALTER TABLE t DISABLE TRIGGER USER; UPDATE t SET v = 'unseen' WHERE id = 9;"
    "ALTER TABLE t ENABLE TRIGGER USER",
    "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text)",
    "ALTER TABLE t RENAME TO u; CREATE TABLE t (LIKE u INCLUDING ALL)",
    "ALTER TABLE t SET UNLOGGED; ALTER TABLE t SET LOGGED",
)


async def test_an_altered_table_is_read(rig: Rig) -> None:
    for statement in ALTERED:
        await rig.app.execute(
            "DROP TABLE IF EXISTS t, u; CREATE TABLE t (id int PRIMARY KEY, v text);"
            "INSERT INTO t SELECT g, g FROM generate_series(1, 700) AS g"
        )
        await enrol(rig.agent, Patterns(["public.*"]), lock_timeout_s=5)
        t = await rig.keep("t")
        for harmless in ("VACUUM t", "ANALYZE t", "CREATE INDEX ON t (v)"):
            await rig.app.execute(harmless)
            assert await rig.told(t) is not None, (statement, harmless)
        await rig.app.execute(statement)
        assert await rig.told(t) is None, statement
        await rig.work_off()
        await rig.told(t)  # whatever it is now, it is right
        await enrol(rig.agent, Patterns(["public.*"]), lock_timeout_s=5)
        again = await rig.keep("t")  # in the form that it has now
        assert await rig.told(again) is not None, statement


async def test_partitions_that_come_and_go(rig: Rig) -> None:
    p1, p2 = await rig.keep("p1"), await rig.keep("p2")
    await rig.app.execute("ALTER TABLE parted DETACH PARTITION p1")
    assert await rig.told(p1) is None, "nothing of it is captured under the name of its root"
    await rig.app.execute("DELETE FROM p1 WHERE id < 100; UPDATE p2 SET v = 'two' WHERE id = 400")
    assert await rig.told(p2) is not None
    await rig.app.execute(
        "ALTER TABLE parted ATTACH PARTITION p1 FOR VALUES FROM ('2024-01-01') TO ('2024-07-01')"
    )
    assert await rig.told(p1) is None
    await rig.app.execute("TRUNCATE p2")
    assert (await rig.told(p2)) is None
    await enrol(rig.agent, Patterns(["public.*"]), lock_timeout_s=5)
    for name in ("p1", "p2"):
        shape = await rig.keep(name)
        assert await rig.told(shape) is not None


async def test_a_list_whose_changes_have_left_the_log_is_begun_anew(rig: Rig) -> None:
    await publish(rig.agent)
    t = await rig.keep("t")
    await prune(rig.agent)
    await rig.app.execute("UPDATE t SET v = 'unknown' WHERE id = 77")
    await publish(rig.agent)
    assert (await prune(rig.agent)).transactions == 0, "the list still needs them"
    await rig.work_off()
    assert (await prune(rig.agent)).transactions == 1
    assert await rig.told(t) is not None
    await rig.app.execute("UPDATE t SET v = 'lost' WHERE id = 78")
    await publish(rig.agent)
    await rig.agent.execute("UPDATE peersync.proof_list SET advanced_at = now() - interval '1 day'")
    assert (await prune(rig.agent)).transactions == 1, "nobody works on the list"
    assert await rig.told(t) is None
    await rig.work_off()
    assert await rig.told(t) is not None


async def test_a_row_that_nobody_told_of_is_found_when_its_block_is_read_again(rig: Rig) -> None:
    t = await rig.keep("t")
    await rig.app.execute(
        "SET session_replication_role = replica; UPDATE t SET v = 'unseen' WHERE id = 2222;"
        "RESET session_replication_role"
    )
    number = await rig.agent.fetchval("SELECT list FROM peersync.proof_list")
    assert not (await work(rig.agent, number, rows=500, scrub_days=30)).unseen
    await rig.agent.execute("UPDATE peersync.proof_block SET read_at = now() - interval '31 days'")
    done = await work(rig.agent, number, rows=500, scrub_days=30)
    assert done.unseen
    await rig.work_off()
    assert await rig.told(t) is not None


UNSEEN = {
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    "CREATE TRIGGER x AFTER INSERT ON words FOR EACH ROW EXECUTE FUNCTION f();"
    "ALTER TABLE words ENABLE ALWAYS TRIGGER x": "DROP TRIGGER x ON words",
    "UPDATE peersync.replica SET state = 'held'": "UPDATE peersync.replica SET state = 'active'",
    "UPDATE peersync.replica SET direction = 'receive'": "UPDATE peersync.replica"
    " SET direction = 'both'",
    "UPDATE peersync.replica SET origin = origin + 1": "UPDATE peersync.replica"
    " SET origin = origin - 1",
    "ALTER TABLE t ADD COLUMN c regclass": "ALTER TABLE t DROP COLUMN c",
}


async def test_where_a_change_could_go_unseen_no_list_is_used(rig: Rig) -> None:
    t = await rig.keep("t")
    for statement, back in UNSEEN.items():
        assert await rig.told(t) is not None
        await rig.app.execute(statement)
        assert await rig.told(await shape_of(rig.agent, "t")) is None, statement
        await rig.app.execute(back)


async def test_a_table_that_grows_in_its_middle_for_ever_is_kept(rig: Rig) -> None:
    """Places between places get longer with each cut, and numbers have an end."""
    words = await rig.keep("words")
    await rig.agent.execute(
        "UPDATE peersync.proof_block SET place = ('0.' || repeat('3', 1997))::numeric"
        " + place * ('0.' || repeat('0', 1997) || '1')::numeric WHERE place > 0"
    )
    for n in range(1, 4):
        await rig.app.execute(
            "INSERT INTO words SELECT 'w15', $1 + g, '{}' FROM generate_series(1, 1500) AS g",
            n * 2000,
        )
        await rig.work_off()
        assert await rig.told(words) is not None
    longest = "SELECT max(scale(place)) FROM peersync.proof_block"
    assert await rig.agent.fetchval(longest) < 100


async def test_a_table_that_cannot_be_read_keeps_no_other_waiting(rig: Rig) -> None:
    """One is locked by somebody, of one what is kept is not a key."""
    for name in ("t", "words"):
        await rig.keep(name)
    await rig.agent.execute(
        "UPDATE peersync.proof_block AS b SET digest = NULL, low ="
        " CASE WHEN l.table_name = 'words' AND low IS NOT NULL THEN '{x,none}' ELSE low END"
        " FROM peersync.proof_list AS l WHERE b.list = l.list"
    )
    await register(rig.agent, await shape_of(rig.agent, "p1"))
    await rig.app.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    database = Database("shop", resolve(rig.url))
    async with asyncio.TaskGroup() as group:
        working = group.create_task(Worker(database, 100, 30, lambda: False).run())
        async with asyncio.timeout(60):
            while await rig.agent.fetchval(_LISTS) != "p1 complete, t begun":
                await asyncio.sleep(0.2)
        working.cancel()
    await rig.app.execute("ROLLBACK")


async def test_an_enum_whose_label_changes_is_read(rig: Rig) -> None:
    await rig.app.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); ALTER TABLE t ADD COLUMN m mood DEFAULT 'sad'"
    )
    await enrol(rig.agent, Patterns(["public.*"]), lock_timeout_s=5)
    t = await rig.keep("t")
    assert await rig.told(t) is not None
    await rig.app.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
    assert await rig.told(t) is None

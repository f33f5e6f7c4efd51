"""Coming back while the others have changed the same rows: nothing ends in silence."""

from __future__ import annotations

import asyncio

import asyncpg

from peersync.postgres.log.prune import prune
from tests.integration.test_join import join
from tests.plugins.clusters import Database
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import TwoNodes

TABLES = """
CREATE TABLE stock (id int PRIMARY KEY, n int);
CREATE TABLE cust (id int PRIMARY KEY, phone text, address text);
CREATE TABLE prio (id int PRIMARY KEY, v text);
CREATE TABLE hand (id int PRIMARY KEY, v text);
CREATE TABLE emptied (id int PRIMARY KEY, v text);
CREATE TABLE plain (id int PRIMARY KEY, v text);
CREATE TABLE made (id int PRIMARY KEY, v text);
INSERT INTO stock VALUES (1, 100); INSERT INTO cust VALUES (1, 'p', 'a');
INSERT INTO prio VALUES (1, 'old'); INSERT INTO hand VALUES (1, 'old');
INSERT INTO emptied VALUES (1, 'old'), (2, 'old'); INSERT INTO plain VALUES (1, 'old');
"""
STRATEGIES = {
    "stock": "delta:n", "cust": "merge_columns", "prio": "origin_priority:server-a=5",
    "hand": "manual",
}  # fmt: skip
CONFLICTS = """
SELECT table_name || ' ' || winner || ' ' || state FROM peersync.conflict ORDER BY table_name, key
"""


async def cut_log(database: Database) -> None:
    conn = await asyncpg.connect(database.url())
    try:
        assert await prune(conn)
    finally:
        await conn.close()


def test_a_returning_server_ends_each_conflict_where_people_see_it(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(TABLES)
    join(target, source)
    for node in pair_18:
        for table, strategy in STRATEGIES.items():
            node.run("tables", "strategy", f"public.{table}", strategy)
        node.run("sync", "now", "--wait", "--timeout", "60")
    target.run("sync", "pause")
    source.database.psql(
        "UPDATE stock SET n = n - 5; UPDATE cust SET phone = 'P2';"
        "UPDATE prio SET v = 'of a'; UPDATE hand SET v = 'of a'; UPDATE plain SET v = 'of a'"
    )
    target.database.psql("UPDATE emptied SET v = 'b' WHERE id = 1; INSERT INTO emptied VALUES (9)")
    target.database.psql(
        "UPDATE stock SET n = n - 30; UPDATE cust SET address = 'A2';"
        "UPDATE prio SET v = 'of b'; UPDATE hand SET v = 'of b'; UPDATE plain SET v = 'of b'"
    )
    source.database.psql("TRUNCATE emptied")
    target.database.psql("INSERT INTO made VALUES (1, 'new'); UPDATE made SET v = 'and updated'")
    target.run("rebaseline", source.name, "--yes")
    target.run("sync", "resume")
    target.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(source.database, target.database)
    assert target.database.psql("SELECT count(*) FROM emptied").strip() == "0"
    assert target.database.psql("SELECT v FROM plain").strip() == "of b"
    assert target.database.psql("SELECT v FROM made").strip() == "and updated"
    assert target.database.psql(CONFLICTS).split("\n") == [
        "cust kept open", "emptied kept open", "emptied kept open", "hand incoming open",
        "plain incoming resolved", "prio kept open", "stock kept open",
    ]  # fmt: skip


def test_a_row_that_was_inserted_and_updated_while_away_too_long_comes_back(
    pair_18: TwoNodes,
) -> None:
    source, target = pair_18
    source.database.psql(TABLES)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "60")
    target.stop()
    target.database.psql("INSERT INTO made VALUES (1, 'new')")
    target.database.psql("UPDATE made SET v = 'and updated'")
    source.run("members", "expire", "server-b", "--yes", "--force")
    source.database.psql("UPDATE plain SET v = 'later'; SELECT peersync.publish()")
    asyncio.run(cut_log(source.database))
    target.start()
    target.run("rebaseline", source.name, "--yes")
    target.run("sync", "now", "--wait", "--timeout", "60")
    assert source.database.psql("SELECT v FROM made").strip() == "and updated"
    assert_same_rows(source.database, target.database)

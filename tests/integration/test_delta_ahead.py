"""A delta gives up early where all of a table differs, and only there."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from peersync.agent.delta.ahead import differs_everywhere
from peersync.postgres.digest import Block, Key, Tally, blocks, compare_blocks
from tests.integration.digest_rig import pinned, shape_of
from tests.plugins.clusters import MakeDatabase

ROWS = 60_000


async def test_a_table_is_hopeless_only_where_it_differs_all_over(
    make_database: MakeDatabase,
) -> None:
    database = make_database(18)
    database.psql(
        f"CREATE TABLE there AS SELECT i AS id, 0 AS v FROM generate_series(1, {ROWS}) i;"
        "CREATE TABLE other AS SELECT id, 1 AS v FROM there;"
        f"CREATE TABLE begun AS SELECT id, (id < {ROWS // 3 * 2})::int AS v FROM there;"
        "ALTER TABLE there ADD PRIMARY KEY (id); ALTER TABLE other ADD PRIMARY KEY (id);"
        "ALTER TABLE begun ADD PRIMARY KEY (id)"
    )
    async with pinned(database) as there, pinned(database) as here:
        theirs = await shape_of(there, "there")
        asked: list[Key] = []

        def ask(key: Key) -> AsyncGenerator[list[Block], None]:
            asked.append(key)
            return blocks(there, theirs, key)

        async with there.transaction(isolation="repeatable_read"), here.transaction():
            assert await differs_everywhere(here, await shape_of(here, "other"), ask)
            assert len(asked) == 5, "places all over the table"
            begun = await shape_of(here, "begun")
            first = Tally()
            ranges = compare_blocks(here, begun, blocks(there, theirs), tally=first)
            await anext(ranges)
            assert first.differing == first.blocks > 0, "as hopeless as the other, so far"
            assert not await differs_everywhere(here, begun, ask)
            await ranges.aclose()

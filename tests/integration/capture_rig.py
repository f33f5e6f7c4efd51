"""Captured tables, and the oracle of capture: a replay.

The log of a table, applied in order to what it held at the beginning, must give the rows that the
table has now, as the very texts that it prints.
"""

from __future__ import annotations

from collections import Counter

import asyncpg
import pytest

from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import TableState, enrol
from tests.plugins.clusters import Database, MakeDatabase

EACH = [(15, None), (18, None), (18, "plain")]  # the last is of a role without superuser
EACH_ID = ["15", "18", "18-owner"]


def chosen(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Database:
    """The database of a fixture with the parameters `EACH`."""
    major, owner = request.param
    return make_database(major, owner=owner)


async def take(
    agent: asyncpg.Connection, *exclude: str, lock_timeout_s: float = 5
) -> dict[str, TableState]:
    """Captures all tables but those; gives how each is, by its name."""
    states = await enrol(agent, Patterns(["*"], exclude), lock_timeout_s=lock_timeout_s)
    return {state.name.name: state for state in states}


async def replay(
    agent: asyncpg.Connection, name: str = "t", schema: str = "public"
) -> Counter[str]:
    """The rows that the log of a table leaves; it was empty when capture began."""
    rows: dict[str, str] = {}
    bag: Counter[str] = Counter()
    log = await agent.fetch(
        "SELECT c.op::text, c.key, c.image FROM peersync.change AS c "
        "JOIN peersync.shape AS s USING (shape) WHERE s.schema_name = $1 AND s.table_name = $2 "
        "ORDER BY c.id",
        schema,
        name,
    )
    for op, key, image in log:
        assert op != "X"
        if op == "T":
            rows.clear()
            bag.clear()
        elif key is None:
            bag[image] += 1 if op == "I" else -1
        elif op == "D":
            rows.pop(key, None)
        else:
            rows[key] = image
    return bag + Counter(rows.values())


async def same(agent: asyncpg.Connection, name: str = "t", schema: str = "public") -> Counter[str]:
    """Asserts that the log gives the table; returns what that is."""
    there = await agent.fetch(f"SELECT t.*::text AS r FROM ONLY {TableName(schema, name).sql} AS t")
    partitioned = await agent.fetch(
        f"SELECT t.*::text AS r FROM {TableName(schema, name).sql} AS t"
    )
    kind = await agent.fetchval(
        "SELECT relkind::text FROM pg_class WHERE oid = $1::regclass", TableName(schema, name).sql
    )
    rows = Counter(row["r"] for row in (partitioned if kind == "p" else there))
    assert await replay(agent, name, schema) == rows
    return rows

"""Which tables a person has left out of periodic sync, or taken back, and how conflicts end there.

The configuration's include and exclude are the outer bound: they say which tables may be synced,
and a person leaves some of those out for now, on this node. What a person has said stays with the
table (`synced_table`), so it survives a restart; a table that is made later is not meant by it.
"""

from __future__ import annotations

from typing import Final, Literal

import asyncpg
import msgspec

from peersync.core.errors import BadRequest
from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import BY_OPERATOR, TableState, enrol, table_states
from peersync.postgres.log.members import read_replica
from peersync.postgres.log.strategy import check_strategy
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("tables")
LOCK_TIMEOUT_S: Final = 5.0

Action = Literal["add", "remove", "refresh", "strategy"]


class TableView(msgspec.Struct, frozen=True, kw_only=True):
    """A table that periodic sync knows of. `reason`: why it is not captured.

    `parked`: why what comes in for it waits. `waiting`: how many changes do.
    """

    schema: str
    table: str
    state: str
    reason: str | None
    parked: str | None
    waiting: int
    strategy: str


async def view_tables(conn: asyncpg.Connection, pattern: str | None = None) -> list[TableView]:
    """All that are known, or those that a pattern means."""
    wanted = Patterns([pattern]) if pattern is not None else None
    counts = {row["tbl"]: row["waiting"] for row in await conn.fetch(_SQL["waiting"])}
    return [
        TableView(
            schema=table.name.schema,
            table=table.name.name,
            state=table.state,
            reason=table.reason,
            parked=table.parked,
            waiting=counts.get(table.tbl, 0),
            strategy=table.strategy,
        )
        for table in await table_states(conn)
        if wanted is None or wanted.match(table.name)
    ]


async def change_tables(
    conn: asyncpg.Connection,
    patterns: Patterns,
    action: Action,
    *,
    pattern: str | None,
    strategy: str | None,
) -> list[TableView]:
    """Does it, looks at all tables again, and gives those that were meant.

    BadRequest for a pattern that means nothing, a strategy that there is not, or a table that the
    configuration leaves out.
    """
    if await read_replica(conn) is None:
        raise BadRequest(
            "this database takes part in no periodic sync",
            hint="begin it with another server: peersync join PEER",
        )
    if action != "refresh":
        await _change(conn, patterns, action, pattern, strategy)
    await enrol(conn, patterns, lock_timeout_s=LOCK_TIMEOUT_S)
    return await view_tables(conn, pattern)


async def _change(
    conn: asyncpg.Connection,
    patterns: Patterns,
    action: Action,
    pattern: str | None,
    strategy: str | None,
) -> None:
    if pattern is None:
        raise BadRequest("which tables?")
    meant = Patterns([pattern])
    found = [table for table in await table_states(conn) if meant.match(table.name)]
    if not found:
        raise BadRequest(
            f"periodic sync knows no table like {pattern[:100]!r}",
            hint="a new table is known after: peersync tables refresh",
        )
    numbers = [table.tbl for table in found]
    if action == "strategy":
        text = await check_strategy(conn, strategy, [table.name for table in found])
        await conn.execute(_SQL["set_strategy"], numbers, text)
    elif action == "remove":
        await conn.execute(_SQL["leave_out"], numbers, BY_OPERATOR)
    else:
        _refuse_left_out(found, patterns)
        await conn.execute(_SQL["take_back"], numbers, BY_OPERATOR)


def _refuse_left_out(found: list[TableState], patterns: Patterns) -> None:
    if all(patterns.match(table.name) for table in found):
        return
    left_out = [str(table.name) for table in found if not patterns.match(table.name)]
    raise BadRequest(
        f"the configuration leaves {', '.join(left_out[:5])} out",
        hint="change include or exclude of the database, and restart the agent",
    )

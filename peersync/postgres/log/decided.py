"""A person's decision on an open conflict: it is one of the row, and the same on all nodes.

It is told by a transaction of kind "c" without changes: it names the row, and its `seen` says
which changes the person could know. What a node has open of that row and lies below is closed
there, by the same rule also where the person is; a conflict with something that the person did
not know stays open. The row itself travels as any change, also where it stays as it is: without
one, of two people who decide at the same time one would be overruled and nobody be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from peersync.core.errors import ProtocolError, RowMoved, RowsLocked
from peersync.core.names import quote_ident, quote_literal
from peersync.postgres.log.members import (
    decode_vector,
    encode_vector,
    read_replica,
    read_vector,
)
from peersync.postgres.log.onerow import Values, canonical_key, read_row
from peersync.postgres.log.publish import announce
from peersync.postgres.log.rows import Target
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("conflicts")
_FIELDS: Final = ("schema", "table", "key", "by", "how")
_MAX_CHARS: Final = 500
_WRITERS_END_S: Final = 5.0
_LOOK_AGAIN_S: Final = 0.05


async def say_decided(
    conn: asyncpg.Connection, number: int, schema: str, table: str, key: str, *, by: str, how: str
) -> None:
    """Publishes it, inside the caller's transaction, and closes what else is open of the row here.

    `number`: the conflict that was decided. Raises NotFound where no part is taken now.
    """
    replica = await read_replica(conn)
    if replica is not None and replica.direction == "receive":  # a decision for this server alone
        known = encode_vector(await read_vector(conn))
    else:
        info = {"schema": schema, "table": table, "key": key, "by": by, "how": how}
        position = await announce(conn, "c", info)
        said = await conn.fetchrow(_SQL["said"], position)
        known = encode_vector({**decode_vector(said["seen"]), said["origin"]: position})
    how = f"settled together with conflict {number}: {how}"
    await conn.execute(_SQL["decided"], schema, table, key, known, by, how, None)


async def apply_decided(
    conn: asyncpg.Connection,
    origin: int,
    position: int,
    seen: Mapping[int, int],
    info: Mapping[str, Any] | None,
) -> None:
    """Closes what is open here of that row. Raises ProtocolError."""
    told = [(info or {}).get(name) for name in _FIELDS]
    if not all(isinstance(value, str) for value in told):
        raise ProtocolError("a decision on a conflict does not say which")
    schema, table, key, by, how = map(str, told)
    known = encode_vector({**seen, origin: position})
    await conn.execute(
        _SQL["decided"], schema, table, key, known, by[:_MAX_CHARS], how[:_MAX_CHARS], origin
    )


async def log_as_it_is(
    conn: asyncpg.Connection, target: Target, key: Values, *, present: bool
) -> None:
    """A change that leaves the row as it is, written into the log only: no trigger sees it.

    `present`: there is a row, and the caller holds it. Raises RowsLocked and RowMoved.
    """
    if present:
        columns = ", ".join(map(quote_ident, key))
        values = ", ".join(quote_literal(value or "") for value in key.values())  # never null
        row = f"SELECT * FROM {target.only} WHERE ({columns}) = ({values})"
        log = await conn.fetchval(_SQL["log_statement"], target.oid, target.tbl)
        await conn.execute(f"WITH y AS ({row}), x AS ({row}) {log}")
    else:
        await _log_gone(conn, target, key)
    await conn.execute(_SQL["wake"])


async def _log_gone(conn: asyncpg.Connection, target: Target, key: Values) -> None:
    """Nobody can hold a row that is not there, and transactions are placed by their changes' ids.

    An insert with a lower id, not committed yet, would be placed before this although it is not
    gone. So the id is taken first, then whoever has written the table by now ends, and then the
    row is looked for: what is inserted later has a higher id.
    """
    logged = await canonical_key(conn, target, key)
    await conn.execute(_SQL["log_gone"], target.oid, target.tbl, logged, list(key))
    writers = await conn.fetchval(_SQL["writers"], target.oid, None)
    try:
        async with asyncio.timeout(_WRITERS_END_S):
            while writers:
                await asyncio.sleep(_LOOK_AGAIN_S)
                writers = await conn.fetchval(_SQL["writers"], target.oid, writers)
    except TimeoutError:
        raise RowsLocked(
            f"another transaction writes {target.name} and does not end",
            detail="it may be inserting the very row that is decided to be gone",
            hint="try again when it has ended",
        ) from None
    if await read_row(conn, target, key) is not None:
        raise RowMoved(
            "the row has been inserted meanwhile",
            hint="look at it, then decide again",
            did="nothing was changed",
        )

"""A person's decision on an open conflict, told to the other nodes, where it is open too.

A transaction of kind "c" without changes: it names the row, and its `seen` says which changes the
person could know. What a node has open of that row and lies below is closed there; a conflict
with something that the person did not know stays open. The row itself travels as any change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from peersync.core.errors import ProtocolError
from peersync.postgres.log.members import encode_vector
from peersync.postgres.log.publish import announce
from peersync.postgres.sqlfiles import queries

_DECIDED: Final = queries("conflicts")["decided"]
_FIELDS: Final = ("schema", "table", "key", "by", "how")
_MAX_CHARS: Final = 500


async def say_decided(
    conn: asyncpg.Connection, schema: str, table: str, key: str, *, by: str, how: str
) -> None:
    """Publishes it, inside the caller's transaction; nothing where no group is to be told."""
    info = {"schema": schema, "table": table, "key": key, "by": by, "how": how}
    await announce(conn, "c", info)


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
        _DECIDED, schema, table, key, known, by[:_MAX_CHARS], how[:_MAX_CHARS], origin
    )

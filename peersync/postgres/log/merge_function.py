"""Asks a function of the operator's which row several concurrent changes are to become.

It runs in the apply's own transaction, in a savepoint: a function that fails must not stop
everything else. It fails on every node alike, because it is given the same; then the newest
change stands, and a person is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec

from peersync.core.names import TableName
from peersync.core.order.change import Change, Columns
from peersync.postgres.log.apply_write import NOT_NOW

_TEXTS: Final = """
SELECT f.v IS NULL OR pg_catalog.jsonb_typeof(f.v) = 'null' AS removes,
       CASE WHEN pg_catalog.jsonb_typeof(f.v) = 'object' THEN ARRAY(
            SELECT ARRAY[e.key, e.value] FROM pg_catalog.jsonb_each_text(f.v) AS e) END AS columns
  FROM (SELECT {name}($1::text::jsonb) AS v OFFSET 0) AS f"""


async def call_function(
    conn: asyncpg.Connection, name: TableName, candidates: Sequence[Change]
) -> tuple[Columns | None, str]:
    """The row, None for none; and why that could not be told.

    Columns that the answer leaves out are those of the newest candidate that is a row.
    """
    told = msgspec.json.encode([_told(change) for change in candidates]).decode()
    await conn.execute("SAVEPOINT peersync_function")
    try:
        row = await conn.fetchrow(_TEXTS.format(name=name.sql), told)
    except asyncpg.PostgresError as error:
        if error.sqlstate is None or error.sqlstate.startswith(NOT_NOW):
            raise
        await conn.execute("ROLLBACK TO peersync_function; RELEASE peersync_function")
        return None, str(error)
    await conn.execute("RELEASE peersync_function")
    if row["removes"]:
        return None, ""
    whole: dict[str, str | None] = {}
    for change in candidates:
        if change.image is not None and not isinstance(change.image, str):
            whole = dict(change.image)
    if row["columns"] is None or not whole:
        return None, "it returned neither an object nor null"
    answered = dict(row["columns"])
    unknown = sorted(answered.keys() - whole.keys())
    if unknown:
        return None, f"it returned a column that is not there: {unknown[0][:63]}"
    return {**whole, **answered}, ""


def _told(change: Change) -> dict[str, Any]:
    return {
        "op": change.op,
        "origin": change.origin,
        "hlc": change.version.hlc,
        "row": change.image,
    }

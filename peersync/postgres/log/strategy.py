"""How the conflicts of a table end, as an operator writes it: `delta:stock,reserved`.

Owns the text that `peersync.synced_table` keeps: what it may say, whether it fits the tables that
it is meant for, and what it is in the core. A strategy has to give the same row everywhere, so
what could differ from node to node (a float, a name that nobody has) is refused here, and not
found out in the middle of a conflict.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import asyncpg

from peersync.core.errors import BadRequest
from peersync.core.names import TableName
from peersync.core.order.change import Change, Image
from peersync.core.order.fold import (
    Delta,
    Function,
    Manual,
    MergeColumns,
    NewerWins,
    OriginPriority,
    Strategy,
)
from peersync.postgres.log.rows import Target, read_targets
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("tables")
PLAIN: Final = ("newer_wins", "manual")
_FORMS: Final = (
    "newer_wins, manual, merge_columns, delta:COLUMN,COLUMN, "
    "origin_priority:NODE=NUMBER,…, function:SCHEMA.NAME"
)
_NUMERIC: Final = ("smallint", "integer", "bigint", "numeric")
_MOST: Final = 1000


def is_merging(text: str) -> bool:
    """Whether more than the newest change decides: then all changes of a row are looked at."""
    return text not in PLAIN


def strategy_of(text: str, names: Mapping[int, str]) -> Strategy:
    """The strategy as the core knows it. `names`: of the node that each origin is.

    That of a function has nothing to call yet.
    """
    kind, _, rest = text.partition(":")
    match kind:
        case "merge_columns":
            return MergeColumns()
        case "delta":
            return Delta(frozenset(rest.split(",")))
        case "origin_priority":
            ranks = _ranks(rest)
            by_origin = {o: ranks.get(str(o), ranks.get(name, 0)) for o, name in names.items()}
            return OriginPriority(by_origin)
        case "function":
            return Function(_nothing_to_call)
        case "manual":
            return Manual()
    return NewerWins()


def function_of(text: str) -> TableName:
    """Schema and name of the function that a strategy names."""
    schema, _, name = text.removeprefix("function:").partition(".")
    return TableName(schema, name)


async def check_strategy(
    conn: asyncpg.Connection, text: str | None, tables: Collection[TableName]
) -> str:
    """The text, once it is known to be a strategy that all of these tables can have.

    BadRequest says what is wrong with it.
    """
    text = (text or "").strip()
    kind, _, rest = text.partition(":")
    if text in PLAIN:
        return text
    targets = list((await read_targets(conn, list(tables))).values())
    for target in targets:
        if not target.keys:
            raise BadRequest(
                f"{target.name} has no key, so a change of a row of it is an insert or a delete",
                hint="give it a primary key on every node, or leave it at newer_wins",
            )
    if kind == "merge_columns" and not rest:
        return text
    if kind == "delta" and rest:
        _check_delta(rest.split(","), targets)
    elif kind == "origin_priority" and rest:
        await _check_ranks(conn, rest)
    elif kind == "function" and rest:
        await _check_function(conn, function_of(text))
    else:
        raise BadRequest(f"{text[:50]!r} is no strategy", hint=f"there is: {_FORMS}")
    return text


def _check_delta(columns: Sequence[str], targets: Collection[Target]) -> None:
    if len(set(columns)) != len(columns):
        raise BadRequest("a column is named twice")
    for target in targets:
        for name in columns:
            column = target.by_name.get(name)
            if column is None:
                raise BadRequest(f"{target.name} has no column {name[:63]!r}")
            if column.type not in _NUMERIC:
                raise BadRequest(
                    f"{target.name}: column {name} is of type {column.full_type}; deltas are added "
                    "up exactly",
                    hint=f"that works with {', '.join(_NUMERIC)}",
                )
            if name in target.key or column.generated:
                what = "part of the key" if name in target.key else "generated"
                raise BadRequest(f"{target.name}: column {name} is {what}")


async def _check_ranks(conn: asyncpg.Connection, rest: str) -> None:
    known = {
        word
        for row in await conn.fetch(_SQL["nodes"])
        for word in (str(row["origin"]), row["node_name"])
    }
    unknown = [name for name in _ranks(rest) if name not in known]
    if unknown:
        raise BadRequest(
            f"no node of this group is named {', '.join(unknown)[:200]}",
            hint="peersync members list shows their names",
        )


async def _check_function(conn: asyncpg.Connection, name: TableName) -> None:
    row = await conn.fetchrow(_SQL["merge_function"], *name)
    if row is None:
        raise BadRequest(
            f"there is no function {name}(jsonb) that returns jsonb",
            hint="docs/conflicts.md says what it is given and what it returns",
        )
    if row["volatility"] != "i":
        raise BadRequest(
            f"function {name} is not marked IMMUTABLE",
            hint="what it returns may depend on nothing but what it is given, or the nodes differ",
        )
    if not row["may"]:
        raise BadRequest(f"this role may not call {name}", hint="GRANT EXECUTE on it")


def _ranks(rest: str) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for part in rest.split(","):
        name, _, number = part.strip().rpartition("=")
        try:
            rank = int(number)
        except ValueError:
            rank = -1
        if not name or not 0 <= rank <= _MOST or name in ranks:
            raise BadRequest(
                f"{part[:70]!r} does not say which node ranks how high",
                hint=f"origin_priority:berlin=2,paris=1; 0 to {_MOST}, 0 for who is not named",
            )
        ranks[name] = rank
    return ranks


def _nothing_to_call(changes: Sequence[Change]) -> Image | None:
    raise RuntimeError("The database is asked, and its answer put here")

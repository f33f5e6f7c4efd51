"""Many conflicts at once: which of them are meant, and each settled as if by hand.

Every conflict is a transaction of its own, the newest first, so that of several about one row the
newest decides and the others find it settled. What a person has to look at (a row that has moved
on, a table that is not captured) is left as it is and named with the reason. Never with `force`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import asyncpg
import msgspec

from peersync.core.errors import BadRequest, NotFound, PeersyncError, RowMoved
from peersync.postgres.errors import TRANSLATED, translate
from peersync.postgres.log.conflicts import Settled, resolve, restore
from peersync.postgres.log.members import read_members
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("conflicts")
MAX_TABLES: Final = 100
Bulk = Literal["keep", "take", "restore"]
BulkResult = Literal["settled", "unchanged", "moved", "refused", "already"]


@dataclass(frozen=True)
class Meant:
    """Which conflicts. None is any; `tables` numbers of synced_table, `since` <= at < `until`.

    `origins`: one of the sides was made there; `before`: only those with a smaller id.
    """

    tables: Sequence[int] | None = None
    state: str | None = None
    origins: Sequence[int] | None = None
    kind: str | None = None
    strategy: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None

    @property
    def parameters(self) -> tuple[Any, ...]:
        """In the order in which the named queries take them."""
        return (
            self.tables,
            self.state,
            self.origins,
            self.kind,
            self.strategy,
            self.since,
            self.until,
            self.before,
        )


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one. unchanged: closed, and nothing had to be written. moved: the row has been
    changed since. already: it was settled with another one of the row, or by somebody else."""

    id: int
    schema: str
    table: str
    key: str | None
    result: BulkResult
    message: str | None = None


class TableCount(msgspec.Struct, frozen=True, kw_only=True):
    schema: str
    table: str
    count: int


class BulkSettled(msgspec.Struct, frozen=True, kw_only=True):
    """`matched` were meant when this began, `left` of them are older than `next`, which goes on as
    `before`; None: all were tried. `tables`: of a dry run, how many are of which, at most 100; its
    `next` keeps a run to what was counted: what is found later has no smaller id."""

    database: str
    choice: str
    dry_run: bool
    matched: int
    tried: int
    settled: int
    refused: int
    outcomes: tuple[Outcome, ...]
    tables: tuple[TableCount, ...]
    next: int | None
    left: int


async def origins_of(conn: asyncpg.Connection, peer: str) -> list[int]:
    """Every origin that a node of this name has, or has had. NotFound for none."""
    found = [m.origin for m in await read_members(conn) if m.node_name == peer]
    if not found:
        raise NotFound(
            f"no member of this database is called {peer[:80]!r}", hint="peersync members list"
        )
    return found


async def _count(conn: asyncpg.Connection, meant: Meant) -> tuple[list[TableCount], int | None]:
    """Of every table, the one with the most first; and the newest of all."""
    rows = await conn.fetch(_SQL["count"], *meant.parameters)
    counts = [
        TableCount(schema=r["schema_name"], table=r["table_name"], count=r["conflicts"])
        for r in rows
    ]
    return counts, max((r["newest"] for r in rows), default=None)


async def settle_all(
    conn: asyncpg.Connection,
    database: str,
    meant: Meant,
    choice: Bulk,
    *,
    by: str,
    limit: int,
    is_late: Callable[[], bool],
    dry_run: bool = False,
) -> BulkSettled:
    """Tries up to `limit`, and no further one once `is_late`, or when one fails that may go well
    later; raises that only where it is the first. Each stays as it came out."""
    tables, newest = await _count(conn, meant)
    matched = sum(table.count for table in tables)
    outcomes: list[Outcome] = []
    rows = [] if dry_run else await conn.fetch(_SQL["list"], *meant.parameters, limit)
    for row in rows:
        try:
            outcomes.append(await _one(conn, row, choice, by))
        except (PeersyncError, *TRANSLATED):
            if not outcomes:
                raise
            break  # what was done is told; who goes on meets it as the first
        if is_late():
            break
    left = 0 if dry_run else max(matched - len(outcomes), 0)
    after = outcomes[-1].id if outcomes and left else None
    if dry_run and newest is not None:
        after = newest + 1
    return BulkSettled(
        database=database,
        choice=choice,
        dry_run=dry_run,
        matched=matched,
        tried=len(outcomes),
        settled=sum(one.result in ("settled", "unchanged") for one in outcomes),
        refused=sum(one.result in ("moved", "refused") for one in outcomes),
        outcomes=tuple(outcomes),
        tables=tuple(tables[:MAX_TABLES]) if dry_run else (),
        next=after,
        left=left,
    )


async def _one(conn: asyncpg.Connection, row: Any, choice: Bulk, by: str) -> Outcome:
    message: str | None = None
    try:
        settled = await _settle(conn, row["id"], choice, by)
        result: BulkResult = "settled" if settled.written else "unchanged"
    except RowMoved as error:
        result, message = "moved", error.message
    except NotFound as error:
        result, message = "already", error.message
    except BadRequest as error:
        result, message = "refused", error.message
        if await conn.fetchval(_SQL["state"], row["id"]) != row["state"]:
            result = "already"
    except PeersyncError as error:
        if error.retryable:
            raise
        result, message = "refused", error.message
    except TRANSLATED as error:
        meaning = translate(error, what=f"settling conflict {row['id']}")
        if meaning.retryable or conn.is_closed():
            raise
        result, message = "refused", meaning.message
    return Outcome(
        id=row["id"],
        schema=row["schema_name"],
        table=row["table_name"],
        key=row["key"],
        result=result,
        message=message,
    )


async def _settle(conn: asyncpg.Connection, number: int, choice: Bulk, by: str) -> Settled:
    if choice == "restore":
        return await restore(conn, number, side=None, force=False, by=by)
    return await resolve(conn, number, choice=choice, values={}, force=False, by=by)

"""Which changes of rows in conflict must stay in the log, and what goes into the base beneath them.

A row that was in conflict is made anew from all its changes at the next conflict, so they go
together or in order: what goes first has to have the lowest version, or an older change that
somebody has not seen would be put on top of a newer one (ORDER H1). The log is cut by origin and
position, for all rows at once. So the floors are lowered until every row is left with its changes
above a version, and what goes is folded into its base (`row_base`) in the same transaction.

Without that, a row that is always in conflict somewhere would keep the log for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import asyncpg

from peersync.core.order.change import Change, Version
from peersync.core.order.fold import fold, saw
from peersync.postgres.log.apply_merge import Place, fitting, literal_of, read_kept
from peersync.postgres.log.members import decode_vector
from peersync.postgres.log.strategy import is_merging, strategy_of
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("prune")
_BY_COLUMN: Final = ("merge_columns", "delta")


async def fold_rows(conn: asyncpg.Connection, wanted: Mapping[int, int]) -> dict[int, int]:
    """The floors that leave no row in conflict without what it needs; its bases are folded.

    `wanted`: up to where each origin is stable. Inside a transaction that has the publish lock,
    and that raises the floors to what this gives.
    """
    floors = dict(wanted)
    for row in await conn.fetch(_SQL["held_parked"]):
        floors[row["origin"]] = min(floors[row["origin"]], row["position"] - 1)
    if not await conn.fetchval(_SQL["based"]):
        return floors
    rows = await _changes(conn)
    unpublished = {(r["tbl"], r["key"]) for r in await conn.fetch(_SQL["unpublished_rows"])}
    texts: dict[Place, str] = {}
    ordered: dict[Place, list[Change]] = {}
    for place, (text, changes) in rows.items():
        if text.startswith(_BY_COLUMN) and place not in unpublished:
            texts[place], ordered[place] = text, changes
        else:
            _lower(floors, _staying(text, changes, wanted, held=place in unpublished))
    while any(_lower(floors, _above(floors, changes)) for changes in ordered.values()):
        pass  # each time some floor is lower
    going = [
        place
        for place, changes in ordered.items()
        if _above(floors, changes) and _is_below(floors, changes[0])
    ]
    await _fold(conn, going, texts, floors)
    return floors


async def _changes(conn: asyncpg.Connection) -> dict[Place, tuple[str, list[Change]]]:
    """Of each row with a base: its strategy, and its changes in the order of versions."""
    found: dict[Place, tuple[str, list[Change]]] = {}
    seen: dict[str, dict[int, int]] = {}
    for row in await conn.fetch(_SQL["based_changes"]):
        text = row["seen"]
        if text not in seen:
            seen[text] = decode_vector(text)
        version = Version(row["hlc"], row["origin"], row["position"])
        place = row["tbl"], row["key"]
        change = Change(version, "U", row["key"], seen=seen[text])
        found.setdefault(place, (row["strategy"], []))[1].append(change)
    for _, changes in found.values():
        changes.sort(key=lambda change: change.version)
    return found


def _staying(
    text: str, changes: Collection[Change], stable: Mapping[int, int], *, held: bool
) -> list[Change]:
    """What stays of a row that has no columns to be folded: as `core.order.stability` says."""
    if not held and all(_is_below(stable, change) for change in changes):
        return []
    if held or not is_merging(text) or text.startswith(_BY_COLUMN):
        return list(changes)
    return [c for c in changes if not (_is_below(stable, c) and any(saw(o, c) for o in changes))]


def _above(floors: Mapping[int, int], ordered: list[Change]) -> list[Change]:
    """What stays if these are the floors: all from the first that they leave."""
    first = next((n for n, c in enumerate(ordered) if not _is_below(floors, c)), len(ordered))
    return ordered[first:]


def _lower(floors: dict[int, int], staying: Collection[Change]) -> bool:
    """Lowers the floors beneath these changes; whether any was above one."""
    lowered = False
    for change in staying:
        if _is_below(floors, change):
            floors[change.origin] = change.version.position - 1
            lowered = True
    return lowered


def _is_below(floors: Mapping[int, int], change: Change) -> bool:
    return change.version.position <= floors.get(change.origin, 0)


async def _fold(
    conn: asyncpg.Connection,
    places: Collection[Place],
    texts: Mapping[Place, str],
    floors: Mapping[int, int],
) -> None:
    if not places:
        return
    kept, shapes = await read_kept(conn, places)
    bases: list[tuple[Any, ...]] = []
    for place in places:
        mine = kept[place]
        shape, base = mine.beneath()
        going = [change for change in mine.changes if _is_below(floors, change)]
        image = fold(strategy_of(texts[place], {}), base, going).image
        found = shapes[shape] if image is None else fitting(image, mine, shapes)
        bases.append((*place, found.shape, literal_of(image, found)))
    await conn.executemany(_SQL["rebase"], bases)

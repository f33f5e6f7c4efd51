"""The rows that differ, for people: which columns of them, and what is in those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from peersync.agent.proof.first import Seen
from peersync.agent.proof.matched import Unsettled
from peersync.agent.proof.view import KeyView, Kind
from peersync.postgres.digest import Key, Shape
from peersync.postgres.keylook import Fields, read_fields
from peersync.postgres.keyorder import shown_key


async def key_views(
    conn: asyncpg.Connection, table: Unsettled, most: int, *, fields: bool, values: bool
) -> tuple[KeyView, ...]:
    """The first keys in the order of their texts; with `fields` the columns, too."""
    keys = sorted(table.drift)[:most]
    if not keys:
        return ()
    if not fields or not table.shape.key:
        shape = table.shape
        return tuple(
            KeyView(kind=kind_of(table.drift[key]), key=shown_key(shape, key)) for key in keys
        )
    there = await table.remote.fields(keys)
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        here = await read_fields(conn, table.shape, keys)
    return tuple(
        _view(key, table.drift[key], table.shape, there, here, values=values) for key in keys
    )


def kind_of(pair: tuple[Seen | None, Seen | None]) -> Kind:
    """Without a key a row is there more often on one side; it is missing or extra there."""
    theirs, ours = pair
    if theirs is None or ours is None:
        return "extra" if theirs is None else "missing"
    if theirs[1] != ours[1]:
        return "missing" if theirs[1] > ours[1] else "extra"
    return "different"


def _view(
    key: Key,
    pair: tuple[Seen | None, Seen | None],
    shape: Shape,
    there: Mapping[Key, Fields],
    here: Mapping[Key, Fields],
    *,
    values: bool,
) -> KeyView:
    columns, theirs, ours = shape.columns, there.get(key), here.get(key)
    differing = [
        n
        for n, _ in enumerate(columns)
        if theirs is None or ours is None or theirs.digests[n] != ours.digests[n]
    ]
    both = theirs is not None and ours is not None
    return KeyView(
        kind=kind_of(pair),
        key=shown_key(shape, key),
        columns=tuple(columns[n] for n in differing) if both else None,
        there=_shown(theirs, columns, differing) if values else None,
        here=_shown(ours, columns, differing) if values else None,
    )


def _shown(
    row: Fields | None, columns: Sequence[str], places: Sequence[int]
) -> dict[str, str | None] | None:
    return {columns[n]: row.texts[n] for n in places} if row is not None else None

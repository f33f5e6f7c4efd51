"""What differs as it is meant to: rows of databases that only receive, or only give.

A row that a receiver has changed and kept to itself differs for as long as nothing comes in for
it, and a giver does not have what the others have. Neither is drift. What a giver has, and the
others have changed or deleted since, can't be told from drift by its rows: that is said to differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg

from peersync.agent.proof.first import count
from peersync.agent.proof.matched import Unsettled
from peersync.agent.proof.rows import kind_of
from peersync.core.words import counted
from peersync.postgres.digest import Key
from peersync.postgres.keptback import kept_back
from peersync.postgres.log.members import read_members, read_replica


@dataclass(frozen=True)
class Directions:
    """Of the database here, and of the peer's, as this side knows it."""

    here: str = "both"
    there: str = "both"


@dataclass
class Aside:
    """Rows that no longer count as different, and what is said of them."""

    rows: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, rows: int, words: str) -> None:
        if rows:
            self.rows += rows
            self.notes.append(f"{counted(rows, 'row')} {words}")


async def read_directions(conn: asyncpg.Connection, node_id: str) -> Directions:
    """Both ways where the two are no members of one group."""
    replica = await read_replica(conn)
    members = await read_members(conn)
    peer = next((m for m in members if m.counts and m.node_id == node_id), None)
    if replica is None or peer is None or peer.origin == replica.origin:
        return Directions()
    return Directions(replica.direction, peer.direction)


async def set_aside(
    conn: asyncpg.Connection, table: Unsettled, directions: Directions, peer: str
) -> Aside:
    """Takes what the directions explain out of what differs, once all of it is decided."""
    aside = Aside()
    if directions.here == "give":
        rows = _not_taken(table, "missing")
        aside.add(rows, f"only on {peer}: this database takes none of the others'")
    if directions.there == "give":
        rows = _not_taken(table, "extra")
        aside.add(rows, f"only here: {peer} takes none of the others'")
    if directions.here == "receive":
        found = await kept_back(conn, table.shape, list(table.drift))
        aside.add(_taken_out(table, found), "kept back here: changed here, and given to nobody")
    if directions.there == "receive":
        found = await table.remote.kept_back(list(table.drift))
        aside.add(_taken_out(table, found), f"kept back on {peer}: changed there")
    return aside


def _not_taken(table: Unsettled, kind: str) -> int:
    """All rows that only one side has."""
    rows: int = getattr(table.look, kind)
    setattr(table.look, kind, 0)
    table.drift = {key: pair for key, pair in table.drift.items() if kind_of(pair) != kind}
    return rows


def _taken_out(table: Unsettled, keys: set[Key]) -> int:
    """The rows of these keys."""
    found = keys & table.drift.keys()
    for key in found:
        count(table.look, *table.drift.pop(key), keyed=bool(table.shape.key), by=-1)
    return len(found)

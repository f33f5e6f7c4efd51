"""Looks again at the rows that differed, once both sides have what the other had.

A row that differs after that, and that nobody has written since the look before, is drift. A
row that changes from look to look is in flight: its own change is still on its way. A row that is
not there has no version that would tell whether it came and went: where one side has none, one
look more is taken, in which that side is read before and after the other. The wait is
a proof by positions where both databases are members of one group; without one, some seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from peersync.agent.periodic.barrier import Barrier
from peersync.agent.periodic.hub import Hub
from peersync.agent.periodic.links import Local, linked, read_local
from peersync.agent.periodic.positions import Positions
from peersync.agent.proof.first import FirstLook, Seen, count
from peersync.agent.proof.remote import Remote
from peersync.postgres.digest import Key, Shape
from peersync.postgres.keylook import Looked, look_at_keys
from peersync.postgres.pool import Database
from peersync.transport.peers import Peer
from peersync.wire.digests import cut, key_size

ROUNDS: Final = 8
APART_S: Final = 2.0  # two looks, where no positions are known
BARRIER_S: Final = 30.0
KEYS_AT_ONCE: Final = 1000


@dataclass
class Unsettled:
    """One table with rows that differed. `pending`: they are not decided yet."""

    shape: Shape
    remote: Remote
    look: FirstLook
    pending: dict[Key, tuple[Looked | None, Looked | None] | None] = field(default_factory=dict)
    drift: dict[Key, tuple[Seen | None, Seen | None]] = field(default_factory=dict)
    in_flight: int = 0
    changing: int = 0  # of them, those that never stood still
    halves: set[Key] = field(default_factory=set)  # pending, twice seen on the same side only

    def __post_init__(self) -> None:
        self.pending = dict.fromkeys(self.look.kept)


@dataclass(frozen=True)
class Passed:
    """`matched`: each side has applied all that the other had; else `why` not.

    decides: a row that still differs is different. Not so where changes travel and are late.
    """

    matched: bool
    why: str | None = None
    decides: bool = True


Wait = Callable[[], Awaitable[Passed]]


async def settle(
    conn: asyncpg.Connection, tables: Sequence[Unsettled], wait: Wait, rounds: int = ROUNDS
) -> Passed | None:
    """Decides every pending row, or leaves it as one that changes all the time.

    Gives how the last wait ended; None where nothing had to be decided.
    """
    passed: Passed | None = None
    for _ in range(rounds):
        open_tables = [table for table in tables if table.pending]
        if not open_tables:
            break
        passed = await wait()
        if not passed.decides:
            break
        if passed.matched and any(table.halves for table in open_tables):
            await asyncio.sleep(APART_S)
        for table in open_tables:
            await _look_again(conn, table)
    for table in tables:
        for key in table.pending:
            _take_back(table, key)
            table.changing += 1
        table.pending = {}
        table.halves = set()
    return passed


async def _look_again(conn: asyncpg.Connection, table: Unsettled) -> None:
    for keys in _lists(list(table.pending)):
        found = await _look(conn, table, keys)
        halves = [key for key in keys if key in table.halves and found[key] == table.pending[key]]
        after = await _look(conn, table, halves) if halves else {}
        for key, now in found.items():
            if _seen(now[0]) == _seen(now[1]):
                del table.pending[key]
                table.halves.discard(key)
                _take_back(table, key)
            elif now != table.pending[key] or after.get(key, now) != now:
                table.pending[key] = after.get(key, now)
                table.halves.discard(key)
            elif None in now and key not in after:
                table.halves.add(key)
            else:
                del table.pending[key]
                table.halves.discard(key)
                table.drift[key] = _recount(table, key, now)


def _lists(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    """Not too many at once, nor too long ones."""
    for part in cut(map(key_size, keys)):
        for start in range(part.start, part.stop, KEYS_AT_ONCE):
            yield keys[start : min(start + KEYS_AT_ONCE, part.stop)]


async def _look(
    conn: asyncpg.Connection, table: Unsettled, keys: Sequence[Key]
) -> dict[Key, tuple[Looked | None, Looked | None]]:
    """Theirs, then ours."""
    theirs = await table.remote.look(keys)
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        ours = await look_at_keys(conn, table.shape, keys)
    return {key: (theirs.get(key), ours.get(key)) for key in keys}


def _seen(row: Looked | None) -> Seen | None:
    return (row.digest, row.copies) if row is not None else None


def _take_back(table: Unsettled, key: Key) -> None:
    """It was counted as a difference, and is none."""
    count(table.look, *table.look.kept[key], keyed=bool(table.shape.key), by=-1)
    table.in_flight += 1


def _recount(
    table: Unsettled, key: Key, now: tuple[Looked | None, Looked | None]
) -> tuple[Seen | None, Seen | None]:
    """A row may differ in another way than at first: missing then, different now."""
    keyed, last = bool(table.shape.key), (_seen(now[0]), _seen(now[1]))
    count(table.look, *table.look.kept[key], keyed=keyed, by=-1)
    count(table.look, *last, keyed=keyed)
    return last


class Waits:
    """How to wait for one database and one peer."""

    def __init__(
        self, database: Database, hub: Hub | None, peer: Peer, positions: Positions
    ) -> None:
        self._database = database
        self._hub = hub
        self._peer = peer
        self._positions = positions

    async def wait(self) -> Passed:
        """Both sides have applied what the other had, or some seconds have gone by."""
        async with self._database.acquire("reading the members") as conn:
            local = await read_local(conn)
        if local is None or not any(m.counts for _, m in linked(local, [self._peer])):
            await asyncio.sleep(APART_S)
            return Passed(matched=False, why="no members of one group: rows were looked at twice")
        why = await self._by_positions(local)
        return Passed(matched=why is None, why=why, decides=why is None)

    async def _by_positions(self, local: Local) -> str | None:
        """None when it is proved, else why it can't be."""
        if self._hub is None:
            return "periodic sync does not run here"
        if local.replica.state != "active":
            return f"{self._hub.name} is {local.replica.state} on this node"
        proofs = await Barrier(self._hub, self._positions).run(
            [self._peer], wait=True, timeout_s=BARRIER_S
        )
        proof = proofs[0] if proofs else None
        if proof is not None and proof.result in ("proved", "partly"):
            return None
        words = proof.problem or proof.result if proof is not None else "it is no member"
        return f"the link with {self._peer.name} did not catch up: {words}"

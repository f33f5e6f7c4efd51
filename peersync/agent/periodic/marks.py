"""The highest own position that may have left this node, kept outside the database (rule R13).

A database that is restored from a backup cannot tell that it is behind what it has published;
this file can. Nor can one that was restored from a dump tell that the transaction numbers (xids)
in its log are another server's, among which its next changes could get lost; this file can as
well, because it knows the database's home. Owns `state_dir/positions/<database>.json`, written
durably before a position leaves. It says why a database must not go on; it changes nothing in
the database.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from peersync.agent.workers import Workers
from peersync.core.errors import ConfigError
from peersync.postgres.log.members import Replica
from peersync.transport.files import make_private_directory, read_private, write_private

MAX_BYTES = 64 * 1024
RESET = "move the file away; if the database was restored: peersync rebaseline PEER"
_FORMER = 100


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """`former`: origins that this database had before it joined anew. `home`: see `read_home`."""

    origin: int
    position: int
    former: tuple[int, ...] = ()
    home: str = ""


class Marks:
    """The marks of all databases of a node. `note` waits until the mark is on disk."""

    def __init__(self, state_dir: Path, workers: Workers) -> None:
        self._directory = state_dir / "positions"
        self._workers = workers
        self._known: dict[str, Mark | None] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def current(self, database: str) -> Mark:
        """What is noted now; origin 0 where nothing is."""
        return await self._read(database) or Mark(origin=0, position=0)

    async def objection(
        self,
        database: str,
        replica: Replica,
        node_id: str,
        home: str = "",
        mark: Mark | None = None,
    ) -> str | None:
        """Why this database may not publish or apply under its origin; None when it may.

        `mark`: what was noted before `replica` was read. Without it the database must be at rest:
        a position that is noted after the reading is no sign of anything.
        """
        if replica.node_id != node_id:
            return "this database was made a member by another node: it is a copy of that node's"
        mark = mark or await self._read(database)
        if mark is None or mark.origin != replica.origin:
            if mark is not None and replica.origin in mark.former:
                return (
                    f"this database is older than its own history: it has origin {replica.origin}, "
                    f"which was given up for {mark.origin}"
                )
            return None
        if replica.position < mark.position:
            return (
                f"this database is older than what it has sent to its peers: it is at position "
                f"{replica.position}, they may have {mark.position}"
            )
        if home and mark.home and home != mark.home:
            return (
                "this database was restored from a dump; a dump does not keep the numbers of "
                "transactions"
            )
        return None

    async def note(self, database: str, origin: int, position: int, home: str = "") -> None:
        """After this, a database that is behind `position`, or not at home, will be held."""
        async with self._locks.setdefault(database, asyncio.Lock()):
            mark = await self._read(database)
            if mark is not None and mark.origin == origin:
                home = home or mark.home
                position = max(position, mark.position)
                if (position, home) == (mark.position, mark.home):
                    return
            former: tuple[int, ...] = ()
            if mark is not None:
                former = mark.former
                if mark.origin != origin:
                    former = (*former, mark.origin)[-_FORMER:]
            new = Mark(origin=origin, position=position, former=former, home=home)
            await self._workers.run(self._write, database, new)
            self._known[database] = new

    async def _read(self, database: str) -> Mark | None:
        if database not in self._known:
            self._known[database] = await self._workers.run(self._load, database)
        return self._known[database]

    def _path(self, database: str) -> Path:
        return self._directory / f"{database}.json"

    def _load(self, database: str) -> Mark | None:
        data = read_private(self._path(database), limit=MAX_BYTES)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=Mark)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self._path(database)} cannot be read", detail=str(error), hint=RESET
            ) from error

    def _write(self, database: str, mark: Mark) -> None:
        make_private_directory(self._directory)
        write_private(self._path(database), msgspec.json.encode(mark))

"""How far the kept digests of this node are: counted where they are made, for whoever asks.

Nothing is asked for a look at it: what is in the database is counted by who works on it, and so
seldom that counting takes a small share of its time, however many blocks there are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import msgspec

from peersync.agent.proof.view import KeptView
from peersync.postgres.proof_lists import SQL
from peersync.postgres.proof_work import Worked

_EVERY_S: Final = 2.0
_SHARE: Final = 50  # counting takes one of so many seconds at most


class KeptStates:
    """`views`: of each database in which digests are kept."""

    def __init__(self, names: Iterable[str], budget: float) -> None:
        self.views = {name: KeptView(budget=budget) for name in names}
        self._next: dict[str, float] = {}

    async def look(self, conn: asyncpg.Connection, name: str) -> None:
        """Counts again, unless that was done a short while ago."""
        began = time.monotonic()
        if name not in self.views or began < self._next.get(name, 0.0):
            return
        row = await conn.fetchrow(SQL["progress"])
        ended = time.monotonic()
        self._next[name] = ended + max(_EVERY_S, _SHARE * (ended - began))
        told: dict[str, Any] = {
            key: value.isoformat() if isinstance(value, datetime) else value
            for key, value in row.items()
        }
        self._set(name, looked_at=datetime.now(UTC).isoformat(), problem=None, **told)

    async def read(self, conn: asyncpg.Connection, name: str, done: Worked, seconds: float) -> None:
        """Adds a piece of work."""
        view = self.views.get(name)
        if view is None or done.table is None:
            return
        size = await conn.fetchrow(SQL["size"], done.table.schema, done.table.name)
        share = done.rows / max(size["rows"], done.rows, 1) if size is not None else 0.0
        self._set(
            name,
            rows_read=view.rows_read + done.rows,
            bytes_read=view.bytes_read + int(share * (size["bytes"] if size is not None else 0)),
            seconds=round(view.seconds + seconds, 3),
        )

    def failed(self, name: str, error: BaseException) -> None:
        self._set(name, problem=str(error) or type(error).__name__)

    def _set(self, name: str, **given: object) -> None:
        if name in self.views:
            self.views[name] = msgspec.structs.replace(self.views[name], **given)

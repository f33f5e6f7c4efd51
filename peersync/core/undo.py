"""How a full sync can be undone, as it is kept and shown."""

from __future__ import annotations

from typing import Literal

import msgspec

# kept: it can be undone. undone: it was. too_large: more than the budget allows, nothing is
# kept. expired: it was kept for as long as the configuration says.
UndoState = Literal["kept", "undone", "too_large", "expired"]


class UndoTable(msgspec.Struct, frozen=True, kw_only=True):
    """One table of a journal. `columns`: those of its images; `key` empty: whole rows."""

    number: int
    schema: str
    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    rows: int = 0


class UndoRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's record says of its journal."""

    state: UndoState
    rows: int = 0
    size_bytes: int = 0
    tables: tuple[UndoTable, ...] = ()


class UndoneTable(msgspec.Struct, frozen=True, kw_only=True):
    """What an undo did to one table, in rows; `newer` ones were changed since, and are kept.

    `newer_keys` are some of them. `error`: why the table was left as it is.
    """

    schema: str
    name: str
    restored: int = 0
    reinserted: int = 0
    deleted: int = 0
    newer: int = 0
    newer_keys: tuple[str, ...] = ()
    error: str | None = None


class UndoReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an undo did, or would do."""

    session: str
    dry_run: bool
    tables: tuple[UndoneTable, ...]
    created: tuple[str, ...] = ()  # what the session created, which stays

    @property
    def complete(self) -> bool:
        return not any(t.newer or t.error for t in self.tables)

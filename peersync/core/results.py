"""How a full sync ended, as it is kept, sent and shown: for each table, and as an error."""

from __future__ import annotations

import msgspec

from peersync.core.errors import PeersyncError


class TableResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a full sync did to one table. Counts are rows; None where nothing counted them."""

    schema: str
    name: str
    result: str  # done | partly | failed | blocked (left out by the plan)
    way: str = "full"  # delta: only the rows that differ were sent
    way_reason: str | None = None  # why all rows were sent, although a delta was asked for
    blocks: int | None = None  # of rows that were compared, and how many of them differed
    differing_blocks: int | None = None
    source: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    target_only: int | None = None
    deleted: int = 0
    kept_local: int = 0
    raw_bytes: int = 0
    created: bool = False
    note: str | None = None
    error: str | None = None


class ErrorRecord(msgspec.Struct, frozen=True):
    """An error as it is kept and shown: the same parts as on the terminal."""

    code: str
    message: str
    detail: str | None = None
    hint: str | None = None

    @classmethod
    def of(cls, error: PeersyncError) -> ErrorRecord:
        return cls(error.code, error.message, error.detail, error.hint)

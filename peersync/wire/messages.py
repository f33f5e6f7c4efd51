"""The messages of a full sync between two nodes, as frozen structs.

Every field that comes from a peer is hostile until checked: sizes and counts are
bounded here by type constraints, names are matched against the local catalog by
whoever uses them, and nothing here is ever part of a path or of SQL text.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from peersync.core.progress import Progress

PROTOCOL = 1
MAX_MESSAGE_BYTES = 32 * 1024 * 1024  # a catalogue of 50,000 tables fits
MAX_CHUNK_BYTES = 8 * 1024 * 1024  # on the wire; a chunk aims at 4 MiB
MAX_CHUNK_RAW_BYTES = 64 * 1024 * 1024
SESSION_PATTERN = r"^[0-9a-f]{32}$"
DIGEST_PATTERN = r"^[0-9a-f]{64}$"

SessionId = Annotated[str, msgspec.Meta(pattern=SESSION_PATTERN)]
Digest = Annotated[str, msgspec.Meta(pattern=DIGEST_PATTERN)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Bytes = Annotated[int, msgspec.Meta(ge=0)]
Codec = Literal["zstd", "none"]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages: unknown fields are ignored, so that minors can differ."""


class Hello(Message, frozen=True, kw_only=True):
    protocol: int
    version: str
    node_id: Name
    name: Name
    unix_time: float
    databases: tuple[Name, ...]


class ColumnInfo(Message, frozen=True, kw_only=True):
    name: Name
    type: str  # format_type(), for people and for comparison
    not_null: bool = False
    generated: bool = False
    identity: Literal["", "always", "by default"] = ""


class TableInfo(Message, frozen=True, kw_only=True):
    """A table of the source. `rows` is the planner's estimate (None: never analyzed)."""

    schema: Name
    name: Name
    columns: tuple[ColumnInfo, ...]
    key: tuple[Name, ...] | None
    rows: Count | None
    size_bytes: Bytes


class Catalogue(Message, frozen=True, kw_only=True):
    """What a database has that a full sync would copy."""

    server_version_num: Count
    server_version: str
    dump_tool: str  # "pg_dump 17.10", or why there is none
    dump_tool_ok: bool
    encoding: str
    tables: tuple[TableInfo, ...]
    skipped: tuple[tuple[str, str], ...]  # (object, reason): seen, and not copied
    sequences: Count
    large_objects: Count
    size_bytes: Bytes


class TableRef(Message, frozen=True, kw_only=True):
    schema: Name
    name: Name


class DescribeRequest(Message, frozen=True, kw_only=True):
    database: Name


SchemaScope = Literal["none", "all", "tables"]


class BackupRequest(Message, frozen=True, kw_only=True):
    """Asks the source for a backup. Asking again with the same session is harmless."""

    session: SessionId
    database: Name
    tables: tuple[TableRef, ...]  # whose rows are wanted
    schema: SchemaScope = "none"
    schema_tables: tuple[TableRef, ...] = ()  # with "tables": whose definition is wanted
    codec: Codec = "zstd"
    large_objects: bool = True


PartKind = Literal["pre-data", "data", "post-data"]


class Part(Message, frozen=True, kw_only=True):
    """One run of pg_dump. A data part of one big table names it; the rest names none."""

    id: Count
    kind: PartKind
    table: TableRef | None = None
    estimated_bytes: Bytes | None = None
    done: bool = False
    chunks: Count = 0
    raw_bytes: Bytes = 0


class Chunk(Message, frozen=True, kw_only=True):
    """A piece of a part's stream: its own zstd frame, named by what it holds."""

    number: Count  # over the whole backup, dense from 0, in order of completion
    part: Count
    index: Count  # within the part, dense from 0
    digest: Digest  # SHA-256 of the bytes on the wire
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_CHUNK_BYTES)]
    raw_size: Annotated[int, msgspec.Meta(ge=0, le=MAX_CHUNK_RAW_BYTES)]
    codec: Codec


class Baseline(Message, frozen=True, kw_only=True):
    """What the target may claim to have once the backup is applied."""

    node_id: Name
    snapshot: str  # pg_current_snapshot() of the view that was dumped
    taken_at: str
    vector: dict[str, int] = {}


class ManifestPage(Message, frozen=True, kw_only=True):
    """The chunks from `after` on. A new `generation` means that the dump began again."""

    generation: Count
    parts: tuple[Part, ...]
    chunks: tuple[Chunk, ...]
    complete: bool
    digest: Digest | None = None  # over all chunks, when complete; see manifest_digest
    baseline: Baseline | None = None
    dumped_bytes: Bytes = 0
    error: str | None = None
    waiting_for: str | None = None


class ManifestRequest(Message, frozen=True, kw_only=True):
    generation: Count = 0
    after: Count = 0
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 20.0


class ProgressReport(Message, frozen=True, kw_only=True):
    progress: Progress


class FinishRequest(Message, frozen=True, kw_only=True):
    """The target is done with the backup, however it ended; the source frees its spool."""

    state: Literal["done", "partly", "cancelled", "failed"]
    progress: Progress
    error: str | None = None


class Ok(Message, frozen=True, kw_only=True):
    ok: bool = True

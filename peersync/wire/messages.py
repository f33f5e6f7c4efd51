"""The messages of a full sync between two nodes, as frozen structs.

Every field that comes from a peer is hostile until checked: sizes and counts are
bounded here by type constraints, names are matched against the local catalog by
whoever uses them, and nothing here is ever part of a path or of SQL text.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from peersync.core.progress import Progress
from peersync.core.results import ErrorRecord, TableResult
from peersync.wire.narrow import Narrow

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
Direction = Literal["both", "receive", "give"]  # of rows, as a database of a group has it
Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Patterns = Annotated[tuple[Pattern, ...], msgspec.Meta(max_length=1000)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages: unknown fields are ignored, so that minors can differ."""


class Hello(Message, frozen=True, kw_only=True):
    protocol: int
    version: str
    node_id: Name
    name: Name
    unix_time: float
    databases: tuple[Name, ...]


class TableRef(Message, frozen=True, kw_only=True):
    schema: Name
    name: Name


class ColumnInfo(Message, frozen=True, kw_only=True):
    name: Name
    type: str  # format_type(), for people and for comparison
    not_null: bool = False
    generated: bool = False
    identity: Literal["", "always", "by default"] = ""
    expression: str | None = None  # a digest, of a generated column


class TypeInfo(Message, frozen=True, kw_only=True):
    """A type that a user made, by the name that ColumnInfo.type has.

    parts: the fields of a composite, the labels of an enum in order, what a domain or a range is
    based on. uses: the types that it is made of.
    """

    name: str
    kind: str  # composite, domain, enum, range
    parts: tuple[str, ...]
    uses: tuple[str, ...] = ()


class SequenceInfo(Message, frozen=True, kw_only=True):
    """A sequence, with the column that owns it, if one does."""

    schema: Name
    name: Name
    table: TableRef | None = None
    column: Name | None = None


class TableInfo(Message, frozen=True, kw_only=True):
    """A table of the source. `rows` is the planner's estimate (None: never analyzed).

    `refused`: why the source cannot give its rows, with the statement that mends it.
    filtered: the source keeps some rows to itself; `rows` is without them.
    columns_filtered: it keeps columns to itself, which are not in `columns`.
    narrowed: only some rows were asked for; `rows` and `size_bytes` are an estimate of those.
    must_exist: one of those needs a value, so the table can't be created and filled.
    parent, bound: of a partition; the bound as SQL, and so on up to the root.
    """

    schema: Name
    name: Name
    columns: tuple[ColumnInfo, ...]
    key: tuple[Name, ...] | None
    rows: Count | None
    size_bytes: Bytes
    refused: str | None = None
    filtered: bool = False
    columns_filtered: bool = False
    narrowed: bool = False
    must_exist: bool = False
    parent: TableRef | None = None
    bound: str | None = None


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
    types: tuple[TypeInfo, ...] = ()
    sequence_list: tuple[SequenceInfo, ...] = ()
    direction: Direction = "both"  # which way its rows go in periodic sync


class DescribeRequest(Message, frozen=True, kw_only=True):
    """`session`: of a push that was offered to the asker, who then needs no right to pull.

    `join`: the asker is to become a member, so the one asked must be able to be one.
    `narrow`: of the tables that `tables` and `exclude_tables` mean only these rows are wanted.
    """

    database: Name
    session: SessionId | None = None
    join: bool = False
    narrow: Narrow | None = None
    tables: Patterns = ()
    exclude_tables: Patterns = ()


SchemaScope = Literal["none", "all", "tables"]

Origin = Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
Vector = Annotated[dict[Origin, Count], msgspec.Meta(max_length=1000)]


class JoinRequest(Message, frozen=True, kw_only=True):
    """The taker becomes a member of the source's group, under this origin."""

    origin: Origin
    node_name: Name


class BackupRequest(Message, frozen=True, kw_only=True):
    """Asks the source for a backup. Asking again with the same session is harmless."""

    session: SessionId
    database: Name
    tables: tuple[TableRef, ...]  # whose rows are wanted
    schema: SchemaScope = "none"
    schema_tables: tuple[TableRef, ...] = ()  # with "tables": whose definition is wanted
    codec: Codec = "zstd"
    large_objects: bool = True
    parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    method: Literal["backup", "http"] = "backup"  # http: by COPY alone, without definitions
    join: JoinRequest | None = None
    narrow: Narrow | None = None
    compare: tuple[TableRef, ...] = ()  # of these only the rows that will be found to differ
    attempt: Annotated[str, msgspec.Meta(max_length=32)] = ""  # another: compared anew


PartKind = Literal["pre-data", "data", "post-data", "log"]


class Part(Message, frozen=True, kw_only=True):
    """One run of pg_dump. A data part of one big table names it; the rest names none.

    probe: of a table that is compared before its rows come: what the source's PostgreSQL makes of
    a row that both sides know. Two that make the same of it hash alike.
    """

    id: Count
    kind: PartKind
    table: TableRef | None = None
    estimated_bytes: Bytes | None = None
    probe: Annotated[str, msgspec.Meta(max_length=200)] | None = None
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


class MemberInfo(Message, frozen=True, kw_only=True):
    """An origin, as the source of a baseline knows it."""

    origin: Origin
    node_id: Name
    node_name: Name
    state: Literal["member", "joining", "left", "expired"]
    applied: Count
    applied_hlc: Count
    floor: Count
    seen: Vector
    sponsor: Origin | None = None
    joined_at: Count | None = None
    expired_by: Origin | None = None
    expired_at: Count | None = None
    direction: Direction = "both"


class GroupBaseline(Message, frozen=True, kw_only=True):
    """What whoever joins takes over beside the rows; the log itself is a part of the backup."""

    group: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f-]{36}$")]
    origin: Origin  # the source's
    hlc: Count
    members: Annotated[tuple[MemberInfo, ...], msgspec.Meta(max_length=1000)]


class Baseline(Message, frozen=True, kw_only=True):
    """What the target may claim to have once the backup is applied."""

    node_id: Name
    snapshot: str  # pg_current_snapshot() of the view that was dumped
    taken_at: str
    vector: Vector = {}
    group: GroupBaseline | None = None


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


Method = Literal["auto", "backup", "http", "delta"]
SyncType = Literal["manual", "scheduled", "api"]


Bandwidth = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Parallel = Annotated[int, msgspec.Meta(ge=1, le=64)] | None


class Options(Message, frozen=True, kw_only=True):
    """What the one who asks for a full sync wants different from the usual.

    tables: psql patterns, empty for all. bandwidth_bytes_s: 0 is without a limit.
    parallel: None is what the configuration says.
    """

    compress: bool = True
    verify: bool = True
    mirror: bool = False
    source_wins: bool = False
    per_table: bool = False
    undo: bool = True
    join: bool = False  # the taker becomes a member of the source's group
    merge: bool = False  # and sends it the rows that only the taker has
    anew: bool = False  # the taker was a member, and comes back under a new origin
    direction: Direction | None = None  # which way its rows go then; None: as they went
    method: Method = "auto"
    tables: Patterns = ()
    exclude_tables: Patterns = ()
    narrow: Narrow | None = None  # of these tables only some rows
    bandwidth_bytes_s: Bandwidth = 0
    parallel: Parallel = None


class HashedTable(Message, frozen=True, kw_only=True):
    """Which hashes are wanted of a table: of its key, and of all these columns."""

    table: TableRef
    columns: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1700)]
    key: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)] = ()


class RowHashRequest(Message, frozen=True, kw_only=True):
    """Asks for (place in `tables`, hash of the key, hash of all) of each row of some tables."""

    database: Name
    tables: Annotated[tuple[HashedTable, ...], msgspec.Meta(min_length=1, max_length=500)]
    session: SessionId | None = None
    narrow: Narrow | None = None


class ReceiveRequest(Message, frozen=True, kw_only=True):
    """A push: the asker offers its database to the one who is asked, who takes it from there."""

    session: SessionId
    database: Name
    options: Options = Options()
    dry_run: bool = False
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = ""
    sync_type: SyncType = "manual"


class RestoreRequest(Message, frozen=True, kw_only=True):
    """About a push that was received: cancel it, or take it up again after a failure."""

    session: SessionId
    action: Literal["resume", "cancel"]
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = ""


class ProgressReport(Message, frozen=True, kw_only=True):
    """How far the target is. `failure`: why it stopped, when it may be taken up again."""

    progress: Progress
    failure: ErrorRecord | None = None


class FinishRequest(Message, frozen=True, kw_only=True):
    """The target is done with the backup, however it ended; the source frees its spool."""

    state: Literal["done", "partly", "cancelled", "failed"]
    progress: Progress
    error: str | None = None
    failure: ErrorRecord | None = None  # the same with its code and its hint
    tables: tuple[TableResult, ...] = ()


class Ok(Message, frozen=True, kw_only=True):
    ok: bool = True

"""What people are told of a verification: values that a command reads without loading the rest."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from peersync.core.results import ErrorRecord
from peersync.wire.messages import Name, Patterns

SHOWN_KEYS: Final = 100  # of one table
TableResultName = Literal["equal", "partly", "differs", "in flight", "not compared", "failed"]
Kind = Literal["missing", "extra", "different"]
RunState = Literal["waiting", "running", "done", "failed", "cancelled"]
RunResult = Literal["identical", "differs", "in flight", "partly"]


class VerifyRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """`POST /api/admin/verify`. `peer` and `database`: None for all of them.

    rows: say which columns differ. values: and what is in them. paranoid: 128 bits, by SHA-256.
    keys: of so many rows of a table that differ. fresh: read every row, whatever is kept.
    """

    peer: Name | None = None
    database: Name | None = None
    tables: Patterns = ()
    exclude_tables: Patterns = ()
    rows: bool = False
    values: bool = False
    paranoid: bool = False
    fresh: bool = False
    keys: Annotated[int, msgspec.Meta(ge=1, le=1000)] = SHOWN_KEYS
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=604_800)] | None = None
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = ""


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is not the same. columns: those that differ, where that was asked for.

    there, here: their values, where those were asked for, by column; null is NULL.
    """

    kind: Kind
    key: tuple[str, ...]
    columns: tuple[str, ...] | None = None
    there: dict[str, str | None] | None = None
    here: dict[str, str | None] | None = None


class TableProof(msgspec.Struct, frozen=True, kw_only=True):
    """One table. Counts are of rows; null is not known.

    partly: all that could be compared is equal; `notes` say what could not. in flight: rows still
    changed when they had been looked at several times. missing: only at the peer. extra: only
    here. in_flight: rows that differed when they were looked at first, and were the same, or
    still changed, later. exact: false where so many differ that not all of them were looked at
    twice. intended: it is not compared because somebody configured it so, or no sync takes it.
    key_columns: empty where whole rows are compared; the keys are then hashes. kept_at: of the
    kept digests that stand for rows which were not read, when the oldest was made; null: none do.
    one_way: rows that differ because one of the two only receives or only gives, and are in no
    other count.
    """

    schema: str
    name: str
    result: TableResultName
    reason: str | None = None
    rows_there: int | None = None
    rows_here: int | None = None
    matched: int | None = None
    different: int = 0
    missing: int = 0
    extra: int = 0
    in_flight: int = 0
    one_way: int = 0
    exact: bool = True
    kept_at: str | None = None
    intended: bool = False
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    key_columns: tuple[str, ...] = ()
    keys: tuple[KeyView, ...] = ()


class VerifyView(msgspec.Struct, frozen=True, kw_only=True):
    """One verification of a database with a peer.

    matched: whether both sides had applied all that the other had when the rows were compared;
    `unmatched` says why not. rows: of the peer, that were covered so far.
    """

    id: str
    database: str
    peer: str
    state: RunState
    result: RunResult | None = None
    requested_by: str = ""
    started_at: str
    completed_at: str | None = None
    seconds: float = 0.0
    tables_total: int | None = None
    tables_done: int = 0
    table: str | None = None  # that is compared now
    rows: int = 0
    rows_s: float | None = None
    matched: bool | None = None
    unmatched: str | None = None
    different: int = 0
    missing: int = 0
    extra: int = 0
    in_flight: int = 0
    one_way: int = 0
    not_compared: int = 0
    tables: tuple[TableProof, ...] = ()
    error: ErrorRecord | None = None


class ProofView(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one table with one peer. proved_at: when it was last proved identical."""

    database: str
    peer: str
    schema: str
    name: str
    result: TableResultName
    checked_at: str
    proved_at: str | None = None
    differs_since: str | None = None
    reason: str | None = None
    different: int = 0
    missing: int = 0
    extra: int = 0


class KeptView(msgspec.Struct, frozen=True, kw_only=True):
    """How far the kept digests of a database are (docs/verify.md).

    tables: that were asked for; complete: every block of it was read; waiting: it was not begun.
    blocks: of all of them; changed: to be read again; unread: never read. rows: in blocks that
    were read. up_to_date_at: what was committed by then is known. oldest_at: when the first block
    that counts was read. rows_read, bytes_read (about), seconds: since the agent started.
    problem: why nothing is done now; null: nothing is wrong.
    """

    budget: float
    looked_at: str | None = None
    tables: int = 0
    complete: int = 0
    waiting: int = 0
    blocks: int = 0
    changed: int = 0
    unread: int = 0
    rows: int = 0
    up_to_date_at: str | None = None
    oldest_at: str | None = None
    rows_read: int = 0
    bytes_read: int = 0
    seconds: float = 0.0
    problem: str | None = None


class ProofSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A database with a peer, all tables together, for `peersync status`.

    proved_at: since when at the latest all of them are known to have been identical.
    """

    checked_at: str
    proved_at: str | None = None
    differs_since: str | None = None
    tables: int = 0
    differing: int = 0
    not_compared: int = 0

"""What a peer says of its own side of a session, made fit to be kept and shown here.

Whose session it is, we know; what is said about it is bounded and cleaned of control
characters. A peer can lie about its progress, and about nothing else.
"""

from __future__ import annotations

import msgspec

from peersync.core.errors import PeersyncError, error_class
from peersync.core.progress import Progress
from peersync.core.results import ErrorRecord, TableResult
from peersync.core.session import State
from peersync.core.tables import SHOWN, TABLE_STATES, WAITING, TableProgress, TablesProgress
from peersync.transport.problems import clean

_MAX_COUNT = 1 << 60
_MAX_WORDS = 1000
_MAX_TABLES = 50_000
_MAX_NOTES = 100
_COUNTS = ("raw_bytes", "wire_bytes", "saved_bytes", "rows", "resumed")
_OF_TABLES = ("total", "waiting", "active", "done", "failed")
_RESULTS = frozenset({"done", "partly", "failed", "blocked"})


def checked_progress(
    progress: Progress, *, session: str, action: str, database: str, source: str, target: str
) -> Progress:
    """The target's progress, about the session that we know."""
    return msgspec.structs.replace(
        progress,
        session=session,
        action=action,
        database=database,
        source=source,
        target=target,
        state=progress.state if progress.state in set(State) else State.RUNNING.value,
        waiting_for=_words(progress.waiting_for),
        message=_words(progress.message),
        started_at=clean(progress.started_at)[:40],
        updated_at=clean(progress.updated_at)[:40],
        steps=progress.steps[:10],
        notes=tuple(filter(None, map(_words, progress.notes[:_MAX_NOTES]))),
        rate_bytes_s=None if progress.rate_bytes_s is None else min(progress.rate_bytes_s, 1e15),
        eta_s=None if progress.eta_s is None else min(max(progress.eta_s, 0.0), 1e9),
        tables=_tables(progress.tables),
        cancelled_by=_words(progress.cancelled_by),
        **{name: min(max(getattr(progress, name), 0), _MAX_COUNT) for name in _COUNTS},
    )


def _tables(told: TablesProgress | None) -> TablesProgress | None:
    if told is None:
        return None
    return TablesProgress(
        **{name: _count(getattr(told, name)) for name in _OF_TABLES},
        shown=tuple(
            TableProgress(
                schema=clean(table.schema)[:255],
                name=clean(table.name)[:255],
                state=table.state if table.state in TABLE_STATES else WAITING,
                rows=_count(table.rows),
                rows_total=None if table.rows_total is None else _count(table.rows_total),
                bytes=_count(table.bytes),
                bytes_total=None if table.bytes_total is None else _count(table.bytes_total),
            )
            for table in told.shown[:SHOWN]
        ),
    )


def _count(number: int) -> int:
    return min(max(number, 0), _MAX_COUNT)


def checked_error(failure: ErrorRecord | None, words: str | None) -> PeersyncError | None:
    """Why the target failed: with its code and hint, or at least in its words."""
    if failure is not None:
        kind = error_class(failure.code)
        return kind(
            _words(failure.message) or "it failed",
            detail=_words(failure.detail),
            hint=_words(failure.hint),
        )
    return PeersyncError(_words(words) or "") if words else None


def checked_tables(tables: tuple[TableResult, ...]) -> list[TableResult]:
    """What the target did, table by table."""
    return [
        msgspec.structs.replace(
            table,
            schema=clean(table.schema)[:255],
            name=clean(table.name)[:255],
            result=table.result if table.result in _RESULTS else "failed",
            note=_words(table.note),
            error=_words(table.error),
        )
        for table in tables[:_MAX_TABLES]
    ]


def _words(text: str | None) -> str | None:
    return clean(text)[:_MAX_WORDS] if text else None

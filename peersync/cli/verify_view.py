"""How a verification looks: a line while it runs, then a table of the tables, then their rows."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from peersync.agent.proof.view import KeyView, TableProof, VerifyView
from peersync.cli.output import (
    clean,
    count,
    duration,
    fitting,
    flat,
    print_err,
    print_out,
    print_table,
)
from peersync.core.words import counted

PLAIN_S: Final = 10.0  # between two lines where nobody sees them move
SHOWN_VALUE: Final = 60


class Line:
    """One line that moves on a terminal; elsewhere a plain one now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._moves = sys.stderr.isatty()
        self._said_at = time.monotonic()
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._moves and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()

    def show(self, view: VerifyView) -> None:
        if self._quiet:
            return
        now = time.monotonic()
        if self._moves:
            text = fitting(_progress(view), sys.stderr)
            sys.stderr.write("\r" + text.ljust(self._width))
            sys.stderr.flush()
            self._width = len(text)
        elif now - self._said_at >= PLAIN_S:
            self._said_at = now
            print_err(_progress(view))


def _progress(view: VerifyView) -> str:
    what = clean(f"{view.database} with {view.peer}")
    if view.state == "waiting":
        return f"{what}: waits for another verification"
    if view.tables_total is None:
        return f"{what}: reading what both sides have"
    parts = [f"{view.tables_done}/{view.tables_total} tables", f"{count(view.rows)} rows"]
    parts += [f"{count(round(view.rows_s))} rows/s"] if view.rows_s else []
    parts += [clean(view.table)] if view.table else []
    return f"{what}: {' · '.join(parts)}"


def print_view(view: VerifyView, *, quiet: bool, color: bool) -> None:
    """What was found, the tables in their order, rows below them."""
    shown = [t for t in view.tables if not quiet or t.result not in ("equal", "not compared")]
    if shown:
        _print_tables(view, shown, color=color)
    for table in shown:
        _print_notes(table)
        for key in table.keys:
            _print_key(table, key)
        hidden = table.different + table.missing + table.extra - len(table.keys)
        if table.keys and hidden > 0:
            print_out(f"    and {count(hidden)} more rows of {_name(table)}")
    if not quiet or view.result != "identical":
        print_out(_sentence(view))
        _print_kept(view)
    if view.error is not None:
        print_err(f"{clean(view.database)} with {clean(view.peer)}: {flat(view.error.message)}")
        if view.error.hint:
            print_err(f"    {flat(view.error.hint)}")
    if view.unmatched and view.result != "identical":
        print_err(f"no matched position: {flat(view.unmatched)}")
    if view.result == "differs" and not any(k.columns for t in view.tables for k in t.keys):
        print_err(
            f"to see which columns: peersync verify {clean(view.peer)} "
            f"--database {clean(view.database)} --rows"
        )


def _print_tables(view: VerifyView, tables: list[TableProof], *, color: bool) -> None:
    rows = [
        (
            _name(t), t.rows_there, t.rows_here, t.matched,
            *((t.different, t.missing, t.extra, t.in_flight) if t.rows_there is not None
              else (None,) * 4),
            t.result if t.exact else f"{t.result} (about)",
        )
        for t in tables
    ]  # fmt: skip
    columns = (
        "table", f"on {view.peer}", "here", "matched", "different", "missing", "extra",
        "in flight", "result",
    )  # fmt: skip
    print_table(columns, rows, color=color)


def _print_kept(view: VerifyView) -> None:
    kept = [t.kept_at for t in view.tables if t.kept_at is not None]
    if kept:
        oldest = f"{datetime.fromisoformat(min(kept)):%Y-%m-%d %H:%M} UTC"
        print_out(
            f"{counted(len(kept), 'table')} from kept digests, the oldest made at {oldest}, and "
            "what the log says since; --fresh reads every row"
        )


def _print_notes(table: TableProof) -> None:
    for words in (table.reason, *table.notes):
        if words:
            print_out(f"  {_name(table)}: {flat(words)}")


def _print_key(table: TableProof, key: KeyView) -> None:
    names = table.key_columns or ("row",)
    which = ", ".join(f"{name}={value}" for name, value in zip(names, key.key, strict=False))
    line = f"  {key.kind}: {_name(table)} {clean(which)}"
    if key.columns:
        line += f": {clean(', '.join(key.columns))}"
    print_out(line)
    for where, values in (("there", key.there), ("here", key.here)):
        if values is not None:
            said = ", ".join(f"{name}={_value(value)}" for name, value in values.items())
            print_out(f"      {where}: {said}")


def _value(value: str | None) -> str:
    if value is None:
        return "NULL"
    text = clean(value)
    return f"'{text}'" if len(text) <= SHOWN_VALUE else f"'{text[:SHOWN_VALUE]}…'"


def _name(table: TableProof) -> str:
    return clean(f"{table.schema}.{table.name}" if table.name else table.schema)


def _sentence(view: VerifyView) -> str:
    what = f"{clean(view.database)} here and on {clean(view.peer)}"
    compared = sum(t.rows_there is not None for t in view.tables)
    took = f"{counted(compared, 'table')}, {count(view.rows)} rows, {duration(view.seconds)}"
    left = f"; {counted(view.not_compared, 'table')} not compared" if view.not_compared else ""
    flight = f"; {counted(view.in_flight, 'row')} had been in flight" if view.in_flight else ""
    if view.one_way:
        left = f"; {counted(view.one_way, 'row')} left aside: one-way{left}"
    if view.state != "done":
        return f"{what}: {view.state} after {took}"
    if not compared:
        return f"{what}: nothing could be compared{left}"
    if view.result == "differs":
        rows = (("different", view.different), ("missing here", view.missing),
                ("only here", view.extra))  # fmt: skip
        said = ", ".join(f"{count(number)} {words}" for words, number in rows if number)
        return f"{what} differ: {said} ({took}{flight}{left})"
    if view.result == "in flight":
        return f"{what}: {counted(view.in_flight, 'row')} still in flight ({took}{left})"
    if view.result == "partly":
        return f"{what} are the same as far as they were compared ({took}{flight}{left})"
    return f"{what} are identical ({took}{flight}{left})"

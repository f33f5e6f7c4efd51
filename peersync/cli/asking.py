"""What the commands about conflicts, quarantine, tables, sequences and traces have in common.

They ask the agent one thing and show the answer: here is the asking, how `column=value` is read,
and how rows are laid out, alone or side by side.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.output import clean, print_out, print_table
from peersync.core.errors import BadRequest
from peersync.core.names import quote_ident

T = TypeVar("T")
SHOWN_CHARS = 60
_PLAIN = re.compile("[a-z_][a-z0-9_$]*")  # needs no quotes
Values = Mapping[str, str | None]


def get(ctx: Context, path: str, kind: type[T], /, **params: object) -> T:
    """GET; parameters that are None or False are left out."""

    async def asked() -> T:
        given = {name: _text(value) for name, value in params.items() if value not in (None, False)}
        async with ctx.agent() as agent:
            return await agent.get(path, kind, params=given)

    return asyncio.run(asked())


def post(ctx: Context, path: str, kind: type[T], /, **body: object) -> T:
    """POST, with who asks for it; fields that are None are left out."""

    async def asked() -> T:
        given = {name: value for name, value in body.items() if value is not None}
        async with ctx.agent() as agent:
            return await agent.post(path, {**given, "requestedBy": user_name()}, kind)

    return asyncio.run(asked())


def _text(value: object) -> str:
    return "true" if value is True else str(value)


def checked_id(text: str) -> str:
    """The id of a conflict or of something in quarantine. BadRequest for what is no number."""
    number = text.removeprefix("#")
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise BadRequest(f"{text[:50]!r} is no id: ids are numbers, as the list shows them")
    return number


def assignments(pairs: Sequence[str], nulls: Sequence[str]) -> dict[str, str | None]:
    """`column=value` …; everything behind the first = is the value, and may be empty."""
    values: dict[str, str | None] = {}
    for pair in pairs:
        column, equals, value = pair.partition("=")
        if not equals or not column:
            raise BadRequest(
                f"{pair[:80]!r} is not COLUMN=VALUE", hint="for NULL there is --null COLUMN"
            )
        values[column] = value
    values.update(dict.fromkeys(nulls))
    return values


def print_row(ctx: Context, heading: str, row: Values) -> None:
    """One row, a line a column, its values below `heading`."""
    values = [(name, _value(value)) for name, value in row.items()]
    print_table(("column", heading), values, color=ctx.color)


def row_name(schema: str, table: str, key: str | None) -> str:
    return f"{schema}.{table} {key or ''}".rstrip()


def shown_table(schema: str, table: str) -> str:
    """A table as the commands take it: quoted where its name needs that."""
    return f"{_quoted(schema)}.{_quoted(table)}"


def _quoted(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else quote_ident(name)


def side_by_side(
    ctx: Context, names: tuple[str, str], one: Values | None, two: Values | None
) -> None:
    """Two rows, a line a column; those that differ are marked with ≠ in front."""
    left, right = one or {}, two or {}
    rows = []
    for column in {**left, **right}:
        same = one is not None and two is not None and left.get(column) == right.get(column)
        rows.append(("" if same else "≠", column, _cell(one, column), _cell(two, column)))
    print_table(("", "column", *names), rows, color=ctx.color)


def _cell(row: Values | None, column: str) -> str:
    if row is None:
        return "(no row)"
    if column not in row:
        return "(no column)"
    return _value(row[column])


def _value(value: str | None) -> str:
    return "NULL" if value is None else shown(value)


def shown(value: str) -> str:
    """A value on one line, cut where it is long; an empty one is seen."""
    if len(value) > SHOWN_CHARS:
        return f"{value[:SHOWN_CHARS]}… ({len(value)} characters)"
    return value or "''"


def print_facts(facts: Sequence[tuple[str, Any]]) -> None:
    """Lines of a name and a value; those without a value are left out."""
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        if value is not None and value != "":
            print_out(f"{name.ljust(width)}  {clean(str(value))}")

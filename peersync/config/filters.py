"""What of a table may leave this node: `[[database.NAME.filter]]`.

Owns the keys and what can be said about them without a database: the table's name, that the
filter leaves something out, that `where` is one expression and nothing behind it. Whether
table, columns and expression are there is the database's to say (`postgres.filters`).
"""

from __future__ import annotations

import re

import msgspec

from peersync.core.names import TableName

_PART = r'"((?:[^"\0]|"")+)"|([^\s".*?\0]+)'
_NAME = re.compile(rf"(?:{_PART})\.(?:{_PART})")
_LETTER = r"A-Za-z_\u0080-\U0010ffff"
# PostgreSQL's own tokens, as far as they can hide a parenthesis, a semicolon or a quote.
_TOKEN = re.compile(
    rf"""
    (?P<comment>--|/\*)
  | (?P<text>[eE]'(?:[^'\\]|''|\\.)*+' | '(?:[^']|'')*+')
  | (?P<name>(?![eE]')[{_LETTER}][{_LETTER}0-9$]*+ | "(?:[^"]|"")++")
  | (?P<number>[0-9][{_LETTER}0-9.]*+)
  | (?P<dollar>\$(?:[{_LETTER}][{_LETTER}0-9]*+)?\$)
  | (?P<space>\s++)
  | (?P<open>[(\[]) | (?P<close>[)\]])
  | (?P<bad>[eE]'|['";\\\0]|\$[0-9])
  | (?P<other>.)
    """,
    re.X | re.S,
)


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which rows and columns of one table peers may have. Acts where the rows are."""

    table: str
    where: str = ""
    columns: tuple[str, ...] = ()
    exclude_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parse_name(self.table)
        if not (self.where or self.columns or self.exclude_columns):
            raise ValueError(f"the filter of {self.table} needs where, columns or exclude_columns")
        if self.columns and self.exclude_columns:
            raise ValueError(f"the filter of {self.table} has both columns and exclude_columns")
        if self.where and (reason := no_expression(self.where)):
            raise ValueError(f"where of {self.table} is no single expression: {reason}")

    @property
    def name(self) -> TableName:
        return parse_name(self.table)


Filters = tuple[Filter, ...]


def parse_name(text: str) -> TableName:
    """`schema.table` as psql reads it: lower case unless in double quotes. ValueError."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} does not name a table: write public.orders or "Odd".orders')
    schema, plain_schema, name, plain_name = match.groups()
    return TableName(
        schema.replace('""', '"') if schema else plain_schema.lower(),
        name.replace('""', '"') if name else plain_name.lower(),
    )


def no_expression(where: str) -> str | None:
    """Why this text, put in parentheses, could be more than one expression; None: it can't.

    Stricter than PostgreSQL: comments, and two text constants side by side (which it joins),
    are refused, because what they hide would have to be known exactly.
    """
    depth: list[str] = []
    at, after_text = 0, False
    while match := _TOKEN.match(where, at):
        kind, found, at = match.lastgroup, match[0], match.end()
        if kind == "comment":
            return "comments are not allowed"
        if kind == "bad" or (kind == "text" and after_text):
            return f"{found[:1]} at character {match.start() + 1}"
        if kind == "dollar":
            end = where.find(found, at)
            if end < 0:
                return f"{found} is not closed"
            at = end + len(found)
        elif kind == "open":
            depth.append(")" if found == "(" else "]")
        elif kind == "close" and (not depth or depth.pop() != found):
            return f"{found} at character {match.start() + 1} closes nothing"
        if kind != "space":
            after_text = kind in ("text", "dollar")
    if depth:
        return f"{depth[-1]} is missing"
    return None if where.strip() else "it is empty"


def second_filter(filters: Filters) -> TableName | None:
    """A table that has more than one filter."""
    names = [one.name for one in filters]
    return next((name for name in names if names.count(name) > 1), None)

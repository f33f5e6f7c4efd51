"""Which tables a pattern means: psql's own patterns, as far as they name tables.

`*` is any text and `?` any one character; outside double quotes letters are folded to
lower case; a dot separates schema and table; without one every schema is meant. In
quotes everything stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from peersync.core.errors import BadRequest
from peersync.core.names import TableName

SHOWN_CHARS = 80


class Patterns:
    """The tables that `include` names and `exclude` does not."""

    def __init__(self, include: Iterable[str], exclude: Iterable[str] = ()) -> None:
        """BadRequest for a pattern that cannot be one."""
        self._include = [compile_pattern(text) for text in include]
        self._exclude = [compile_pattern(text) for text in exclude]

    def match(self, table: TableName) -> bool:
        return _any(self._include, table) and not _any(self._exclude, table)


Compiled = tuple[re.Pattern[str], re.Pattern[str]]


def _any(patterns: list[Compiled], table: TableName) -> bool:
    return any(s.fullmatch(table.schema) and n.fullmatch(table.name) for s, n in patterns)


def compile_pattern(text: str) -> Compiled:
    """Expressions for the schema and for the table's name."""
    parts: list[str] = [""]
    quoted = False
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == '"':
            if quoted and text[position : position + 1] == '"':
                parts[-1] += '"'
                position += 1
            else:
                quoted = not quoted
        elif quoted:
            parts[-1] += re.escape(character)
        elif character == ".":
            parts.append("")
        elif character in "*?":
            parts[-1] += ".*" if character == "*" else "."
        else:
            parts[-1] += re.escape(character.lower())
    if (why := _trouble(parts, quoted)) is not None:
        shown = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
        raise BadRequest(
            f'"{shown}" is not a pattern of tables: {why}',
            hint='for example: public.order_* or "Odd".*',
        )
    schema, name = parts if len(parts) == 2 else (".*", parts[0])
    return re.compile(schema, re.DOTALL), re.compile(name, re.DOTALL)


def _trouble(parts: list[str], quoted: bool) -> str | None:
    """Why these are not a schema and a table, or a table alone."""
    if quoted:
        return "a double quote is opened and not closed"
    if len(parts) > 2:
        return "it has more than one dot outside double quotes"
    if "" in parts:
        return "a name is empty"
    return None

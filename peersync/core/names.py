"""How a name that came from a user, a dump or a peer gets into SQL.

PostgreSQL takes any characters but NUL in a name, so there is no such thing as a
harmless one: every name is quoted, always, by `quote_ident`, and only here. A
string constant in generated SQL goes through `quote_literal`, which relies on
`standard_conforming_strings = on`.
"""

from __future__ import annotations

from typing import NamedTuple

from peersync.core.errors import RefusedInput


def quote_ident(name: str) -> str:
    """`name` as a quoted identifier. Raises RefusedInput for an empty name or one with NUL."""
    if not name or "\0" in name:
        raise RefusedInput("a name of a table or column is empty or contains a NUL character")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """`text` as a string constant. Raises RefusedInput for a text with NUL."""
    if "\0" in text:
        raise RefusedInput("a text contains a NUL character")
    return "'" + text.replace("'", "''") + "'"


class TableName(NamedTuple):
    """A table, or another relation, by schema and name, unquoted."""

    schema: str
    name: str

    @property
    def sql(self) -> str:
        """The qualified name as SQL, both parts quoted."""
        return f"{quote_ident(self.schema)}.{quote_ident(self.name)}"

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

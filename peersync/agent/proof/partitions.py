"""What the bound of a partition tells: the tables above it, and what their rows are parted by.

Pure. A bound is text of PostgreSQL's own, `FOR VALUES … OF parent BY …, ` and so on up to the
root. What can't be read of it is None and never guessed: whoever asks must do without.
"""

from __future__ import annotations

import re
from typing import Final

from peersync.core.names import TableName

_NAME: Final = r'(?:"(?:[^"]|"")+"|[a-z_\u0080-\uffff][\w$]*)'
_OF: Final = re.compile(rf" OF ({_NAME})\.({_NAME}) BY (?:RANGE|LIST|HASH) \(")
_LITERAL: Final = re.compile(r"'(?:[^']|'')*'")
_PART: Final = re.compile(rf"\s*({_NAME})(?: [^,()]*)?\s*(,|\))")


def parted_by(bound: str | None, root: TableName) -> frozenset[str] | None:
    """The columns by which rows come into this partition, from `root` down.

    None where an expression is among them, or the root is not above it.
    """
    masked = _masked(bound or "")
    columns: set[str] = set()
    for found in _OF.finditer(masked):
        own = _columns(masked, found.end())
        if own is None:
            return None
        columns |= own
        if TableName(_plain(found[1]), _plain(found[2])) == root:
            return frozenset(columns)
    return None


def ancestors(bound: str | None) -> list[tuple[TableName, str]]:
    """The tables above a partition, the nearest first, each with how it is parted and bound.

    Two tables of one name with the same text hold the same rows; that of the root is empty.
    """
    text = bound or ""
    found = [*_OF.finditer(_masked(text))]
    names = [TableName(_plain(one[1]), _plain(one[2])) for one in found]
    own = [text[one.end() :] for one in found[:-1]]
    return list(zip(names, [*own, ""][: len(names)], strict=True))


def _masked(text: str) -> str:
    """Without what is in literals, every other character in its place."""
    return _LITERAL.sub(lambda found: "'" + "x" * (len(found[0]) - 2) + "'", text)


def _columns(text: str, at: int) -> set[str] | None:
    columns: set[str] = set()
    while found := _PART.match(text, at):
        columns.add(_plain(found[1]))
        if found[2] == ")":
            return columns
        at = found.end()
    return None


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name

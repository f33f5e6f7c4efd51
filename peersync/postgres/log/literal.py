"""PostgreSQL's record literal, taken apart for people: `(1,"a b",,"")` is 1, `a b`, null, ``.

The log keeps rows in this form (`ROW(…)::text`). What is applied is parsed by the server; here
one row is read to be shown, compared, merged and written back, so that no type has to be made
for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from peersync.core.errors import CorruptData

# record_out doubles both quotes and backslashes, and quotes whatever could be mistaken
_FIELD = re.compile(r'(?:"((?:[^"\\]|""|\\.)*)"|([^",()]*))([,)])', re.S)
_QUOTED = re.compile(r'["\\(),\x09-\x0d ]')
_ESCAPED = re.compile(r'""|\\(.)', re.S)


def parse_record(text: str) -> list[str | None]:
    """The fields of a record as text; None for null. CorruptData for what is no record."""
    if not text.startswith("("):
        raise _no_record()
    fields: list[str | None] = []
    at = 1
    while match := _FIELD.match(text, at):
        quoted, plain, end = match.groups()
        fields.append(_ESCAPED.sub(_unescaped, quoted) if quoted is not None else plain or None)
        at = match.end()
        if end == ")":
            if at != len(text):
                break
            return fields
    raise _no_record()


def format_record(fields: Iterable[str | None]) -> str:
    """The fields as record_out writes them: the same values always give the same text."""
    return f"({','.join(map(_written, fields))})"


def _written(field: str | None) -> str:
    if field is None:
        return ""
    if field and not _QUOTED.search(field):
        return field
    return '"' + field.replace("\\", "\\\\").replace('"', '""') + '"'


def _unescaped(match: re.Match[str]) -> str:
    return match[1] or '"'


def _no_record() -> CorruptData:
    return CorruptData("the log of changes holds a row that is no record of PostgreSQL's")

"""Says in older words what the pg_dump of a newer PostgreSQL wrote, where both mean the same.

PostgreSQL 18 writes the NOT NULL of a column that a table inherits as a constraint of the
table, which no older server reads. Owns such rewriting and nothing else: what an older
server has no words for stays as it is, and is refused there. Pure.
"""

from __future__ import annotations

import re

from peersync.dump.grammar import IDENT

_TABLE = re.compile(rf"CREATE (?:UNLOGGED )?TABLE ({IDENT}\.{IDENT}) \(")
_NOT_NULL = re.compile(rf"    (?:CONSTRAINT {IDENT} )?NOT NULL ({IDENT})(?: NO INHERIT)?(,?)")


def older_form(statement: str) -> str | None:
    """`CREATE TABLE` as PostgreSQL 17 and older read it; None if there is nothing to change."""
    table = _TABLE.match(statement)
    if table is None:
        return None
    columns: list[str] = []
    kept: list[str] = []
    for line in statement.split("\n"):
        if (match := _NOT_NULL.fullmatch(line)) is None:
            kept.append(line)
            continue
        columns.append(match[1])
        if not match[2]:  # it was the last one in the list
            kept[-1] = kept[-1].removesuffix(",")
    if not columns:
        return None
    later = [f"ALTER TABLE ONLY {table[1]} ALTER COLUMN {c} SET NOT NULL;" for c in columns]
    return "\n".join([*kept, *later])

"""Finds which of many staged rows a table refuses, in time that grows with the rows only.

Owns the block of plpgsql that tries rows one after another: a statement is planned once and each
row costs a subtransaction, where a round trip and a plan for each would take minutes of locks.
What is refused is listed in a temporary table, with the database's own words; whose fault it is and
what becomes of it is decided in `apply_write`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from peersync.core.names import quote_literal

REFUSED: Final = "peersync_refused"
PLACE: Final = "peersync_place"  # the row that is tried, in the statements of the block
CHUNK: Final = 250  # rows; a larger range is tried whole first, and halved

CREATE: Final = f"CREATE TEMP TABLE {REFUSED} (n bigint, sqlstate text, reason text)"
# Tried twice in vain: a value that does not fit does not depend on other rows.
_ALONE: Final = "^(22|23502|23514)"
TAKE_AGAIN: Final = f"DELETE FROM {REFUSED} WHERE sqlstate !~ '{_ALONE}' RETURNING n"


def begin_sql(table: str) -> str:
    """Rows are found by their place: an index for as long as it is needed."""
    return (
        f"DELETE FROM {REFUSED}; CREATE INDEX peersync_places ON {table} (n); ANALYZE {table} (n)"
    )


END: Final = "DROP INDEX pg_temp.peersync_places"


def each_sql(
    table: str, where: str, statements: Sequence[str], raised: Sequence[str], check: str = ""
) -> str:
    """Runs the statements for each staged row of `where`, and lists the rows that are refused.

    `raised`: beginnings of SQLSTATEs that end it. `check`: plpgsql that raises, run after them.
    """
    body = f"""
#variable_conflict use_column
DECLARE
    {PLACE} bigint;
    peersync_message text;
    peersync_detail text;
BEGIN
    FOR {PLACE} IN SELECT DISTINCT i.n FROM {table} AS i WHERE {where} ORDER BY 1 LOOP
        BEGIN
            {"; ".join(statements)};
            {check}
        EXCEPTION WHEN OTHERS THEN
            IF SQLSTATE ~ '^({"|".join(raised)})' THEN
                RAISE;
            END IF;
            GET STACKED DIAGNOSTICS
                peersync_message = MESSAGE_TEXT, peersync_detail = PG_EXCEPTION_DETAIL;
            INSERT INTO {REFUSED} VALUES ({PLACE}, SQLSTATE, pg_catalog.concat_ws(
                pg_catalog.chr(10), peersync_message, nullif(peersync_detail, '')));
        END;
    END LOOP;
END"""
    return f"DO {quote_literal(body)}"

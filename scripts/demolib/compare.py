"""Compares the two databases with SQL of its own, so that peersync is not its own witness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demolib.stage import Server

TABLES = ("customers", "products", "orders", "order_lines", "visits")
# The sum of a hash of each row: the same for the same rows, in whatever order they are.
_SUMMARY = """
SELECT count(*), lpad(to_hex((coalesce(sum(h), 0) % 1152921504606846976)::bigint), 15, '0')
  FROM (SELECT ('x' || substr(md5(t::text), 1, 15))::bit(60)::bigint AS h
          FROM {table} AS t) AS hashes
"""


@dataclass(frozen=True)
class Compared:
    """One table: rows and digest on either side."""

    table: str
    source: tuple[int, str]
    target: tuple[int, str]

    @property
    def equal(self) -> bool:
        return self.source == self.target


def compare(source: Server, target: Server) -> list[Compared]:
    """All tables of the shop."""
    return [Compared(table, _summary(source, table), _summary(target, table)) for table in TABLES]


def _summary(server: Server, table: str) -> tuple[int, str]:
    count, digest = server.psql(_SUMMARY.format(table=table)).split("|")
    return int(count), digest


def print_comparison(source: Server, target: Server, compared: Sequence[Compared]) -> bool:
    """The table; True when both sides are equal."""
    head = (
        "TABLE",
        f"ROWS {source.name}",
        f"ROWS {target.name}",
        f"DIGEST {source.name}",
        f"DIGEST {target.name}",
        "",
    )
    rows = [
        (
            c.table,
            str(c.source[0]),
            str(c.target[0]),
            c.source[1],
            c.target[1],
            "equal" if c.equal else "DIFFERENT",
        )
        for c in compared
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if 1 <= number <= 2 else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    equal = all(c.equal for c in compared)
    print("both databases hold the same rows" if equal else "THE DATABASES DIFFER", flush=True)
    return equal

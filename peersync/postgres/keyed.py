"""Rows with certain keys, read out of a table in the form of pg_dump's data.

The keys come from a file that the one who wants them has filled: a JSON list of texts a line.
They are put into the statements as constants, some hundreds at a time, so that reading them
needs no right but SELECT and no table of ours, and holds a few of them in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from peersync.core.names import quote_ident, quote_literal
from peersync.postgres.copyout import TableCopy

AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 4 << 20


@dataclass(frozen=True)
class KeyedCopy(TableCopy):
    """The rows of a table whose keys are in `keys`, each of which it must have once.

    Nobody checks that here: the one who asked counts the rows (`compared.refuse_changed`).

    key: (column, type, operator of equality) of each column of the key.
    """

    key: tuple[tuple[str, str, str], ...] = ()
    keys: Path | None = None

    @property
    def statements(self) -> Iterator[str]:
        for some in self._batches():
            yield f"COPY ({self._rows_of(some)}) TO STDOUT"

    @property
    def what(self) -> str:
        return f"reading rows of {self.name}"

    def _batches(self) -> Iterator[list[list[str]]]:
        assert self.keys is not None
        with self.keys.open("rb") as file:
            some: list[list[str]] = []
            size = 0
            for line in file:
                size += len(line)
                if some and (len(some) == AT_ONCE or size > _BYTES_AT_ONCE):
                    yield some
                    some, size = [], len(line)
                some.append(msgspec.json.decode(line, type=list[str]))
            if some:
                yield some

    def _rows_of(self, keys: Sequence[Sequence[str]]) -> str:
        """Each key finds its row by the index: the planner knows how few there are."""
        arrays = ", ".join(
            f"{quote_literal(_array([key[n] for key in keys]))}::text[]"
            for n in range(len(self.key))
        )
        listed = ", ".join(f"t.{quote_ident(name)}" for name in self.columns)
        meets = " AND ".join(
            f"t.{quote_ident(column)} {operator} w.k{n}::{kind}"
            for n, (column, kind, operator) in enumerate(self.key)
        )
        names = ", ".join(f"k{n}" for n in range(len(self.key)))
        return (
            f"SELECT {listed} FROM unnest({arrays}) AS w ({names}) "  # noqa: S608
            f"JOIN ONLY {self.name.sql} AS t ON {meets}"
        )


def _array(values: Sequence[str]) -> str:
    """A text[] as PostgreSQL reads it."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"

"""Which rows of its tables one sync is for: columns compared with constants, and what is newer.

It travels as names, operators and values, never as SQL: whoever has the rows makes SQL of it,
and what it says about them never widens what their owner lets go (`postgres.narrow`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in"]
ColumnName = Annotated[str, msgspec.Meta(min_length=1, max_length=63 * 4)]
Text = Annotated[str, msgspec.Meta(max_length=10_000)]
Scalar = Text | int | float | bool
Span = Annotated[int, msgspec.Meta(ge=1, le=366 * 86_400)]


class RowCondition(msgspec.Struct, frozen=True, kw_only=True):
    """`value` is a list for `in`, and only then."""

    column: ColumnName
    op: Operator = "="
    value: Scalar | Annotated[tuple[Scalar, ...], msgspec.Meta(min_length=1, max_length=1000)]

    def __post_init__(self) -> None:
        if isinstance(self.value, tuple) != (self.op == "in"):
            raise ValueError(
                f"{self.column} {self.op}: one value; a list of them for in, and only there"
            )
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        for value in values:
            if isinstance(value, str) and "\0" in value:
                raise ValueError(f"a value for {self.column} has a NUL character")
            if isinstance(value, float) and value - value != 0:
                raise ValueError(f"a value for {self.column} is no finite number")


class Newer(msgspec.Struct, frozen=True, kw_only=True):
    """A time in this column, at most so many seconds before the source's now."""

    column: ColumnName
    span_s: Span


class Narrow(msgspec.Struct, frozen=True, kw_only=True):
    """All of it holds for a row that travels. A column must be in every table of the sync."""

    conditions: Annotated[tuple[RowCondition, ...], msgspec.Meta(max_length=100)] = ()
    newer: Newer | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs, each once."""
        every = [one.column for one in self.conditions]
        if self.newer is not None:
            every.append(self.newer.column)
        return tuple(dict.fromkeys(every))

    @property
    def words(self) -> str:
        """For people: "changed_at is newer than 604800 s, region = eu"."""
        words = [f"{c.column} {c.op} {_shown(c.value)}" for c in self.conditions]
        if self.newer is not None:
            words.insert(0, f"{self.newer.column} is newer than {self.newer.span_s} s")
        return ", ".join(words)


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else text[:60] + " …"

"""The foreign keys of the target as plain values, and which tables must be written together.

Under the replica role PostgreSQL checks none of them, so a sync that leaves rows out has to
know them itself. Reads the catalog once for each final transaction; writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from peersync.core.names import TableName, quote_ident
from peersync.postgres.load import TableLoad
from peersync.postgres.sqlfiles import queries


@dataclass(frozen=True)
class ForeignKey:
    """`parents` are the oids of the tables that hold the rows referred to: one, or partitions."""

    name: str
    validated: bool
    period: bool  # FOREIGN KEY (…, PERIOD …) of PostgreSQL 18: several rows may cover one
    child: int
    child_name: TableName
    parent_name: TableName
    partitioned: bool
    parents: frozenset[int]
    child_columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    operators: tuple[str, ...]

    @classmethod
    def of(cls, row: Iterable[Any]) -> ForeignKey:
        """From a row of `foreign_keys_of`."""
        (
            name, validated, period, child, child_schema, child_name, parent_schema, parent_name,
            partitioned, parents, child_columns, parent_columns, operators,
        ) = row  # fmt: skip
        return cls(
            name=name,
            validated=validated,
            period=period,
            child=child,
            child_name=TableName(child_schema, child_name),
            parent_name=TableName(parent_schema, parent_name),
            partitioned=partitioned,
            parents=frozenset(parents),
            child_columns=tuple(child_columns),
            parent_columns=tuple(parent_columns),
            operators=tuple(operators),
        )

    @property
    def child_sql(self) -> str:
        return f"ONLY {self.child_name.sql}"

    @property
    def parent_sql(self) -> str:
        return self.parent_name.sql if self.partitioned else f"ONLY {self.parent_name.sql}"

    def complete(self, alias: str) -> str:
        """The child's row refers to something: no column of it is null."""
        return " AND ".join(f"{alias}.{quote_ident(c)} IS NOT NULL" for c in self.child_columns)

    def matches(self, parent: str, child: str) -> str:
        """The parent's row is the one that the child's refers to."""
        columns = zip(self.parent_columns, self.operators, self.child_columns, strict=True)
        return " AND ".join(
            f"{parent}.{quote_ident(theirs)} {operator} {child}.{quote_ident(own)}"
            for theirs, operator, own in columns
        )

    def missing(self, alias: str, more: Iterable[str] = ()) -> str:
        """The row refers to one that is neither in the parent nor in `more` (tables, as SQL)."""
        places = [self.parent_sql, *more]
        return " AND ".join(
            [
                self.complete(alias),
                *(
                    f"NOT EXISTS (SELECT FROM {place} AS p WHERE {self.matches('p', alias)})"
                    for place in places
                ),
            ]
        )


def read_foreign_keys(connection: psycopg.Connection, oids: Sequence[int]) -> list[ForeignKey]:
    """The enforced foreign keys that refer from or to one of these tables, by table and name."""
    rows = (
        psycopg.RawCursor(connection)
        .execute(queries("catalog")["foreign_keys_of"], (list(oids),))
        .fetchall()
    )
    return [ForeignKey.of(row) for row in rows]


def moves(key: ForeignKey, parent: TableLoad) -> bool:
    """Whether an upsert of the parent can change what this key refers to."""
    merge = parent.merge
    return merge.key is not None and not set(key.parent_columns) <= set(merge.key.columns)


def is_blind(key: ForeignKey, child: TableLoad) -> bool:
    """Whether the source does not say what a row refers to: a default or an old value does."""
    return not set(key.child_columns) <= set(child.merge.written)


def neighbours(
    keys: Sequence[ForeignKey], loads: Sequence[TableLoad], *, mirror: bool
) -> dict[int, TableName]:
    """Other tables that a check of these tables' keys looks at: by an oid, their names.

    Parents always; children where a value that they refer to may go.
    """
    mine = {load.table.oid: load for load in loads}
    found: dict[int, TableName] = {}
    for key in keys:
        here = key.parents & mine.keys()
        if key.child in mine and not key.parents <= mine.keys():
            found[min(key.parents - mine.keys())] = key.parent_name
        elif here and key.child not in mine and (mirror or any(moves(key, mine[p]) for p in here)):
            found[key.child] = key.child_name
    return found


@dataclass(frozen=True)
class Unit:
    """Tables that can only be right together; usually one. `entangled`: they may need rounds."""

    loads: tuple[TableLoad, ...]
    keys: tuple[ForeignKey, ...]  # from or to one of them
    entangled: bool


def units(loads: Sequence[TableLoad], keys: Sequence[ForeignKey]) -> list[Unit]:
    """The tables in an order in which what is referred to comes before what refers.

    Tables in a circle of foreign keys are one unit. So are a parent and its children if the
    parent's upsert may change what they refer to: either comes first in vain.
    """
    by_oid = {load.table.oid: load for load in sorted(loads, key=lambda x: x.table.name)}
    edges: dict[int, set[int]] = {oid: set() for oid in by_oid}
    touching: dict[int, list[ForeignKey]] = {oid: [] for oid in by_oid}
    entangled: set[int] = set()
    for key in keys:
        here = key.parents & by_oid.keys()
        for oid in here | ({key.child} & by_oid.keys()):
            touching[oid].append(key)
        moving = {p for p in here if moves(key, by_oid[p])}
        entangled |= moving
        if key.child in by_oid:
            edges[key.child] |= here
            for parent in moving:
                edges[parent].add(key.child)
            if key.child in here or is_blind(key, by_oid[key.child]):
                entangled.add(key.child)
    found = []
    for group in _circles(edges):
        seen = dict.fromkeys(key for oid in group for key in touching[oid])
        found.append(
            Unit(
                tuple(by_oid[oid] for oid in group),
                tuple(seen),
                len(group) > 1 or group[0] in entangled,
            )
        )
    return found


def _circles(edges: Mapping[int, set[int]]) -> list[list[int]]:
    """Strongly connected groups of nodes, each after what it points to (Tarjan, 1972)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    waiting: set[int] = set()
    order = {oid: number for number, oid in enumerate(edges)}
    found: list[list[int]] = []
    for root in edges:
        if root in index:
            continue
        path = [(root, iter(sorted(edges[root], key=order.__getitem__)))]
        index[root] = low[root] = len(index)
        stack.append(root)
        waiting.add(root)
        while path:
            node, following = path[-1]
            below = next(following, None)
            if below is None:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    group, stack[at:] = stack[at:], []
                    waiting.difference_update(group)
                    found.append(sorted(group, key=order.__getitem__))
            elif below not in index:
                index[below] = low[below] = len(index)
                stack.append(below)
                waiting.add(below)
                path.append((below, iter(sorted(edges[below], key=order.__getitem__))))
            elif below in waiting:
                low[node] = min(low[node], index[below])
    return found

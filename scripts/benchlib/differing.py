"""One table on two servers, and how the second is made to differ from the first.

Two shapes (narrow: pgbench's accounts; wide: the events of `data`), three kinds of keys.
Everything comes from the row's number, so every run, on every machine, has the same rows and the
same ones differ. It owns the making, the changing and the comparing; it measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgcluster import Cluster

from benchlib import data

Shape = Literal["narrow", "wide"]
KeyKind = Literal["int", "uuid", "composite"]
Spread = Literal["random", "clustered", "all"]
Kind = Literal["different", "missing", "extra"]
KINDS: tuple[Kind, ...] = ("different", "missing", "extra")
TABLE = "d_rows"


@dataclass(frozen=True)
class _Key:
    """`value`: of row i; `beside`: a key next to an existing one, which no row has."""

    columns: tuple[str, ...]
    definition: str
    value: str
    beside: str


@dataclass(frozen=True)
class _Body:
    """The other columns; `bump` changes one of them."""

    definition: str
    columns: str
    values: str
    bump: str


KEYS: dict[KeyKind, _Key] = {
    "int": _Key(("id",), "id bigint", "i::bigint * 2", "id + 1"),
    "uuid": _Key(("id",), "id uuid", "md5('k' || i)::uuid", "md5('x' || id)::uuid"),
    "composite": _Key(
        ("order_id", "line_no"),
        "order_id bigint, line_no smallint",
        "i / 4, i % 4 * 2",
        "order_id, line_no + 1",
    ),
}
BODIES: dict[Shape, _Body] = {
    "narrow": _Body(
        "branch int NOT NULL, balance bigint NOT NULL, filler char(84) NOT NULL",
        "branch, balance, filler",
        "i % 100, 0, ''",
        "balance = balance + 1",
    ),
    "wide": _Body(
        """customer uuid NOT NULL, kind text NOT NULL, happened_at timestamptz NOT NULL,
           payload jsonb, amount numeric(14,4), scores int[], raw bytea, trace uuid,
           ratio float8, note text""",
        "customer, kind, happened_at, payload, amount, scores, raw, trace, ratio, note",
        """md5('c' || i % 9973)::uuid, 'kind-' || i % 23,
           timestamptz '2024-01-01 00:00:00+00' + i * interval '13 seconds',
           jsonb_build_object('id', i, 'who', md5('w' || i), 'deep', jsonb_build_object(
               'ok', i % 2 = 0, 'list', jsonb_build_array(i, 'x'))),
           CASE WHEN i % 11 > 0 THEN i * 1.2345 % 100000 END, ARRAY[i % 10, i % 100, NULL],
           CASE WHEN i % 2 = 0 THEN decode(md5('r' || i), 'hex') END, md5('t' || i)::uuid,
           sqrt(i::float8), CASE WHEN i % 5 = 0 THEN 'Note ' || i || ' ' || md5('e' || i) END""",
        "amount = coalesce(amount, 0) + 1",
    ),
}


@dataclass(frozen=True)
class Case:
    """A table: its shape, its kind of key, and how many rows it has."""

    shape: Shape
    key: KeyKind
    rows: int

    @property
    def name(self) -> str:
        return f"{self.shape} {self.key}"

    @property
    def key_columns(self) -> tuple[str, ...]:
        return KEYS[self.key].columns


@dataclass(frozen=True)
class State:
    """How much of a table differs: `percent` of its rows, and where in the order of the key.

    clustered: neighbours at the end of the key. random: chosen by a hash. all: 0 or 100 percent.
    """

    percent: float
    spread: Spread = "all"

    @property
    def name(self) -> str:
        number = f"{self.percent:g}"
        return number if self.spread == "all" else f"{number}-{self.spread}"

    def rows(self, case: Case) -> int:
        """How many rows differ; never none where some should."""
        return 0 if not self.percent else max(1, round(case.rows * self.percent / 100))


@dataclass(frozen=True)
class Difference:
    """A row that was made to differ: its key as text, and how a verification has to call it."""

    kind: Kind
    key: tuple[str, ...]


def make(server: Cluster, database: str, case: Case) -> None:
    """Create `database` with the table in it, vacuumed."""
    key, body = KEYS[case.key], BODIES[case.shape]
    columns = ", ".join(key.columns)
    server.createdb(database)
    server.psql(
        f"CREATE TABLE {TABLE} ({key.definition}, {body.definition});"
        f"INSERT INTO {TABLE} ({columns}, {body.columns})"
        f" SELECT {key.value}, {body.values} FROM generate_series(1, {case.rows}) i;"
        f"ALTER TABLE {TABLE} ADD PRIMARY KEY ({columns})",
        database,
    )
    data.settle(server, database)


def change(server: Cluster, database: str, case: Case, state: State) -> None:
    """Give the rows of `state` another value."""
    if state.rows(case):
        server.psql(f"{_chosen(case, state)}; {_bump(case, 'true')}", database)
    data.settle(server, database)


def unsettle(server: Cluster, database: str, case: Case, state: State) -> set[Difference]:
    """Change most of the rows of `state`, delete every eighth, and add one beside every eighth."""
    wanted = state.rows(case)
    if not wanted:
        data.settle(server, database)
        return set()
    key, body = KEYS[case.key], BODIES[case.shape]
    columns = ", ".join(key.columns)
    texts = ", ".join(f"{column}::text" for column in key.columns)
    told = server.psql(
        f"{_chosen(case, state)};"
        f"INSERT INTO {TABLE} ({columns}, {body.columns})"
        f" SELECT {key.beside}, {body.columns} FROM {TABLE} JOIN chosen USING ({columns})"
        f" WHERE part = 1 RETURNING 'extra', {texts};"
        f"DELETE FROM {TABLE} t USING chosen c WHERE {_same(case)} AND part = 2"
        f" RETURNING 'missing', {_of('t', case)};"
        f"{_bump(case, 'part NOT IN (1, 2)')} RETURNING 'different', {_of('t', case)};",
        database,
    )
    data.settle(server, database)
    lines = [line.split("|") for line in told.splitlines()]
    found = {
        Difference(kind, tuple(parts[1:])) for parts in lines for kind in KINDS if parts[0] == kind
    }
    assert len(found) == wanted, f"{len(found)} rows differ instead of {wanted}"
    return found


def content(server: Cluster, database: str) -> str:
    """Count and hash of all rows: equal texts are equal tables."""
    return server.psql(
        f"SELECT count(*), bit_xor(hashtextextended(t::text, 0)) FROM {TABLE} t", database
    )


def table_bytes(server: Cluster, database: str) -> int:
    """What is read of the table: without its indexes."""
    return int(server.psql(f"SELECT pg_table_size('{TABLE}')", database))


def _chosen(case: Case, state: State) -> str:
    """The keys of the rows that are to differ, numbered in eights."""
    columns = ", ".join(KEYS[case.key].columns)
    order = ", ".join(f"{column} DESC" for column in KEYS[case.key].columns)
    if state.spread == "random":
        order = f"hashtextextended(concat_ws(',', {columns}), 1)"
    return (
        "CREATE TEMP TABLE chosen AS"
        f" SELECT {columns}, row_number() OVER (ORDER BY {order}) % 8 AS part"
        f" FROM (SELECT {columns} FROM {TABLE} ORDER BY {order} LIMIT {state.rows(case)}) t"
    )


def _bump(case: Case, where: str) -> str:
    return (
        f"UPDATE {TABLE} t SET {BODIES[case.shape].bump} FROM chosen c"
        f" WHERE {_same(case)} AND {where}"
    )


def _same(case: Case) -> str:
    return " AND ".join(f"t.{column} = c.{column}" for column in KEYS[case.key].columns)


def _of(alias: str, case: Case) -> str:
    return ", ".join(f"{alias}.{column}::text" for column in KEYS[case.key].columns)

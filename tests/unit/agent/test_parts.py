"""How a backup is divided into runs: nothing is missing, nothing comes twice."""

from __future__ import annotations

from dataclasses import fields
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.agent.parts import BIG_TABLE_BYTES, MAX_BIG_TABLES, plan_parts
from peersync.core.errors import BadRequest
from peersync.core.names import TableName
from peersync.postgres.catalog import DatabaseCatalog, Server, Table
from peersync.postgres.filters import Shape
from peersync.wire.messages import BackupRequest, TableRef

SERVER = Server(180000, "18.1", "UTF8", 0, 0, 0)


def catalog(sizes: dict[str, int]) -> DatabaseCatalog:
    tables = {
        TableName("public", name): Table(
            **{
                **dict.fromkeys((field.name for field in fields(Table)), cast("Any", False)),
                "name": TableName("public", name),
                "columns": (),
                "size_bytes": size,
            }
        )
        for name, size in sizes.items()
    }
    return DatabaseCatalog(SERVER, tables, ())


def request(
    names: list[str],
    scope: str = "none",
    schema_tables: tuple[str, ...] = (),
    **changes: Any,
) -> BackupRequest:
    return BackupRequest(
        session="0" * 32,
        database="shop",
        tables=tuple(TableRef(schema="public", name=n) for n in names),
        schema=scope,  # type: ignore[arg-type]
        schema_tables=tuple(TableRef(schema="public", name=n) for n in schema_tables),
        **changes,
    )


def test_where_all_tables_are_compared_no_pg_dump_is_started() -> None:
    wanted = request(["a", "b"]).tables
    for compared, needs_tool in ((wanted, [False, False, False]), (wanted[:1], [True, False])):
        jobs = plan_parts(
            request(["a", "b"], compare=compared), catalog({"a": 1, "b": 1}), probe="x"
        )
        assert [job.needs_tool for job in jobs] == needs_tool
        assert needs_tool[0] or jobs[0].sequences


@given(
    st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=3), st.integers(0, 4 * BIG_TABLE_BYTES),
        max_size=100,
    ),
    st.randoms(),
    st.sampled_from(["none", "all", "tables"]),
)  # fmt: skip
def test_every_wanted_table_is_in_just_one_part(
    sizes: dict[str, int], choice: object, scope: str
) -> None:
    wanted = sorted(sizes)[::2]
    jobs = plan_parts(request(wanted, scope), catalog(sizes))
    assert [job.part.id for job in jobs] == list(range(len(jobs)))
    data = [job for job in jobs if job.part.kind == "data"]
    own = [job.part.table.name for job in data if job.part.table is not None]
    (rest,) = [job for job in data if job.part.table is None]
    assert len(own) == len(set(own)) <= MAX_BIG_TABLES
    assert set(own) <= set(wanted)
    assert [sizes[n] for n in own] == sorted((sizes[n] for n in own), reverse=True)
    left = [n for n in wanted if n not in own]
    assert rest.part.estimated_bytes == sum(sizes[n] for n in left)
    assert len(own) == MAX_BIG_TABLES or all(sizes[n] < BIG_TABLE_BYTES for n in left)
    for name in sizes:
        excluded = any(f'"{name}"' in a and "exclude" in a for a in rest.arguments)
        assert excluded is (name not in left)


@pytest.mark.parametrize(
    ("scope", "kinds"),
    [
        ("none", ["data"]),
        ("all", ["pre-data", "post-data", "data"]),
        ("tables", ["pre-data", "post-data", "data"]),
    ],
)
def test_definitions_come_before_rows_and_only_when_they_are_wanted(
    scope: str, kinds: list[str]
) -> None:
    jobs = plan_parts(request(["a"], scope, ("a",)), catalog({"a": 1, "b": 1}))
    assert [job.part.kind for job in jobs] == kinds


@given(
    st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=3), st.integers(0, 4 * BIG_TABLE_BYTES),
        max_size=100,
    ),
    st.randoms(use_true_random=False),
    st.sampled_from(["backup", "http"]),
)  # fmt: skip
def test_a_filtered_table_is_never_left_to_pg_dump(
    sizes: dict[str, int], choice: Random, method: str
) -> None:
    wanted = [n for n in sorted(sizes) if choice.random() < 0.7]
    shapes = {
        TableName("public", n): Shape((), None, None, where=f"filter of {n}")
        for n in sizes
        if choice.random() < 0.4
    }
    jobs = plan_parts(request(wanted, method=method), catalog(sizes), shapes)
    jobs = [job.leaving_alone([TableName("public", "closed")]) for job in jobs]
    copied = [t for job in jobs for t in job.tables or ()]
    assert len(copied) == len({t.name for t in copied})
    for table in copied:
        shape = shapes.get(table.name)
        assert table.where == (shape.where if shape else None)
    dumped = []
    for job in jobs:
        if job.tables is not None:
            assert not job.arguments
        elif job.part.table is not None:
            dumped.append(job.part.table.name)
        else:
            excluded = " ".join(a for a in job.arguments if "exclude-table-data" in a)
            dumped += [n for n in sizes if f'"{n}"' not in excluded]
            assert '--exclude-table="public"."closed"' in job.arguments
    assert not {TableName("public", n) for n in dumped} & set(shapes)
    assert sorted([*dumped, *(t.name.name for t in copied)]) == wanted
    if method == "http":
        assert not dumped
        assert not any(job.needs_tool for job in jobs)
        assert sum(job.sequences and job.large_objects for job in jobs) == 1


def test_the_method_http_refuses_to_bring_definitions() -> None:
    with pytest.raises(BadRequest):
        plan_parts(request(["a"], "all", method="http"), catalog({"a": 1}))

"""How the rows travel, and what a plan says of it and of what the source filters."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from peersync.agent.methods import choose_method
from peersync.agent.plan import Plan, make_plan
from peersync.core.errors import BadRequest, SchemaMismatch, ToolMissing
from peersync.core.names import TableName
from peersync.postgres.catalog import Column, DatabaseCatalog, Key, Server, Table
from peersync.wire.messages import Catalogue, ColumnInfo, TableInfo


def info(name: str, **changes: Any) -> TableInfo:
    given: dict[str, Any] = {"rows": 1, "size_bytes": 1, "key": ("id",)} | changes
    columns = (ColumnInfo(name="id", type="integer"),)
    return TableInfo(schema="public", name=name, columns=columns, **given)


def source(*tables: TableInfo, tool: bool = True) -> Catalogue:
    return Catalogue(
        server_version_num=180000, server_version="18.1", dump_tool="pg_dump 18.1",
        dump_tool_ok=tool, encoding="UTF8", tables=tables, skipped=(), sequences=0,
        large_objects=0, size_bytes=1,
    )  # fmt: skip


def target(*names: str) -> DatabaseCatalog:
    given: dict[str, Any] = {field.name: False for field in fields(Table)}
    given |= dict.fromkeys(("may_select", "may_insert", "may_update"), True)
    given |= {"columns": (Column("id", "integer", True, False, "", False),)}
    given |= {"keys": (Key(("id",), ("=",), True),)}
    tables = {
        TableName("public", n): Table(**given | {"name": TableName("public", n)}) for n in names
    }
    return DatabaseCatalog(Server(180000, "18.1", "UTF8", 0, 0, 0), tables, ())


def plan(
    there: Catalogue, here: DatabaseCatalog, method: str = "auto", schema: bool = True
) -> Plan:
    return make_plan(
        there, here, source_name="server-a", target_name="server-b", database="shop",
        may_bring_schema=schema, replica_role=True, free_bytes=1, method=method,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "tool", "needs", "method"),
    [
        ("auto", True, True, "backup"),
        ("auto", False, False, "http"),
        ("backup", True, False, "backup"),
        ("http", True, True, "http"),
        ("http", False, True, "http"),
    ],
)
def test_auto_takes_pg_dump_where_it_is(asked: str, tool: bool, needs: bool, method: str) -> None:
    found, why = choose_method(asked, source(tool=tool), "server-a", needs_definitions=needs)
    assert found == method
    assert why


@pytest.mark.parametrize(("asked", "needs"), [("auto", True), ("backup", False)])
def test_what_only_pg_dump_can_do_is_refused_without_it(asked: str, needs: bool) -> None:
    with pytest.raises(ToolMissing, match="server-a cannot make the backup"):
        choose_method(asked, source(tool=False), "server-a", needs_definitions=needs)


def test_a_method_that_there_is_not_is_refused() -> None:
    with pytest.raises(BadRequest):
        choose_method("carrier-pigeon", source(), "server-a", needs_definitions=False)


def test_http_brings_no_definitions_and_the_plan_says_so() -> None:
    made = plan(source(info("a"), info("b")), target("b"), "http")
    assert [t.action for t in made.tables] == ["blocked", "upsert"]
    assert "pg_dump on the source" in str(made.tables[0].reason)
    assert (made.method, made.schema_scope, made.method_reason) == ("http", "none", "as asked")
    with pytest.raises(SchemaMismatch, match="http brings no definitions"):
        plan(source(info("a")), target(), "http", schema=False)


def test_tables_that_may_not_be_created_need_no_pg_dump() -> None:
    made = plan(source(info("a"), info("b"), tool=False), target("b"), schema=False)
    assert made.method == "http"
    assert "no pg_dump that fits" in str(made.method_reason)


def test_a_table_that_the_source_filters_is_marked() -> None:
    filtered = info("a", filtered=True, columns_filtered=True)
    for here in (target("a", "b"), target("b")):
        made = plan(source(filtered, info("b")), here)
        assert [t.filtered for t in made.tables] == [True, False]
        assert sum("filtered by the source" in w for w in made.tables[0].warnings) == 2


def test_a_table_whose_hidden_column_needs_a_value_is_not_created() -> None:
    hidden = info("a", columns_filtered=True, must_exist=True)
    made = plan(source(hidden, info("b")), target("b"))
    assert made.tables[0].action == "blocked"
    assert "NOT NULL" in str(made.tables[0].reason)
    assert plan(source(hidden), target("a")).tables[0].action == "upsert"

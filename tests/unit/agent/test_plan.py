"""What a full sync is going to do, table by table, in words that say what would help."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.agent.plan import Plan, make_plan
from peersync.cli.plan_view import plan_lines
from peersync.core.errors import Denied, SchemaMismatch
from peersync.core.names import TableName
from peersync.postgres.catalog import Column, DatabaseCatalog, Key, Server, Table
from peersync.wire.messages import Catalogue, ColumnInfo, TableInfo

ID = Column("id", "integer", True, False, "", False)
NAME = Column("name", "text", False, False, "", False)


def column(name: str, **changes: Any) -> Column:
    return replace(NAME, name=name, **changes)


def table(
    name: str = "items", *columns: Column, key: tuple[str, ...] | None = ("id",), **changes: Any
) -> Table:
    given: dict[str, Any] = {field.name: False for field in fields(Table)}  # has_rules, …
    given |= {"oid": hash(name) & 0xFFFF, "name": TableName("public", name)}
    given |= {"rows": 5, "size_bytes": 8192, "columns": columns or (ID, NAME)}
    given |= dict.fromkeys(("may_select", "may_insert", "may_update"), True)
    given["keys"] = (Key(key, ("=",) * len(key), True),) if key else ()
    return Table(**{**given, **changes})


def there(*tables: Table, **changes: Any) -> Catalogue:
    made = Catalogue(
        server_version_num=180000, server_version="18.1", dump_tool="pg_dump 18.1",
        dump_tool_ok=True, encoding="UTF8", skipped=(), sequences=0, large_objects=0,
        size_bytes=10**6,
        tables=tuple(
            TableInfo(
                schema=t.name.schema, name=t.name.name, rows=t.rows, size_bytes=t.size_bytes,
                key=t.keys[0].columns if t.keys else None,
                columns=tuple(
                    ColumnInfo(name=c.name, type=c.type, not_null=c.not_null,
                               generated=c.generated)
                    for c in t.columns
                ),
            )
            for t in tables
        ),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def here(*tables: Table, encoding: str = "UTF8", version_num: int = 180000) -> DatabaseCatalog:
    server = Server(version_num, f"{version_num // 10000}.1", encoding, 10**6, 0, 0)
    return DatabaseCatalog(server, {t.name: t for t in tables}, ())


def plan(
    source: Catalogue, target: DatabaseCatalog, *, schema: bool = True, replica: bool = True
) -> Plan:
    return make_plan(
        source, target, source_name="server-a", target_name="server-b", database="shop",
        may_bring_schema=schema, replica_role=replica, free_bytes=10**12,
    )  # fmt: skip


def only(made: Plan) -> tuple[str, str | None, tuple[str, ...]]:
    (found,) = made.tables
    return found.action, found.reason, found.warnings


# --- what is done with a table ----------------------------------------------------------------
def test_a_table_with_a_key_on_both_sides_is_upserted() -> None:
    made = plan(there(table()), here(table()))
    assert only(made) == ("upsert", None, ())
    assert made.tables[0].key == ("id",)
    assert made.overwrites
    assert made.schema_scope == "none"


def test_a_table_that_is_missing_is_created_if_the_peer_may_bring_its_schema() -> None:
    made = plan(there(table("a"), table("b")), here(table("b")))
    assert [t.action for t in made.tables] == ["create", "upsert"]
    assert made.schema_scope != "none"
    assert plan(there(table("a")), here()).schema_scope == "all"
    assert not plan(there(table("a")), here()).overwrites


def test_without_that_right_the_missing_table_is_left_out_with_the_command_that_allows_it() -> None:
    made = plan(there(table("a"), table("b")), here(table("b")), schema=False)
    assert [t.action for t in made.tables] == ["blocked", "upsert"]
    assert "peersync peer allow server-a --schema" in str(made.tables[0].reason)
    assert made.schema_scope == "none"


def test_a_table_without_a_key_gets_the_rows_that_are_not_here() -> None:
    action, _, warnings = only(plan(there(table(key=None)), here(table(key=None))))
    assert action == "insert"
    assert any("no key" in w for w in warnings)


def test_a_key_that_the_source_does_not_bring_is_no_key() -> None:
    own = table("items", ID, NAME, column("uid", has_default=True), key=("uid",))
    assert only(plan(there(table()), here(own)))[0] == "insert"


def test_a_column_missing_here_is_named_with_the_statement_that_adds_it() -> None:
    source = table("items", ID, column('Pri"ce', type="numeric(10,2)"))
    with pytest.raises(SchemaMismatch) as caught:
        plan(there(source), here(table("items", ID)))
    wanted = 'ALTER TABLE "public"."items" ADD COLUMN "Pri""ce" numeric(10,2);'
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "blocked"),
    [
        ({}, False),
        ({"not_null": True}, True),
        ({"not_null": True, "has_default": True}, False),
        ({"not_null": True, "generated": True}, False),
        ({"not_null": True, "identity": "always"}, False),
    ],
)
def test_a_column_only_here_blocks_when_it_must_have_a_value_and_has_none(
    changes: dict[str, Any], blocked: bool
) -> None:
    source, own = there(table("t", ID), table("z")), table("t", ID, column("own", **changes))
    made = plan(source, here(own, table("z")))
    assert (made.tables[0].action == "blocked") is blocked
    if blocked:
        assert 'ALTER COLUMN "own" SET DEFAULT' in str(made.tables[0].reason)


def test_tables_only_here_are_named_and_not_touched() -> None:
    made = plan(there(table("a")), here(table("a"), table("mine")))
    assert made.only_here == ("public.mine",)
    assert "only here, and not touched: 1 table" in "\n".join(plan_lines(made))


# --- nothing is possible ----------------------------------------------------------------------
def test_an_empty_database_and_no_right_to_the_schema_is_denied_with_the_way_out() -> None:
    with pytest.raises(Denied) as caught:
        plan(there(table("a"), table("b")), here(), schema=False)
    assert "peersync peer allow server-a --schema" in str(caught.value.hint)


def test_when_no_table_fits_the_first_reason_is_said() -> None:
    with pytest.raises(SchemaMismatch, match="column name is missing here"):
        plan(there(table()), here(table("items", ID)))


@pytest.mark.parametrize(("a", "b"), [("SQL_ASCII", "UTF8"), ("UTF8", "SQL_ASCII")])
def test_bytes_without_a_meaning_are_not_mixed_with_text(a: str, b: str) -> None:
    with pytest.raises(SchemaMismatch, match="encodings do not fit"):
        plan(there(table(), encoding=a), here(table(), encoding=b))
    assert plan(there(table(), encoding="SQL_ASCII"), here(table(), encoding="SQL_ASCII")).tables
    assert plan(there(table(), encoding="LATIN1"), here(table())).tables


def test_a_source_without_tables_is_a_plan_that_does_nothing() -> None:
    made = plan(there(), here(table()))
    assert (made.tables, made.overwrites, made.rows) == ((), False, 0)


# --- numbers and words ------------------------------------------------------------------------
def test_the_rows_are_unknown_when_one_table_was_never_analyzed() -> None:
    assert plan(there(table("a"), table("b", rows=None)), here()).rows is None
    assert plan(there(table("a"), table("b")), here()).rows == 10
    assert "rows not counted" in plan_lines(plan(there(table("a", rows=None)), here()))[1]


def test_an_empty_table_here_has_nothing_to_overwrite_but_an_unknown_one_may_have() -> None:
    assert not plan(there(table()), here(table(rows=0))).overwrites
    assert plan(there(table()), here(table(rows=None))).overwrites


def test_what_a_role_without_rights_means_is_said() -> None:
    made = plan(there(table()), here(table(has_triggers=True)), replica=False)
    assert any("session_replication_role" in w for w in made.warnings)
    assert "its triggers will fire" in made.tables[0].warnings


def test_what_fires_under_the_replica_role_is_named() -> None:
    awake = table(has_triggers=True, fires_always=("rule quiet", "trigger stamp"))
    (said,) = plan(there(table()), here(awake)).tables[0].warnings
    assert said.startswith("rule quiet, trigger stamp will fire")
    assert plan(there(table()), here(table(has_triggers=True))).tables[0].warnings == ()


def test_definitions_of_a_newer_source_are_warned_of() -> None:
    older = plan(there(table(), server_version_num=180000), here(version_num=150000))
    assert any("newer than this server" in w for w in older.warnings)
    assert not plan(there(table(), server_version_num=150000), here()).warnings


names = st.sampled_from(["a", "b", "c", "d"])
shapes = st.builds(
    lambda name, extra, key: table(name, ID, *extra, key=("id",) if key else None),
    names,
    st.lists(
        st.builds(
            column,
            st.sampled_from(["x", "y", "z"]),
            not_null=st.booleans(),
            has_default=st.booleans(),
            generated=st.booleans(),
        ),
        max_size=2,
        unique_by=lambda c: c.name,
    ),
    st.booleans(),
)
sides = st.lists(shapes, max_size=4, unique_by=lambda t: t.name)


@given(sides, sides, st.booleans(), st.booleans())
def test_every_table_of_the_source_is_in_the_plan_once_and_what_is_left_out_has_a_reason(
    source: list[Table], target: list[Table], schema: bool, replica: bool
) -> None:
    try:
        made = plan(there(*source), here(*target), schema=schema, replica=replica)
    except (Denied, SchemaMismatch) as error:
        assert source
        assert error.hint or error.message
        return
    assert [t.table for t in made.tables] == [t.name for t in source]
    own = {t.name for t in target}
    for found in made.tables:
        assert (found.reason is not None) is (found.action == "blocked")
        if found.action == "create":
            assert schema
            assert found.table not in own
        if found.action in ("upsert", "insert"):
            assert found.table in own
            assert bool(found.key) is (found.action == "upsert")
    assert (made.schema_scope != "none") is any(t.action == "create" for t in made.tables)
    words = "\n".join(plan_lines(made))
    assert all(str(t.table) in words for t in made.blocked)

"""Which tables of a sync are compared first, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest

from peersync.agent.delta.choice import AUTO_MIN_BYTES, MIN_BYTES, choose_tables
from peersync.agent.delta.cost import most_differing, most_missing
from peersync.agent.plan import Plan, make_plan
from peersync.agent.tableplan import TablePlan
from peersync.core.names import TableName
from peersync.postgres.catalog import Column, DatabaseCatalog, Key, Server, Table
from peersync.wire.messages import Catalogue, ColumnInfo, Options, TableInfo
from peersync.wire.narrow import Narrow

LARGE = 100 * MIN_BYTES


def there(**changes: Any) -> TableInfo:
    given: dict[str, Any] = {
        "schema": "public",
        "name": "t",
        "columns": (ColumnInfo(name="id", type="integer"), ColumnInfo(name="v", type="text")),
        "key": ("id",),
        "rows": 1000,
        "size_bytes": LARGE,
    }
    return TableInfo(**{**given, **changes})


def here(**changes: Any) -> Table:
    given: dict[str, Any] = {
        "oid": 1,
        "name": TableName("public", "t"),
        "rows": 1000,
        "size_bytes": LARGE,
        "has_rules": False,
        "has_triggers": False,
        "delete_cascades": False,
        "row_security": False,
        "may_select": True,
        "may_insert": True,
        "may_update": True,
        "columns": (
            Column("id", "integer", True, False, "", False),
            Column("v", "text", False, False, "", False),
        ),
        "keys": (Key(("id",), ("OPERATOR(pg_catalog.=)",), True),),
    }
    return Table(**{**given, **changes})


def chosen(
    theirs: TableInfo | None = None,
    ours: Table | None = None,
    *,
    options: Options | None = None,
    replica_role: bool = True,
    encoding: str = "UTF8",
) -> TablePlan:
    return planned(
        theirs, ours, options=options, replica_role=replica_role, encoding=encoding
    ).tables[0]


def planned(
    theirs: TableInfo | None = None,
    ours: Table | None = None,
    *,
    options: Options | None = None,
    replica_role: bool = True,
    encoding: str = "UTF8",
) -> Plan:
    theirs, ours = theirs or there(), ours or here()
    source = Catalogue(
        server_version_num=170000,
        server_version="17",
        dump_tool="pg_dump 17",
        dump_tool_ok=True,
        encoding=encoding,
        tables=(theirs,),
        skipped=(),
        sequences=0,
        large_objects=0,
        size_bytes=0,
    )
    target = DatabaseCatalog(Server(180000, "18", "UTF8", 0, 0, 0), {ours.name: ours}, ())
    plan: Plan = make_plan(
        source,
        target,
        source_name="a",
        target_name="b",
        database="shop",
        may_bring_schema=False,
        replica_role=replica_role,
        free_bytes=1 << 40,
    )
    found = choose_tables(
        plan, source, target, options or Options(method="delta"), replica_role=replica_role
    )
    if (options or Options(method="delta")).method == "delta":
        assert (found.method, found.rest_method) == ("delta", "backup")
    else:
        worth_it = found.tables[0].way == "delta"
        assert found.method == ("delta" if worth_it else "backup")
    return found


def test_a_table_of_both_sides_is_compared_by_the_columns_that_both_can_have() -> None:
    computed = ColumnInfo(name="c", type="text", generated=True)
    found = chosen(there(columns=(*there().columns, computed)))
    assert (found.way, found.way_reason, found.compared) == ("delta", None, ("id", "v"))
    assert chosen(there(rows=None)).way == "delta"


@pytest.mark.parametrize(
    ("theirs", "ours", "reason"),
    [
        (there(key=None), here(), "no key"),
        (there(), here(keys=()), "no key"),
        (there(key=("v",)), here(), "key is not the same"),
        (there(filtered=True), here(), "filters"),
        (there(columns_filtered=True), here(), "filters"),
        (there(size_bytes=MIN_BYTES - 1), here(), "small"),
        (there(), here(rows=500), "most of its rows are not here"),
        (there(rows=None), here(size_bytes=LARGE // 4), "most of its rows are not here"),
        (there(), here(fires_always=("noisy",)), "a trigger or rule of public.t fires"),
        (
            there(columns=(ColumnInfo(name="id", type="integer"), ColumnInfo(name="v", type="x"))),
            here(),
            "other types",
        ),
        (
            there(),
            here(columns=(here().columns[0], Column("v", "text", False, True, "", False))),
            "computed on one side",
        ),
    ],
)
def test_what_can_t_be_compared_or_not_cheaply_is_sent_whole(
    theirs: TableInfo, ours: Table, reason: str
) -> None:
    found = chosen(theirs, ours)
    assert found.way == "full"
    assert reason in (found.way_reason or "")


@pytest.mark.parametrize(
    ("theirs", "ours", "reason"),
    [
        (there(rows=9_000, size_bytes=AUTO_MIN_BYTES - 1), here(rows=9_000), "small"),
        (there(rows=None), here(), "ANALYZE"),
        (there(), here(rows=None), "ANALYZE"),
        (there(), here(rows=5_000), "many more rows here"),
        (there(), here(rows=0), "most of its rows are not here"),
        (there(key=None), here(), "no key"),
    ],
)
def test_auto_compares_only_what_is_likely_to_pay_and_says_why_not(
    theirs: TableInfo, ours: Table, reason: str
) -> None:
    plan = planned(theirs, ours, options=Options())
    assert (plan.method, plan.tables[0].way, plan.tables[0].way_reason) == ("backup", "full", None)
    assert "nothing is compared first" in str(plan.method_reason)
    assert reason in str(plan.method_reason)


def test_auto_compares_what_both_sides_have() -> None:
    plan = planned(options=Options())
    assert (plan.method, plan.rest_method, plan.tables[0].way) == ("delta", "backup", "delta")
    assert str(plan.method_reason).startswith("both sides have most rows of 1 table; ")
    assert planned(options=Options(join=True)).method == "backup"


def test_on_a_slow_network_a_comparison_pays_earlier_and_is_given_up_later() -> None:
    slow = Options(bandwidth_bytes_s=100_000)
    small = there(rows=20_000, size_bytes=2 * MIN_BYTES), here(rows=20_000)
    assert planned(*small, options=Options()).method == "backup"
    assert planned(*small, options=slow).method == "delta"
    half = there(), here(rows=500)
    assert planned(*half, options=Options()).method == "backup"
    assert planned(*half, options=slow).method == "delta"
    for row_bytes in (40, 100, 400, 100_000):
        assert most_missing(row_bytes, 1e5) >= most_missing(row_bytes, None)
        assert most_differing(row_bytes, 1e5) >= most_differing(row_bytes, None) >= 0.3


@pytest.mark.parametrize(
    ("options", "more", "reason"),
    [
        (Options(method="delta", join=True), {}, "becomes a member"),
        (Options(method="delta", narrow=Narrow()), {}, "only some rows"),
        (Options(method="delta", per_table=True, mirror=True), {}, "second transaction"),
        (Options(method="delta"), {"replica_role": False}, "triggers fire"),
        (Options(method="delta"), {"encoding": "LATIN1"}, "other encodings"),
    ],
)
def test_some_syncs_compare_no_table(options: Options, more: dict[str, Any], reason: str) -> None:
    assert reason in (chosen(options=options, **more).way_reason or "")

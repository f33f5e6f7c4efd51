"""Syncs of only some rows: what a set asks for, and what it is refused with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from peersync.agent.narrowing import fewer_rows, refuse_narrow, refuse_not_here
from peersync.agent.orchestration.schedule_state import ScheduleFile, State
from peersync.agent.orchestration.schedules import local_zone
from peersync.agent.orchestration.setturn import options_of
from peersync.config.orchestration import Condition, TableSet
from peersync.core.errors import BadRequest, ProtocolError, SchemaMismatch
from peersync.core.names import TableName
from peersync.postgres.catalog import DatabaseCatalog, Server
from peersync.postgres.filters import Shape
from peersync.transport.problems import retry_after_s
from peersync.wire.messages import Catalogue, Options, TableInfo
from peersync.wire.narrow import Narrow, Newer, RowCondition

NARROW = Narrow(conditions=(RowCondition(column="region", value="eu"),))
ORDERS = TableInfo(
    schema="public", name="orders", columns=(), key=("id",), rows=1000, size_bytes=80_000
)
NAME = TableName("public", "orders")
SHAPES = {NAME: Shape((), ("id",), 10)}


def test_a_set_asks_for_exactly_what_it_says() -> None:
    one = TableSet(
        name="orders", tables=("public.order*",), method="window", column="at", span="7d",
        filter=(Condition(column="region", op="in", value=("eu", "ch")),),
    )  # fmt: skip
    options = options_of(one)
    assert options.tables == ("public.order*",)
    assert not (options.mirror or options.join or options.per_table or options.source_wins)
    assert options.narrow == Narrow(
        conditions=(RowCondition(column="region", op="in", value=("eu", "ch")),),
        newer=Newer(column="at", span_s=7 * 86_400),
    )
    assert options_of(TableSet(name="all", tables=("*",), method="full")).narrow is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), ("a",), "a\0b"])
def test_a_value_that_compares_with_nothing_is_named(value: object) -> None:
    wrong = Condition(column="region", op="<", value=value)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="the filter of table set orders"):
        options_of(TableSet(name="orders", tables=("*",), method="full", filter=(wrong,)))


@pytest.mark.parametrize("word", ["mirror", "join", "anew", "merge"])
def test_rows_that_do_not_travel_are_never_taken_for_deleted(word: str) -> None:
    refuse_narrow(Options(narrow=NARROW))
    with pytest.raises(BadRequest, match="deletes nothing"):
        refuse_narrow(Options(narrow=NARROW, **{word: True}))  # type: ignore[arg-type]


def test_a_source_that_does_not_know_conditions_is_refused_before_it_gives_all() -> None:
    here = DatabaseCatalog(Server(180000, "18", "UTF8", 0, 0, 0), {}, ())
    source = Catalogue(
        server_version_num=180000, server_version="18", dump_tool="", dump_tool_ok=True,
        encoding="UTF8", tables=(ORDERS,), skipped=(), sequences=0, large_objects=3, size_bytes=0,
    )  # fmt: skip
    with pytest.raises(ProtocolError, match="only some rows"):
        refuse_not_here(source, here, "server-a")
    knows = msgspec.structs.replace(source, tables=(fewer_rows(ORDERS, SHAPES, [NAME]),))
    with pytest.raises(SchemaMismatch, match="some rows make no table") as refused:
        refuse_not_here(knows, here, "server-a")
    assert "peersync pull server-a --tables 'public.orders'" in str(refused.value.hint)


def test_the_plan_expects_the_space_of_the_rows_that_travel() -> None:
    told = fewer_rows(ORDERS, SHAPES, [NAME])
    assert (told.rows, told.size_bytes, told.narrowed) == (10, 801, True)
    assert fewer_rows(ORDERS, {}, []) is ORDERS


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120.0), (None, None), ("soon", None), ("-1", None), ("9" * 20, 86_400.0)],
)
def test_a_peer_s_wish_to_be_left_alone_is_read(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


def test_the_hours_are_those_of_the_zone_that_is_set() -> None:
    july = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert july.astimezone(local_zone({"TZ": "Europe/Berlin"})).hour == 14
    assert july.astimezone(local_zone({"TZ": ":America/New_York"})).hour == 8
    assert july.astimezone(local_zone({"TZ": "Nowhere/At_All"})).hour == 12


def test_the_state_of_schedules_outlives_who_wrote_it(tmp_path: Path) -> None:
    ScheduleFile(tmp_path).change("nightly", lambda _: State(since=1.0, errors=2))
    assert ScheduleFile(tmp_path).read() == {"nightly": State(since=1.0, errors=2)}

"""What the benchmarks of delta and verify choose to measure, and what they conclude."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from benchlib import cells, cells_report, delta_report, verify_report
from benchlib.cells import ROWS, STATES, Cell, Ledger, Plan, Source
from benchlib.differing import Case, Difference, State
from benchlib.meter import Cost
from benchlib.verify import verdict

CALM = Cost(10.0, 0, 0, 0, 0, 0, 0, 0)
WIDE = Case("wide", "int", 1000)
NARROW = Case("narrow", "int", 1000)
SAME, RANDOM = State(0), State(1, "random")


def chosen(*only: str) -> Plan:
    return cells.choose(only, STATES, delta_report.ENGINES, ROWS, 1, 0)


def cell(case: Case, state: State | None, engine: str, wall_s: float, **told: Any) -> Cell:
    return Cell(case, state, engine, 0, replace(CALM, wall_s=wall_s), told)


def test_every_table_meets_every_state_but_other_keys_meet_few() -> None:
    plan = chosen()
    assert len(plan.cases) == 6
    by_key = {case.key: [state.name for state in plan.of(case)] for case in plan.cases}
    assert by_key["int"][0] == "0"
    assert by_key["int"][-1] == "100"
    assert len(by_key["int"]) == 8
    assert by_key["uuid"] == by_key["composite"] == ["0", "1-random", "1-clustered"]


def test_a_state_that_is_asked_for_is_met_by_all_keys() -> None:
    plan = chosen("wide", "uuid", "10-random", "delta")
    (case,) = plan.cases
    assert (case.shape, case.key, case.rows) == ("wide", "uuid", ROWS["wide"])
    assert [state.name for state in plan.of(case)] == ["10-random"]
    assert plan.engines == ("delta",)


def test_a_quick_run_meets_each_shape_and_key_once_but_what_is_named_whole() -> None:
    some = (STATES, delta_report.ENGINES, ROWS, 1, 0.0)
    plan = cells.choose([], *some, quick=True)
    assert [case.name for case in plan.cases] == ["narrow int", "wide uuid", "wide composite"]
    assert [state.name for state in plan.of(plan.cases[1])] == ["0", "1-clustered", "100"]
    named = cells.choose(["int", "10-random"], *some, quick=True)
    assert [case.name for case in named.cases] == ["narrow int", "wide int"]
    assert [state.name for state in named.of(named.cases[0])] == ["10-random"]


def test_a_small_share_of_a_small_table_is_one_row() -> None:
    assert SAME.rows(WIDE) == 0
    assert RANDOM.rows(WIDE) == 10
    assert State(0.1, "random").rows(Case("wide", "int", 100)) == 1


def test_an_identical_wide_table_has_goals_of_time_and_bytes() -> None:
    ledger = Ledger()
    ledger.sources.append(Source(WIDE, "18.6", 10**6, 10**6, 10**5))
    ledger.cells += [
        cell(WIDE, SAME, "delta", 4.1, wire_bytes=1000, way="delta", blocks=16, differing_blocks=0),
        cell(WIDE, SAME, "backup", 10.0, wire_bytes=500_000, way="full"),
        cell(WIDE, None, "dump-psql", 8.2),
    ]
    lines = cells_report.summarize(ledger)
    wall, wire = delta_report.goals(lines)
    assert (wall.figure, wall.goal) == ("wall / backup", 0.4)
    assert wall.value == pytest.approx(0.41)
    assert not wall.within
    assert wire.value == pytest.approx(1 / 500)
    assert wire.within
    text = delta_report.render(ledger, lines)
    assert "0 of 16" in text
    assert "0.50" in text.split("wall / dump-psql")[1]  # 4.1 to 8.2
    assert " NO " in text


def test_all_bytes_count_where_a_proxy_counted_them() -> None:
    ledger = Ledger()
    ledger.cells += [
        cell(WIDE, SAME, "delta", 1.0, wire_bytes=1000, link_bytes=5000),
        cell(WIDE, SAME, "backup", 10.0, wire_bytes=500_000, link_bytes=500_000),
    ]
    _, wire = delta_report.goals(cells_report.summarize(ledger))
    assert wire.value == pytest.approx(0.01)
    assert not wire.within


def test_clean_turns_count_and_contaminated_ones_are_marked() -> None:
    noisy = replace(CALM, wall_s=30.0, stranger_cpu_s=1e6)
    ledger = Ledger()
    ledger.cells += [cell(NARROW, SAME, "delta", 2.0), Cell(NARROW, SAME, "delta", 1, noisy)]
    ledger.cells.append(Cell(NARROW, SAME, "backup", 0, noisy))
    clean, dirty = cells_report.summarize(ledger)
    assert (clean.wall_s, clean.mark, clean.count) == (2.0, "", "1+1~")
    assert (dirty.wall_s, dirty.mark) == (30.0, "~")


def test_an_agent_above_150_mb_is_marked() -> None:
    fat = replace(CALM, source_rss_bytes=80_000_000, target_rss_bytes=150_000_001)
    (goal,) = delta_report.goals(
        cells_report.summarize(Ledger(cells=[Cell(WIDE, SAME, "delta", 0, fat)]))
    )
    assert goal.figure == "agent MB"
    assert not goal.within


def test_rows_a_second_are_held_against_reladiff_in_the_same_state() -> None:
    ledger = Ledger()
    ledger.sources.append(Source(WIDE, "18.6", 2_000_000_000))
    ledger.cells += [
        cell(WIDE, SAME, "peersync", 2.0, found="exactly", look_s=1.5),
        cell(WIDE, SAME, "reladiff", 10.0, found="exactly"),
        cell(WIDE, RANDOM, "reladiff", 20.0, found="missing 0 for 1"),
    ]
    lines = cells_report.summarize(ledger)
    (goal,) = verify_report.goals(lines)
    assert goal.value == pytest.approx(5.0)
    assert goal.within
    text = verify_report.render(ledger, lines)
    assert "1.000" in text  # 2 GB in two seconds
    assert "missing 0 for 1" in text


def test_a_verdict_names_each_wrong_count() -> None:
    made = {Difference("missing", ("1",)), Difference("extra", ("2",))}
    assert verdict({"different": 0, "missing": 1, "extra": 1}, made) == "exactly"
    wrong = verdict({"different": 1, "missing": 1, "extra": 0}, made)
    assert wrong == "different 1 for 0, extra 0 for 1"
    assert verdict({"different": 0, "missing": 0, "extra": 0}, set()) == "exactly"


def test_the_file_tells_what_failed_and_what_was_promised() -> None:
    ledger = Ledger(cells=[cell(NARROW, SAME, "delta", 6.1), cell(NARROW, SAME, "backup", 10.0)])
    ledger.cells.append(Cell(NARROW, RANDOM, "delta", 0, error="pull ended with 1"))
    lines = cells_report.summarize(ledger)
    goals = delta_report.goals(lines)
    found = cells_report.document(ledger, lines, goals, {"size": "quick"})
    assert found["size"] == "quick"
    assert [run["error"] for run in found["runs"]] == [None, None, "pull ended with 1"]
    assert [line["differs"] for line in found["summary"]] == ["0", "0"]
    (goal,) = found["goals"]
    assert (goal["shape"], goal["goal"], goal["within"]) == ("narrow", 0.6, False)
    assert "narrow int 1-random delta: pull ended with 1" in delta_report.render(ledger, lines)

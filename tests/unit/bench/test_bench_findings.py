"""What the benchmarks conclude from figures: ratios, overheads, and the marks beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from benchlib import findings, report
from benchlib.data import Dataset, growth, many_tables, whole
from benchlib.findings import Findings
from benchlib.link import WAN
from benchlib.matches import PARTS, plan
from benchlib.meter import Cost
from benchlib.records import RUN_NAMES, Match, Results, Run, Source

CALM = Cost(10.0, 0, 0, 0, 0, 0, 0, 0)
ROWS = Dataset("x", customers=1000)
RESUME = Match("resume", 18, ROWS, ("peersync-unbroken", "peersync-broken"), 3, chunk_mib=1)
UNDO = Match("undo", 18, ROWS, ("peersync-undo", "peersync-no-undo"), 3)
MIB = 1024 * 1024


def run(match: Match, name: str, cost: Cost, **told: Any) -> Run:
    return Run(match, name, 0, cost, told)


def found(*runs: Run) -> Findings:
    return findings.find(report.summarize(Results([], list(runs))))


def cost(wall_s: float, cpu_s: float, **more: float) -> Cost:
    return replace(CALM, wall_s=wall_s, client_cpu_s=cpu_s, **more)  # type: ignore[arg-type]


def grown(rows: int, wall_s: float, cpu_s: float) -> Run:
    match = Match("growth", 18, Dataset(f"growth_{rows}", customers=rows), ("peersync-empty",), 1)
    return run(match, "peersync-empty", cost(wall_s, cpu_s))


def test_cost_per_row_is_held_against_the_cheapest_smaller_size() -> None:
    runs = grown(5_000, 30.0, 10.0), grown(100, 1.0, 0.2), grown(1_000, 4.0, 2.0)
    small, middle, big = found(*runs).growth
    assert [g.rows for g in (small, middle, big)] == [100, 1_000, 5_000]
    assert small.wall_ratio is None
    assert small.within
    assert middle.wall_ratio == pytest.approx(0.4)
    assert big.wall_ratio == pytest.approx(1.5)  # 6 ms a row after 4, though the first took 10
    assert big.cpu_ratio == pytest.approx(1.0)
    assert not big.within
    assert big.wall_s_per_further_row == pytest.approx(26 / 4_000)


def test_a_growth_of_30_percent_is_within_the_goal() -> None:
    assert found(grown(100, 1.0, 1.0), grown(1000, 12.9, 10.0)).growth[1].within
    assert not found(grown(100, 1.0, 1.0), grown(1000, 10.0, 13.1)).growth[1].within


def test_breaks_are_charged_without_dead_time_and_starts() -> None:
    whole = run(RESUME, "peersync-unbroken", cost(10.0, 5.0), link_bytes=10 * MIB)
    broken = cost(13.2, 6.6, away_s=3.0, start_cpu_s=1.0)
    told = {"link_bytes": 16 * MIB, "breaks": 3}
    finding = found(whole, run(RESUME, "peersync-broken", broken, **told))
    wall, cpu = finding.breaks
    assert wall.overhead == pytest.approx(0.02)
    assert wall.within
    assert cpu.overhead == pytest.approx(0.12)
    assert not cpu.within
    (again,) = finding.sent_again
    assert again.chunks_per_break == pytest.approx(2.0)
    assert not again.within
    text = findings.render(finding)
    assert "+2.0%" in text
    assert "+12.0%" in text


def test_one_of_two_runs_alone_says_nothing() -> None:
    whole = run(RESUME, "peersync-unbroken", cost(10.0, 5.0), link_bytes=1)
    finding = found(whole)
    assert not finding.breaks
    assert findings.render(finding) == ""


@pytest.mark.parametrize(("rows", "says"), [(500, "500 rows"), (0, "NO JOURNAL")])
def test_a_journal_that_was_not_written_is_not_a_good_result(rows: int, says: str) -> None:
    steps = {"step_s": {"restore": 1.1}, "undoable_rows": rows}
    without = run(UNDO, "peersync-no-undo", cost(2.0, 1.0), step_s={"restore": 1.0})
    finding = found(run(UNDO, "peersync-undo", cost(2.5, 1.0), **steps), without)
    restore, wall = finding.journal
    assert restore.figure == "restore s"
    assert restore.overhead == pytest.approx(0.1)
    assert restore.within
    assert wall.overhead == pytest.approx(0.25)
    assert not wall.within
    assert says in findings.render(finding)


def test_figures_of_contaminated_runs_are_left_out_or_marked() -> None:
    dirty = replace(cost(20.0, 5.0), stranger_cpu_s=1000.0)
    whole = run(RESUME, "peersync-unbroken", cost(10.0, 5.0), link_bytes=MIB)
    noisy = run(RESUME, "peersync-unbroken", dirty, link_bytes=9 * MIB)
    broken = run(RESUME, "peersync-broken", dirty, link_bytes=MIB, breaks=3)
    finding = found(whole, noisy, broken)
    assert finding.breaks[0].without == 10.0
    assert finding.breaks[0].mark == "~"
    assert finding.sent_again[0].whole_bytes == MIB


def test_over_a_link_the_bytes_of_both_are_compared() -> None:
    match = Match("wan", 18, ROWS, ("peersync-empty", "dump-psql"), 1, shape=WAN)
    runs = [
        run(match, "peersync-empty", cost(4.0, 1.0), link_bytes=7_000_000, wire_bytes=6_900_000),
        run(match, "dump-psql", cost(16.0, 1.0), link_bytes=28_000_000),
    ]
    text = report.render(Results([Source(match, "18.6", 1, 1, 1)], runs))
    assert "20 Mbit/s, 60 ms" in text
    ours = next(line for line in text.splitlines() if "peersync-empty" in line)
    assert [c.strip() for c in ours.split("|")][-3:-1] == ["7.0", "0.25"]


def test_every_part_and_every_run_has_a_match() -> None:
    matches = plan(PARTS, RUN_NAMES, "full", 1, 0.0, [15, 18])
    assert {match.part for match in matches} == set(PARTS)
    assert {name for match in matches for name in match.runs} == set(RUN_NAMES)
    only = plan(("wan", "undo"), ("dump-psql",), "small", 1, 0.0, [18])
    assert [(match.part, match.runs) for match in only] == [("wan", ("dump-psql",))]


def test_the_sizes_are_what_the_documentation_says() -> None:
    assert [dataset.rows for dataset in growth("full")] == [100_000, 1_000_000, 5_000_000]
    assert len(many_tables("full").tables) == 500
    assert whole("full").rows == 4_400_340

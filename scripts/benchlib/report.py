"""From runs to figures: medians, ratios, Markdown tables, and the JSON file.

Pure: it reads results and returns text or plain values. A median is taken over the clean
runs; where all runs were contaminated, over those, and the figure is marked with `~`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchlib.matches import RUN_NAMES, Match, Results, Run, Source
from benchlib.meter import Cost

YARDSTICKS = ("dump-psql", "pgcopydb")
FLAT = 1.10  # the peak for ten times the rows, against the peak for one time
MB = 1_000_000


@dataclass(frozen=True)
class Summary:
    """One kind of run in one match. Seconds, bytes; ratios by name of the yardstick."""

    match: Match
    name: str
    clean: int
    contaminated: int
    failed: int
    wall_median_s: float
    wall_min_s: float
    cpu_median_s: float
    wal_median_bytes: float
    source_rss_bytes: int
    target_rss_bytes: int
    wire_bytes: float | None
    wall_ratio: dict[str, float]
    cpu_ratio: dict[str, float]

    @property
    def mark(self) -> str:
        return "" if self.clean else "~"


def summarize(results: Results) -> list[Summary]:
    """One Summary for each match and name that has a measured run, in the order of the names."""
    found = []
    for match in dict.fromkeys(run.match for run in results.runs):
        runs = [run for run in results.runs if run.match == match]
        found += [_summary(match, name, runs) for name in RUN_NAMES if _costs(runs, name)]
    return found


def _summary(match: Match, name: str, runs: list[Run]) -> Summary:
    costs = _costs(runs, name)
    own = [run for run in runs if run.name == name]
    measured = [run.cost for run in own if run.cost]
    wires = [run.told["wire_bytes"] for run in own if "wire_bytes" in run.told]
    yardsticks = {y: _costs(runs, y) for y in YARDSTICKS if y != name and _costs(runs, y)}
    return Summary(
        match=match,
        name=name,
        clean=sum(not cost.contaminated for cost in measured),
        contaminated=sum(cost.contaminated for cost in measured),
        failed=sum(run.error is not None for run in own),
        wall_median_s=_median(costs, lambda c: c.wall_s),
        wall_min_s=min(cost.wall_s for cost in costs),
        cpu_median_s=_median(costs, lambda c: c.cpu_s),
        wal_median_bytes=_median(costs, lambda c: c.wal_bytes),
        source_rss_bytes=max(cost.source_rss_bytes for cost in measured),
        target_rss_bytes=max(cost.target_rss_bytes for cost in measured),
        wire_bytes=statistics.median(wires) if wires else None,
        wall_ratio={
            y: _ratio(costs, theirs, lambda c: c.wall_s) for y, theirs in yardsticks.items()
        },
        cpu_ratio={y: _ratio(costs, theirs, lambda c: c.cpu_s) for y, theirs in yardsticks.items()},
    )


def _costs(runs: Iterable[Run], name: str) -> list[Cost]:
    """The clean runs of a name, or all of them when none was clean."""
    costs = [run.cost for run in runs if run.name == name and run.cost]
    return [cost for cost in costs if not cost.contaminated] or costs


def _median(costs: list[Cost], figure: Callable[[Cost], float]) -> float:
    return statistics.median(figure(cost) for cost in costs)


def _ratio(ours: list[Cost], theirs: list[Cost], figure: Callable[[Cost], float]) -> float:
    return _median(ours, figure) / max(_median(theirs, figure), 0.001)


# --- memory ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Flatness:
    """Peak memory of one agent for a table and for one ten times longer."""

    name: str
    agent: str
    small_bytes: int
    big_bytes: int

    @property
    def ratio(self) -> float:
        return self.big_bytes / self.small_bytes

    @property
    def flat(self) -> bool:
        return self.ratio <= FLAT


def flatness(summaries: list[Summary]) -> list[Flatness]:
    """Pairs of summaries of the memory part, for both agents."""
    by_name: dict[str, dict[str, Summary]] = {}
    for one in summaries:
        if one.match.part == "memory":
            by_name.setdefault(one.name, {})[one.match.dataset.name] = one
    found = []
    for name, sizes in by_name.items():
        if len(sizes) == 2:
            small, big = sizes["memory_1x"], sizes["memory_10x"]
            found += [
                Flatness(name, "source", small.source_rss_bytes, big.source_rss_bytes),
                Flatness(name, "target", small.target_rss_bytes, big.target_rss_bytes),
            ]
    return found


# --- text -----------------------------------------------------------------------------------
def render(results: Results) -> str:
    """Markdown: a table for each match, then the memory check, then what failed."""
    summaries = summarize(results)
    parts = [_match_text(source, summaries) for source in results.sources]
    if checks := flatness(summaries):
        rows = [
            [
                *(c.name, c.agent, _mb(c.small_bytes), _mb(c.big_bytes)),
                *(f"{c.ratio:.2f}", "yes" if c.flat else "NO"),
            ]
            for c in checks
        ]
        head = ["run", "agent", "peak MB", "peak MB, 10x rows", "ratio", f"within {FLAT - 1:.0%}"]
        parts.append("## Memory against table size\n\n" + _table(head, rows))
    if results.failed:
        lines = [
            f"- {r.match.major}→{r.match.major} {r.match.dataset.name} {r.name}"
            f" {r.repetition + 1}/{r.match.repeat}: {r.error}"
            for r in results.failed
        ]
        parts.append("## Failed\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _match_text(source: Source, summaries: list[Summary]) -> str:
    match = source.match
    title = (
        f"## {match.dataset.name}, PostgreSQL {source.version}: {match.dataset.rows:,} rows,"
        f" {_mb(source.database_bytes)} MB; dump {_mb(source.dump_bytes)} MB,"
        f" zstd -1 {_mb(source.dump_zstd_bytes)} MB"
    )
    head = ["run", "n", "wall s", "min s", "CPU s", "WAL MB", "wire MB", "RSS A/B MB"]
    marks = {one.name: one.mark for one in summaries if one.match == match}
    beside = [yardstick for yardstick in YARDSTICKS if yardstick in marks]
    head += [f"{figure} / {yardstick}" for yardstick in beside for figure in ("wall", "CPU")]
    rows = [_row(one, marks) for one in summaries if one.match == match]
    return f"{title}\n\n{_table(head, rows)}" if rows else f"{title}\n\nNothing was measured."


def _row(one: Summary, marks: dict[str, str]) -> list[str]:
    count = f"{one.clean}" + (f"+{one.contaminated}~" if one.contaminated else "")
    rss = f"{_mb(one.source_rss_bytes)} / {_mb(one.target_rss_bytes)}"
    cells = [
        one.name,
        count,
        f"{one.mark}{one.wall_median_s:.2f}",
        f"{one.wall_min_s:.2f}",
        f"{one.cpu_median_s:.2f}",
        _mb(one.wal_median_bytes),
        "–" if one.wire_bytes is None else _mb(one.wire_bytes),
        rss if one.source_rss_bytes else "–",
    ]
    for yardstick in (y for y in YARDSTICKS if y in marks):
        for ratios in (one.wall_ratio, one.cpu_ratio):
            mark = one.mark or marks[yardstick]
            cells.append(f"{mark}{ratios[yardstick]:.2f}" if yardstick in ratios else "–")
    return cells


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return "\n".join(
        [line(head), "|" + "|".join("-" * (w + 2) for w in widths) + "|"]
        + [line(row) for row in rows]
    )


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / MB:.1f}"


# --- JSON -----------------------------------------------------------------------------------
def document(results: Results, about: dict[str, Any]) -> dict[str, Any]:
    """Every figure, as docs/benchmarks.md describes it; `about` comes first."""
    summaries = summarize(results)
    return {
        "format": 1,
        **about,
        "sources": [_named(s.match) | _figures(s) for s in results.sources],
        "runs": [
            _named(r.match)
            | {"name": r.name, "repetition": r.repetition, "error": r.error, "told": r.told}
            | {"cost": _cost(r.cost) if r.cost else None}
            for r in results.runs
        ],
        "summary": [_named(s.match) | _figures(s) for s in summaries],
        "memory": [asdict(c) | {"ratio": c.ratio, "flat": c.flat} for c in flatness(summaries)],
    }


def _named(match: Match) -> dict[str, Any]:
    dataset = {"dataset": match.dataset.name, "rows": match.dataset.rows}
    return {"part": match.part, "major": match.major, **dataset}


def _figures(one: Source | Summary) -> dict[str, Any]:
    return {key: value for key, value in asdict(one).items() if key != "match"}


def _cost(cost: Cost) -> dict[str, Any]:
    share = {"stranger_share": cost.stranger_share, "contaminated": cost.contaminated}
    return asdict(cost) | {"cpu_s": cost.cpu_s} | share

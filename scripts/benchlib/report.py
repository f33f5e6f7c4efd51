"""From runs to figures: medians, ratios, Markdown tables, and the JSON file.

Pure: it reads results and returns text or plain values. A median is taken over the clean
runs; where all runs were contaminated, over those, and the figure is marked with `~`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchlib.meter import Cost
from benchlib.records import RUN_NAMES, Match, Results, Run, Source

YARDSTICKS = ("dump-psql", "pgcopydb")
FLAT = 1.10  # the peak for ten times the rows, against the peak for one time
MB = 1_000_000


@dataclass(frozen=True)
class Summary:
    """One kind of run in one match. Seconds, bytes; ratios by name of the yardstick.

    `told`: the median of each number that the runs told.
    """

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
    away_median_s: float
    start_cpu_median_s: float
    told: dict[str, float]
    wall_ratio: dict[str, float]
    cpu_ratio: dict[str, float]
    link_ratio: dict[str, float]

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
    told = _told(_chosen(runs, name))
    yardsticks = {y: _costs(runs, y) for y in YARDSTICKS if y != name and _costs(runs, y)}
    links = {y: _told(_chosen(runs, y)).get("link_bytes") for y in yardsticks}
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
        away_median_s=_median(costs, lambda c: c.away_s),
        start_cpu_median_s=_median(costs, lambda c: c.start_cpu_s),
        told=told,
        wall_ratio={
            y: _ratio(costs, theirs, lambda c: c.wall_s) for y, theirs in yardsticks.items()
        },
        cpu_ratio={y: _ratio(costs, theirs, lambda c: c.cpu_s) for y, theirs in yardsticks.items()},
        link_ratio={
            y: told["link_bytes"] / size
            for y, size in links.items()
            if size and "link_bytes" in told
        },
    )


def _chosen(runs: Iterable[Run], name: str) -> list[Run]:
    """The clean runs of a name, or all of them when none was clean."""
    measured = [run for run in runs if run.name == name and run.cost]
    return [run for run in measured if run.cost and not run.cost.contaminated] or measured


def _costs(runs: Iterable[Run], name: str) -> list[Cost]:
    return [run.cost for run in _chosen(runs, name) if run.cost]


def _told(runs: list[Run]) -> dict[str, float]:
    """The medians of what runs told in numbers; seconds of a step as `restore_s`."""
    found: dict[str, list[float]] = {}
    for run in runs:
        steps = {f"{step}_s": value for step, value in run.told.get("step_s", {}).items()}
        for key, value in (run.told | steps).items():
            if isinstance(value, int | float):
                found.setdefault(key, []).append(value)
    return {key: statistics.median(values) for key, values in found.items()}


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
                *(c.name, c.agent, mb(c.small_bytes), mb(c.big_bytes)),
                *(f"{c.ratio:.2f}", "yes" if c.flat else "NO"),
            ]
            for c in checks
        ]
        head = ["run", "agent", "peak MB", "peak MB, 10x rows", "ratio", f"within {FLAT - 1:.0%}"]
        parts.append("## Memory against table size\n\n" + table(head, rows))
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
        f" {mb(source.database_bytes)} MB; dump {mb(source.dump_bytes)} MB,"
        f" zstd -1 {mb(source.dump_zstd_bytes)} MB"
    )
    if match.shape is not None and match.shape.bytes_s:
        title += (
            f"; {match.shape.bytes_s * 8 / MB:.0f} Mbit/s, {2e3 * match.shape.one_way_s:.0f} ms"
        )
    head = ["run", "n", "wall s", "min s", "CPU s", "WAL MB", "wire MB", "RSS A/B MB"]
    marks = {one.name: one.mark for one in summaries if one.match == match}
    beside = [yardstick for yardstick in YARDSTICKS if yardstick in marks]
    head += [f"{figure} / {yardstick}" for yardstick in beside for figure in ("wall", "CPU")]
    ours = [one for one in summaries if one.match == match]
    rows = [_row(one, marks) for one in ours]
    if match.shape is not None:
        head += ["link MB", *(f"link / {yardstick}" for yardstick in beside)]
        rows = [row + _link_cells(one, beside) for row, one in zip(rows, ours, strict=True)]
    return f"{title}\n\n{table(head, rows)}" if rows else f"{title}\n\nNothing was measured."


def _link_cells(one: Summary, beside: list[str]) -> list[str]:
    cells = [mb(one.told["link_bytes"]) if "link_bytes" in one.told else "–"]
    return cells + [f"{one.link_ratio[y]:.2f}" if y in one.link_ratio else "–" for y in beside]


def _row(one: Summary, marks: dict[str, str]) -> list[str]:
    count = f"{one.clean}" + (f"+{one.contaminated}~" if one.contaminated else "")
    rss = f"{mb(one.source_rss_bytes)} / {mb(one.target_rss_bytes)}"
    cells = [
        one.name,
        count,
        f"{one.mark}{one.wall_median_s:.2f}",
        f"{one.wall_min_s:.2f}",
        f"{one.cpu_median_s:.2f}",
        mb(one.wal_median_bytes),
        mb(one.told["wire_bytes"]) if "wire_bytes" in one.told else "–",
        rss if one.source_rss_bytes else "–",
    ]
    for yardstick in (y for y in YARDSTICKS if y in marks):
        for ratios in (one.wall_ratio, one.cpu_ratio):
            mark = one.mark or marks[yardstick]
            cells.append(f"{mark}{ratios[yardstick]:.2f}" if yardstick in ratios else "–")
    return cells


def table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return "\n".join(
        [line(head), "|" + "|".join("-" * (w + 2) for w in widths) + "|"]
        + [line(row) for row in rows]
    )


def mb(size_bytes: float) -> str:
    return f"{size_bytes / MB:.1f}"


# --- JSON -----------------------------------------------------------------------------------
def document(results: Results, about: dict[str, Any]) -> dict[str, Any]:
    """Every figure, as docs/benchmarks.md describes it; `about` comes first."""
    summaries = summarize(results)
    return {
        "format": 2,
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

"""From turns to lines: medians over the clean ones, ratios, and the JSON file. Pure.

As in `report`: where all turns of a line were contaminated, it is made of those, and marked `~`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchlib.cells import Cell, Ledger, Source
from benchlib.differing import Case, State
from benchlib.meter import Cost
from benchlib.report import mb, table

RSS_GOAL_BYTES = 150_000_000


@dataclass(frozen=True)
class Line:
    """One engine on one table in one state. `told`: medians of numbers, the last of words."""

    case: Case
    state: State | None
    engine: str
    clean: int
    contaminated: int
    failed: int
    wall_s: float
    wall_min_s: float
    cpu_s: float
    source_cpu_s: float
    source_rss_bytes: int
    target_rss_bytes: int
    told: dict[str, Any]

    @property
    def mark(self) -> str:
        return "" if self.clean else "~"

    @property
    def count(self) -> str:
        return f"{self.clean}" + (f"+{self.contaminated}~" if self.contaminated else "")

    @property
    def link_bytes(self) -> float | None:
        """All that the agents said to each other; None where nobody counted."""
        found = self.told.get("link_bytes")
        return float(found) if isinstance(found, int | float) else None

    @property
    def rss(self) -> str:
        if not self.source_rss_bytes:
            return "–"
        return f"{mb(self.source_rss_bytes)} / {mb(self.target_rss_bytes)}"


@dataclass(frozen=True)
class Goal:
    """A figure of a line and what it should be at most, or at least."""

    case: Case
    state: State | None
    figure: str
    mark: str
    value: float
    goal: float
    least: bool = False

    @property
    def within(self) -> bool:
        return self.value >= self.goal if self.least else self.value <= self.goal


def summarize(ledger: Ledger) -> list[Line]:
    """One line for each table, state and engine that was measured, in the order of measuring."""
    found: dict[tuple[Case, State | None, str], list[Cell]] = {}
    for cell in ledger.cells:
        found.setdefault((cell.case, cell.state, cell.engine), []).append(cell)
    return [_line(*key, cells) for key, cells in found.items() if any(c.cost for c in cells)]


def _line(case: Case, state: State | None, engine: str, cells: list[Cell]) -> Line:
    measured = [cell for cell in cells if cell.cost]
    clean = [cell for cell in measured if cell.cost and not cell.cost.contaminated]
    costs = [cell.cost for cell in clean or measured if cell.cost]
    every = [cell.cost for cell in measured if cell.cost]
    return Line(
        *(case, state, engine, len(clean), len(measured) - len(clean)),
        failed=sum(cell.error is not None for cell in cells),
        wall_s=statistics.median(cost.wall_s for cost in costs),
        wall_min_s=min(cost.wall_s for cost in costs),
        cpu_s=statistics.median(cost.cpu_s for cost in costs),
        source_cpu_s=statistics.median(cost.source_cpu_s for cost in costs),
        source_rss_bytes=max(cost.source_rss_bytes for cost in every),
        target_rss_bytes=max(cost.target_rss_bytes for cost in every),
        told=_told(clean or measured),
    )


def _told(cells: list[Cell]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for cell in cells:
        for key, value in cell.told.items():
            found.setdefault(key, []).append(value)
    return {
        key: statistics.median(values)
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        else values[-1]
        for key, values in found.items()
    }


def find(lines: Iterable[Line], case: Case, state: State | None, engine: str) -> Line | None:
    """The line of an engine; one that no state plays a part for is the same in each of them."""
    for line in lines:
        if line.case == case and line.engine == engine and line.state in (state, None):
            return line
    return None


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """None where one of the two is not known; what nothing was spent on counts as a thousandth."""
    return None if ours is None or theirs is None else ours / max(theirs, 0.001)


def cell_of(value: float | None, *marks: str) -> str:
    """A ratio in a table; more digits for small ones."""
    if value is None:
        return "–"
    mark = "~" if any(marks) else ""
    return f"{mark}{value:.2f}" if value >= 0.1 else f"{mark}{value:.4f}"


def with_links(head: list[str], rows: list[list[str]], lines: list[Line]) -> str:
    """A table, with a last column for the bytes between the agents where they were counted."""
    if any(line.link_bytes is not None for line in lines):
        head = [*head, "link MB"]
        passed = (line.link_bytes for line in lines)
        cells = ("–" if size is None else f"{size / 1e6:.3f}" for size in passed)
        rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
    return table(head, rows)


def render_goals(title: str, goals: list[Goal]) -> str:
    """A table of what was promised; empty without goals."""
    if not goals:
        return ""
    rows = [
        [
            *(g.case.name, g.state.name if g.state else "–", g.figure),
            cell_of(g.value, g.mark),
            ("≥ " if g.least else "≤ ") + cell_of(g.goal),
            "yes" if g.within else "NO",
        ]
        for g in goals
    ]
    head = ["table", "differs %", "figure", "measured", "goal", "within"]
    return f"## {title}\n\n{table(head, rows)}"


def memory_goals(lines: Iterable[Line]) -> list[Goal]:
    """The highest peak of an agent on each table, in MB."""
    peaks: dict[Case, int] = {}
    for line in lines:
        peak = max(line.source_rss_bytes, line.target_rss_bytes)
        if peak:
            peaks[line.case] = max(peaks.get(line.case, 0), peak)
    goal = RSS_GOAL_BYTES / 1e6
    return [Goal(case, None, "agent MB", "", peak / 1e6, goal) for case, peak in peaks.items()]


def render_failed(ledger: Ledger) -> str:
    """What could not be measured; empty where all could."""
    if not ledger.failed:
        return ""
    lines = [
        f"- {cell.case.name} {cell.state.name if cell.state else 'any'} {cell.engine}: {cell.error}"
        for cell in ledger.failed
    ]
    return "## Failed\n\n" + "\n".join(lines)


def render_sources(
    ledger: Ledger, what: str, goals: list[Goal], section: Callable[[Source], str]
) -> str:
    """A section for each data set, the goals of `what`, then what failed."""
    texts = [section(source) for source in ledger.sources]
    texts += [render_goals(f"Goals of {what}", goals), render_failed(ledger)]
    return "\n\n".join(text for text in texts if text)


def render_section(
    source: Source, sizes: str, head: list[str], rows: list[list[str]], own: list[Line]
) -> str:
    """The table of one data set; `rows` are of the lines that are its `own`."""
    case = source.case
    title = f"## {case.name}, PostgreSQL {source.version}: {case.rows:,} rows, {sizes}"
    return f"{title}\n\n{with_links(head, rows, own) if own else 'Nothing was measured.'}"


# --- JSON -----------------------------------------------------------------------------------
def document(
    ledger: Ledger, lines: list[Line], goals: list[Goal], about: dict[str, Any]
) -> dict[str, Any]:
    """Every figure, as docs/benchmarks.md describes it; `about` comes first."""
    return {
        "format": 1,
        **about,
        "sources": [_source(source) for source in ledger.sources],
        "runs": [
            _named(cell.case, cell.state)
            | {"engine": cell.engine, "repetition": cell.repetition, "error": cell.error}
            | {"told": cell.told, "cost": _cost(cell.cost) if cell.cost else None}
            for cell in ledger.cells
        ],
        "summary": [_named(line.case, line.state) | _rest(line) for line in lines],
        "goals": [_named(g.case, g.state) | _rest(g) | {"within": g.within} for g in goals],
    }


def _named(case: Case, state: State | None) -> dict[str, Any]:
    named: dict[str, Any] = {"shape": case.shape, "key": case.key, "rows": case.rows}
    return named | {"differs": state.name if state else None}


def _source(source: Source) -> dict[str, Any]:
    return _named(source.case, None) | _rest(source)


def _rest(one: Line | Goal | Source) -> dict[str, Any]:
    left = ("case", "state", "mark")
    return {key: value for key, value in asdict(one).items() if key not in left}


def _cost(cost: Cost) -> dict[str, Any]:
    share = {"stranger_share": cost.stranger_share, "contaminated": cost.contaminated}
    return asdict(cost) | {"cpu_s": cost.cpu_s} | share

"""From figures of periodic sync to tables: medians, spreads, ratios; Markdown and JSON.

Pure. A ratio is the median of the ratios of slices of the same repetition, which were minutes
apart at most: what the machine did in between touches both.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchlib.periodic_records import ENGINES, NATIVE, NONE, Figure, Ledger
from benchlib.report import table

TITLES = {
    "capture": "What capture costs; nobody fetches",
    "lag": "Lag, from commit to sight",
    "drain": "A backlog drains",
    "memory": "Memory while much arrives",
    "wire": "Bytes between the servers, both ways",
    "publish": "Publishing alone",
    "nodes": "More nodes",
}


@dataclass(frozen=True)
class Line:
    """One figure of one engine over its repetitions; `ratio` to the part's yardstick."""

    part: str
    major: int
    engine: str
    name: str
    count: int
    median: float
    lowest: float
    highest: float
    yardstick: str
    ratio: float | None
    ratio_lowest: float | None
    ratio_highest: float | None


def summarize(figures: Iterable[Figure]) -> list[Line]:
    """In the order of measuring."""
    found: dict[tuple[str, int, str, str], dict[int, float]] = {}
    for one in figures:
        runs = found.setdefault((one.part, one.major, one.engine, one.name), {})
        runs[one.repetition] = max(runs.get(one.repetition, 0.0), one.value)
    lines = []
    for (part, major, engine, name), values in found.items():
        yardstick = _yardstick(part, next(e for p, m, e, _ in found if (p, m) == (part, major)))
        theirs = found.get((part, major, yardstick, name), {})
        ratios = [] if engine == yardstick or name.startswith("others") else _ratios(values, theirs)
        lines.append(
            Line(
                *(part, major, engine, name, len(values), statistics.median(values.values())),
                *(min(values.values()), max(values.values()), yardstick),
                *(statistics.median(ratios) if ratios else None,),
                *(min(ratios, default=None), max(ratios, default=None)),
            )
        )
    return lines


def _yardstick(part: str, first: str) -> str:
    """The part of more nodes begins with the fewest."""
    return {"capture": NONE, "nodes": first}.get(part, NATIVE)


def _ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    return [value / theirs[i] for i, value in ours.items() if theirs.get(i)]


def render(ledger: Ledger) -> str:
    """A table for each major and part, engines in its columns; then what failed."""
    lines = summarize(ledger.figures)
    texts = []
    for major, part in dict.fromkeys((line.major, line.part) for line in lines):
        own = [line for line in lines if (line.major, line.part) == (major, part)]
        texts.append(f"## {TITLES[part]} (PostgreSQL {major})\n\n{_table(own)}")
    if ledger.failures:
        failed = [f"- {f.major} {f.part} {f.engine}: {f.words}" for f in ledger.failures]
        texts.append("## Failed\n\n" + "\n".join(failed))
    return "\n\n".join(texts)


def _table(lines: list[Line]) -> str:
    there = dict.fromkeys(line.engine for line in lines)
    engines = [e for e in ENGINES if e in there] + [e for e in there if e not in ENGINES]
    cells = {(line.name, line.engine): _cell(line) for line in lines}
    names = dict.fromkeys(line.name for line in lines)
    rows = [[name, *(cells.get((name, engine), "–") for engine in engines)] for name in names]
    return table(["", *engines], rows)


def _cell(line: Line) -> str:
    text = number(line.median)
    if line.count > 1:
        text += f" ({number(line.lowest)}–{number(line.highest)})"
    if line.ratio is None:
        return text
    text += f"; ×{line.ratio:.2f}"
    if line.count > 1 and line.ratio_lowest is not None and line.ratio_highest is not None:
        text += f" ({line.ratio_lowest:.2f}–{line.ratio_highest:.2f})"
    return text


def number(value: float) -> str:
    """Three digits or so."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def document(ledger: Ledger, about: dict[str, Any]) -> dict[str, Any]:
    """Every figure, as docs/benchmarks.md describes it; `about` comes first."""
    return {
        "format": 1,
        **about,
        "figures": [asdict(figure) for figure in ledger.figures],
        "summary": [asdict(line) for line in summarize(ledger.figures)],
        "failures": [asdict(failure) for failure in ledger.failures],
    }

"""How fast tables are compared, what that costs their source, and whether it was right. Pure."""

from __future__ import annotations

from benchlib.cells import Ledger, Source
from benchlib.cells_report import (
    Goal,
    Line,
    cell_of,
    find,
    memory_goals,
    ratio,
    render_section,
    render_sources,
)
from benchlib.report import mb

PEERSYNC, RELADIFF = "peersync", "reladiff"
ENGINES = (PEERSYNC, RELADIFF)
RATE_GOAL = 5.0  # times the rows a second of reladiff
EXACT = "exactly"


def goals(lines: list[Line]) -> list[Goal]:
    """Rows a second against reladiff's wherever both were measured, and the agents' memory."""
    found = []
    for line in lines:
        beside = find(lines, line.case, line.state, RELADIFF)
        if line.engine == PEERSYNC and beside is not None:
            times, mark = beside.wall_s / line.wall_s, line.mark or beside.mark
            about = (line.case, line.state, "rows/s × reladiff")
            found.append(Goal(*about, mark, times, RATE_GOAL, least=True))
    return found + memory_goals(lines)


def render(ledger: Ledger, lines: list[Line]) -> str:
    """A table for each data set, the goals, then what failed."""
    return render_sources(ledger, "verify", goals(lines), lambda source: _section(source, lines))


def _section(source: Source, lines: list[Line]) -> str:
    sizes = f"{mb(source.table_bytes)} MB without indexes"
    own = [line for line in lines if line.case == source.case]
    head = ["differs %", "engine", "n", "wall s", "look s", "rows/s", "GB/s"]
    head += [
        "CPU s",
        "source CPU s",
        "RSS A/B MB",
        "found",
        "rows/s × reladiff",
        "source CPU / reladiff",
    ]
    return render_section(source, sizes, head, [_row(line, source, own) for line in own], own)


def _row(line: Line, source: Source, own: list[Line]) -> list[str]:
    rival = find(own, line.case, line.state, RELADIFF) if line.engine != RELADIFF else None
    marks = (line.mark, rival.mark) if rival else ()
    load = ratio(line.source_cpu_s, rival.source_cpu_s if rival else None)
    return [
        *(line.state.name if line.state else "any", line.engine, line.count),
        f"{line.mark}{line.wall_s:.2f}",
        f"{line.told['look_s']:.2f}" if "look_s" in line.told else "–",
        f"{line.mark}{line.case.rows / line.wall_s:,.0f}",
        f"{line.mark}{source.table_bytes / 1e9 / line.wall_s:.3f}",
        *(f"{line.cpu_s:.2f}", f"{line.source_cpu_s:.2f}", line.rss),
        str(line.told.get("found", "–")),
        cell_of(ratio(rival.wall_s, line.wall_s) if rival else None, *marks),
        cell_of(load, *marks),
    ]

"""What a delta costs beside a full sync and the rivals: the tables and the goals. Pure."""

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

DELTA, BACKUP, DUMP_PSQL, PGCOPYDB = "delta", "backup", "dump-psql", "pgcopydb"
ENGINES = (DELTA, BACKUP, DUMP_PSQL, PGCOPYDB)
OURS, RIVALS = ENGINES[:2], ENGINES[2:]
# By state, then shape: how much of the backup's figure a delta may cost.
WALL_GOALS = {
    "0": {"wide": 0.4, "narrow": 0.6},
    "1-clustered": {"wide": 0.5, "narrow": 0.5},
    "100": {"wide": 1.25, "narrow": 1.25},
}
WIRE_GOAL = 1 / 500  # of an identical wide table


def goals(lines: list[Line]) -> list[Goal]:
    """What was promised of the lines that are here, then the agents' memory."""
    found = []
    for line in lines:
        if line.engine != DELTA or line.state is None:
            continue
        beside = find(lines, line.case, line.state, BACKUP)
        if beside is None:
            continue
        about, mark = (line.case, line.state), line.mark or beside.mark
        if goal := WALL_GOALS.get(line.state.name, {}).get(line.case.shape):
            found.append(Goal(*about, "wall / backup", mark, line.wall_s / beside.wall_s, goal))
        wire = ratio(_bytes(line), _bytes(beside))
        if wire is not None and line.case.shape == "wide" and not line.state.percent:
            found.append(Goal(*about, "wire / backup", "", wire, WIRE_GOAL))
    return found + memory_goals(lines)


def render(ledger: Ledger, lines: list[Line]) -> str:
    """A table for each data set, the goals, then what failed."""
    return render_sources(ledger, "delta", goals(lines), lambda source: _section(source, lines))


def _section(source: Source, lines: list[Line]) -> str:
    sizes = (
        f"{mb(source.table_bytes)} MB; dump {mb(source.dump_bytes)} MB,"
        f" zstd -1 {mb(source.dump_zstd_bytes)} MB"
    )
    own = [line for line in lines if line.case == source.case]
    beside = [name for name in RIVALS if any(line.engine == name for line in own)]
    head = [
        "differs %",
        "engine",
        "n",
        "wall s",
        "CPU s",
        "wire MB",
        "RSS A/B MB",
        "blocks",
        "rows sent",
    ]
    head += [f"{figure} / {BACKUP}" for figure in ("wall", "CPU", "wire")]
    head += [f"wall / {name}" for name in beside]
    return render_section(source, sizes, head, [_row(line, own, beside) for line in own], own)


def _row(line: Line, own: list[Line], beside: list[str]) -> list[str]:
    wire = _wire(line)
    cells = [
        *(line.state.name if line.state else "any", line.engine, line.count),
        *(f"{line.mark}{line.wall_s:.2f}", f"{line.cpu_s:.2f}"),
        f"{wire / 1e6:.3f}" if wire is not None else "–",
        *(line.rss, _blocks(line), "all" if line.engine != DELTA else _sent(line)),
    ]
    yardstick = find(own, line.case, line.state, BACKUP) if line.engine == DELTA else None
    if yardstick is None:
        cells += ["–"] * 3
    else:
        cells.append(cell_of(ratio(line.wall_s, yardstick.wall_s), line.mark, yardstick.mark))
        cells.append(cell_of(ratio(line.cpu_s, yardstick.cpu_s), line.mark, yardstick.mark))
        cells.append(cell_of(ratio(_bytes(line), _bytes(yardstick))))
    for name in beside:
        rival = find(own, line.case, line.state, name) if line.engine != name else None
        marks = (line.mark, rival.mark) if rival else ()
        cells.append(cell_of(ratio(line.wall_s, rival.wall_s if rival else None), *marks))
    return cells


def _sent(line: Line) -> str:
    """All of them, where a table was sent whole after all."""
    return "that differ" if line.told.get("way") == "delta" else "all"


def _blocks(line: Line) -> str:
    """How many differ of those that were compared; where a table was sent whole it is not told."""
    if not line.told.get("blocks"):
        return "–"
    return f"{line.told['differing_blocks']:,.0f} of {line.told['blocks']:,.0f}"


def _bytes(line: Line) -> float | None:
    """All bytes where they were counted, else what peersync tells."""
    return _wire(line) if line.link_bytes is None else line.link_bytes


def _wire(line: Line) -> float | None:
    found = line.told.get("wire_bytes")
    return float(found) if isinstance(found, int | float) else None

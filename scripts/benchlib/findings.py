"""What the parts were run for: cost per row, cost of breaks, cost of the undo journal.

Pure, over the summaries of `report`. Each finding has a goal; what is above it is marked in
the table and in the JSON, and changes no exit code: these are measurements, not tests.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from benchlib.records import BREAKS, JOURNAL, Match
from benchlib.report import Summary, mb, table

GROWTH_GOAL = 1.3  # cost per row, against the cheapest smaller size
BREAKS_GOAL = 0.03
CHUNKS_GOAL = 1.0  # sent again for each break
JOURNAL_GOAL = 0.15
MIB = 1024 * 1024
CHUNK_MIB = 4  # peersync's own, where a match does not say


@dataclass(frozen=True)
class Growth:
    """One run at one size. Seconds; ratios are None at the smallest size.

    A ratio is the cost per row against that of the cheapest smaller size. The cost per further
    row (than at the next smaller size) leaves out what a command costs at any size.
    """

    name: str
    rows: int
    mark: str
    wall_s: float
    cpu_s: float
    wall_ratio: float | None = None
    cpu_ratio: float | None = None
    wall_s_per_further_row: float | None = None
    cpu_s_per_further_row: float | None = None

    @property
    def wall_s_per_row(self) -> float:
        return self.wall_s / self.rows

    @property
    def cpu_s_per_row(self) -> float:
        return self.cpu_s / self.rows

    @property
    def within(self) -> bool:
        return all(r is None or r <= GROWTH_GOAL for r in (self.wall_ratio, self.cpu_ratio))


@dataclass(frozen=True)
class Extra:
    """One figure without and with something, and by how much it may be more (0.03 is 3 %)."""

    match: Match
    figure: str
    mark: str
    without: float
    with_it: float
    goal: float

    @property
    def overhead(self) -> float:
        return self.with_it / max(self.without, 0.001) - 1

    @property
    def within(self) -> bool:
        return self.overhead <= self.goal


@dataclass(frozen=True)
class SentAgain:
    """What went over the link more than without breaks, in chunks for each break."""

    match: Match
    mark: str
    whole_bytes: float
    broken_bytes: float
    chunks_per_break: float
    away_s: float

    @property
    def within(self) -> bool:
        return self.chunks_per_break <= CHUNKS_GOAL


@dataclass(frozen=True)
class Findings:
    growth: list[Growth]
    breaks: list[Extra]
    sent_again: list[SentAgain]
    journal: list[Extra]
    undoable_rows: float | None


def find(summaries: list[Summary]) -> Findings:
    """Everything that the measured parts allow to say."""
    breaks, journals = _pairs(summaries, BREAKS), _pairs(summaries, JOURNAL[::-1])
    undoable = [with_it.told.get("undoable_rows", 0.0) for _, with_it in journals]
    return Findings(
        growth=_growth([one for one in summaries if one.match.part == "growth"]),
        breaks=[extra for pair in breaks for extra in _breaks(*pair)],
        sent_again=[_sent_again(*pair) for pair in breaks],
        journal=[extra for pair in journals for extra in _journal(*pair)],
        undoable_rows=min(undoable) if undoable else None,
    )


def _pairs(summaries: list[Summary], names: tuple[str, ...]) -> list[tuple[Summary, Summary]]:
    """Of each match that ran both: the one without, the one with."""
    without, with_it = ([s for s in summaries if s.name == name] for name in names)
    return [(a, b) for a in without for b in with_it if a.match == b.match]


def _growth(summaries: list[Summary]) -> list[Growth]:
    found: list[Growth] = []
    for name in dict.fromkeys(one.name for one in summaries):
        sizes: list[Growth] = []
        for one in sorted(summaries, key=lambda s: s.match.dataset.rows):
            if one.name == name:
                figures = one.match.dataset.rows, one.mark, one.wall_median_s, one.cpu_median_s
                sizes.append(_beside(Growth(name, *figures), sizes))
        found += sizes
    return found


def _beside(one: Growth, smaller: list[Growth]) -> Growth:
    """With its ratios to the smaller sizes."""
    if not smaller:
        return one
    last = smaller[-1]
    further = one.rows - last.rows
    return replace(
        one,
        wall_ratio=one.wall_s_per_row / max(min(s.wall_s_per_row for s in smaller), 1e-12),
        cpu_ratio=one.cpu_s_per_row / max(min(s.cpu_s_per_row for s in smaller), 1e-12),
        wall_s_per_further_row=(one.wall_s - last.wall_s) / further,
        cpu_s_per_further_row=(one.cpu_s - last.cpu_s) / further,
    )


def _breaks(whole: Summary, broken: Summary) -> list[Extra]:
    """Without the time in which something was away, and the CPU of starting agents again."""
    mark = whole.mark or broken.mark
    wall = broken.wall_median_s - broken.away_median_s
    cpu = broken.cpu_median_s - broken.start_cpu_median_s
    return [
        Extra(whole.match, "wall s", mark, whole.wall_median_s, wall, BREAKS_GOAL),
        Extra(whole.match, "CPU s", mark, whole.cpu_median_s, cpu, BREAKS_GOAL),
    ]


def _sent_again(whole: Summary, broken: Summary) -> SentAgain:
    sizes = whole.told["link_bytes"], broken.told["link_bytes"]
    chunk_bytes = (whole.match.chunk_mib or CHUNK_MIB) * MIB
    chunks = (sizes[1] - sizes[0]) / chunk_bytes / broken.told["breaks"]
    mark = whole.mark or broken.mark
    return SentAgain(whole.match, mark, *sizes, chunks, broken.away_median_s)


def _journal(without: Summary, with_it: Summary) -> list[Extra]:
    mark = without.mark or with_it.mark
    pairs = [("wall s", without.wall_median_s, with_it.wall_median_s)]
    if "restore_s" in without.told and "restore_s" in with_it.told:
        pairs.insert(0, ("restore s", without.told["restore_s"], with_it.told["restore_s"]))
    return [Extra(without.match, name, mark, a, b, JOURNAL_GOAL) for name, a, b in pairs]


# --- text -----------------------------------------------------------------------------------
def render(found: Findings) -> str:
    """Markdown; nothing for parts that did not run."""
    parts = [_growth_text(found.growth), _breaks_text(found), _journal_text(found)]
    return "\n\n".join(part for part in parts if part)


def _growth_text(growth: list[Growth]) -> str:
    head = ["run", "rows", "wall µs/row", "CPU µs/row", "wall ratio", "CPU ratio"]
    head += [f"within {GROWTH_GOAL}x", "wall µs/further row", "CPU µs/further row"]
    rows = [
        [
            *(g.name, f"{g.rows:,}", g.mark + _us(g.wall_s_per_row), g.mark + _us(g.cpu_s_per_row)),
            *("–" if r is None else f"{g.mark}{r:.2f}" for r in (g.wall_ratio, g.cpu_ratio)),
            *(_yes(g.within), _us(g.wall_s_per_further_row), _us(g.cpu_s_per_further_row)),
        ]
        for g in growth
    ]
    title = "## Cost per row, against the cheapest smaller size\n\n"
    return title + table(head, rows) if rows else ""


def _breaks_text(found: Findings) -> str:
    if not found.sent_again:
        return ""
    texts = ["## Three breaks against none", _extra_table(found.breaks, "whole", "broken")]
    head = ["whole link MB", "broken link MB", "chunks again per break", "away s"]
    rows = [
        [
            *(mb(s.whole_bytes), mb(s.broken_bytes), f"{s.mark}{s.chunks_per_break:.2f}"),
            *(f"{s.away_s:.2f}", _yes(s.within)),
        ]
        for s in found.sent_again
    ]
    return "\n\n".join([*texts, table([*head, f"within {CHUNKS_GOAL:.0f}"], rows)])


def _journal_text(found: Findings) -> str:
    if not found.journal:
        return ""
    rows = found.undoable_rows or 0
    told = f"`peersync undo` would put back {rows:,.0f} rows."
    if not rows:
        told = "**NO JOURNAL**: `peersync undo` has nothing to put back; the ratio says nothing."
    texts = ["## The undo journal", _extra_table(found.journal, "--no-undo", "default"), told]
    return "\n\n".join(texts)


def _extra_table(extras: list[Extra], without: str, with_it: str) -> str:
    rows = [
        [
            *(e.figure, f"{e.without:.2f}", f"{e.with_it:.2f}"),
            *(f"{e.mark}{e.overhead:+.1%}", _yes(e.within)),
        ]
        for e in extras
    ]
    return table(["figure", without, with_it, "more", f"within {extras[0].goal:.0%}"], rows)


def _us(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1e6 * seconds:.2f}"


def _yes(within: bool) -> str:
    return "yes" if within else "NO"


# --- JSON -----------------------------------------------------------------------------------
def document(found: Findings) -> dict[str, Any]:
    """Keys `growth`, `breaks`, `sent_again`, `journal`, `undoable_rows`."""

    def plain(one: Growth | Extra | SentAgain) -> dict[str, Any]:
        values = {key: value for key, value in asdict(one).items() if key != "match"}
        return values | {"within": one.within}

    return {
        "growth": [plain(one) for one in found.growth],
        "breaks": [plain(one) | {"overhead": one.overhead} for one in found.breaks],
        "sent_again": [plain(one) for one in found.sent_again],
        "journal": [plain(one) | {"overhead": one.overhead} for one in found.journal],
        "undoable_rows": found.undoable_rows,
    }

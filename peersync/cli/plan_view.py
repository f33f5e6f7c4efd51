"""A plan in words: what will be done to whom, before anything is touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peersync.cli.output import count, duration
from peersync.cli.output import size as human
from peersync.core.words import counted

if TYPE_CHECKING:
    from peersync.agent.plan import Plan
    from peersync.agent.tableplan import TablePlan
    from peersync.core.plancounts import RowCounts

_SHOWN_TABLES = 20
MEMBER_VERBS = ("join", "merge", "rebaseline")


def plan_lines(plan: Plan, verb: str | None = None) -> list[str]:
    """The plan in words. `verb`: join, merge or rebaseline, where it is more than a pull."""
    wanted, blocked = plan.wanted(), plan.blocked
    rows = f"about {count(plan.rows)} rows" if plan.rows is not None else "rows not counted"
    lines = [
        _direction(plan, verb or plan.action),
        *_afterwards(plan, verb),
        f"  {counted(len(wanted), 'table')}, {rows}, {human(plan.size_bytes)} on disk there",
    ]
    created = sum(t.action == "create" for t in wanted)
    if created:
        lines.append(
            f"  created here: {counted(created, 'table')}, with the schema of {plan.source}"
        )
    lines += [f"  {_note(note, verb)}" for note in plan.notes]
    lines += _count_lines(wanted)
    keyless = [t for t in wanted if t.action == "insert"]
    if keyless:
        names = ", ".join(str(t.table) for t in keyless[:3]) + ("…" if len(keyless) > 3 else "")
        lines.append(
            f"  without a key: {counted(len(keyless), 'table')} ({names}); "
            "whole rows are compared, "
            + ("extra rows here are deleted" if plan.mirror else "extra rows here stay")
        )
    lines += _ways(plan)
    if plan.only_here:
        lines.append(f"  only here, and not touched: {counted(len(plan.only_here), 'table')}")
    lines += [f"  left out: {t.table}: {t.reason}" for t in blocked]
    lines += [f"  not copied: {name}: {reason}" for name, reason in plan.not_copied]
    lines += [f"  warning: {t.table}: {w}" for t in wanted for w in t.warnings if "no key" not in w]
    lines += [f"  warning: {warning}" for warning in plan.warnings]
    lines.append(
        f"  needs about {human(plan.needed_bytes)} here, {human(plan.free_bytes)} free; "
        f"PostgreSQL {plan.source_version} → {plan.target_version}, {plan.dump_tool}"
    )
    if plan.expected_s is not None:
        lines.append(f"  expected: {duration(plan.expected_s)}, by the last runs of this pair")
    return lines


def _ways(plan: Plan) -> list[str]:
    """How the rows travel and why; of a delta what is compared first, and what travels whole."""
    why = [f"  method: {plan.method}, {plan.method_reason}"] if plan.method_reason else []
    if plan.method != "delta":
        return why
    compared = [t for t in plan.wanted() if t.way == "delta"]
    size = human(sum(t.size_bytes for t in compared))
    whole = sorted((t for t in plan.wanted() if t.way != "delta"), key=lambda t: -t.size_bytes)
    lines = [
        *why,
        f"  compared first: {counted(len(compared), 'table')} ({size}); only rows that differ "
        "are sent",
    ]
    lines += [f"  sent whole: {t.table}: {t.way_reason}" for t in whole[:_SHOWN_TABLES]]
    if len(whole) > _SHOWN_TABLES:
        lines.append(f"  … and {len(whole) - _SHOWN_TABLES} smaller tables")
    return lines


def _afterwards(plan: Plan, verb: str | None) -> list[str]:
    """What a member is, for who reads the plan of becoming one."""
    if verb not in MEMBER_VERBS:
        return []
    return [
        "  afterwards every change goes both ways, by itself: triggers are put on the tables of "
        f"{plan.target} and {plan.source}"
    ]


def _note(note: str, verb: str | None) -> str:
    """What happens to rows only here, where that is more than a pull or a mirror does."""
    if verb == "rebaseline":
        return note.replace(
            "rows only here are DELETED",
            "rows only here are deleted, unless they are changes that were not sent",
        )
    if verb == "merge":
        return note.replace("are kept, nothing is deleted", "are sent to the others")
    return note


def _direction(plan: Plan, verb: str) -> str:
    source, target = f"{plan.source}:{plan.database}", f"{plan.target}:{plan.database}"
    if plan.action == "push":
        return f"PLAN  push  THIS SERVER {source}  ──▶  {target}  (below, “here” is {plan.target})"
    return f"PLAN  {verb}  {source}  ──▶  THIS SERVER {target}"


def _count_lines(tables: Sequence[TablePlan]) -> list[str]:
    """The largest tables with what will happen to their rows; `~` marks an estimate."""
    if not any(t.action != "create" for t in tables):
        return []
    shown = sorted(tables, key=lambda t: -t.size_bytes)[:_SHOWN_TABLES]
    cells: list[tuple[str, ...]] = [("table", "insert", "update", "unchanged", "only here")]
    cells += [(str(t.table), *_counts(t.counts)) for t in shown]
    widths = [max(len(row[n]) for row in cells) for n in range(5)]
    lines = [
        "  " + "  ".join([row[0].ljust(widths[0]), *(row[n].rjust(widths[n]) for n in range(1, 5))])
        for row in cells
    ]
    if len(tables) > len(shown):
        lines.append(f"  … and {len(tables) - len(shown)} smaller tables")
    if not all(t.counts.exact for t in shown):
        lines.append("  ~ is an estimate, ? is not known beforehand")
    return lines


def _counts(counts: RowCounts) -> list[str]:
    mark = "" if counts.exact else "~"
    values = (counts.insert, counts.update, counts.unchanged, counts.target_only)
    return ["?" if value is None else f"{mark}{count(value)}" for value in values]

"""`peersync statistics export|anomalies|cost`, and the tables of `--days` and `--compare`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.output import (
    clean,
    count,
    duration,
    emit_json,
    print_err,
    print_out,
    print_table,
    size,
)

if TYPE_CHECKING:
    from peersync.agent.analytics import Compared, CostReport, Day, Measures
    from peersync.agent.analytics_view import Analytics, DatabaseAnalytics

PATH = "/api/admin/statistics"
T = TypeVar("T")

_days = click.option(
    "--days", metavar="N", type=click.IntRange(1, 3650), default=30, show_default=True
)
_database = click.option("--database", metavar="NAME", help="Only this one.")
_WORDS = {
    "seconds": "took", "raw_bytes": "raw", "wire_bytes": "wire", "behind_s": "behind",
    "speed_bytes_s": "speed", "lag_p50_s": "lag 50 %", "lag_p95_s": "lag 95 %",
}  # fmt: skip
_SIZES = frozenset({"raw_bytes", "wire_bytes"})
_TIMES = frozenset({"seconds", "behind_s", "lag_p50_s", "lag_p95_s"})


@click.command()
@_database
@_days
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv")
@click.pass_obj
def export(ctx: Context, database: str | None, days: int, form: str) -> int:
    """Print every day with every peer: CSV for a spreadsheet, or JSON.

    Exit code 5 when a database does not answer.
    """
    from peersync.agent.analytics_view import Analytics, csv_text, export_rows

    found = _fetch(ctx, "", Analytics, database, days)
    rows = export_rows(found)
    if ctx.json or form == "json":
        emit_json({"days": rows})
    else:
        print_out(csv_text(rows).rstrip("\n"))
    return _tell_problems({d.database: d.problem for d in found.databases})


@click.command()
@_database
@_days
@click.pass_obj
def anomalies(ctx: Context, database: str | None, days: int) -> int:
    """Name the days that were unlike those before them.

    Exit code 5 when a database does not answer.
    """
    from peersync.agent.analytics_view import Anomalies

    found = _fetch(ctx, "/anomalies", Anomalies, database, days)
    if ctx.json:
        emit_json(found)
    elif found.anomalies:
        rows = [(one.day, _where(one.database, one.peer), one.reason) for one in found.anomalies]
        print_table(("day", "where", "what"), rows, color=ctx.color)
    elif not found.problems:
        print_out("No day was unusual.")
    return _tell_problems(found.problems)


@click.command()
@_database
@click.option("--runs", metavar="N", type=click.IntRange(0, 100), default=10, show_default=True)
@click.pass_obj
def cost(ctx: Context, database: str | None, runs: int) -> int:
    """Say what the bytes on the wire cost: by peer, by month, by run, and the forecast.

    Exit code 5 when a database does not answer.
    """
    from peersync.agent.analytics import CostReport

    found = _fetch(ctx, "/cost", list[CostReport], database, None)
    if ctx.json:
        emit_json({"costs": msgspec.to_builtins(found)})
    else:
        for report in found:
            if report.problem is None:
                _print_cost(ctx, report, runs)
    return _tell_problems({report.database: report.problem for report in found})


def print_days(ctx: Context, found: Analytics, *, compare: bool) -> None:
    """What `--days` adds."""
    for d in found.databases:
        if d.problem is not None:
            continue
        print_out("")
        print_out(_sentence(found, d))
        rows = [_row(trend.peer, trend.totals) for trend in d.peers]
        if len(rows) > 1:
            rows.append(_row("all", d.totals))
        if rows:
            _print_measures(ctx, "peer", rows)
        if compare:
            _print_compared(ctx, d.compared)
        elif d.days:
            print_out("")
            _print_measures(ctx, "day (utc)", [_row(day.day, day) for day in d.days])


def _sentence(found: Analytics, d: DatabaseAnalytics) -> str:
    parts = [f"{d.database}, {found.since} to {found.until}:"]
    if d.success_rate is not None:
        parts.append(f"{d.success_rate * 100:.1f} % of the runs ended well,")
    if d.velocity is not None:
        parts.append(f"{d.velocity.per_hour:,.1f} changes an hour")
        if d.velocity.busiest_at is not None:
            at = d.velocity.busiest_at[:16].replace("T", " ")
            parts.append(f"(the most: {count(d.velocity.busiest_hour)} from {at} UTC)")
    return " ".join(parts)


def _row(name: str, m: Measures | Day) -> tuple[object, ...]:
    lag = None
    if m.lag_p50_s is not None and m.lag_p95_s is not None:
        lag = f"{duration(m.lag_p50_s)} / {duration(m.lag_p95_s)}"
    return (
        name,
        m.ok,
        m.partly + m.failed,
        duration(m.seconds),
        count(m.rows),
        count(m.changes),
        size(m.raw_bytes),
        size(m.wire_bytes),
        f"{size(m.speed_bytes_s)}/s" if m.speed_bytes_s is not None else None,
        lag,
        m.conflicts,
        money(m.cost),
    )


def _print_measures(ctx: Context, first: str, rows: list[tuple[object, ...]]) -> None:
    columns = (
        first, "ok", "not ok", "took", "rows", "changes", "raw", "wire", "speed", "lag 50/95 %",
        "conflicts", "cost",
    )  # fmt: skip
    print_table(columns, rows, color=ctx.color)


def _print_compared(ctx: Context, compared: list[Compared]) -> None:
    print_out("")
    rows = [
        (
            _WORDS.get(one.measure, one.measure.replace("_", " ")),
            _shown(one.measure, one.now),
            _shown(one.measure, one.before),
            None if one.percent is None else f"{one.percent:+.1f} %",
        )
        for one in compared
        if one.now or one.before
    ]
    print_table(("whole days", "now", "before", "change"), rows, color=ctx.color)


def _print_cost(ctx: Context, report: CostReport, runs: int) -> None:
    total = report.total
    if total is None:
        return
    print_out(
        f"{report.database}: {money(total.cost, report.currency)} for {size(total.wire_bytes)}"
    )
    rows: list[tuple[object, ...]] = [
        (kind, one.name, size(one.wire_bytes), money(one.cost))
        for kind, listed in (("peer", report.peers), ("month", report.months))
        for one in listed
    ]
    rows += [
        ("run", f"{one.session[:8]} {one.peer}", size(one.wire_bytes), money(one.cost))
        for one in report.runs[:runs]
    ]
    if rows:
        print_table(("by", "which", "wire", "cost"), rows, color=ctx.color)
    for one in report.forecasts:
        print_out(
            f"{one.month}: {money(one.spent, report.currency)} so far, expected"
            f" {money(one.expected, report.currency)} ({money(one.low)} to {money(one.high)},"
            f" from {one.from_days} days)"
        )


def money(value: Decimal, currency: str = "") -> str:
    """Two to six decimals: "1.20 EUR", "0.000012"."""
    text = f"{value:,.6f}"
    whole, _, decimals = text.partition(".")
    decimals = decimals.rstrip("0").ljust(2, "0")
    return f"{whole}.{decimals} {currency}".rstrip()


def _shown(measure: str, value: float) -> str:
    if measure == "speed_bytes_s":
        return f"{size(value)}/s"
    if measure in _SIZES:
        return size(value)
    if measure in _TIMES:
        return duration(value)
    return money(Decimal(str(value))) if measure == "cost" else count(round(value))


def _where(database: str, peer: str | None) -> str:
    return database if peer is None else f"{database} ◀── {peer}"


def _fetch(ctx: Context, path: str, kind: type[T], database: str | None, days: int | None) -> T:
    params: dict[str, str] = {}
    if database is not None:
        params["database"] = ctx.database_name(database)
    if days is not None:
        params["days"] = str(days)
    return asyncio.run(_get(ctx, PATH + path, kind, params))


async def _get(ctx: Context, path: str, kind: type[T], params: dict[str, Any]) -> T:
    async with ctx.agent() as agent:
        return await agent.get(path, kind, params=params)


def _tell_problems(problems: Mapping[str, str | None]) -> int:
    found = {name: problem for name, problem in problems.items() if problem is not None}
    for name, problem in found.items():
        print_err(f"database {name}: {clean(problem)}")
    return 5 if found else 0

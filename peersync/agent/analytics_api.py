"""Reads what `analytics` adds up, for commands, scripts and the page; only on the Unix socket.

Four queries a database, side by side; a database that does not answer says so and keeps no
other from being counted. Nothing here is remembered between two questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from aiohttp import web

from peersync.agent.analytics import (
    CostReport,
    LastRun,
    RunCost,
    Unusual,
    Velocity,
    compare,
    costs,
    days_of,
    measures,
    peers_of,
    slopes,
    success_rate,
    unusual,
)
from peersync.agent.analytics_view import (
    Analytics,
    Anomalies,
    DatabaseAnalytics,
    LagTrends,
    LinkTrend,
    csv_text,
    export_rows,
    lag_trends,
)
from peersync.agent.databases import Databases
from peersync.agent.orchestration.outcome import cost_of
from peersync.agent.periodic.answers import LinkView
from peersync.agent.script_api import DatabaseQuery
from peersync.config.model import Config
from peersync.config.orchestration import PeerSettings
from peersync.core.errors import PeersyncError
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries
from peersync.transport.app import json_response
from peersync.transport.query import read_query

DAYS: Final = 30
MAX_DAYS: Final = 3650
BASELINE_D: Final = 90  # what is unusual is judged by so many days before, at least
RUNS: Final = 100
LAG_POINTS: Final = 240  # as many spans as a chart can show

_DEFAULT: Final = PeerSettings()
T = TypeVar("T")
Days = Annotated[int, msgspec.Meta(ge=1, le=MAX_DAYS)]


class DaysQuery(DatabaseQuery, frozen=True, kw_only=True):
    """`days`: so many before today, and today."""

    days: Days = DAYS


class ExportQuery(DaysQuery, frozen=True, kw_only=True):
    """`format`: csv begins with a line of names."""

    format: Literal["csv", "json"] = "json"


class HoursQuery(DatabaseQuery, frozen=True, kw_only=True):
    """`hours`: so many until now."""

    hours: Annotated[int, msgspec.Meta(ge=1, le=MAX_DAYS * 24)] = 24


class CostQuery(DatabaseQuery, frozen=True, kw_only=True):
    """`days`: all that is known without it."""

    days: Days = MAX_DAYS


class AnalyticsApi:
    """`routes` lists the handlers. `links` asks the peers for the state of every link."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        links: Callable[[], Coroutine[Any, Any, list[LinkView]]],
    ) -> None:
        self._config = config
        self._databases = databases
        self._links = links
        self._sql = queries("analytics")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/statistics", self._overview),
            web.get("/api/admin/statistics/export", self._export),
            web.get("/api/admin/statistics/anomalies", self._anomalies),
            web.get("/api/admin/statistics/cost", self._cost),
            web.get("/api/admin/statistics/lag", self._lag),
        ]

    async def _overview(self, request: web.Request) -> web.Response:
        asked = read_query(request, DaysQuery)
        return json_response(await self.make(asked.days, self._wanted(asked)))

    async def _export(self, request: web.Request) -> web.Response:
        asked = read_query(request, ExportQuery)
        rows = export_rows(await self.make(asked.days, self._wanted(asked)))
        if asked.format == "json":
            return json_response(rows)
        return web.Response(text=csv_text(rows), content_type="text/csv")

    async def _anomalies(self, request: web.Request) -> web.Response:
        asked = read_query(request, DaysQuery)
        days, today = asked.days, _today()
        since = today - timedelta(days=days)
        found: list[Unusual] = []
        problems: dict[str, str] = {}
        first = today - timedelta(days=days + BASELINE_D)
        for name, rows in await self._each(self._wanted(asked), lambda d: self._days(d, first)):
            if isinstance(rows, PeersyncError):
                problems[name] = rows.message
                continue
            found += unusual(name, None, days_of(rows, self._price), since, today)
            trends = peers_of(rows, self._price)
            for trend in trends if len(trends) > 1 else ():
                found += unusual(name, trend.peer, trend.days, since, today)
        found.sort(key=lambda one: (one.day, one.database), reverse=True)
        return json_response(Anomalies(anomalies=found, problems=problems))

    async def _cost(self, request: web.Request) -> web.Response:
        asked, today = read_query(request, CostQuery), _today()
        first = today - timedelta(days=asked.days)

        async def read(database: Database) -> tuple[list[Any], list[Any]]:
            async with database.acquire("reading what was moved") as conn:
                since = _midnight(first)
                return (
                    await conn.fetch(self._sql["days"], since),
                    await conn.fetch(self._sql["runs"], since, RUNS),
                )

        reports = []
        currency = self._config.statistics.currency
        for name, found in await self._each(self._wanted(asked), read):
            if isinstance(found, PeersyncError):
                reports.append(CostReport(database=name, currency=currency, problem=found.message))
                continue
            rows, runs = found
            fields = costs(rows, self._price, today)
            made = [self._run(run) for run in runs]
            reports.append(CostReport(database=name, currency=currency, runs=made, **fields))
        return json_response(reports)

    async def _lag(self, request: web.Request) -> web.Response:
        asked = read_query(request, HoursQuery)
        hours = asked.hours
        step_s = max(60, hours * 3600 // LAG_POINTS // 60 * 60)
        now = datetime.now(UTC)
        since = now - timedelta(hours=hours)

        async def read(database: Database) -> list[Any]:
            async with database.acquire("reading the samples of links") as conn:
                return list(await conn.fetch(self._sql["lag"], since, step_s))

        links: list[LinkTrend] = []
        problems: dict[str, str] = {}
        for name, found in await self._each(self._wanted(asked), read):
            if isinstance(found, PeersyncError):
                problems[name] = found.message
                continue
            links += lag_trends(name, found)
        return json_response(
            LagTrends(
                since=since.isoformat(timespec="seconds"),
                until=now.isoformat(timespec="seconds"),
                step_s=step_s,
                links=links,
                problems=problems,
            )
        )

    # --- reading --------------------------------------------------------------------------
    async def make(self, days: int, wanted: Sequence[Database]) -> Analytics:
        """Of the last `days` days before today, and today."""
        today = _today()
        since = today - timedelta(days=days)
        async with asyncio.TaskGroup() as group:
            links = group.create_task(self._links(), name="statistics-links")
            read = group.create_task(
                self._each(wanted, lambda d: self._database(d, since, today)), name="statistics"
            )
        states = [(view.database, view.state) for view in links.result()]
        found = []
        for name, made in read.result():
            if isinstance(made, PeersyncError):
                made = DatabaseAnalytics(database=name, problem=made.message, hint=made.hint)
            mine = [state for database, state in states if database == name]
            counted = {state: mine.count(state) for state in dict.fromkeys(mine)}
            found.append(msgspec.structs.replace(made, links=counted))
        return Analytics(
            node=self._config.node.name,
            since=since.isoformat(),
            until=today.isoformat(),
            currency=self._config.statistics.currency,
            databases=found,
        )

    async def _database(self, database: Database, since: date, today: date) -> DatabaseAnalytics:
        days = (today - since).days
        first = today - timedelta(days=2 * days)  # as many before, to compare with
        now = datetime.now(UTC)
        async with database.acquire("counting the runs") as conn:
            tables = await conn.fetchrow(self._sql["tables"])
            every = await conn.fetch(self._sql["days"], _midnight(first))
            last = await conn.fetchrow(self._sql["last_run"])
            velocity = await conn.fetchrow(self._sql["velocity"], now, _midnight(since))
        rows = [row for row in every if row["day"] >= since]
        totals = measures(rows, self._price)
        by_day = days_of(rows, self._price)
        hours = (now - _midnight(since)).total_seconds() / 3600
        return DatabaseAnalytics(
            database=database.name,
            tables=tables["tables"],
            rows_live_estimated=tables["live"],
            rows_dead_estimated=tables["dead"],
            last_run=_last(last),
            success_rate=success_rate(totals),
            totals=totals,
            velocity=Velocity(
                per_hour=round(totals.changes / hours, 1),
                last_hour=velocity["last_hour"],
                last_day=velocity["last_day"],
                busiest_hour=velocity["busiest"],
                busiest_at=_iso(velocity["busiest_at"]),
            ),
            growth_per_day=slopes(by_day, since, today),
            days=by_day,
            peers=peers_of(rows, self._price),
            compared=compare(every, self._price, today, days),
        )

    async def _days(self, database: Database, first: date) -> list[Any]:
        async with database.acquire("counting the runs") as conn:
            return list(await conn.fetch(self._sql["days"], _midnight(first)))

    @staticmethod
    async def _each(
        wanted: Sequence[Database], read: Callable[[Database], Awaitable[T]]
    ) -> list[tuple[str, T | PeersyncError]]:
        async def one(database: Database) -> T | PeersyncError:
            try:
                return await read(database)
            except PeersyncError as error:
                return error

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(d), name=f"statistics-{d.name}") for d in wanted]
        return [(d.name, task.result()) for d, task in zip(wanted, tasks, strict=True)]

    def _wanted(self, asked: DatabaseQuery) -> list[Database]:
        name = asked.database
        return [self._databases.get(name)] if name is not None else list(self._databases)

    def _price(self, peer: str) -> float:
        return self._config.peer.get(peer, _DEFAULT).price_per_gb

    def _run(self, row: Any) -> RunCost:
        return RunCost(
            session=row["session_id"].hex,
            role=row["role"],
            peer=row["peer"],
            result=row["result"],
            at=row["at"].isoformat(timespec="milliseconds"),
            rows=row["rows"],
            raw_bytes=row["raw_bytes"],
            wire_bytes=row["wire_bytes"],
            cost=cost_of(row["wire_bytes"], self._price(row["peer"])),
        )


def _last(row: Any) -> LastRun | None:
    if row is None:
        return None
    at = row["at"].isoformat(timespec="milliseconds")
    return LastRun(kind=row["kind"], peer=row["peer"], result=row["result"], at=at)


def _iso(then: datetime | None) -> str | None:
    return then.isoformat(timespec="milliseconds") if then is not None else None


def _today() -> date:
    return datetime.now(UTC).date()


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)

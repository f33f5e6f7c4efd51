"""What looks after many databases: peers, table sets, schedules, channels of notifications.

Owns the names, the types and the defaults of these tables, and what can be said about them
without a database or a peer. Secrets are in files of their own: here are their paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import msgspec

from peersync.config.table import Table
from peersync.core.errors import BadRequest
from peersync.core.patterns import compile_pattern
from peersync.core.schedule import When, parse_span

_THING = "1 to 63 of a-z, 0-9, _ and -, and not begin with -"
ThingName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_][a-z0-9_-]{0,62}$", description=_THING)]
Price = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
Times = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Hours = Annotated[float, msgspec.Meta(gt=0, le=8760)]
Waiting = Annotated[float, msgspec.Meta(ge=30, le=86_400 * 30)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Parallel = Annotated[int, msgspec.Meta(ge=1, le=64)]

SyncWay = Literal["periodic", "full-pull", "full-push"]
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in"]
Value = str | int | float | bool
Event = Literal[
    "failed", "recovered", "partial", "behind", "conflict", "quarantine", "disk", "retention",
    "difference", "silent", "pairing", "completed",
]  # fmt: skip
ALARMS: tuple[Event, ...] = (
    "failed", "recovered", "partial", "behind", "conflict", "quarantine", "disk", "retention",
    "difference", "silent", "pairing",
)  # fmt: skip


class PeerSettings(Table, frozen=True):
    """`[peer.NAME]`: how a peer takes part when whole databases are brought up to date."""

    active: bool = True
    auto_sync: bool = True
    sync: SyncWay = "periodic"
    databases: tuple[str, ...] = ()
    price_per_gb: Price = 0.0


class Complete(Table, frozen=True):
    """How complete and bulk syncs work."""

    parallel: Parallel = 1
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400 * 30)] = 3600.0
    skip_after_errors: Times = 3
    skip_for_s: Annotated[float, msgspec.Meta(ge=0, le=86_400 * 30)] = 900.0
    retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 2


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which rows: a column of every table of the set, compared with a constant. Never SQL."""

    column: str
    op: Operator = "="
    value: Value | tuple[Value, ...]


class TableSet(Table, frozen=True):
    """`[[table_set]]`: tables that are brought up to date in a way and at times of their own."""

    name: ThingName
    tables: tuple[str, ...]
    database: str = ""
    method: Literal["incremental", "full", "window"] = "incremental"
    column: str = ""
    span: str = ""
    schedule: str = ""
    priority: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 100
    direction: Literal["pull", "push"] = "pull"
    peers: tuple[str, ...] = ()
    filter: tuple[Condition, ...] = ()
    paused: bool = False


class Schedule(Table, frozen=True):
    """`[[schedule]]`: what the agent starts by itself."""

    name: ThingName
    run: Literal["bulk", "complete", "sets"]
    at: str
    database: str = ""
    jitter_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0
    catch_up: bool = True
    paused: bool = False


class Channel(Table, frozen=True):
    """`[[channel]]`: where notifications go."""

    name: ThingName
    kind: Literal["mail", "slack", "webhook", "heartbeat", "apprise"]
    events: tuple[Event, ...] = ALARMS
    url: str = ""
    url_file: str = ""
    secret_file: str = ""
    host: str = ""
    port: Port = 0
    tls: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password_file: str = ""
    sender: str = ""
    to: tuple[str, ...] = ()
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 15.0

    def __repr__(self) -> str:
        return f"Channel(name={self.name!r}, kind={self.kind!r})"


class Notify(Table, frozen=True):
    """When something is worth a notification, and how often."""

    behind_s: Waiting = 900.0
    silent_s: Waiting = 600.0
    repeat_h: Hours = 24.0
    per_hour: Times = 20
    group_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
    disk_free_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)] = 1024


class Statistics(Table, frozen=True):
    """What is kept of the past, and what it costs."""

    keep_d: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 400.0
    currency: Annotated[str, msgspec.Meta(max_length=8)] = ""


def trouble_of_sets(sets: tuple[TableSet, ...], databases: set[str]) -> Iterator[tuple[str, str]]:
    """The path of each wrong value, and why."""
    for i, one in enumerate(sets):
        path = f"table_set.{one.name}"
        if [other.name for other in sets].index(one.name) != i:
            yield path, "its name is used twice"
        yield from _trouble_of_database(path, one.database, databases)
        if not one.tables:
            yield f"{path}.tables", "it names no table"
        for pattern in one.tables:
            yield from _tried(f"{path}.tables", compile_pattern, pattern)
        if one.schedule:
            yield from _tried(f"{path}.schedule", When.parse, one.schedule)
        if one.method == "window":
            if not one.column:
                yield f"{path}.column", "a window needs the column that says when a row changed"
            yield from _tried(f"{path}.span", parse_span, one.span)
        elif one.column or one.span:
            yield f"{path}.method", 'column and span are for method = "window"'
        for condition in one.filter:
            if (why := _trouble_of_condition(condition)) is not None:
                yield f"{path}.filter", why
        if one.method == "incremental" and one.filter:
            yield f"{path}.filter", "changes travel whole: a filter is for full and window"


def _trouble_of_condition(one: Condition) -> str | None:
    """What the other node would refuse."""
    if isinstance(one.value, tuple) != (one.op == "in"):
        return f"{one.column} {one.op}: one value; a list of them for in, and only there"
    if one.value == ():
        return f"{one.column} in: the list is empty, so no row would ever travel"
    return None


def trouble_of_schedules(
    schedules: tuple[Schedule, ...], databases: set[str]
) -> Iterator[tuple[str, str]]:
    """The path of each wrong value, and why."""
    for i, one in enumerate(schedules):
        path = f"schedule.{one.name}"
        if [other.name for other in schedules].index(one.name) != i:
            yield path, "its name is used twice"
        yield from _tried(f"{path}.at", When.parse, one.at)
        if one.run == "complete":
            yield from _trouble_of_database(path, one.database, databases)
        elif one.database:
            yield f"{path}.database", f"{one.run} is not of one database"


def trouble_of_channels(channels: tuple[Channel, ...]) -> Iterator[tuple[str, str]]:
    """The path of each wrong value, and why."""
    for i, one in enumerate(channels):
        path = f"channel.{one.name}"
        if [other.name for other in channels].index(one.name) != i:
            yield path, "its name is used twice"
        if one.kind == "mail":
            for key in ("host", "sender", "to"):
                if not getattr(one, key):
                    yield f"{path}.{key}", "mail needs it"
        elif bool(one.url) == bool(one.url_file):
            yield f"{path}.url", f"{one.kind} needs either url or url_file"
        elif one.kind != "apprise" and one.url and not one.url.startswith(("https://", "http://")):
            yield f"{path}.url", "it must begin with https:// or http://"


def _trouble_of_database(path: str, name: str, databases: set[str]) -> Iterator[tuple[str, str]]:
    if name and name not in databases:
        yield f"{path}.database", f"no database {name!r} is configured"
    elif not name and len(databases) != 1:
        yield f"{path}.database", "there are several databases: it must name one"


def _tried(path: str, parse: Callable[[str], object], text: str) -> Iterator[tuple[str, str]]:
    try:
        parse(text)
    except BadRequest as error:
        yield path, f"{error.message}; {error.hint}"

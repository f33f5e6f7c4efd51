"""Checks of a database that takes part in periodic sync, each with a line that mends it.

What is looked at is what would keep a change from being captured, sent or applied, and what
will: keys that two nodes draw, a log that grows. The links themselves are `peersync status`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Literal

import asyncpg

from peersync.agent.check_result import CheckResult, guarded
from peersync.config.model import Config
from peersync.core.words import counted
from peersync.postgres.log.capture import LOCKED, TableState, keyless_tables, table_states
from peersync.postgres.log.members import Replica
from peersync.postgres.log.parking import parked_tables
from peersync.postgres.log.prune import LogSize, log_size
from peersync.postgres.log.references import MOST_ROWS, loose_rows
from peersync.postgres.log.sequences import sequence_alarms
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries

_RIGHTS: Final = queries("rights")
_NAMED: Final = 3
_DAY_S: Final = 86_400
_BIG_SHARE: Final = 0.8  # of what the log may hold
State = Literal["ok", "warning", "failed"]
Found = tuple[State, str, str | None]


async def check_member(database: Database, replica: Replica, config: Config) -> list[CheckResult]:
    """All checks of one member database. Raises nothing that the database raises."""

    async def log(conn: asyncpg.Connection) -> Found:
        return judge_log(await log_size(conn), config)

    name = database.name
    results = [_result(f"periodic sync of {name}", _part(replica, name, config))]
    checks: tuple[tuple[str, Callable[[asyncpg.Connection], Awaitable[Found]]], ...] = (
        ("captured tables of", _captured),
        ("keys of the tables of", _keys),
        ("parked tables of", _parked),
        ("sequences of", _sequences),
        ("foreign keys of", _references),
        ("log of", log),
        ("wake-up in", _wake_up),
    )
    for words, check in checks:
        what = f"{words} {name}"
        results += await guarded(what, _asked(database, what, check))
    return results


async def read_alarms(conn: asyncpg.Connection) -> list[str]:
    """Sentences for `peersync status`: what is in sync now and will not stay so, or never was."""
    states = await table_states(conn)
    alarms = [
        f"changes of {s.name} are not captured: {s.reason}"
        for s in states
        if s.state == "refused" and s.reason != LOCKED
    ]
    return [*alarms, *await sequence_alarms(conn)]


async def _asked(
    database: Database, what: str, check: Callable[[asyncpg.Connection], Awaitable[Found]]
) -> CheckResult:
    async with database.acquire(f"checking the {what}") as conn:
        return _result(what, await check(conn))


def _result(name: str, found: Found) -> CheckResult:
    state, text, fix = found
    return CheckResult(name=name, state=state, text=text, fix=fix)


def _part(replica: Replica, name: str, config: Config) -> Found:
    """Whether it takes part at all."""
    if replica.state in ("held", "expired"):
        reason = replica.reason or "it may not take part any more"
        fix = f"peersync rebaseline PEER --database {name}"
        return "failed", f"{replica.state}: {reason}", fix
    if not config.periodic.enabled:
        fix = "set periodic.enabled = true, then: systemctl restart peersync-agent"
        return "warning", "switched off by the configuration: changes wait in the log", fix
    if replica.state == "joining":
        return "warning", "a join has begun and is not done", "peersync jobs list"
    return "ok", f"a member, {replica.position} transactions of its own", None


async def _captured(conn: asyncpg.Connection) -> Found:
    states = await table_states(conn)
    refused = [s for s in states if s.state == "refused"]
    if not refused:
        captured = counted(sum(s.state == "captured" for s in states), "table")
        left_out = sum(s.state == "excluded" for s in states)
        return "ok", captured + (f", {left_out} left out" if left_out else ""), None
    off = await conn.fetch(_RIGHTS["triggers_off"])
    lines = [f"ALTER TABLE {row['on_table']} ENABLE TRIGGER {row['trigger']};" for row in off]
    if any(_lacks_right(s) for s in refused):
        lines.append("peersync grants --mode periodic --missing --sql | psql   # as a superuser")
    words = "; ".join(f"{s.name}: {s.reason}" for s in refused[:_NAMED])
    more = f"; and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    lasting = any(s.reason != LOCKED for s in refused)
    return (
        "failed" if lasting else "warning",
        f"changes are not captured of {words}{more}",
        "\n".join([*lines[:_NAMED], *(["peersync tables list"] if len(lines) != 1 else [])]),
    )


def _lacks_right(state: TableState) -> bool:
    return "right is missing" in (state.reason or "")


async def _keys(conn: asyncpg.Connection) -> Found:
    bags = await keyless_tables(conn)
    if not bags:
        return "ok", "every captured table has one", None
    more = f" and {len(bags) - _NAMED} more" if len(bags) > _NAMED else ""
    words = ", ".join(map(str, bags[:_NAMED])) + more
    text = f"{words}: no key; where two nodes change equal rows at once, they may stay different"
    lines = [f"ALTER TABLE {name.sql} ADD PRIMARY KEY (…);" for name in bags[:_NAMED]]
    return "warning", text, "\n".join(lines) + "   -- on every node"


async def _parked(conn: asyncpg.Connection) -> Found:
    parked = await parked_tables(conn)
    if not parked:
        return "ok", "none", None
    words = "; ".join(
        f"{p.name}: {counted(p.waiting, 'change')} wait"
        + (f", {p.misfit.reason}" if p.misfit else ", it fits by now")
        for p in parked[:_NAMED]
    )
    more = f"; and {len(parked) - _NAMED} more" if len(parked) > _NAMED else ""
    lines = [p.misfit.sql for p in parked if p.misfit]
    return "warning", words + more, "\n".join(lines[:_NAMED]) or "peersync tables list"


async def _sequences(conn: asyncpg.Connection) -> Found:
    alarms = await sequence_alarms(conn)
    if not alarms:
        return "ok", "no two nodes draw the same numbers, as far as is known here", None
    words = "; ".join(alarms[:_NAMED])
    more = f"; and {len(alarms) - _NAMED} more" if len(alarms) > _NAMED else ""
    fix = "peersync sequences apply, on every node; who does not own the tables: "
    return "warning", words + more, fix + "peersync sequences plan --sql | psql, as their owner"


async def _references(conn: asyncpg.Connection) -> Found:
    looked = await loose_rows(conn)
    left = "; ".join(f"{name}: {why}" for name, why in looked.left[:_NAMED])
    more = f"; not looked through: {left}" if left else ""
    if not looked.loose:
        return (
            "ok",
            f"{counted(looked.keys, 'key')}, every row refers to one that is here{more}",
            None,
        )
    words = "; ".join(
        f"{counted(found.rows, 'row')}{' or more' if found.rows == MOST_ROWS else ''} of "
        f"{found.child} refer{'s' if found.rows == 1 else ''} to no row of {found.parent} "
        f"({found.key})"
        for found in looked.loose[:_NAMED]
    )
    others = len(looked.loose) - _NAMED
    words += f"; and {counted(others, 'more key')}" if others > 0 else ""
    lines = [found.query for found in looked.loose[:_NAMED]]
    fix = (
        "\n".join(lines)
        + "\n-- delete them, or make what they refer to, on one node: others follow"
    )
    return "warning", words + more, fix


def judge_log(size: LogSize, config: Config) -> Found:
    """How large the log is, and whether that is because of somebody who is away."""
    mib = size.size_bytes / (1 << 20)
    text = f"{mib:.0f} MiB, {counted(size.changes, 'change')}"
    periodic = config.periodic
    oldest = max(size.waits_for, key=lambda w: w.age_s, default=None)
    if oldest is None:
        return "ok", text, None
    days = oldest.age_s / _DAY_S
    text += f", kept for {oldest.node_name} ({days:.1f} d)"
    large = periodic.retention_mib and mib > periodic.retention_mib * _BIG_SHARE
    if large or days > periodic.retention_d * _BIG_SHARE:
        limit = f"{periodic.retention_d:g} d" + (
            f", {periodic.retention_mib} MiB" if periodic.retention_mib else ""
        )
        fix = f"start {oldest.node_name} again; or wait no more: peersync members expire NODE"
        return "warning", f"{text}; [periodic] wants no more than {limit}", fix
    return "ok", text, None


async def _wake_up(conn: asyncpg.Connection) -> Found:
    prepared = await conn.fetchval("SHOW max_prepared_transactions")
    if prepared == "0":
        return "ok", "at each commit", None
    text = f"max_prepared_transactions is {prepared}: changes are looked for, not notified"
    return "ok", f"{text}; a change waits some tenths of a second longer", None

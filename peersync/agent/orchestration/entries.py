"""What one schedule is, what a try of it gives, and how people see it.

The values that the scheduler, what it starts and the commands have in common. Nothing here
knows when a schedule is due.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from peersync.agent.orchestration.schedule_state import Result
from peersync.core.errors import Locked, PeersyncError
from peersync.core.schedule import When

log = logging.getLogger("peersync.schedule")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one try. `retry`: another may help, after `retry_after_s` if that is known.

    `again`: the databases that a further try is for; all without it.
    """

    result: Result
    message: str | None = None
    retry: bool = False
    retry_after_s: float | None = None
    again: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """By whom, a schedule or a person. `since`: what has begun since then was this turn.

    None where a person asks. `again`: databases that are tried again, of those of the last try.
    """

    by: str
    since: datetime | None = None
    again: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One schedule. `what` it does in words, and what does it."""

    name: str
    what: str
    when: When
    do: Callable[[Asked], Awaitable[Outcome]]
    jitter_s: float = 0.0
    catch_up: bool = True
    paused: bool = False


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as people and scripts see it (docs/cli-json.md)."""

    name: str
    what: str
    at: str
    next: str | None
    last: str | None
    seconds: float | None
    result: str | None
    message: str | None
    errors: int
    recovered_after: int
    missed: str | None
    paused_by: str | None
    running_since: str | None


async def tried(entry: Entry, asked: Asked) -> Outcome:
    """A bug in what is started is aloud, and no reason to stop the schedule."""
    try:
        return await entry.do(asked)
    except Locked as error:
        return Outcome(result="skipped", message=error.message)
    except PeersyncError as error:
        after = error.data.get("retry_after_s")
        retry = error.retryable or bool(error.data.get("peer_retryable"))
        return Outcome(result="error", message=error.message, retry=retry, retry_after_s=after)
    except Exception:
        log.exception("internal error in %s", entry.name)
        return Outcome(result="error", message="internal error; the agent's log has it")

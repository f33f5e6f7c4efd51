"""Who stands in the lock queue with a backup: in its way, or held up by it.

An ALTER TABLE that waits for a dump holds up every later reader of the table, and a part of
the dump that starts later queues behind it: PostgreSQL sees no deadlock there, because the
two sessions of the dump are strangers to it. Looks only; who gives way is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

from peersync.postgres.catalog import Fetches
from peersync.postgres.sqlfiles import queries


@dataclass(frozen=True)
class Other:
    """A session that is not the backup's. What this role may not see of it is None.

    `command` is the first words of its statement ("ALTER TABLE"), never more of it.
    `waited_s` is how long the one that waits (it, or the backup) has waited.
    """

    pid: int
    user: str | None
    application: str | None
    command: str | None
    query_start: str | None
    relation: str
    waited_s: float

    def words(self) -> str:
        who = [f"pid {self.pid}"]
        who += [f"application {self.application}"] if self.application else []
        who += [f"role {self.user}"] if self.user else []
        who += [f"since {self.query_start}"] if self.query_start else []
        return f"{self.command or 'a session'} ({', '.join(who)}) on {self.relation}"


@dataclass(frozen=True)
class Queue:
    """Both ends of the queue, the longest wait first."""

    behind_us: tuple[Other, ...]  # they would go on if the backup let go
    before_us: tuple[Other, ...]  # the backup waits for them


async def look(connection: Fetches, application: str) -> Queue:
    """The queue of the sessions with this application_name, of this role and database."""
    behind: list[Other] = []
    before: list[Other] = []
    for row in await connection.fetch(queries("lockqueue")["queue"], application):
        other = Other(
            pid=row["pid"],
            user=row["usename"],
            application=row["application_name"],
            command=row["command"],
            query_start=row["query_start"],
            relation=row["relation"],
            waited_s=row["waited_s"],
        )
        (behind if row["waits_for_us"] else before).append(other)
    return Queue(tuple(behind), tuple(before))

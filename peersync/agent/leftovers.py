"""Drops what full syncs left in the database, and closes those that nobody takes up any more.

Only for who holds the database's lease: the sessions meant here may be those of a process
that was put to sleep, and must find the fence raised when it wakes up.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from peersync.agent.workers import Workers
from peersync.core.errors import PeersyncError
from peersync.core.progress import Progress
from peersync.core.session import State
from peersync.postgres import schema
from peersync.postgres.bulk import Stop, connect
from peersync.postgres.history import Entry, History
from peersync.postgres.pool import Database

log = logging.getLogger("peersync.jobs")


async def take_over(database: Database, session: str, workers: Workers) -> None:
    """What other sessions began here and did not end is dropped, before `session` begins."""
    for entry in await History(database).unfinished("target"):
        if entry.session == session:
            continue
        log.warning("session %s was left unfinished; it is closed for %s", entry.session, session)
        error = PeersyncError(
            f"its agent stopped in the middle, and another full sync (job {session}) came",
            hint="Nothing was changed by this one. See: peersync jobs list",
        )
        await close(database, entry.session, State.FAILED, error, workers)


async def close(
    database: Database, session: str, state: State, error: PeersyncError, workers: Workers
) -> None:
    """Ends an unfinished session in `state`, or as done when the database says that it is."""
    history = History(database)
    entry = await history.get(session)
    if entry is None or entry.completed_at is not None:
        return
    committed = entry.committed_at is not None
    left = await clean_up(session, [] if committed else entry.created_objects, database, workers)
    if left:
        error.detail = "\n".join(["left behind:", *left])
    if committed:
        state = success(entry)
    progress = msgspec.structs.replace(
        progress_of(entry), state=state.value, waiting_for=None, tables=None
    )
    await history.finish(progress, error=None if committed else error)


def success(entry: Entry) -> State:
    """How a session ended that the database says is committed."""
    return State.DONE if all(t.result == "done" for t in entry.tables) else State.PARTLY


def progress_of(entry: Entry) -> Progress:
    """What was recorded last, or nothing yet."""
    return entry.progress or Progress(
        session=entry.session,
        action=entry.action,
        database=entry.database,
        source=entry.peer,
        target="",
        state=entry.state,
    )


def stage_prefix(session: str) -> str:
    return f"stage_{session[:12]}"


async def clean_up(
    session: str, created: Sequence[schema.Created], database: Database, workers: Workers
) -> list[str]:
    """Drops what a session left: staging tables, and what it created if it did not commit.

    Gives what could not be dropped, with the reason. Harmless to repeat.
    """
    stop = Stop()

    def work() -> list[str]:
        with connect(
            database.resolved, f"clean/{session[:8]}", stop, what="cleaning up"
        ) as connection:
            schema.drop_stages(connection, stage_prefix(session))
            return schema.drop_created(connection, created) if created else []

    return await workers.pump(stop.set, work)

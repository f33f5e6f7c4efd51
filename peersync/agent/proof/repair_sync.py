"""The full sync of a repair: begun under an id that is known before, and found again by it.

An agent may die between any two steps, so a session that is asked for is in one of three states:
its record is there, or it is not (then nothing was begun, as nothing is before its record), or it
was offered to a peer that has never come for it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from peersync.agent.jobs import Jobs
from peersync.agent.jobview import JobView
from peersync.core.errors import NotFound, PeersyncError

LOOK_S: Final = 0.2
COMES_S: Final = 180.0  # a peer that has taken an offer has told of it by then
_FINAL: Final = ("done", "partly", "failed", "cancelled")


async def wait_ended(jobs: Jobs, session: str) -> JobView | None:
    """The sync when it has ended, whoever runs it. None where it was never begun."""
    offered = time.monotonic()
    while True:
        try:
            job = await jobs.views.get(session)
            if job.state in _FINAL:
                return job
            if job.role == "source" and job.progress is None:
                if time.monotonic() - offered > COMES_S:
                    offered = time.monotonic()
                    await _take_back(jobs, session)
            else:
                offered = time.monotonic()
        except NotFound:
            return None
        except PeersyncError as error:  # the sync goes on, or is taken up again
            if not error.retryable:
                raise
        await asyncio.sleep(LOOK_S)


async def _take_back(jobs: Jobs, session: str) -> None:
    """Asks the peer to stop it, which it refuses where it knows nothing of it."""
    try:
        await jobs.cancel(session, "the agent that asked for it has stopped")
    except NotFound:
        if (entry := await jobs.views.entry(session)) is not None:
            await jobs.pushes.forget(entry)
        raise

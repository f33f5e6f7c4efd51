"""Keeps the notice board of the open pages: one for all of them, and at rest when there is none.

Owns when something is shown. A tick looks at memory only; a database is read by the lookout when
something has happened there, and what it has said is shown at once. An overview is shown when it
differs, at most twice a second, and after a pause of ten times what making it has cost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from peersync.agent.backups import Backups
from peersync.agent.jobs import Jobs
from peersync.agent.jobview import JobView
from peersync.agent.people.board import Board
from peersync.agent.people.lookout import PAUSE, READ_S, Lookout
from peersync.agent.people.overview import Overview, make_overview, sameness
from peersync.core.progress import Progress

TICK_S: Final = 0.05
JOBS_S: Final = 0.25
OVERVIEW_S: Final = 0.5
AGAIN_S: Final = 10.0  # silence can be news, too: what is known grows old
FIRST_WAIT_S: Final = 0.25  # for what is too old for the first overview of a page
OVERVIEW: Final = "overview"
JOBS: Final = "jobs"


class Collector:
    """`listen` when a page opens its stream; it ends by itself after the last has gone."""

    def __init__(
        self,
        lookout: Lookout,
        jobs: Jobs,
        backups: Backups,
        board: Board,
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        self._lookout = lookout
        self._jobs = jobs
        self._backups = backups
        self.board = board
        self._spawn = spawn
        self._task: asyncio.Task[None] | None = None
        self._shown: Overview | None = None
        self._seen = -1  # of the lookout's news
        self._due_at = 0.0
        self._made_at = 0.0
        self._jobs_at = 0.0
        self._moving: tuple[list[Progress], list[Progress]] = ([], [])
        jobs.on_end.append(self._job_ended)

    @property
    def works(self) -> bool:
        return self._task is not None and not self._task.done()

    def listen(self) -> None:
        """A page reads the board, or is about to."""
        if not self.works:
            for event in (OVERVIEW, JOBS):
                self.board.drop(event)
            self._shown, self._seen, self._due_at, self._moving = None, -1, 0.0, ([], [])
            self._task = self._spawn(self._run(), name="pages")

    async def _run(self) -> None:
        await self._lookout.refresh(max_age_s=READ_S, wait_s=FIRST_WAIT_S)
        while True:
            began, news = time.monotonic(), self._lookout.news
            self._lookout.begin()
            self._show_jobs(began)
            self._show_overview(began)
            seen, pause_s = news.count, PAUSE * (time.monotonic() - began)
            await asyncio.sleep(pause_s)
            await news.wait(seen, TICK_S - pause_s)
            if not self.board.readers:
                return

    def _show_jobs(self, now: float) -> None:
        moving = (self._jobs.views.running(), self._backups.running())
        if now - self._jobs_at >= JOBS_S and moving != self._moving:
            begun = {p.session for p in (*moving[0], *moving[1])}
            before = {p.session for p in (*self._moving[0], *self._moving[1])}
            self._moving, self._jobs_at = moving, now
            if begun or before:
                self.board.show(JOBS, {"running": moving[0], "giving": moving[1]})

    def _show_overview(self, now: float) -> None:
        is_news = self._seen != self._lookout.news.count or now - self._made_at > AGAIN_S
        if now < self._due_at or not is_news:
            return
        self._seen, self._made_at = self._lookout.news.count, now
        overview = make_overview(self._lookout.facts())
        same = sameness(overview)
        if same != self._shown:
            self._shown, self._due_at = same, now + OVERVIEW_S
            self.board.show(OVERVIEW, overview)

    def _job_ended(self, job: JobView) -> None:
        if self.works:
            self.board.ended(job)

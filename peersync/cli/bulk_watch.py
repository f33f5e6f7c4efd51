"""Follows a bulk sync of the agent to its end, and says what Ctrl-C means: stop it.

The first Ctrl-C (or SIGTERM) asks the agent to stop and waits until it has; the second one does
not wait. If the agent is restarted in the middle this waits for it a while and looks again: the
record then says that the run was interrupted.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any, Self

from peersync.agent.orchestration.bulk_outcome import BulkView
from peersync.agent.orchestration.outcome import CompleteView
from peersync.cli.bulk_view import Lines
from peersync.cli.context import Context
from peersync.cli.output import print_err
from peersync.core.errors import AgentNotRunning, Cancelled, PeersyncError
from peersync.transport.local import AgentClient

PATH = "/api/admin/bulk-sync"
_POLL_S = 0.2
_WAIT_FOR_AGENT_S = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def run_it(ctx: Context, request: dict[str, Any], lines: Lines) -> tuple[BulkView, bool]:
    """Starts it and shows it; gives how it ended, and whether that was asked for here.

    Locked while another one runs.
    """
    with _Interrupts() as interrupts:
        try:
            async with ctx.agent() as agent:
                view = await agent.post(PATH, request, BulkView)
                view = await _follow(ctx, agent, view, lines, interrupts)
                return view, interrupts.count > 0
        except asyncio.CancelledError:
            if interrupts.count < 2:
                raise
            raise Cancelled(
                "left before the bulk sync had ended",
                hint="what was done stays recorded; see: systemctl status peersync-agent",
            ) from None


async def _follow(
    ctx: Context, agent: AgentClient, view: BulkView, lines: Lines, interrupts: _Interrupts
) -> BulkView:
    asked = False
    while view.status == "running":
        await _show(ctx, agent, view, lines)
        if interrupts.count and not asked:
            print_err("stopping; what was done stays recorded …")
            await agent.post(f"{PATH}/{view.id}/cancel", None, BulkView)
            asked = True
        await interrupts.pause(_POLL_S, heed=not asked)
        view = await _again(agent, view.id, patient=not asked)
    await _show(ctx, agent, view, lines)
    return view


async def _again(agent: AgentClient, run: str, *, patient: bool) -> BulkView:
    """The record as it is now, from an agent that may be starting again."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (_WAIT_FOR_AGENT_S if patient else 0.0)
    while True:
        try:
            return await agent.get(f"{PATH}/{run}", BulkView)
        except AgentNotRunning:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(_POLL_S)


async def _show(ctx: Context, agent: AgentClient, view: BulkView, lines: Lines) -> None:
    for place in lines.show(view):
        one = view.databases[place]
        if not ctx.verbose or one.complete_id is None:
            continue
        with suppress(PeersyncError):  # a database that went down: its line has said so
            path = f"/api/complete-sync/{one.complete_id}"
            params = {"database": one.database}
            lines.show_peers(await agent.get(path, CompleteView, params=params))


class _Interrupts:
    """Ctrl-C and SIGTERM as something to look at, while the block lasts."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)

    def _came(self) -> None:
        self.count += 1
        self._event.set()
        if self.count > 1 and self._task is not None:
            self._task.cancel()

    async def pause(self, seconds: float, *, heed: bool) -> None:
        """So long, or until the first signal where it is to be heeded."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if heed:
                    await self._event.wait()
                else:
                    await asyncio.sleep(seconds)

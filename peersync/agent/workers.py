"""Threads for what would block the loop: bounded, and long work is never abandoned while it runs.

What a database or a program is doing for a job ends before the job does: otherwise its statement
could commit after the job was said to be over. Short work with files may outlive who asked for
it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

STOP_AGAIN_S = 1.0


class Workers:
    """One pool for short work (files, hashing), one for pumps that run for hours."""

    def __init__(self, *, pumps: int) -> None:
        self._short = ThreadPoolExecutor(4, thread_name_prefix="peersync-file")
        self._pumps = ThreadPoolExecutor(pumps, thread_name_prefix="peersync-pump")

    def close(self) -> None:
        self._short.shutdown(wait=False, cancel_futures=True)
        self._pumps.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Short work in a thread. A cancelled caller does not wait for its end."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._short, lambda: work(*args, **kwargs))

    async def pump(self, stop: Callable[[], None], work: Callable[[], T]) -> T:
        """Long work in a thread. A cancelled caller stops it and waits until it has ended.

        `stop` may block (it cancels statements on the server), so it runs in a thread, too.
        It is called again while the work goes on: a statement that began just after the
        first call has not heard of it.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pumps, work)
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            while not future.done():
                await _ended(loop.run_in_executor(self._short, stop), None)
                await _ended(future, STOP_AGAIN_S)
            if not future.cancelled():
                future.exception()  # looked at: the cancellation says it all
            raise
        return future.result()


def _unless_done(future: asyncio.Future[Any], say: Callable[[Any], None], what: object) -> None:
    if not future.done():
        say(what)


def _look_at(done: asyncio.Future[Any]) -> None:
    """An exception that nobody waits for any more is nobody's."""
    if not done.cancelled():
        done.exception()


def apart(work: Callable[[], T]) -> asyncio.Future[T]:
    """Work in a thread of its own, which no stop waits for: for what may hang for ever."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(_look_at)

    def tell(say: Callable[[Any], None], what: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_unless_done, future, say, what)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            tell(future.set_exception, error)
        else:
            tell(future.set_result, result)

    threading.Thread(target=run, name="peersync-apart", daemon=True).start()
    return future


async def _ended(future: asyncio.Future[Any], timeout_s: float | None) -> None:
    """Waits for a thread. A second cancellation does not abandon it: the first is on its way."""
    try:
        await asyncio.wait([future], timeout=timeout_s)
    except asyncio.CancelledError:
        if timeout_s is None:
            await _ended(future, None)

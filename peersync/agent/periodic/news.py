"""Tells everyone who waits that there is something new; who was not waiting reads a number."""

from __future__ import annotations

import asyncio


class News:
    """`count` grows with each piece of news. Read it, look, then `wait` from that number on."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def tell(self) -> None:
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, after: int, timeout_s: float) -> bool:
        """Whether something came since `after`, waiting for it at most `timeout_s`."""
        if self.count == after and timeout_s > 0:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._event.wait()
            except TimeoutError:
                return False
        return self.count != after

"""One Chromium for all tests of the page, and three agents with something to show.

The tests share one event loop, because a browser belongs to the loop that started it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ViewportSize, async_playwright, expect

from tests.browser.house import House, furnish, lay_out
from tests.browser.watched import DESKTOP, Scheme, Watched, watched
from tests.plugins.clusters import GetCluster
from tests.plugins.nodes import Node

expect.set_options(timeout=20_000)
CHROMIUM = Path(os.environ.get("PEERSYNC_CHROMIUM", "/usr/bin/chromium"))
Show = Callable[..., Awaitable[Watched]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def show(chromium: Browser) -> AsyncIterator[Show]:
    """`await show(node)`: a page of a node, logged in. What it complains of fails the test.

    `beside`: in the same browser as that one.
    """
    opened: list[Watched] = []

    async def one(
        node: Node,
        *,
        size: ViewportSize = DESKTOP,
        scheme: Scheme = "light",
        login: bool = True,
        beside: Watched | None = None,
    ) -> Watched:
        page = await watched(chromium, node, size=size, scheme=scheme, beside=beside)
        opened.append(page)
        if login:
            await page.login()
        return page

    yield one
    problems = [problem for page in opened for problem in page.problems]
    for page in opened:
        await page.context.close()
    assert problems == []


@pytest.fixture(scope="session")
def house(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with lay_out(clusters(18), tmp_path_factory.mktemp("house")) as found:
        furnish(found)
        yield found

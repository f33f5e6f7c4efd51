"""A page in a real browser whose complaints fail the test: errors, and what its policy refused.

Owns how a page is opened, logged in, photographed and judged by axe. Chromium says a 401 or a
server that is gone as an error of the console: a test that brings these about names them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    TimeoutError,  # noqa: A004
    ViewportSize,
)

from tests.browser.people import PASSWORD, USER
from tests.plugins.nodes import Node

DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 740}
SMALLEST: ViewportSize = {"width": 320, "height": 640}
Scheme = Literal["light", "dark"]
SCHEMES: Sequence[Scheme] = ("light", "dark")

_VIOLATIONS = """
addEventListener('securitypolicyviolation', (event) => console.error(
  `refused by the policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""
_AXE = Axe().axe_script
_AXE_RUN = """
axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations.map((v) =>
  `${v.id} (${v.impact}): ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160) + ' ' +
  n.any.concat(n.all).map((c) => c.message).join('; ')).join(' | ')}`))
"""
_ELSEWHERE = "(old) => !old.isConnected || document.getElementById('problems')?.textContent"
NOT_LOGGED_IN = r"status of 401"
STREAM_CUT = "ERR_INCOMPLETE_CHUNKED_ENCODING"  # what a session has open ends with it
SERVER_GONE = r"net::ERR_|NetworkError|Failed to fetch"


class Watched:
    """One page of one node. `problems` is what a test must find empty."""

    def __init__(self, node: Node, context: BrowserContext, page: Page) -> None:
        self.node = node
        self.context = context
        self.page = page
        self.url = f"http://{node.admin}"
        self.allowed: list[str] = []
        self._seen: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self._seen.append(f"uncaught: {error}"))

    @property
    def problems(self) -> list[str]:
        return [seen for seen in self._seen if not any(re.search(p, seen) for p in self.allowed)]

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._seen.append(f"{message.type}: {message.text} ({message.location})")

    async def login(self, user: str = USER, password: str = PASSWORD) -> None:
        """As the page's own request; the cookie is then the browser's."""
        response = await self.context.request.post(
            f"{self.url}/api/login",
            data={"user": user, "password": password},
            headers={"Origin": self.url},
        )
        assert response.ok, await response.text()

    async def open(self, fragment: str = "") -> Page:
        """Shows `#/NAME` and waits for its heading. Without a name, the page as it begins."""
        await self.page.goto(f"{self.url}/{fragment}")
        try:
            await self.page.locator("main h1").first.wait_for()
        except TimeoutError as error:
            raise AssertionError(f"nothing is shown; the page says: {self._seen}") from error
        return self.page

    async def go(self, fragment: str) -> Page:
        """Another page of the open document, as a link leads there."""
        page = self.page
        old = await page.locator("main h1").first.element_handle()
        await page.evaluate("(to) => { location.hash = to }", fragment)
        refused = await page.wait_for_function(_ELSEWHERE, arg=old)
        assert await refused.json_value() is True, f"{fragment}: {await refused.json_value()}"
        await page.locator("main h1").first.wait_for()
        return page

    async def complaints(self) -> list[str]:
        """What axe finds: one line for each rule."""
        if not await self.page.evaluate("() => 'axe' in window"):
            await self._run(_AXE)
        found: list[str] = await self._run(_AXE_RUN)
        return found

    async def _run(self, script: str) -> Any:
        """Runs a script beside the page's policy, as the developer tools do."""
        tools = await self.context.new_cdp_session(self.page)
        try:
            answer = await tools.send(
                "Runtime.evaluate",
                {"expression": script, "awaitPromise": True, "returnByValue": True},
            )
        finally:
            await tools.detach()
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def widest(self) -> int:
        """How many pixels the page needs beyond the window: 0 where nothing is cut off."""
        beyond: int = await self.page.evaluate(
            "() => document.scrollingElement.scrollWidth - document.documentElement.clientWidth"
        )
        return beyond

    async def photograph(self, name: str) -> None:
        """Into the directory of PEERSYNC_SCREENSHOTS; nothing without one."""
        if place := os.environ.get("PEERSYNC_SCREENSHOTS"):
            Path(place).mkdir(parents=True, exist_ok=True)
            await self.page.evaluate("() => scrollTo(0, 0)")
            await self.page.screenshot(path=Path(place) / f"{name}.png", full_page=True)


async def watched(
    browser: Browser,
    node: Node,
    *,
    size: ViewportSize = DESKTOP,
    scheme: Scheme = "light",
    beside: Watched | None = None,
) -> Watched:
    """A browser of its own, with no cookie of another; or a second page `beside` one."""
    if beside is not None:
        return Watched(node, beside.context, await beside.context.new_page())
    context = await browser.new_context(
        viewport=size, color_scheme=scheme, reduced_motion="reduce", locale="en-GB"
    )
    context.set_default_timeout(30_000)
    await context.add_init_script(_VIOLATIONS)
    return Watched(node, context, await context.new_page())

"""How quick the page is on this machine: see CONTRIBUTING.md for the command.

Prints figures and asserts nothing: they depend on what else the machine does. Everything is real,
as in the tests: two agents, their databases, and Chromium on loopback.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from pgcluster import Cluster
from playwright.async_api import Page, async_playwright

from tests.browser.house import House, furnish, lay_out
from tests.browser.watched import Watched, watched
from tests.plugins import leaks

TIMES = 10
CHROMIUM = "/usr/bin/chromium"
_PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
_SENT = """() => performance.getEntriesByType('resource').concat(
  performance.getEntriesByType('navigation')).reduce((n, one) => n + one.transferSize, 0)"""


async def measure(house: House) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM)
        shown, painted = [], []
        for _ in range(TIMES):
            here = await watched(browser, house.b)
            await here.login()
            began = time.perf_counter()
            await here.open()
            await here.page.get_by_role("row").filter(has_text="server-a").first.wait_for()
            shown.append((time.perf_counter() - began) * 1000)
            painted.append(float(await here.page.evaluate(_PAINTED)))
            sent = await here.page.evaluate(_SENT)
            await here.context.close()
        tell("first paint", painted)
        tell("peers are shown", shown)
        print(f"{'sent for the first view':28} {sent / 1024:8.0f} KiB")
        here = await watched(browser, house.b)
        await here.login()
        await here.open()
        tell("a pause is seen", [await until_seen(here, paused=n % 2 == 0) for n in range(TIMES)])
        print(f"{'CPU of an idle open page':28} {await idle(here.page):8.2f} %")
        await browser.close()


async def until_seen(here: Watched, *, paused: bool) -> float:
    """Milliseconds from the answer of the API to the word in the page."""
    await asyncio.sleep(1.0)  # pages are told of one change in 500 ms at most
    headers = {"Origin": here.url}
    row = here.page.get_by_role("row").filter(has_text="server-a").first
    answer = await here.context.request.post(
        f"{here.url}/api/admin/sync/pause", data={"paused": paused}, headers=headers
    )
    assert answer.ok, await answer.text()
    began = time.perf_counter()
    await row.get_by_role("button", name="Resume" if paused else "Pause").wait_for()
    return (time.perf_counter() - began) * 1000


async def idle(page: Page, seconds: float = 5.0) -> float:
    """Percent of one core that the page's own thread is at work."""
    tools = await page.context.new_cdp_session(page)
    await tools.send("Performance.enable")

    async def busy() -> float:
        told = await tools.send("Performance.getMetrics")
        return float({m["name"]: m["value"] for m in told["metrics"]}["TaskDuration"])

    before = await busy()
    await asyncio.sleep(seconds)
    return (await busy() - before) / seconds * 100


def tell(what: str, milliseconds: list[float]) -> None:
    middle, worst = statistics.median(milliseconds), max(milliseconds)
    print(f"{what:28} {middle:8.0f} ms (the slowest of {len(milliseconds)}: {worst:.0f})")


def main() -> None:
    leaks.pytest_configure()  # the agents are children of a child, and are waited for here
    cluster = Cluster(18)
    cluster.start()
    try:
        with tempfile.TemporaryDirectory() as home, lay_out(cluster, Path(home)) as house:
            furnish(house)
            asyncio.run(measure(house))
    finally:
        cluster.close()


if __name__ == "__main__":
    main()

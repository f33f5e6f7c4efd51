"""The open page says how fresh it is, whatever happens to the agent, and keeps up with many."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Route, expect

from peersync.agent.people.overview import LINKS
from tests.browser.conftest import Show
from tests.browser.house import House
from tests.browser.people import PASSWORD, USER, set_password
from tests.browser.watched import NOT_LOGGED_IN, SERVER_GONE, STREAM_CUT
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode

pytestmark = pytest.mark.asyncio(loop_scope="session")
PEERS, DATABASES = 1000, 50
# `built()` is how many elements have come in since the last time.
COUNT_BUILT = """() => {
  let elements = 0;
  const count = (changes) => {
    for (const node of changes.flatMap((one) => [...one.addedNodes]))
      elements += node instanceof Element ? 1 + node.querySelectorAll("*").length : 0;
  };
  const observer = new MutationObserver(count);
  observer.observe(document.body, { childList: true, subtree: true });
  window.built = () => {
    count(observer.takeRecords());
    const found = elements;
    elements = 0;
    return found;
  };
}"""


async def test_the_badge_tells_that_the_agent_is_gone_and_that_it_is_back(
    show: Show, make_node: MakeNode, make_database: MakeDatabase
) -> None:
    node = await asyncio.to_thread(make_node, "server-d", make_database())
    await asyncio.to_thread(set_password, node)
    here = await show(node)
    here.allowed = [SERVER_GONE]
    page = await here.open()
    badge = page.locator("#live")
    await expect(badge).to_have_text("live")
    node.kill()
    await expect(badge).to_contain_text("reconnecting")
    await here.photograph("reconnecting")
    await here.go("#/check")
    await expect(page.locator("main .error")).to_be_visible()
    await asyncio.to_thread(node.start)
    await expect(badge).to_have_text("live")
    # the login has survived, and what could not be shown comes by itself
    await expect(page.get_by_role("table", name=re.compile("Checks"))).to_be_visible()


async def test_who_is_cut_off_in_the_middle_of_a_form_finds_it_as_it_was(
    show: Show, house: House
) -> None:
    here = await show(house.b)
    here.allowed = [NOT_LOGGED_IN, STREAM_CUT]
    page = await here.open("#/sync?peer=server-a&database=shop")
    await page.get_by_label("Mirror").check()
    await here.context.clear_cookies()
    await page.get_by_role("button", name="Show the plan").click()
    await page.get_by_label("Name", exact=True).fill(USER)
    await page.get_by_label("Password").fill("wrong")
    await page.get_by_role("button", name="Log in").dblclick()
    await expect(page.locator("main .error")).to_contain_text("login-failed")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_label("Mirror")).to_be_checked()
    await page.get_by_role("button", name="Show the plan").click()
    await expect(page.get_by_role("heading", name="The plan for shop")).to_be_visible()


async def test_what_happens_is_seen_in_two_browsers_at_once(show: Show, house: House) -> None:
    for command in (("resume",), ("now", "--wait", "--timeout", "20")):
        await asyncio.to_thread(house.b.run, "sync", *command, "--database", "stock")
    one, two = await show(house.b), await show(house.b)
    for browser in (one, two):
        await browser.open()
        await expect(browser.page.locator("#live")).to_have_text("live")
    await row_of(one.page, "server-a").get_by_role("button", name="Pause").click()
    for browser in (one, two):
        await expect(row_of(browser.page, "server-a")).to_contain_text("paused")
    await two.photograph("paused")
    await row_of(two.page, "server-a").get_by_role("button", name="Resume").click()
    for browser in (one, two):
        await expect(row_of(browser.page, "server-a")).not_to_contain_text("paused")


def row_of(page: Page, peer: str) -> Locator:
    return page.get_by_role("table", name="Peers").get_by_role("row").filter(has_text=peer).first


async def test_one_browser_is_logged_in_at_two_servers_of_one_address(
    show: Show, house: House
) -> None:
    """As through two tunnels, which differ in their ports only."""
    here = await show(house.a)
    there = await show(house.b, login=False, beside=here)
    await there.login()
    for browser, name in ((here, "server-a"), (there, "server-b")):
        await browser.open()
        await expect(browser.page.locator("#node")).to_have_text(name)


async def test_a_thousand_peers_with_fifty_databases_each_do_not_hold_up_the_page(
    show: Show, house: House
) -> None:
    """The one test with made-up answers: nobody starts a thousand servers for it."""
    here = await show(house.b)
    news = [f"id: x-1\nevent: overview\ndata: {json.dumps(overview(100))}\n\n"]

    async def told(route: Route) -> None:
        limit = re.search(r"limit=(\d+)", route.request.url)
        await route.fulfill(json=overview(int(limit[1]) if limit else 100))

    async def stream(route: Route) -> None:
        text = news.pop() if news else ": ping\n\n"
        await route.fulfill(body=text, content_type="text/event-stream")

    await here.page.route("**/api/admin/overview*", told)
    await here.page.route("**/api/admin/events", stream)
    page = await here.open()
    await expect(page.get_by_text("peer-0001")).to_be_visible()
    await page.evaluate(COUNT_BUILT)
    built = []
    for shown in range(200, 501, 100):
        await page.get_by_role("button", name=re.compile("Show .* more")).first.click()
        await expect(page.get_by_text(f"peer-{shown:04}")).to_be_attached(timeout=60_000)
        await page.mouse.wheel(0, 20_000)
        built.append(await page.evaluate("built()"))
    await page.get_by_role("button", name=re.compile("^Details of")).first.click()
    await expect(page.get_by_text("db-1", exact=True)).to_be_visible()
    await here.photograph("a-thousand-peers")
    built.append(await page.evaluate("built()"))
    assert max(built) < 2 * built[0], "what is there already is built anew"


async def test_an_answer_that_comes_late_does_not_hide_what_is_newer(
    show: Show, house: House
) -> None:
    """As on a server that has much to do: the page asks, and is told by its stream meanwhile."""
    here = await show(house.b)
    asked, answer = asyncio.Event(), asyncio.Event()

    async def late(route: Route) -> None:
        asked.set()
        await answer.wait()
        await route.fulfill(json=overview(1) | {"generated_at": "2026-01-01T00:00:00.000+00:00"})

    async def after_that(route: Route) -> None:
        await asked.wait()
        await route.continue_()

    await here.page.route("**/api/admin/overview*", late)
    await here.page.route("**/api/admin/events", after_that)
    page = await here.open()
    await expect(row_of(page, "server-a")).to_be_visible()
    async with page.expect_response("**/api/admin/overview*") as response:
        answer.set()
    await (await response.value).finished()
    await page.evaluate("async () => (await fetch('/api/me')).text()")
    await expect(page.get_by_text("peer-0001")).to_have_count(0)
    await expect(row_of(page, "server-a")).to_be_visible()


def overview(limit: int) -> dict[str, Any]:
    """As the agent tells it: the worst `limit` peers, and as many databases as one answer has."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    return {
        "node": "server-b", "version": "0", "sentence": "All 1,000 peers in sync.", "fine": True,
        "generated_at": now, "peers_total": PEERS, "running": [], "giving": [],
        "counts": {
            "peers": PEERS, "links": PEERS * DATABASES, "conflicts": 0, "quarantined": 0,
            "parked": 0, "running": 0,
        },
        "peers": [peer(number, now, max(1, LINKS // limit)) for number in range(1, limit + 1)],
    }  # fmt: skip


def peer(number: int, now: str, databases: int) -> dict[str, Any]:
    name = f"peer-{number:04}"
    return {
        "peer": name, "state": "in sync", "problem": None, "hint": None, "last_sync": now,
        "lag_s": number / 1000, "rows_waiting": 0, "bytes_waiting": 0, "next_at": None,
        "databases": [
            {"database": f"db-{n}", "peer": name, "state": "in sync", "last_sync": now}
            for n in range(databases)
        ],
        "databases_total": DATABASES, "history": [0.1, 0.2, 0.1],
    }  # fmt: skip

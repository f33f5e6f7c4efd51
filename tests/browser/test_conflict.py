"""Two servers changed one row: both rows side by side, why one stands, and the way back."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Show
from tests.browser.house import House, cents, conflict

pytestmark = pytest.mark.asyncio(loop_scope="session")
STOCK = ("--database", "stock")


async def test_a_conflict_is_seen_side_by_side_and_the_loser_restored(
    show: Show, house: House
) -> None:
    await asyncio.to_thread(conflict, house, 7)
    here = await show(house.b)
    page = await here.open("#/conflicts")
    await page.get_by_role("link", name="public.prices (7)").first.click()
    await expect(page.get_by_role("heading", name="Both rows")).to_be_visible()
    row = page.get_by_role("table", name="Both rows").get_by_role("row").filter(has_text="cents")
    await expect(row).to_contain_text("111")
    await expect(row).to_contain_text("222")
    await expect(row.locator("mark")).to_have_count(2)
    await expect(page.get_by_text("newer_wins")).to_be_visible()
    await here.photograph("conflict")
    assert await here.complaints() == []

    await page.get_by_role("button", name="Trace the row").click()
    servers = page.get_by_role("table", name="The row on every server")
    await expect(servers.get_by_role("row").filter(has_text="has it")).to_have_count(2)
    await expect(page.get_by_role("table", name="Changes of the row")).to_contain_text("update")
    await here.photograph("conflict-traced")
    assert await here.complaints() == []

    await page.get_by_role("button", name="Restore the row of server-a").click()
    await expect(page.get_by_role("table", name="Before and after")).to_be_visible()
    for node in (house.a, house.b):
        for _ in range(100):
            if await asyncio.to_thread(cents, node, 7) == "111":
                break
            await asyncio.sleep(0.1)
        assert cents(node, 7) == "111", node.name


async def test_all_that_wait_are_counted_and_then_settled_at_once(show: Show, house: House) -> None:
    for node in (house.a, house.b):
        await asyncio.to_thread(node.run, "tables", "strategy", "prices", "manual", *STOCK)
    try:
        for row in (21, 22):
            await asyncio.to_thread(conflict, house, row, settled=False)
        here = await show(house.b)
        page = await here.open("#/conflicts?state=open&database=stock")
        await expect(page.get_by_role("row").filter(has_text="waits for you")).to_have_count(2)
        await page.get_by_role("button", name="Keep what was here").click()
        question = page.get_by_role("dialog")
        await expect(question).to_contain_text("2 of public.prices in stock")
        await here.photograph("conflicts-bulk")
        assert await here.complaints() == []
        await question.get_by_role("button", name="Keep what was here").click()
        await expect(page.get_by_text("2 settled")).to_be_visible()
        await expect(page.get_by_text("No conflict like that")).to_be_visible()
    finally:
        for node in (house.a, house.b):
            await asyncio.to_thread(node.run, "tables", "strategy", "prices", "newer_wins", *STOCK)

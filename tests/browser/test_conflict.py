"""Two servers changed one row: both rows side by side, why one stands, and the way back."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Show
from tests.browser.house import House, cents, conflict

pytestmark = pytest.mark.asyncio(loop_scope="session")


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

    await page.get_by_role("button", name="Restore the row of server-a").click()
    await expect(page.get_by_role("table", name="Before and after")).to_be_visible()
    for node in (house.a, house.b):
        for _ in range(100):
            if await asyncio.to_thread(cents, node, 7) == "111":
                break
            await asyncio.sleep(0.1)
        assert cents(node, 7) == "111", node.name

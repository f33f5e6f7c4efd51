"""A full sync from the plan to the end, watched from both servers."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Show
from tests.browser.house import HOSTILE, House
from tests.browser.watched import Watched
from tests.integration.shared_pair import held

pytestmark = pytest.mark.asyncio(loop_scope="session")
PULL = "Pull server-a → this server"


async def planned(watched: Watched) -> Page:
    page = await watched.open("#/sync")
    servers = page.get_by_role("group", name="Server")
    await servers.get_by_role("radio", name=re.compile("server-a")).check()
    await page.get_by_label("Database").select_option("shop")
    await page.get_by_role("button", name="Show the plan").click()
    await expect(page.get_by_role("heading", name="The plan for shop")).to_be_visible()
    return page


async def started(page: Page) -> None:
    """By name, because rows that are here get other values."""
    await page.get_by_role("button", name=PULL).click()
    await confirmed(page, PULL)


async def confirmed(page: Page, label: str) -> None:
    question = page.get_by_role("dialog")
    await question.get_by_role("textbox").fill("shop")
    await question.get_by_role("button", name=label).click()


async def test_a_pull_is_seen_on_both_servers_survives_a_reload_and_can_be_cancelled(
    show: Show, house: House
) -> None:
    house.b.pull(
        "server-a", "--database", "shop"
    )  # so that there are rows to lose, and a table to hold
    house.a.database.psql("UPDATE items SET body = 'changed on server-a' WHERE id <= 100")
    taking, giving = await show(house.b), await show(house.a)
    page = await planned(taking)
    row = page.get_by_role("row").filter(has_text="public.items")
    await expect(row).to_contain_text("100")
    await expect(page.get_by_text(HOSTILE).first).to_be_visible()
    await taking.photograph("plan")
    assert await taking.complaints() == []
    with held(house.b) as _release:
        await started(page)
        await expect(page.get_by_role("heading", name="Pull of shop")).to_be_visible()
        await expect(page.get_by_text(re.compile(r"Step [45] of 5"))).to_be_visible()
        by_table = page.get_by_text(re.compile("of . tables have come"))
        await by_table.click()
        table = page.get_by_role("table", name="How far each table is")
        await expect(table).to_contain_text(HOSTILE)
        await taking.photograph("progress")
        assert await taking.complaints() == []
        job = page.url.rpartition("/")[2]

        await giving.open(f"#/job/{job}")
        await expect(giving.page.get_by_text(re.compile(r"Step [45] of 5"))).to_be_visible()
        await same_numbers(page, giving.page)
        await page.reload()
        await expect(page.get_by_text(re.compile(r"Step [45] of 5"))).to_be_visible()
        await same_numbers(page, giving.page)

        await page.get_by_role("button", name="Cancel …").click()
        await page.get_by_role("button", name="Cancel the sync").click()
        await expect(page.get_by_text("cancelled").first).to_be_visible()
    await expect(page.get_by_role("button", name="Cancel …")).to_have_count(0)
    await taking.photograph("cancelled")
    assert house.b.database.psql("SELECT count(*) FROM items WHERE body ~ 'changed'") == "0"


async def same_numbers(one: Page, other: Page) -> None:
    """What is read, sent and taken in; the two are told one after the other."""
    for _ in range(50):
        figures = [await page.locator(".figures li").all_inner_texts() for page in (one, other)]
        told = [[text for text in texts if "read" in text or "wire" in text] for texts in figures]
        if told[0] and told[0] == told[1]:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the two servers do not say the same: {told}")


async def test_a_pull_ends_with_its_summary_and_can_be_undone(show: Show, house: House) -> None:
    house.a.database.psql("UPDATE items SET body = 'changed again' WHERE id <= 50")
    taking = await show(house.b)
    page = await planned(taking)
    await started(page)
    await expect(page.get_by_role("button", name=re.compile("^Undo"))).to_be_visible()
    assert house.b.database.psql("SELECT count(*) FROM items WHERE body ~ 'again'") == "50"
    await taking.photograph("done")
    assert await taking.complaints() == []
    await page.get_by_role("button", name=re.compile("^Undo")).click()
    await confirmed(page, "Undo")
    await expect(page.get_by_text("undone").first).to_be_visible()
    assert house.b.database.psql("SELECT count(*) FROM items WHERE body ~ 'again'") == "0"

"""A verification from the page to what differs, and to the full sync that mends it."""

from __future__ import annotations

import re

import psycopg
import pytest
from playwright.async_api import expect

from tests.browser.conftest import Show
from tests.browser.house import House
from tests.browser.watched import DESKTOP, PHONE, SCHEMES, Scheme

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session")
def drifted(house: House) -> House:
    """Of 3000 rows on server-a two others are on server-b, and one is missing."""
    house.b.pull("server-a", "--database", "shop")
    house.b.database.psql(
        "UPDATE items SET name = 'worn' WHERE id = 7; DELETE FROM items WHERE id = 8;"
        "INSERT INTO items VALUES (9001, 'only here', '')"
    )
    return house


async def test_what_differs_is_shown_to_the_value_and_leads_to_its_repair(
    show: Show, drifted: House
) -> None:
    here = await show(drifted.b)
    page = await here.open("#/verify")
    await page.get_by_label("Columns and values").check()
    await page.get_by_label("Database").first.select_option("shop")
    await expect(
        page.get_by_text("peersync verify server-a --database shop --values")
    ).to_be_visible()
    await page.get_by_role("button", name="Verify", exact=True).click()
    row = page.get_by_role("table", name="Result by table").get_by_role(
        "row", name=re.compile("public.items")
    )
    await expect(row).to_contain_text("differs")
    assert [*map(int, (await row.inner_text()).replace(",", "").split()[-7:])] == [
        3000,
        3000,
        2998,
        1,
        1,
        1,
        0,
    ]
    await row.get_by_role("button").click()
    changed = page.get_by_role("row", name=re.compile("id=7"))
    await expect(changed).to_contain_text("name")
    await expect(changed).not_to_contain_text("worn")
    await page.get_by_role("button", name="Show what is in them").click()
    await expect(changed).to_contain_text("there item 7 here worn")
    assert await here.complaints() == []

    await expect(
        page.get_by_text("peersync repair server-a --from this --database shop")
    ).to_be_visible()
    await page.get_by_role("link", name="Overview").first.click()
    await page.get_by_role("button", name="Details of server-a").click()
    await page.get_by_role("link", name=re.compile("differs since .* ago")).click()
    await page.get_by_role("link", name="shop with server-a").first.click()
    await page.get_by_role("link", name="Plan it as a full sync").first.click()
    await expect(
        page.get_by_text(
            "peersync pull server-a --database shop --method delta --tables public.items"
        )
    ).to_be_visible()
    await page.get_by_role("button", name="Show the plan").click()
    await expect(page.get_by_role("heading", name="The plan for shop")).to_be_visible()


async def test_one_that_runs_is_seen_and_can_be_cancelled(show: Show, drifted: House) -> None:
    here = await show(drifted.b)
    page = await here.open("#/verify?database=shop")
    with psycopg.connect(drifted.b.database.conninfo()) as connection:
        connection.execute("LOCK TABLE items")  # it is waited for
        await page.get_by_role("button", name="Verify", exact=True).click()
        await expect(page.get_by_role("progressbar", name="Tables")).to_be_visible()
        await here.photograph("verification-runs")
        assert await here.complaints() == []
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_role("progressbar", name="Tables")).to_have_count(0)
        await expect(page.locator("section").first).to_contain_text("cancelled")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", ["desk", "phone"])
async def test_a_difference_is_readable_for_everyone(
    show: Show, drifted: House, size: str, scheme: Scheme
) -> None:
    drifted.b.run("verify", "server-a", "--database", "shop", "--rows", check=False)
    run = drifted.b.run("verify", "list", "--json").json["verifications"][0]
    here = await show(drifted.b, size={"desk": DESKTOP, "phone": PHONE}[size], scheme=scheme)
    page = await here.open(f"#/verify/{run['id']}")
    await page.get_by_role("button", name="Details of public.items").click()
    await expect(page.get_by_text("id=9001")).to_be_visible()
    await expect(page.get_by_role("heading", name="Last proved identical")).to_be_visible()
    await expect(page.get_by_text("Loading…")).to_have_count(0)
    await here.photograph(f"verification-{size}-{scheme}")
    assert await here.complaints() == []
    assert await here.widest() == 0


async def test_it_is_repaired_once_it_was_agreed_what_is_lost(show: Show, drifted: House) -> None:
    drifted.b.run("verify", "server-a", "--database", "shop", "--rows", check=False)
    run = drifted.b.run("verify", "list", "--json").json["verifications"][0]
    here = await show(drifted.b)
    page = await here.open(f"#/verify/{run['id']}")
    await page.get_by_role("button", name="Repair …").first.click()
    question = page.get_by_role("dialog")
    await expect(question).to_contain_text("the values of 1 row")
    await here.photograph("repair")
    assert await here.complaints() == []
    await question.get_by_role("textbox").fill("shop")
    await question.get_by_role("button", name="Change server-b").click()
    outcome = page.locator("p").filter(has_text=re.compile("Repair [0-9a-f]{8}"))
    await expect(outcome).to_contain_text("partly")  # what is only here stays
    assert drifted.b.database.psql("SELECT name FROM items WHERE id = 7") == "item 7"

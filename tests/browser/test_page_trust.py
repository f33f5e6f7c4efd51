"""What must not be missed: a secret that is shown once, a name that deceives, a list that fails."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import pytest
from playwright.async_api import Route, expect

from tests.browser.conftest import Show
from tests.browser.house import House
from tests.browser.people import PASSWORD, USER

pytestmark = pytest.mark.asyncio(loop_scope="session")

EDGE = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0"
)


async def test_a_new_token_stays_until_somebody_has_it(show: Show, house: House) -> None:
    here = await show(house.a)
    await asyncio.to_thread(log_in_with_edge, here.url)
    page = await here.open("#/settings")
    await expect(page.get_by_role("table", name="Sessions")).to_contain_text("Edge, Windows")
    tokens = page.locator("section", has=page.get_by_role("heading", name="Tokens"))
    await tokens.get_by_label("Name", exact=True).fill("kiosk")
    await tokens.get_by_role("button", name="Make a token").click()
    secret = tokens.get_by_role("status")
    await expect(secret).to_contain_text("Token kiosk")
    await here.photograph("token")
    assert await here.complaints() == []
    row = tokens.get_by_role("row").filter(has_text="kiosk")
    await row.get_by_role("button", name="Revoke").click()
    await page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    await expect(row).to_have_count(0)  # the list was read anew
    await expect(secret).to_contain_text("Token kiosk")
    await secret.get_by_role("button", name="I have it").click()
    await expect(secret).to_have_count(0)


def log_in_with_edge(url: str) -> None:
    request = urllib.request.Request(
        f"{url}/api/login",
        data=json.dumps({"user": USER, "password": PASSWORD}).encode(),
        headers={"Content-Type": "application/json", "Origin": url, "User-Agent": EDGE},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 200


async def test_a_request_under_a_name_that_looks_like_another_says_so(
    show: Show, house: House
) -> None:
    here = await show(house.a)
    await here.page.route("**/api/admin/peers/pending", pending)
    page = await here.open("#/peers")
    words = "server-l is not server-1, however alike they look."
    row = page.get_by_role("table", name="Requests").get_by_role("row", name="server-l")
    await expect(row).to_contain_text(words)
    await here.photograph("lookalike")
    assert await here.complaints() == []
    await row.get_by_role("button", name="Accept").click()
    await expect(page.get_by_role("dialog")).to_contain_text(words)


async def pending(route: Route) -> None:
    one: dict[str, Any] = {
        "id": "a" * 32, "name": "server-l", "node_id": "b" * 64, "short_id": "BBBB-BBBB",
        "address": None, "came_from": "192.0.2.7", "asked_at": "2026-01-01T00:00:00+00:00",
        "invited_by": "admin", "problem": None, "looks_like": "server-1",
    }  # fmt: skip
    await route.fulfill(json=[one])


async def test_a_list_that_failed_does_not_say_that_there_is_nothing(
    show: Show, house: House
) -> None:
    here = await show(house.a)
    here.allowed = [r"status of 503"]
    page = await here.open("#/tables?table=no_such")
    nothing = page.get_by_text("Periodic sync knows no such table").first
    await expect(nothing).to_be_visible()
    await page.route("**/api/admin/tables*", down)
    await page.reload()
    await expect(page.locator("main .error").first).to_contain_text("does not answer")
    await expect(nothing).to_be_hidden()
    await here.photograph("list-that-failed")


async def down(route: Route) -> None:
    problem = {"code": "database-unreachable", "detail": "the database does not answer"}
    await route.fulfill(status=503, json=problem)

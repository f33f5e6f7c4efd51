"""From an agent that was just started to two servers that know each other, in the page alone."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Show
from tests.browser.house import House
from tests.browser.people import PASSWORD, USER, link_of
from tests.browser.watched import NOT_LOGGED_IN, STREAM_CUT

pytestmark = pytest.mark.asyncio(loop_scope="session")

WAITS = r"status of 409"  # an admin has not decided yet


async def log_in(page: Page, password: str) -> None:
    await page.get_by_label("Name").fill(USER)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Log in").click()


async def test_a_new_server_is_opened_by_its_link_and_paired_once_its_fingerprint_is_accepted(
    show: Show, house: House
) -> None:
    link = link_of(house.c)
    guest = await show(house.c, login=False)
    guest.allowed = [NOT_LOGGED_IN, WAITS]
    page = guest.page
    await page.goto(link)
    await expect(page.get_by_role("heading", name="Welcome to peersync")).to_be_visible()
    await guest.photograph("first-login")
    assert await guest.complaints() == []
    await page.get_by_label("New password").fill(PASSWORD)
    await page.get_by_label("The same again").fill(PASSWORD)
    await page.get_by_role("button", name="Set it and go on").click()
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await expect(page.locator("#node")).to_have_text("server-c")
    await expect(page.get_by_text("No peers yet").first).to_be_visible()
    await guest.photograph("nothing-yet")
    assert await guest.complaints() == []

    inviting = await show(house.a)
    await inviting.open("#/peers")
    await inviting.page.get_by_label("Ask me first").check()
    await inviting.page.get_by_role("button", name="Make a code").click()
    code = inviting.page.locator("code", has_text="psync1:").last
    await code.wait_for()
    await guest.go("#/peers")
    await page.get_by_label("The code of the other server").fill(await code.inner_text())
    await page.get_by_role("button", name="Join", exact=True).click()
    own = await page.locator(".warning code").inner_text()
    waiting = inviting.page.get_by_role("table", name="Requests")
    request = waiting.get_by_role("row", name="server-c")
    await expect(request).to_contain_text(own)
    await inviting.photograph("pairing-request")
    assert await inviting.complaints() == []
    await request.get_by_role("button", name="Accept").click()
    await inviting.page.get_by_role("dialog").get_by_role("button", name="Accept").click()
    await expect(page.get_by_role("table", name="Peers").get_by_text("server-a")).to_be_visible()
    await expect(request).to_have_count(0)
    assert "server-c" in house.a.run("peer", "list").out


async def test_the_link_works_once_and_a_wrong_password_never(show: Show, house: House) -> None:
    link = link_of(house.a)
    first, second = await show(house.a, login=False), await show(house.a, login=False)
    for guest in (first, second):
        guest.allowed = [NOT_LOGGED_IN, STREAM_CUT]
        await guest.page.goto(link)
        await guest.page.get_by_label("New password").fill(PASSWORD)
        await guest.page.get_by_label("The same again").fill(PASSWORD)
    await first.page.get_by_role("button", name="Set it and go on").click()
    await expect(first.page.get_by_role("heading", name="Overview")).to_be_visible()
    await second.page.get_by_role("button", name="Set it and go on").click()
    await expect(second.page.get_by_text("this link was used already")).to_be_visible()
    await expect(second.page.get_by_text("peersync admin link").first).to_be_visible()

    page = await second.open()
    await log_in(page, "not the password")
    await expect(page.get_by_text("the name or the password is wrong")).to_be_visible()
    await second.photograph("login-refused")
    assert await second.complaints() == []
    await log_in(page, PASSWORD)
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()

    await page.get_by_text(USER, exact=True).click()
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_role("button", name="Log in")).to_be_visible()

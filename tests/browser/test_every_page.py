"""Every page, at the size of a desk and of a phone, in light and in dark: nothing is in the way.

axe looks for what keeps people out: names, roles, contrast, order. Nothing is wider than
the window, down to 320 pixels, so that nobody has to scroll sideways.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Show
from tests.browser.house import HOSTILE, House, conflict, refused
from tests.browser.watched import DESKTOP, PHONE, SCHEMES, SMALLEST, Scheme, Watched
from tests.plugins.nodes import Node

pytestmark = pytest.mark.asyncio(loop_scope="session")

SIZES = {"desk": DESKTOP, "phone": PHONE}
DASHBOARD = Path(__file__).parents[2] / "peersync" / "dashboard"
BAD = ("|sh", "&sh", "$x", "`x`", "<x", ">x", "(x", "x)", ";sh", "\\x", "\x1b[2J", "\u202e")
NOWHERE = (
    "#/%", "#/__proto__", "#/constructor", "#/shared", "#/job", "#/job/..", "#/conflict/%2e%2e",
    "#/complete/constructor/x", "#/complete/__proto__/x", "#/complete/bulk/..", "#/verify/.",
)  # fmt: skip
NO_PAGES = {"login", "job", "conflict"}  # helpers, and what needs more than its name


def pages(node: Node) -> dict[str, str]:
    """The name of each page, and where it is shown."""
    names = sorted({p.stem for p in (DASHBOARD / "js" / "pages").glob("*.js")} - NO_PAGES)
    job = node.run("history", "--json").json["sessions"][0]["id"]
    return {name: f"#/{name}" for name in [*names, "password"]} | {
        "job": f"#/job/{job}",
        "conflict": "#/conflict/1?database=stock",
    }


@pytest.fixture(scope="session")
def lived_in(house: House) -> House:
    """With a sync and its proof behind it, a conflict, a change in quarantine, a table whose name
    is a trap."""
    house.b.pull("server-a", "--database", "shop")
    house.b.run("verify", "server-a", "--database", "shop")
    conflict(house, 1)
    refused(house, 1001)
    return house


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
async def test_every_page_is_for_everyone(
    show: Show, lived_in: House, size: str, scheme: Scheme
) -> None:
    here = await show(lived_in.b, size=SIZES[size], scheme=scheme)
    await here.open()
    wrong: list[str] = []
    for name, place in pages(lived_in.b).items():
        await here.go(place)
        await settled(here)
        await here.photograph(f"{name}-{size}-{scheme}")
        await unfold(here)
        wrong += [f"{name}: {complaint}" for complaint in await here.complaints()]
        if beyond := await here.widest():
            wrong.append(f"{name}: {beyond} pixels do not fit")
    assert wrong == []


async def settled(here: Watched) -> None:
    """What the page asks for first has come."""
    await here.page.locator("main .body > *").first.wait_for(state="attached")
    await expect(here.page.get_by_text("Loading…")).to_have_count(0)


async def unfold(here: Watched) -> None:
    """All that is shown on demand."""
    await here.page.evaluate(
        """() => {
          for (const one of document.querySelectorAll('main details')) one.open = true;
          for (const one of document.querySelectorAll('main [aria-expanded=false]')) one.click();
        }"""
    )
    await settled(here)


async def test_nothing_is_wider_than_the_smallest_phone(show: Show, lived_in: House) -> None:
    here = await show(lived_in.b, size=SMALLEST)
    await here.open()
    wide = {}
    for name, place in pages(lived_in.b).items():
        await here.go(place)
        await settled(here)
        await unfold(here)
        wide[name] = await here.widest()
    assert {name: beyond for name, beyond in wide.items() if beyond} == {}


async def test_a_table_whose_name_is_markup_is_a_name(show: Show, lived_in: House) -> None:
    here = await show(lived_in.b)
    dialogs: list[str] = []

    async def refuse(dialog: object) -> None:
        dialogs.append(str(dialog))

    here.page.on("dialog", refuse)
    job = lived_in.b.run("history", "--json").json["sessions"][0]["id"]
    page = await here.open(f"#/job/{job}")
    await expect(page.get_by_text(HOSTILE).first).to_be_visible()
    assert await page.locator("main img").count() == 0
    assert dialogs == []


async def test_each_command_of_a_hint_can_be_copied_without_the_words_around_it(
    show: Show, lived_in: House
) -> None:
    here = await show(lived_in.b)
    page = await here.open()
    lines = await page.evaluate(
        """async (hint) => {
          const { errorBox } = await import('/js/ui.js');
          const lines = errorBox({ message: '', hint }).querySelectorAll('code');
          return [...lines].map((one) => one.textContent);
        }""",
        "peersync init writes one; take it: peersync pull a --tables 'x'; or that: peersync check.",
    )
    assert lines == ["peersync pull a --tables 'x'", "peersync check"]


async def test_a_link_says_which_way_its_rows_go(show: Show, lived_in: House) -> None:
    here = await show(lived_in.b)
    page = await here.open()
    words = await page.evaluate(
        """async (ways) => {
          const { oneWay } = await import('/js/kit.js');
          return ways.map((direction) => oneWay({ direction, peer: 'a' })?.textContent);
        }""",
        ["both", "receive", "give", "none"],
    )
    assert words == [
        None,
        "one-way: takes from a, gives nothing of its own",
        "one-way: gives to a, takes nothing",
        "one-way on both sides: no rows go either way",
    ]


async def test_no_words_of_a_peer_become_a_command_that_does_more(
    show: Show, lived_in: House
) -> None:
    here = await show(lived_in.b)
    page = await here.open()
    bad = [f"do this: peersync check {more}" for more in BAD] + ["curl x", "sudo rm -r x"]
    lines = await page.evaluate(
        """async (hints) => {
          const { errorBox } = await import('/js/ui.js');
          return hints.filter((hint) => errorBox({ message: '', hint }).querySelector('code'));
        }""",
        bad,
    )
    assert lines == []
    words = await page.evaluate(
        "async (words) => words.map((await import('/js/format.js')).word)",
        ["public.items", "a*", "a,b", "it's", "~", "é", "a\n"],
    )
    assert words == ["public.items", "'a*'", "'a,b'", "'it'\\''s'", "'~'", "'é'", "'a\n'"]


async def test_an_address_that_names_no_page_says_so_and_leads_nowhere_else(
    show: Show, lived_in: House
) -> None:
    here = await show(lived_in.b)
    here.allowed = [r"status of 40[04]"]
    page = await here.open()
    for place in NOWHERE:
        await here.go(place)
        await expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
        await here.go("#/tables")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await here.go(r"#/complete/bulk/..%5C..%5Cusers")
    await expect(page.locator("main .error").first).to_be_visible()
    assert any(url.endswith("/bulk-sync/..%5C..%5Cusers") for url in asked)
    assert not any(url.endswith("/users") for url in asked if "%5C" not in url)


async def test_the_keyboard_reaches_a_page_and_its_first_action(
    show: Show, lived_in: House
) -> None:
    here = await show(lived_in.b)
    page = await here.open()
    await page.keyboard.press("Shift+Tab")
    for _ in range(40):
        if await page.evaluate("() => document.activeElement?.textContent") == "Peers":
            break
        await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Peers", exact=True)).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Try to reach each")).to_be_focused()

"""One sentence says whether everything is fine, and it never says more than is known."""

from __future__ import annotations

import pytest

from peersync.agent.status import DatabaseStatus, LinkStatus, _sentence
from peersync.core.progress import Progress

UP = DatabaseStatus(name="shop", reachable=True)
DOWN = DatabaseStatus(name="shop", reachable=False, problem="no")
RUNNING = Progress(
    session="0" * 32, action="pull", database="shop", source="server-a", target="b", state="running"
)


def link(state: str, peer: str = "server-a", database: str = "shop") -> LinkStatus:
    return LinkStatus(database=database, peer=peer, state=state)


@pytest.mark.parametrize(
    ("databases", "links", "running", "sentence"),
    [
        ([], [], [], "No database is configured."),
        ([UP], [], [], "No peer is known yet."),
        ([DOWN], [], [], "Database shop can't be reached."),
        ([DOWN, DOWN], [link("failed")], [], "Database shop can't be reached, and 1 more."),
        ([UP], [link("never synced")], [], "shop was never synced from server-a."),
        ([UP], [link("never synced"), link("synced", "c")], [], "1 of 2 links were never synced."),
        ([UP], [link("failed")], [], "The last sync of shop from server-a failed."),
        (
            [UP],
            [link("failed"), link("failed", "c"), link("unreachable", "d")],
            [],
            "The last sync of shop from server-a failed, and 1 more.",
        ),
        ([UP], [link("partly")], [], "The last sync of shop from server-a left tables out."),
        ([UP], [link("unreachable")], [], "server-a can't be reached."),
        (
            [UP],
            [link("unreachable"), link("unreachable", database="log")],
            [],
            "server-a can't be reached.",
        ),
        (
            [UP],
            [link("unreachable"), link("unreachable", "server-c")],
            [],
            "server-a can't be reached, and 1 more.",
        ),
        ([UP], [link("syncing")], [RUNNING], "1 full sync running."),
        ([UP], [link("syncing"), link("syncing", "c")], [RUNNING] * 2, "2 full syncs running."),
        ([UP], [link("synced")], [], "shop was synced from server-a; see below when."),
        ([UP], [link("synced"), link("synced", "c")], [], "All 2 links were synced; see below when."),  # noqa: E501
    ],
)  # fmt: skip
def test_the_worst_comes_first(
    databases: list[DatabaseStatus],
    links: list[LinkStatus],
    running: list[Progress],
    sentence: str,
) -> None:
    assert _sentence(databases, links, running) == sentence

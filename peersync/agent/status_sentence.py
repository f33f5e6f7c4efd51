"""One sentence that answers "is everything fine?", from the states of all links.

Pure. It never says more than is known; what is worst is said first.
"""

from __future__ import annotations

from datetime import UTC, datetime

from peersync.agent.status_view import DatabaseStatus, LinkStatus
from peersync.core.progress import seconds_between

ORDER = (
    "failed", "partly", "undone", "unreachable", "conflict", "behind", "paused", "unknown",
    "never synced", "syncing", "giving", "synced", "given", "in sync", "expired",
)  # fmt: skip
RANK = {state: number for number, state in enumerate(ORDER)}  # the worst is 0
FINE = frozenset({"syncing", "giving", "synced", "given", "in sync", "expired"})


def worst_first(link: LinkStatus) -> tuple[int, str, str]:
    """The key by which links are sorted."""
    return RANK[link.state], link.database, link.peer


def sentence(databases: list[DatabaseStatus], links: list[LinkStatus]) -> str:
    """How everything is; `links` are sorted, the worst first."""
    now = datetime.now(UTC).isoformat()
    if is_fine(databases, links, with_proofs=False) and not is_fine(databases, links):
        return _drift_sentence(links, now)
    return _sentence(databases, links, now)


def is_fine(
    databases: list[DatabaseStatus], links: list[LinkStatus], *, with_proofs: bool = True
) -> bool:
    """With `with_proofs`, what a verification has found to differ is not fine."""
    return (
        all(d.reachable for d in databases)
        and bool(links)
        and all(link.state in FINE for link in links)
        and not (with_proofs and any(differs(link) for link in links))
    )


def differs(link: LinkStatus) -> bool:
    return link.proof is not None and link.proof.differs_since is not None


def _drift_sentence(links: list[LinkStatus], now: str) -> str:
    found = [link for link in links if differs(link)]
    since = found[0].proof.differs_since if found[0].proof else None
    what = f"{found[0].database} differs from {found[0].peer}, as was found {_age(since, now)}"
    return what + _more(len(found) - 1) + "."


def _sentence(databases: list[DatabaseStatus], links: list[LinkStatus], now: str) -> str:
    """The worst comes first; `now` is in ISO 8601."""
    down = [d.name for d in databases if not d.reachable]
    if down:
        return f"Database {down[0]} can't be reached" + _more(len(down) - 1) + "."
    if not databases:
        return "No database is configured."
    if not links:
        return "No peer is known yet."
    gone = [link for link in links if link.state == "expired"]
    if len(gone) == len(links):
        what = f"{gone[0].database} syncs with nobody now: {gone[0].peer} was expired"
        return what + _more(len(gone) - 1) + "."
    links = [link for link in links if link not in gone]
    for state, words in (
        ("failed", "failed"),
        ("partly", "left tables or rows out"),
        ("undone", "was undone"),
    ):
        found = [link for link in links if link.state == state]
        if found and found[0].periodic and found[0].state == "failed":
            what = f"{found[0].database} does not sync with {found[0].peer}"
            return f"{what}: {found[0].problem}" + _more(len(found) - 1) + "."
        if found:
            what = f"{found[0].database} {_side(found[0])} {found[0].peer}"
            return f"The last sync of {what} {words}" + _more(len(found) - 1) + "."
    away = sorted({link.peer for link in links if link.state == "unreachable"})
    if away:
        return f"{away[0]} can't be reached" + _more(len(away) - 1) + "."
    for state, words in (
        ("conflict", "needs a decision with"),
        ("behind", "is behind with"),
        ("paused", "is paused with"),
    ):
        found = [link for link in links if link.state == state]
        if found:
            why = f": {found[0].problem}" if found[0].problem else ""
            what = f"{found[0].database} {words} {found[0].peer}{why}"
            return what + _more(len(found) - 1) + "."
    unknown = [link for link in links if link.state == "unknown"]
    if unknown:
        what = f"{unknown[0].database} was ever synced with {unknown[0].peer}"
        return f"Whether {what} is not known" + _more(len(unknown) - 1) + "."
    never = [link for link in links if link.state == "never synced"]
    if never and len(links) == 1:
        return f"{never[0].database} was never synced with {never[0].peer}."
    if never:
        return f"{len(never)} of {len(links)} links were never synced."
    return _fine_sentence(links, now)


def _fine_sentence(links: list[LinkStatus], now: str) -> str:
    if all(link.periodic for link in links):
        return _in_sync_sentence(links)
    running = [link for link in links if link.state in ("syncing", "giving")]
    if len(running) == 1 and running[0].state == "giving":
        return f"{running[0].peer} is taking {running[0].database} from here."
    if running:
        return f"{len(running)} full sync{'s' if len(running) > 1 else ''} running."
    if len(links) == 1:
        link = links[0]
        if link.state == "in sync":
            return f"{link.database} is in sync with {link.peer}."
        if link.state == "given":
            return f"{link.database} was given to {link.peer} {_age(link.last_given, now)}."
        return f"{link.database} was synced from {link.peer} {_age(link.last_sync, now)}."
    given = sum(link.state == "given" for link in links)
    if given == len(links):
        return f"All {len(links)} links were given; see below when."
    if given:
        return (
            f"All {len(links)} links are fine: {len(links) - given} synced from peers, "
            f"{given} given to peers; see below when."
        )
    return f"All {len(links)} links were synced; see below when."


def _in_sync_sentence(links: list[LinkStatus]) -> str:
    moving = [link for link in links if link.state != "in sync"]
    if moving:
        what = f"{moving[0].database} is syncing with {moving[0].peer}"
        return what + _more(len(moving) - 1) + "."
    if len(links) == 1:
        return f"{links[0].database} is in sync with {links[0].peer}."
    return f"All {len(links)} links are in sync."


def _side(link: LinkStatus) -> str:
    given = link.last_given_result == link.state != link.last_result
    return "to" if given else "from"


def _age(then: str | None, now: str) -> str:
    seconds = seconds_between(then or "", now)
    if seconds is None:
        return "at a time that is not known"
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit} ago"
    return f"{int(seconds)} s ago" if seconds >= 1 else "just now"


def _more(count: int) -> str:
    return f", and {count} more" if count > 0 else ""

"""Where the watcher's facts come from that are not in the status.

They are pullers, logs that are kept for long, and who waits to be accepted as a peer.
"""

from __future__ import annotations

from collections.abc import Mapping

from peersync.agent.databases import Databases
from peersync.agent.member_checks import judge_log
from peersync.agent.notify.facts import pairing
from peersync.agent.periodic.hub import Hub
from peersync.config.model import Config
from peersync.core.errors import PeersyncError
from peersync.core.incidents import Fact
from peersync.postgres.errors import TRANSLATED
from peersync.postgres.log.members import read_replica
from peersync.postgres.log.prune import log_size
from peersync.transport.identity import short_form
from peersync.transport.pairing import PairingDesk, node_id


def contacts(hubs: Mapping[str, Hub]) -> dict[tuple[str, str], float]:
    """When the puller of each (database, peer) last had an answer, of time.time().

    One that is applying what it got has other work than asking.
    """
    return {
        (name, link.peer): link.contact_at
        for name, hub in hubs.items()
        for link in hub.links.values()
        if link.contact_at is not None and not link.applying
    }


async def kept_logs(databases: Databases, config: Config) -> dict[str, tuple[str, str | None]]:
    """Databases whose log is kept for somebody for too long: words, and what mends it.

    One that can't be asked is left out: the status says that.
    """
    found = {}
    for database in databases:
        try:
            async with database.acquire(f"looking at the log of {database.name}") as conn:
                if await read_replica(conn) is None:
                    continue
                state, words, fix = judge_log(await log_size(conn), config)
        except (PeersyncError, *TRANSLATED):
            continue
        if state != "ok":
            found[database.name] = (words, fix)
    return found


def pending(desk: PairingDesk) -> list[Fact]:
    """A fact for each node that waits for a person."""
    return [
        pairing(w.joiner, w.request.name, short_form(node_id(w)), w.came_from, w.asked_at)
        for _, w in desk.pending()
    ]

"""A join that nobody but its sponsor ever heard of, and the sponsor was expired (ORDER R9).

The others will never know this database: the word that made it a member is gone with its sponsor.
So it is held, and says so; a rebaseline from a member takes it in under a new origin, and sends
what was written here, all of which is still in its log: nobody has ever had any of it.
"""

from __future__ import annotations

import logging

from peersync.agent.periodic.hub import Hub
from peersync.core.errors import Denied
from peersync.postgres.log.members import read_members, read_replica, set_state
from peersync.postgres.log.membership import sponsor_if_void

log = logging.getLogger("peersync.periodic")


async def hold_if_void(hub: Hub, peer: str, refusal: Denied) -> None:
    """Holds this database if a peer that does not know it has forgotten its sponsor."""
    expired = refusal.data.get("expired")
    if refusal.data.get("reason") != "not-a-member" or not isinstance(expired, list):
        return
    async with hub.database.acquire(f"looking at the join of {hub.name}") as conn:
        replica = await read_replica(conn)
        if replica is None or replica.state != "active":
            return
        sponsor = sponsor_if_void(await read_members(conn), replica.origin, expired)
        if sponsor is None:
            return
        reason = (
            f"its join is void: {sponsor}, through which it joined, was expired before {peer} "
            "heard of it"
        )
        await set_state(conn, "held", reason)
    log.error(
        "%s is held: %s; peersync rebaseline %s --database %s", hub.name, reason, peer, hub.name
    )
    hub.recheck.tell()

"""How one database is with one peer: what its syncs, its periodic sync and its proofs say together.

Pure. Without a full sync from or to a peer the state is "never synced", and a peer that does not
answer is "unreachable", whatever the last sync said. A node that only gives is fine when what it
gave arrived; it is never told to take an older copy back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from peersync.agent.jobs import JobView
from peersync.agent.periodic.answers import LinkView
from peersync.agent.proof.view import ProofSummary
from peersync.agent.status_sentence import FINE, ORDER, differs
from peersync.agent.status_view import LinkStatus
from peersync.core.errors import PeersyncError
from peersync.core.words import counted
from peersync.transport.peers import Peer

LOOKED_AT = 200


def with_changes(
    link: LinkStatus, view: LinkView | None, now: str | None, proof: ProofSummary | None = None
) -> LinkStatus:
    """The same where changes travel by themselves; a full sync that runs is shown all the same.

    Rows that a join has left out never come by themselves: it is "partly" until it is verified.
    """
    if view is None:
        return link
    if now is not None:
        return msgspec.structs.replace(link, periodic=view)
    if link.state == "partly" and view.state in FINE and not _verified_since(link, proof):
        problem = "; ".join(filter(None, (link.problem, view.problem)))
        verify = f"mend that, then: peersync verify {link.peer} --database {link.database} --rows"
        hint = f"{link.hint}; {verify}" if link.hint else verify
        return msgspec.structs.replace(link, problem=problem, hint=hint, periodic=view)
    return msgspec.structs.replace(
        link, state=view.state, problem=view.problem, hint=view.hint, periodic=view
    )


def _verified_since(link: LinkStatus, proof: ProofSummary | None) -> bool:
    """Whether a proof says by itself what became of what the last full sync left out."""
    if proof is None or proof.not_compared:
        return False
    checked = datetime.fromisoformat(proof.checked_at)
    synced = filter(None, (link.last_sync, link.last_given))
    return all(datetime.fromisoformat(at) < checked for at in synced)


def with_proof(link: LinkStatus, proof: ProofSummary | None) -> LinkStatus:
    """The same with what was proved; a difference is said beside what is worse."""
    link = msgspec.structs.replace(link, proof=proof)
    if proof is None or not differs(link):
        return link
    words = f"{counted(proof.differing, 'table')} differed when it was verified"
    both = (words, link.problem) if link.state in FINE else (link.problem, words)
    hint = f"peersync verify {link.peer} --database {link.database} --rows"
    return msgspec.structs.replace(
        link,
        problem="; ".join(filter(None, both)),
        hint=hint if link.state in FINE else link.hint or hint,
    )


@dataclass(frozen=True)
class _Way:
    """What went one way between a database and a peer, newest first. A cancel changes nothing."""

    ended: list[JobView]

    @property
    def last(self) -> JobView | None:
        """A sync of some tables that went well says nothing of what a whole one has left out."""
        found = [e for e in self.ended if e.state != "cancelled"]
        if found and found[0].chosen_tables and found[0].state == "done":
            return next((e for e in found if not e.chosen_tables), found[0])
        return found[0] if found else None

    @property
    def good(self) -> str | None:
        """When rows were last written, in whole or in part."""
        found = (e.completed_at for e in self.ended if e.state in ("done", "partly"))
        return next(found, None)

    @property
    def result(self) -> str | None:
        return self.ended[0].state if self.ended else None

    def state(self, well: str) -> str | None:
        if self.last is None:
            return None
        if self.last.undo == "undone":
            return "undone"
        return well if self.last.state == "done" else self.last.state

    @property
    def problem(self) -> str | None:
        if self.last is None or self.last.state == "done":
            return None
        return self.last.error.message if self.last.error else "some tables or rows were left out"


def _way(entries: list[JobView], peer: Peer, role: str) -> _Way:
    return _Way([e for e in entries if e.peer == peer.name and e.role == role and e.completed_at])


def link_status(
    node: str,
    database: str,
    peer: Peer,
    unreachable: PeersyncError | None,
    entries: list[JobView],
    now: str | None,
    *,
    read: int | None = None,
) -> LinkStatus:
    """`now` is what runs at this moment: syncing, giving or nothing.

    `read`: of how many syncs of the database `entries` are those of this peer.
    """
    taken, given = _way(entries, peer, "target"), _way(entries, peer, "source")
    took = now if now == "syncing" else taken.state("synced")
    gave = now if now == "giving" else given.state("given")
    state = min(filter(None, (took, gave)), key=ORDER.index, default="never synced")
    away = unreachable is not None and (peer.address is not None or bool(took))
    problem, hint = None, None
    if state == "never synced" and (read or len(entries)) >= LOOKED_AT:
        state, problem = "unknown", f"it is not among the newest {LOOKED_AT} syncs of {database}"
    if state in ("failed", "partly") and state == took and taken.last:
        problem, hint = taken.problem, f"peersync jobs show {taken.last.id[:8]}"
    elif state in ("failed", "partly") and given.last:
        problem, hint = given.problem, f"on {peer.name}: peersync jobs show {given.last.id[:8]}"
    elif state == "undone" and taken.last:
        problem = "what the last sync had changed here was undone"
        hint = f"to have it again: peersync pull {peer.name} --database {database}"
    elif state in ("syncing", "giving"):
        hint = "peersync jobs list"
    elif unreachable is not None and away:
        state, problem, hint = "unreachable", unreachable.message, unreachable.hint
    elif state == "never synced":
        take = f"peersync pull {peer.name} --database {database}"
        there = f"peersync pull {node} --database {database}"
        both = f"peersync join {peer.name} --database {database}"
        hint = f"to keep both in step: {both}; to take it once: {take}; on {peer.name}: {there}"
        hint = hint if peer.address is not None else f"on {peer.name}: {there}"
    return LinkStatus(
        database=database,
        peer=peer.name,
        state=state,
        last_sync=taken.good,
        last_result=taken.result,
        last_job=taken.ended[0].id if taken.ended else None,
        last_given=given.good,
        last_given_result=given.last.state if given.last else None,
        problem=problem,
        hint=hint,
        away=away,
    )

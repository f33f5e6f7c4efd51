"""What `peersync status` is answered: values that the command reads without loading the rest."""

from __future__ import annotations

import msgspec

from peersync.agent.periodic.answers import LinkView
from peersync.agent.proof.view import KeptView, ProofSummary
from peersync.core.progress import Progress


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One database with one peer.

    "unknown": the database, which has the history, is down, or the history that was read does
    not go back far enough. `last_sync` is what was taken from the peer, `last_given` what the
    peer took from here. `periodic`: where both are members of a group; the state is then that of
    their changes, whatever the last full sync was. `away`: the peer does not answer at the moment,
    also where the state is about something else. `proof`: what verifications have found.
    """

    database: str
    peer: str
    state: str
    last_sync: str | None = None
    last_result: str | None = None
    last_job: str | None = None
    last_given: str | None = None
    last_given_result: str | None = None
    problem: str | None = None
    hint: str | None = None
    periodic: LinkView | None = None
    away: bool = False
    proof: ProofSummary | None = None


class DatabaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`warnings`: sentences about what is in sync now, and will not stay so by itself.

    `kept`: how far its kept digests are; None where none are kept.
    """

    name: str
    reachable: bool
    problem: str | None = None
    hint: str | None = None
    warnings: tuple[str, ...] = ()
    kept: KeptView | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`warnings`: of the node itself, as a channel of notifications that fails."""

    node: str
    version: str
    sentence: str
    fine: bool
    databases: list[DatabaseStatus]
    warnings: tuple[str, ...] = ()
    links: list[LinkStatus]
    running: list[Progress]
    giving: list[Progress]

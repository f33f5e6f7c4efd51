"""Runs that have ended, as facts: what failed lasts until the same goes well.

A run that somebody typed is said once when it failed: they saw it, and it may never be run
again. One of a schedule or a script lasts. A full sync into a database that is no member shows
in the status, so it is no fact of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from peersync.agent.jobview import JobView
from peersync.agent.orchestration.bulk_outcome import BulkView
from peersync.agent.orchestration.outcome import CompleteView
from peersync.core.incidents import Fact
from peersync.core.results import ErrorRecord
from peersync.core.words import counted
from peersync.postgres.sets import SetRun

Outcome = Literal["good", "partial", "failed", "none"]
_OUTCOMES: Final[dict[str, Outcome]] = {
    "success": "good", "done": "good", "partial": "partial", "partly": "partial",
    "error": "failed", "failed": "failed", "interrupted": "failed",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ended:
    """`what` in words: "the complete sync of shop". `lasts`: until the next good one."""

    key: str
    what: str
    outcome: Outcome
    lasts: bool
    hint: str
    database: str | None = None
    peer: str | None = None
    problem: str | None = None
    rows: int = 0

    def fact(self, now: float) -> Fact | None:
        """None for a run that says nothing, as one that was cancelled."""
        if self.outcome == "none":
            return None
        event = {"good": "completed", "partial": "partial", "failed": "failed"}[self.outcome]
        title, impact = {
            "good": (f"{self.what} has completed", f"{counted(self.rows, 'row')} came or went"),
            "partial": (f"{self.what} was done in part", "something was left out: see below"),
            "failed": (f"{self.what} failed", "what it was to bring up to date may be old"),
        }[self.outcome]
        return Fact(
            key=self.key,
            event=event,
            title=title,
            impact=impact,
            since=now,
            database=self.database,
            peer=self.peer,
            problem=self.problem,
            hint=self.hint,
            sticky=self.outcome != "good" and self.lasts,
        )


def of_job(job: JobView, *, shown: bool) -> Ended:
    """`shown`: the status shows how it ended, so only a good end is told here."""
    outcome = _OUTCOMES.get(job.state, "none")
    return Ended(
        key=f"job/{job.id}",
        what=f"the full sync of {job.database} from {job.peer}",
        outcome="none" if shown and outcome != "good" else outcome,
        lasts=False,
        hint=f"peersync jobs show {job.id[:8]}",
        database=job.database,
        peer=job.peer,
        problem=_words(job.error),
        rows=job.progress.rows if job.progress else 0,
    )


def of_complete(view: CompleteView) -> Ended:
    failed = [one for one in view.peers if one.status in ("error", "partial")] + view.left
    words = [f"{one.peer}: {_words(one.error) or one.reason or one.status}" for one in failed]
    outcome = _OUTCOMES.get(view.status, "none")
    if view.peers and view.peers_skipped == view.peers_total and not view.left:
        outcome = "none"  # all of them are paused, as somebody wanted
    return Ended(
        key=f"complete/{view.database}",
        what=f"the complete sync of {view.database}",
        outcome=outcome,
        lasts=view.sync_type != "manual",
        hint=f"peersync complete-sync --database {view.database} --retry-failed {view.id}",
        database=view.database,
        problem="; ".join(words) or None,
        rows=view.rows,
    )


def of_bulk(view: BulkView) -> Ended:
    """Databases whose complete sync failed were told by that; the others are here."""
    failed = [one for one in view.databases if one.complete_id is None and one.status == "error"]
    outcome = "good" if view.success else "failed" if failed else "none"
    words = [f"{one.database}: {_words(one.error) or one.reason or one.status}" for one in failed]
    return Ended(
        key="bulk",
        what="the bulk sync",
        outcome="failed" if view.status == "interrupted" else outcome,  # type: ignore[arg-type]
        lasts=view.sync_type != "manual",
        hint="peersync bulk-sync --dry-run",
        problem="; ".join(words) or view.message,
        rows=view.rows,
    )


def of_set(run: SetRun) -> Ended:
    return Ended(
        key=f"set/{run.set}/{run.peer}",
        what=f"table set {run.set} with {run.peer}",
        outcome=_OUTCOMES.get(run.status, "none"),
        lasts=run.sync_type != "manual",
        hint=f"peersync run --set {run.set} --force",
        database=run.database,
        peer=run.peer,
        problem=_words(run.error) or run.reason,
        rows=run.rows,
    )


def _words(error: ErrorRecord | None) -> str | None:
    if error is None:
        return None
    return f"{error.message}: {error.detail}" if error.detail else error.message

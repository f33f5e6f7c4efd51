"""The table of the routes that the Unix socket and the people's listener have in common.

What a route takes and gives is named here by the types that its handler reads and answers.
"""

from __future__ import annotations

from typing import Any, Final

from peersync.agent.admin_api import CancelQuery, ProgressQuery
from peersync.agent.analytics import CostReport
from peersync.agent.analytics_api import CostQuery, DaysQuery, ExportQuery, HoursQuery
from peersync.agent.analytics_view import Analytics, Anomalies, DayOfPeer, LagTrends
from peersync.agent.check_result import CheckResult
from peersync.agent.jobview import JobView, Started
from peersync.agent.notify.api import (
    ChannelTest,
    DismissRequest,
    NotifyView,
    QuietRequest,
    TestRequest,
)
from peersync.agent.orchestration.bulk_outcome import BulkPlan, BulkRequest, BulkView
from peersync.agent.orchestration.complete_api import CancelRequest
from peersync.agent.orchestration.entries import ScheduleView
from peersync.agent.orchestration.outcome import CompletePlan, CompleteRequest, CompleteView
from peersync.agent.orchestration.schedule_api import ScheduleRequest, SchedulesView
from peersync.agent.orchestration.sets import SetsPlan, SetsRequest, SetsResult
from peersync.agent.orchestration.sets_api import SetQuery, SetsHistory
from peersync.agent.people.operation import EVENTS, FOUND, JSON, KEYED, TAKEN, Number, Operation
from peersync.agent.periodic.admin_api import (
    ChangeTables,
    EditQuarantined,
    InDatabaseQuery,
    QuarantineQuery,
    ResolveConflict,
    RestoreConflict,
    RetryQuarantine,
    SkipQuarantined,
    TablesQuery,
)
from peersync.agent.periodic.answers import Lag, NowAnswer, PausedLinks
from peersync.agent.periodic.leaving import LeaveRequest, Left
from peersync.agent.periodic.look_api import SequencesRequest, TraceQuery, TraceQuestion
from peersync.agent.periodic.members_api import DirectionRequest, ExpireRequest, MembersView
from peersync.agent.periodic.routes import NowRequest, PauseRequest
from peersync.agent.periodic.settle_api import ConflictsQuery, SettleConflicts
from peersync.agent.requests import FullSyncRequest, UndoRequest
from peersync.agent.safe import SafeAnswer, SafeRequest
from peersync.agent.script_api import (
    ClearedHistory,
    ClearQuery,
    DatabaseQuery,
    HistoryQuery,
    LimitQuery,
    OfDatabaseQuery,
)
from peersync.agent.statistics_view import Statistics
from peersync.agent.status_view import Status
from peersync.core.progress import Progress
from peersync.core.undo import UndoReport
from peersync.postgres.log.chosen import TableView
from peersync.postgres.log.conflicts import ConflictView, Settled
from peersync.postgres.log.quarantine import QuarantineView, Tried
from peersync.postgres.log.sequence_views import SequencesCheck, SequencesPlan
from peersync.postgres.log.settling import BulkSettled
from peersync.postgres.log.trace import Trace
from peersync.transport.health import Alive, Readiness, ReadyQuery
from peersync.transport.peer_routes import (
    InviteReply,
    InviteRequest,
    InviteView,
    JoinRequest,
    PeerList,
    PeerView,
    PendingView,
    ProbeQuery,
    RightsRequest,
)


def _get(pattern: str, summary: str, answer: Any, **more: Any) -> Operation:
    return Operation("GET", pattern, summary, {200: answer}, **more)


def _post(pattern: str, summary: str, answers: Any, body: Any = None, **more: Any) -> Operation:
    told = answers if isinstance(answers, dict) else {200: answers}
    return Operation("POST", pattern, summary, told, body=body, **more)


_TEXT: Final = ("text/plain", "application/openmetrics-text")

OPERATIONS: Final = (
    # --- health -------------------------------------------------------------------------------
    _get("/healthz", "Whether the event loop turns", Alive),
    Operation(
        "GET",
        "/readyz",
        "Whether this node can do its work",
        {200: Readiness, 503: Readiness},
        query=ReadyQuery,
    ),
    _get("/metrics", "The numbers, for Prometheus", str, media=_TEXT),
    _get("/api/admin/status", "One sentence, and what it rests on", Status),
    _get("/api/admin/check", "Everything that a sync needs, with what mends it", list[CheckResult]),
    # --- full syncs ---------------------------------------------------------------------------
    _post(
        "/api/admin/sync/full-sync",
        "Plan or start a full sync",
        {200: Started, 202: Started},
        FullSyncRequest,
        errors=TAKEN,
    ),
    _post(
        "/api/sync/safe",
        "Start a full sync unless one runs",
        {202: SafeAnswer, 409: SafeAnswer},
        SafeRequest,
        errors=(404, 422),
        key=True,
    ),
    _get(
        "/api/sync/backup-progress",
        "How far a sync is",
        Progress,
        query=ProgressQuery,
        errors=FOUND,
    ),
    _get("/api/admin/jobs", "The newest jobs", list[JobView], query=LimitQuery),
    _get("/api/admin/jobs/{job}", "One job, by the beginning of its id", JobView, errors=FOUND),
    _get(
        "/api/admin/jobs/{job}/events",
        "Live progress of one job",
        str,
        media=(EVENTS,),
        errors=FOUND,
    ),
    _post(
        "/api/admin/jobs/{job}/cancel",
        "Stop a job",
        {202: JobView},
        query=CancelQuery,
        errors=TAKEN,
    ),
    _post("/api/admin/jobs/{job}/resume", "Take up a failed sync", {202: JobView}, errors=TAKEN),
    _post(
        "/api/admin/jobs/{job}/undo",
        "Put back what a sync changed here",
        UndoReport,
        UndoRequest,
        errors=TAKEN,
    ),
    # --- history and statistics ---------------------------------------------------------------
    _get("/api/sync/history", "Syncs", list[JobView], query=HistoryQuery, errors=FOUND),
    Operation(
        "DELETE",
        "/api/sync/history",
        "Forget ended syncs",
        {200: ClearedHistory},
        query=ClearQuery,
        errors=FOUND,
    ),
    _get(
        "/api/sync/statistics",
        "What the syncs of each database add up to",
        Statistics,
        query=DatabaseQuery,
        errors=FOUND,
    ),
    _get(
        "/api/admin/statistics",
        "Days, peers, velocity and growth",
        Analytics,
        query=DaysQuery,
        errors=FOUND,
    ),
    _get(
        "/api/admin/statistics/export",
        "A row for each database, peer and day",
        list[DayOfPeer],
        query=ExportQuery,
        errors=FOUND,
        media=(JSON, "text/csv"),
    ),
    _get(
        "/api/admin/statistics/anomalies",
        "Days that are not like the days before",
        Anomalies,
        query=DaysQuery,
        errors=FOUND,
    ),
    _get(
        "/api/admin/statistics/cost",
        "What the transfers cost",
        list[CostReport],
        query=CostQuery,
        errors=FOUND,
    ),
    _get(
        "/api/admin/statistics/lag",
        "The lag of each link over time",
        LagTrends,
        query=HoursQuery,
        errors=FOUND,
    ),
    # --- periodic sync ------------------------------------------------------------------------
    _get("/api/admin/sync/lag", "The state of every link", Lag, query=DatabaseQuery, errors=FOUND),
    _post("/api/admin/sync/now", "Sync now", NowAnswer, NowRequest, errors=FOUND),
    _post(
        "/api/admin/sync/pause", "Pause or resume links", PausedLinks, PauseRequest, errors=FOUND
    ),
    _get(
        "/api/admin/members",
        "Who keeps a database in step",
        MembersView,
        query=InDatabaseQuery,
        errors=FOUND,
    ),
    _post(
        "/api/admin/members/expire",
        "Wait for a member no more",
        MembersView,
        ExpireRequest,
        errors=TAKEN,
    ),
    _post(
        "/api/admin/members/direction",
        "Make a database one-way",
        MembersView,
        DirectionRequest,
        errors=FOUND,
    ),
    _post("/api/admin/periodic/leave", "Leave the group", Left, LeaveRequest, errors=TAKEN),
    _get(
        "/api/admin/conflicts",
        "Conflicts, newest first",
        list[ConflictView],
        query=ConflictsQuery,
        errors=FOUND,
    ),
    _get(
        "/api/admin/conflicts/{id}",
        "One conflict with both rows",
        ConflictView,
        query=InDatabaseQuery,
        path=Number,
        errors=FOUND,
    ),
    _post(
        "/api/admin/conflicts/{id}/restore",
        "Write the side that lost",
        Settled,
        RestoreConflict,
        path=Number,
        errors=TAKEN,
    ),
    _post(
        "/api/admin/conflicts/{id}/resolve",
        "Decide a conflict that waits",
        Settled,
        ResolveConflict,
        path=Number,
        errors=TAKEN,
    ),
    _post(
        "/api/admin/conflicts/settle",
        "Settle many conflicts, or count them",
        BulkSettled,
        SettleConflicts,
        errors=TAKEN,
    ),
    _get(
        "/api/admin/quarantine",
        "Changes that could not be applied",
        list[QuarantineView],
        query=QuarantineQuery,
        errors=FOUND,
    ),
    _get(
        "/api/admin/quarantine/{id}",
        "One of them with its row",
        QuarantineView,
        query=InDatabaseQuery,
        path=Number,
        errors=FOUND,
    ),
    _post(
        "/api/admin/quarantine/retry",
        "Try them again",
        list[Tried],
        RetryQuarantine,
        errors=TAKEN,
    ),
    _post(
        "/api/admin/quarantine/{id}/edit",
        "Change its values and try again",
        Tried,
        EditQuarantined,
        path=Number,
        errors=TAKEN,
    ),
    _post(
        "/api/admin/quarantine/{id}/skip",
        "Leave it out for good",
        Tried,
        SkipQuarantined,
        path=Number,
        errors=TAKEN,
    ),
    _get(
        "/api/admin/tables",
        "Which tables are captured, and which not and why",
        list[TableView],
        query=TablesQuery,
        errors=FOUND,
    ),
    _post("/api/admin/tables", "Change them", list[TableView], ChangeTables, errors=TAKEN),
    _post(
        "/api/admin/sequences/plan",
        "How sequences would be set",
        SequencesPlan,
        SequencesRequest,
        errors=TAKEN,
    ),
    _post(
        "/api/admin/sequences/apply",
        "Set them",
        SequencesPlan,
        SequencesRequest,
        errors=TAKEN,
    ),
    _get(
        "/api/admin/sequences/check",
        "Whether two nodes can draw the same number",
        SequencesCheck,
        query=InDatabaseQuery,
        errors=FOUND,
    ),
    _get("/api/admin/trace", "Where one row stands", Trace, query=TraceQuery, errors=TAKEN),
    _post("/api/admin/trace", "The same by a body", Trace, TraceQuestion, errors=TAKEN),
    # --- complete and bulk syncs, sets, schedules ---------------------------------------------
    _post(
        "/api/complete-sync",
        "One database with all its peers",
        {200: CompletePlan, 202: CompleteView},
        CompleteRequest,
        errors=KEYED,
        key=True,
    ),
    _get(
        "/api/complete-sync/history",
        "Complete syncs, newest first",
        list[CompleteView],
        query=OfDatabaseQuery,
        errors=FOUND,
    ),
    _get("/api/complete-sync/{id}", "One complete sync", CompleteView, errors=FOUND),
    _post(
        "/api/complete-sync/{id}/cancel",
        "Stop it",
        {202: CompleteView},
        CancelRequest,
        errors=TAKEN,
    ),
    _post(
        "/api/admin/bulk-sync",
        "Every database, one after the other",
        {200: BulkPlan, 202: BulkView},
        BulkRequest,
        errors=TAKEN,
    ),
    _get("/api/admin/bulk-sync", "Bulk syncs, newest first", list[BulkView], query=LimitQuery),
    _get("/api/admin/bulk-sync/{id}", "One bulk sync", BulkView, errors=FOUND),
    _post("/api/admin/bulk-sync/{id}/cancel", "Stop it", {202: BulkView}, errors=TAKEN),
    _get("/api/admin/sets", "Table sets, and why they are not run now", SetsPlan),
    _post("/api/admin/sets/plan", "What a run would do", SetsPlan, SetsRequest, errors=TAKEN),
    _post("/api/admin/sets/run", "Run what is due", SetsResult, SetsRequest, errors=TAKEN),
    _get("/api/admin/sets/history", "Runs of sets", SetsHistory, query=SetQuery, errors=FOUND),
    _get("/api/admin/schedules", "What this node starts by itself", SchedulesView),
    _post(
        "/api/admin/schedules/{name}/pause",
        "Pause a schedule",
        ScheduleView,
        ScheduleRequest,
        errors=FOUND,
    ),
    _post(
        "/api/admin/schedules/{name}/resume",
        "Resume it",
        ScheduleView,
        ScheduleRequest,
        errors=FOUND,
    ),
    _post(
        "/api/admin/schedules/{name}/run",
        "Start it now",
        {202: ScheduleView},
        ScheduleRequest,
        errors=TAKEN,
    ),
    # --- notifications ------------------------------------------------------------------------
    _get("/api/admin/notify", "What lasts, and how the channels do", NotifyView),
    _post("/api/admin/notify/test", "Send a test", list[ChannelTest], TestRequest, errors=FOUND),
    _post("/api/admin/notify/quiet", "Be quiet for a while", NotifyView, QuietRequest),
    _post(
        "/api/admin/notify/dismiss",
        "Forget an incident",
        NotifyView,
        DismissRequest,
        errors=FOUND,
    ),
    # --- peers --------------------------------------------------------------------------------
    _get("/api/admin/peers", "This node and its peers", PeerList, query=ProbeQuery),
    _post(
        "/api/admin/peers/invite",
        "Make a code for another server",
        {201: InviteReply},
        InviteRequest,
        errors=TAKEN,
    ),
    _post(
        "/api/admin/peers/join",
        "Pair with the server that made a code",
        {201: PeerView},
        JoinRequest,
        errors=TAKEN,
    ),
    _get("/api/admin/peers/invites", "The invitations, without their secrets", list[InviteView]),
    Operation(
        "DELETE",
        "/api/admin/peers/invites/{id}",
        "Revoke an invitation",
        {200: InviteView},
        errors=TAKEN,
    ),
    _get("/api/admin/peers/pending", "Who waits to be accepted", list[PendingView]),
    _post(
        "/api/admin/peers/pending/{id}/accept",
        "Make a node that waits a peer",
        PeerView,
        errors=TAKEN,
    ),
    _post(
        "/api/admin/peers/pending/{id}/refuse",
        "Turn a node that waits away",
        PendingView,
        errors=TAKEN,
    ),
    Operation(
        "PUT",
        "/api/admin/peers/{name}/rights",
        "What a peer may do",
        {200: PeerView},
        body=RightsRequest,
        errors=FOUND,
    ),
    Operation("DELETE", "/api/admin/peers/{name}", "Remove a peer", {200: PeerView}, errors=FOUND),
)

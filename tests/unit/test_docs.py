"""What the documents say is what the code does: fields, links, routes, modules, commands."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peersync.agent.admin_api import AdminApi
from peersync.agent.analytics import (
    Compared,
    CostOf,
    CostReport,
    Day,
    ForecastView,
    LastRun,
    Measures,
    PeerTrend,
    RunCost,
    Unusual,
    Velocity,
)
from peersync.agent.analytics_api import AnalyticsApi
from peersync.agent.analytics_view import (
    Analytics,
    Anomalies,
    DatabaseAnalytics,
    LagPoint,
    LagTrends,
    LinkTrend,
)
from peersync.agent.check_result import CheckResult
from peersync.agent.delta.api import DeltaApi
from peersync.agent.jobs import JobView
from peersync.agent.notify.api import (
    ChannelTest,
    ChannelView,
    IncidentView,
    NotifyApi,
    NotifyView,
)
from peersync.agent.orchestration.bulk_api import BulkApi
from peersync.agent.orchestration.bulk_outcome import (
    BulkDatabase,
    BulkPlan,
    BulkView,
    PlannedDatabase,
)
from peersync.agent.orchestration.complete_api import CompleteApi
from peersync.agent.orchestration.entries import ScheduleView
from peersync.agent.orchestration.outcome import (
    CompletePlan,
    CompleteView,
    PeerResult,
    PlannedPeer,
)
from peersync.agent.orchestration.schedule_api import ScheduleApi
from peersync.agent.orchestration.sets import PlannedSet, SetsPlan, SetsResult
from peersync.agent.orchestration.sets_api import SetsApi
from peersync.agent.peer_api import PeerApi
from peersync.agent.people import openapi
from peersync.agent.people.login_api import LoggedIn, LoginApi, Me
from peersync.agent.people.overview import Counts, Overview, PeerOverview
from peersync.agent.people.overview_api import OverviewApi
from peersync.agent.people.people_api import (
    OneTimeLink,
    PeopleApi,
    SessionView,
    Settings,
    TokenView,
    UserView,
)
from peersync.agent.periodic.admin_api import OperatorApi
from peersync.agent.periodic.answers import LinkProof, LinkView, NowAnswer, PausedLinks
from peersync.agent.periodic.leaving import Leaving, Left
from peersync.agent.periodic.look_api import LookApi
from peersync.agent.periodic.members_api import MembersApi, MembersView, MemberView
from peersync.agent.periodic.routes import PeriodicApi
from peersync.agent.periodic.settle_api import SettleApi
from peersync.agent.plan import Plan
from peersync.agent.proof.repair_api import RepairApi
from peersync.agent.proof.repair_view import RepairView
from peersync.agent.proof.verify_api import VerifyApi
from peersync.agent.proof.view import KeyView, ProofSummary, ProofView, TableProof, VerifyView
from peersync.agent.safe import RunningSync, SafeAnswer
from peersync.agent.script_api import ClearedHistory
from peersync.agent.statistics_view import (
    DatabaseStatistics,
    LastSync,
    PeerStatistics,
    Statistics,
    SyncTotals,
)
from peersync.agent.status_view import DatabaseStatus, LinkStatus, Status
from peersync.agent.stuck import StuckSync
from peersync.agent.tableplan import TablePlan
from peersync.cli.context import Context
from peersync.cli.main import VERBS, cli
from peersync.cli.watch import result
from peersync.core.progress import Progress, StepProgress
from peersync.core.results import ErrorRecord, TableResult
from peersync.core.tables import TableProgress, TablesProgress
from peersync.postgres.log.chosen import TableView
from peersync.postgres.log.conflicts import ConflictSide, ConflictView, Settled
from peersync.postgres.log.quarantine import QuarantineView, Tried
from peersync.postgres.log.sequence_views import (
    CheckedSequence,
    SequencePlan,
    SequencesCheck,
    SequencesPlan,
)
from peersync.postgres.log.settling import BulkSettled, Outcome, TableCount
from peersync.postgres.log.trace import RowState, Trace, TraceEntry
from peersync.postgres.sets import SetRun
from peersync.transport import app, health, line_routes, peer_routes, renewal
from peersync.transport.peer_routes import (
    InviteReply,
    InviteView,
    PeerList,
    PeerView,
    PendingView,
)
from peersync.wire.digests import PATH as DIGESTS_PATH

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
STRUCTS = [
    TableResult,
    Progress,
    StepProgress,
    TablesProgress,
    TableProgress,
    JobView,
    ErrorRecord,
    Plan,
    TablePlan,
    Status,
    DatabaseStatus,
    LinkStatus,
    VerifyView,
    RepairView,
    TableProof,
    KeyView,
    ProofView,
    ProofSummary,
    LinkView,
    NowAnswer,
    LinkProof,
    Left,
    MembersView,
    MemberView,
    PausedLinks,
    CheckResult,
    PeerList,
    PeerView,
    InviteReply,
    InviteView,
    PendingView,
    SafeAnswer,
    RunningSync,
    ClearedHistory,
    Statistics,
    DatabaseStatistics,
    LastSync,
    SyncTotals,
    PeerStatistics,
    Analytics,
    DatabaseAnalytics,
    Measures,
    Day,
    PeerTrend,
    LastRun,
    Velocity,
    Compared,
    Anomalies,
    Unusual,
    LagTrends,
    LinkTrend,
    LagPoint,
    CostReport,
    CostOf,
    RunCost,
    ForecastView,
    StuckSync,
    ConflictView,
    ConflictSide,
    Settled,
    BulkSettled,
    Outcome,
    TableCount,
    QuarantineView,
    Tried,
    TableView,
    SequencesPlan,
    SequencePlan,
    SequencesCheck,
    CheckedSequence,
    Trace,
    RowState,
    TraceEntry,
    NotifyView,
    ChannelView,
    IncidentView,
    ChannelTest,
    SetsPlan,
    PlannedSet,
    SetsResult,
    SetRun,
    ScheduleView,
    CompleteView,
    PeerResult,
    CompletePlan,
    PlannedPeer,
    BulkView,
    BulkDatabase,
    BulkPlan,
    PlannedDatabase,
    Overview,
    Counts,
    PeerOverview,
    UserView,
    OneTimeLink,
    SessionView,
    TokenView,
    Settings,
    LoggedIn,
    Me,
]


def section(page: Path, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", page.read_text(), re.M | re.S)
    assert found, f"{page.name} has no section {title}"
    return found[1]


def documented_fields(title: str) -> list[str]:
    rows = re.findall(r"^\| (\w+) \|", section(DOCS / "cli-json.md", title), re.M)
    assert rows[0] == "field"
    return rows[1:]


def examples(page: Path) -> Iterator[Any]:
    for block in re.findall(r"^```json\n(.*?)^```", page.read_text(), re.M | re.S):
        yield json.loads(block)


# --- JSON -----------------------------------------------------------------------------------
@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_of_the_json_output_is_documented(struct: type[msgspec.Struct]) -> None:
    fields = [field.encode_name for field in msgspec.structs.fields(struct)]
    assert documented_fields(struct.__name__) == fields


def a_job() -> JobView:
    return JobView(
        id="0" * 32,
        kind="full-sync",
        role="target",
        action="pull",
        database="shop",
        peer="server-a",
        state="done",
        progress=None,
        tables=[TableResult(schema="public", name="t", result="done", inserted=2)],
        seconds={},
        error=None,
        resumable=False,
        requested_by="me",
        started_at="",
        completed_at=None,
    )


def test_the_result_of_a_pull_is_documented() -> None:
    told = result(a_job())
    assert documented_fields("result") == list(told)
    nothing = dict.fromkeys(("updated", "unchanged", "skipped", "deleted", "kept_local"), 0)
    assert told["rows"] == {"inserted": 2, **nothing}


def test_the_examples_of_the_json_output_have_its_form() -> None:
    converted = 0
    for example in examples(DOCS / "cli-json.md"):
        assert example.pop("schema_version") == 1
        if "plan" in example:
            msgspec.convert(strictly(example["plan"], Plan), Plan)
        elif "progress" in example:
            msgspec.convert(strictly(example["progress"], Progress), Progress)
        elif "checks" in example:
            msgspec.convert(example["checks"], list[CheckResult])
        elif "peers" in example:
            msgspec.convert(strictly(example, PeerList), PeerList)
        elif "sentence" in example:
            msgspec.convert(strictly(example, Status), Status)
        else:
            assert list(example) == list(result(a_job()))
            msgspec.convert(example["tables"], list[TableResult])
        converted += 1
    assert converted >= 6


def strictly(example: dict[str, Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The example, which shows every field and no other."""
    assert list(example) == [field.encode_name for field in msgspec.structs.fields(struct)]
    return example


# --- the HTTP API ---------------------------------------------------------------------------
def routes_in(source: object) -> set[tuple[str, str]]:
    """(method, path) of every `web.METHOD("path"` in the code."""
    text = inspect.getsource(source)  # type: ignore[arg-type]
    found = re.findall(r"web\.(get|post|put|patch|delete)\(\s*f?\"([^\"]+)\"", text)
    found += re.findall(r"web\.(get|post|put|patch|delete)\(\s*([A-Z_]+),", text)
    constants = {"PAIR_PATH", "PING_PATH", "ADMIN_PATH"}
    named = {name: getattr(peer_routes, name) for name in constants}
    named |= {name: getattr(line_routes, name) for name in ("REACH_PATH", "LINE_PATH")}
    named |= {"SUCCESSION_PATH": app.SUCCESSION_PATH}
    return {
        (
            method.upper(),
            named.get(path, path)
            .replace("{ADMIN_PATH}", peer_routes.ADMIN_PATH)
            .replace("{{", "{")
            .replace("}}", "}"),
        )
        for method, path in found
    }


def test_every_route_is_in_the_api_page_and_no_other() -> None:
    real = routes_in(AdminApi) | routes_in(PeerApi) | routes_in(peer_routes) | routes_in(health)
    real |= routes_in(line_routes) | routes_in(renewal) | routes_in(PeriodicApi)
    real |= routes_in(AnalyticsApi) | routes_in(NotifyApi)
    real |= routes_in(DeltaApi)
    real |= routes_in(SettleApi)
    real |= routes_in(OperatorApi) | routes_in(LookApi) | routes_in(MembersApi) | routes_in(Leaving)
    real |= routes_in(BulkApi) | routes_in(CompleteApi)
    real |= routes_in(VerifyApi) | routes_in(RepairApi) | {("POST", DIGESTS_PATH)}
    real |= routes_in(SetsApi) | routes_in(ScheduleApi)
    real |= routes_in(LoginApi) | routes_in(PeopleApi) | routes_in(OverviewApi) | routes_in(openapi)
    text = (DOCS / "api.md").read_text()
    rows = re.findall(r"^\| `(GET|POST|PUT|PATCH|DELETE) (/\S+)` \|", text, re.M)
    assert set(rows) == real


# --- the tree -------------------------------------------------------------------------------
def test_every_module_has_its_line_in_the_architecture() -> None:
    text = (DOCS / "ARCHITECTURE.md").read_text()
    package = ROOT / "peersync"
    for room in sorted(p.parent for p in package.rglob("*/__init__.py")):
        name = room.relative_to(package).as_posix()
        found = re.search(rf"^### {name}\n(.*?)(?=^##)", text, re.M | re.S)
        assert found, f"ARCHITECTURE.md has no section on {name}"
        named = re.findall(r"^\| `(\w+)` \|", found[1], re.M)
        modules = {p.stem for p in room.glob("*.py")} - {"__init__"}
        assert set(named) == modules, name


def test_every_link_between_the_documents_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if re.match(r"https?:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name) if name else page
            assert file.exists(), f"{page.name} links {target}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
                anchors = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
                assert anchor in anchors, f"{page.name} links {target}"


def test_every_command_that_the_documents_type_exists() -> None:
    names = cli.list_commands(cli.make_context("peersync", ["init"], obj=Context()))
    assert set(VERBS) == set(names)
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.M | re.S):
            for verb in re.findall(r"^(?:server-\w\$ )?peersync (\w[\w-]*)", block, re.M):
                assert verb in names, f"{page.name} types peersync {verb}"


def test_the_readme_names_the_scripts_that_there_are() -> None:
    text = (ROOT / "README.md").read_text()
    for script in ("scripts/demo", "scripts/test"):
        assert f"```\n{script}\n```" in text
        assert (ROOT / script).stat().st_mode & 0o111

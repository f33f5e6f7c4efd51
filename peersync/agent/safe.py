"""Full syncs for scripts: where one is running already, the next is skipped and told so.

An Idempotency-Key makes a request harmless to repeat: for a day the same key gives the same
answer, and starts nothing. It is kept in the record of the sync that it started, and in memory
for what has no record here (a push). A skipped request is not kept: nothing came of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import msgspec

from peersync.agent.databases import Databases
from peersync.agent.jobs import Jobs
from peersync.agent.plan import Plan
from peersync.agent.requests import FullSyncRequest, start
from peersync.core.errors import BadRequest, KeyReused, Locked, PeersyncError
from peersync.postgres.history import Entry, History
from peersync.wire.messages import Options, SyncType

KEPT_S = 24 * 3600.0
_MAX_KEPT = 1000
_KEY = re.compile(r"[\x20-\x7e]{1,200}")


class SafeRequest(
    FullSyncRequest, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    """`POST /api/sync/safe`: a full sync's request, with the defaults of scripts."""

    action: str = "pull"
    sync_type: SyncType = "api"


class _KeyedOptions(Options, frozen=True, kw_only=True):
    """As they are kept in the record: with the request that they came from."""

    idempotency_key: str
    request_digest: str


class _KeyedRequest(SafeRequest, frozen=True, rename="camel", kw_only=True):
    idempotency_key: str
    request_digest: str

    @property
    def options(self) -> Options:
        return msgspec.convert(self, _KeyedOptions, from_attributes=True)


class RunningSync(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs the sync that is in the way; None for what is not known."""

    node: str | None = None
    pid: int | None = None
    job: str | None = None
    since: str | None = None


class SafeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request: a job, or the reason why there is none."""

    status: str  # started | skipped
    job: str | None = None
    plan: Plan | None = None
    reason: str | None = None
    hint: str | None = None
    holder: RunningSync | None = None


class _Kept(NamedTuple):
    digest: str
    answer: SafeAnswer
    at_s: float


class SafeSyncs:
    """`start` one. `now` gives monotonic seconds."""

    def __init__(
        self, jobs: Jobs, databases: Databases, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._jobs = jobs
        self._databases = databases
        self._now = now
        self._kept: dict[str, _Kept] = {}
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self, wanted: SafeRequest, key: str | None) -> SafeAnswer:
        """Raises KeyReused for the key of another request, and what a start is refused with."""
        if wanted.dry_run:
            raise BadRequest(
                "this starts a sync; it does not plan one",
                hint='For a plan: POST /api/admin/sync/full-sync with "dryRun": true',
            )
        if key is None:
            return await self._start(wanted)
        if not _KEY.fullmatch(key):
            raise BadRequest("an Idempotency-Key has 1 to 200 printable ASCII characters")
        digest = hashlib.sha256(msgspec.json.encode(wanted)).hexdigest()
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:  # a request that is repeated while it is answered waits for the answer
            if (earlier := await self._earlier(key, wanted.database)) is not None:
                if earlier.digest != digest:
                    raise KeyReused(
                        f"the Idempotency-Key {key!r} was used for another request",
                        hint="Give each request a key of its own; repeat it with the same body.",
                    )
                return earlier.answer
            answer = await self._start(_keyed(wanted, key, digest))
            if answer.job is not None:
                self._keep(key, _Kept(digest, answer, self._now()))
            return answer

    async def _start(self, wanted: SafeRequest) -> SafeAnswer:
        try:
            started = await start(self._jobs, wanted)
        except Locked as exc:
            holder = _holder(exc.data.get("holder"))
            return SafeAnswer(status="skipped", reason=exc.message, hint=exc.hint, holder=holder)
        return SafeAnswer(status="started", job=started.job, plan=started.plan)

    def _keep(self, key: str, kept: _Kept) -> None:
        self._kept[key] = kept
        for old in list(self._kept)[:-_MAX_KEPT]:
            del self._kept[old]

    async def _earlier(self, key: str, database_name: str) -> _Kept | None:
        kept = self._kept.get(key)
        if kept is not None and self._now() - kept.at_s < KEPT_S:
            return kept
        asked = await self._databases.ready(database_name)
        found = await History(asked).by_request_key(key)
        for other in self._databases:
            if found is None and other is not asked:
                try:
                    found = await History(other).by_request_key(key)
                except PeersyncError:
                    continue  # it is down: what it would say of this key is not about this sync
        return _from_record(found) if found is not None else None


def _keyed(wanted: SafeRequest, key: str, digest: str) -> SafeRequest:
    """For the record here. What is pushed has its record at the peer, with keys of its own."""
    if wanted.action != "pull":
        return wanted
    fields = msgspec.structs.asdict(wanted)
    return _KeyedRequest(**fields, idempotency_key=key, request_digest=digest)


def _from_record(entry: Entry) -> _Kept:
    plan = msgspec.convert(entry.plan, Plan) if entry.plan else None
    answer = SafeAnswer(status="started", job=entry.session, plan=plan)
    return _Kept(str(entry.options.get("request_digest")), answer, 0.0)


def _holder(told: Any) -> RunningSync | None:
    """It may come from a peer: what is not of its form is not passed on."""
    try:
        holder = msgspec.convert(told, RunningSync | None)
    except msgspec.ValidationError:
        return None
    if holder is None or holder.since is None:
        return holder
    return msgspec.structs.replace(holder, since=_iso(holder.since))


def _iso(since: str) -> str:
    try:
        return datetime.fromisoformat(since.replace(" UTC", "+00:00")).isoformat()
    except ValueError:
        return since

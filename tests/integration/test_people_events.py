"""What an open page is told, and how soon: syncs as they go, links as they change."""

from __future__ import annotations

import http.client
import time
from typing import Any

from tests.integration.people_rig import Page, add_user, log_in, make_token, read_event
from tests.plugins.nodes import TwoNodes

ROWS = (
    "CREATE TABLE items AS SELECT i AS id, md5(i::text) AS v FROM generate_series(1, 20000) i;"
    "ALTER TABLE items ADD PRIMARY KEY (id)"
)
SOON_S = 10.0  # 0.2 s on a quiet machine


def until(stream: http.client.HTTPResponse, state: str) -> dict[str, Any]:
    """The first overview in which the peer is like that."""
    while True:
        overview: dict[str, Any] = read_event(stream, "overview")
        if overview["peers"] and overview["peers"][0]["state"] == state:
            return overview


def test_a_full_sync_that_the_page_starts_is_seen_as_it_goes(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ROWS)
    target.grant()
    add_user(target)
    page, looker = log_in(target), Page(target, token=make_token(target, "viewer"))
    asked = {"action": "pull", "peer": "server-a", "database": "shop", "dryRun": True}
    assert looker.post("/api/admin/sync/full-sync", asked).status == 403
    plan = page.post("/api/admin/sync/full-sync", asked).json["plan"]
    assert plan["source"] == "server-a"
    with (
        page.open_stream("/api/admin/events") as stream,
        looker.open_stream("/api/admin/events") as second,
    ):
        assert stream.headers["Cache-Control"] == "no-store"
        assert until(stream, "never synced")["counts"]["running"] == 0
        started = page.post("/api/admin/sync/full-sync", {**asked, "dryRun": False})
        assert started.status == 202
        job = started.json["job"]
        seen = read_event(stream, "jobs")
        assert [progress["session"] for progress in seen["running"]] == [job]
        ended = read_event(stream, "ended")
        assert (ended["id"], ended["state"]) == (job, "done")
        overview = until(stream, "synced")
        assert overview["fine"]
        assert overview["peers"][0]["databases"][0]["last_job"] == job
        assert read_event(second, "ended")["id"] == job
    assert page.get("/api/admin/overview?filter=synced").json["peers_total"] == 1
    assert page.get("/api/admin/overview?filter=nobody").json["peers"] == []
    assert page.get("/api/admin/overview?limit=0").code == "bad-request"


def test_a_page_is_told_soon_when_a_link_changes(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ROWS)
    target.grant("join", "periodic")
    target.run("join", "server-a", "--yes")
    add_user(target)
    page = log_in(target)
    with page.open_stream("/api/admin/events", timeout_s=60) as stream:
        fine = until(stream, "in sync")
        assert fine["peers"][0]["rows_waiting"] == 0
        for paused, state in ((True, "paused"), (False, "in sync")):
            before = time.monotonic()
            assert page.post("/api/admin/sync/pause", {"paused": paused}).status == 200
            until(stream, state)
            assert time.monotonic() - before < SOON_S
        source.kill()
        seen = until(stream, "unreachable")
        assert "server-a" in seen["sentence"]
        assert not seen["fine"]
        source.start()
        until(stream, "in sync")
        before = time.monotonic()
        assert target.stop() == 0  # an open page holds nothing up
        assert time.monotonic() - before < 10

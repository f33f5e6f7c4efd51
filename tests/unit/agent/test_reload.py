"""What of a changed configuration a running agent takes at once, and what it says of the rest."""

from __future__ import annotations

import msgspec

from peersync.agent.reload import apply, changes
from peersync.config.model import Config


def config(**tables: object) -> Config:
    return msgspec.convert(tables, Config)


def test_each_changed_key_is_named() -> None:
    old = config(full_sync={"chunk_mib": 4}, database={"shop": {"conninfo": "a"}})
    new = config(
        full_sync={"chunk_mib": 2},
        log={"level": "debug"},
        database={"log": {"conninfo": "b"}, "shop": {"conninfo": "a2"}},
    )
    assert list(changes(old, new)) == [
        "database.log",
        "database.shop",
        "full_sync.chunk_mib",
        "log.level",
    ]
    assert list(changes(old, old)) == []


def test_the_live_part_is_taken_and_the_rest_stays() -> None:
    held = config(node={"name": "a"}, full_sync={"parallel": 2}, log={"format": "text"})
    seen_by_a_session = held.full_sync
    new = config(
        node={"name": "b"},
        full_sync={"parallel": 8, "chunk_mib": 1},
        network={"retry_for_s": 5.0},
        log={"level": "error", "format": "json"},
        database={"shop": {"conninfo": "x"}},
    )
    apply(held, new)
    assert (held.full_sync.chunk_mib, held.network.retry_for_s) == (1, 5.0)
    assert (held.log.level, held.log.format) == ("error", "text")
    assert (held.full_sync.parallel, held.node.name, held.database) == (2, "a", {})
    assert seen_by_a_session.chunk_mib == 4


def test_a_changed_password_is_named_and_not_shown() -> None:
    old = config(database={"shop": {"conninfo": "password=canary1"}})
    new = config(database={"shop": {"conninfo": "password=canary2"}})
    assert "canary" not in " ".join(changes(old, new))


def test_what_has_a_name_is_called_by_it() -> None:
    nightly = {"name": "nightly", "run": "bulk", "at": "every 1 day"}
    old = config(schedule=[nightly], peer={"server-b": {}})
    new = config(
        schedule=[{**nightly, "paused": True}],
        table_set=[{"name": "orders", "tables": ["orders"]}],
        channel=[{"name": "ops", "kind": "webhook", "url": "https://example.org/canary"}],
        peer={"server-b": {"price_per_gb": 0.5}},
    )
    named = ["peer.server-b", "table_set.orders", "schedule.nightly", "channel.ops"]
    assert list(changes(old, new)) == named
    assert list(changes(new, old)) == named

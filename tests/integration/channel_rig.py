"""Channels of notifications with messages for them, and what a failed one says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from peersync.agent.notify.channels import make_tries
from peersync.agent.notify.sender import Pauses, Sender, Tries
from peersync.config.orchestration import Channel
from peersync.core.errors import PeersyncError
from peersync.core.incidents import Fact, Incidents, Memory, Message, Notice, Rules

HOSTILE = 'shop\r\nBcc: x@evil.example\r\n\r\n<img src=x onerror="1"> <!channel> \x1b[31m'
T0 = 1_700_000_000.0


def a_notice(title: str = "shop does not sync with server-b", **more: Any) -> Notice:
    values: dict[str, Any] = {
        "kind": "opened",
        "event": "failed",
        "key": "k",
        "title": title,
        "impact": "changes of server-b do not arrive here",
        "since": T0,
        "lasted_s": 60.0,
        "database": "shop",
        "peer": "server-b",
        "problem": "connection refused",
        "hint": "peersync status",
    }
    return Notice(**{**values, **more})


def a_message(*notices: Notice, held_back: int = 0) -> Message:
    return Message(id="m-1", at=T0, notices=notices or (a_notice(),), held_back=held_back)


@asynccontextmanager
async def tries(**settings: Any) -> AsyncIterator[Tries]:
    yield make_tries(Channel(name="c", **settings), "server-a", {})


async def failure(**settings: Any) -> PeersyncError:
    async with tries(**settings) as channel:
        with pytest.raises(PeersyncError) as caught:
            await channel.send(a_message())
        assert channel.health.error is caught.value
    return caught.value


def words(error: PeersyncError) -> str:
    """All that is shown of it."""
    return f"{error.message} {error.detail} {error.hint}"


def private(path: Path, text: str) -> str:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


@asynccontextmanager
async def sending(*channels: Tries, pauses: Pauses) -> AsyncIterator[Incidents]:
    names = [channel.settings.name for channel in channels]
    events = frozenset({"failed"})
    rules = Rules(repeat_s=1e6, group_s=0, per_hour=1000)
    incidents = Incidents(rules, dict.fromkeys(names, events), Memory())
    senders = [Sender(channel, incidents, lambda: None, pauses) for channel in channels]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(s.run(), name=f"sender-{i}") for i, s in enumerate(senders)]
        try:
            yield incidents
        finally:
            for task in tasks:
                task.cancel()


def say(incidents: Incidents, key: str) -> None:
    fact = Fact(key=key, event="failed", title=key, impact="none", since=time.time())
    incidents.add(fact, time.time())
    incidents.say(time.time())


FAST = Pauses(first_s=0.02, longest_s=0.1)

"""A dead man's switch: a URL that is fetched while all is well, and URL/fail while it is not.

Whoever watches it (healthchecks and the like) cries when nothing comes any more: the one
notification that reaches people when this whole machine is down.
"""

from __future__ import annotations

from collections.abc import Mapping

from peersync.agent.notify.outlet import read_url
from peersync.agent.notify.post import Target
from peersync.config.orchestration import Channel
from peersync.core.incidents import Message


class Heartbeat:
    """Made in a thread: files are read. ConfigError."""

    def __init__(self, channel: Channel, _node: str, environ: Mapping[str, str]) -> None:
        self._target = Target(read_url(channel, environ))

    async def beat(self, *, failing: bool) -> None:
        await self._target.call("GET", below="/fail" if failing else "")

    async def send(self, _message: Message) -> None:
        """A test: the same as all being well."""
        await self.beat(failing=False)

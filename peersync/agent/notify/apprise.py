"""A hundred other services, through the library of that name, where it is installed.

It is imported when a channel asks for it, for it is large. It blocks, so it has one thread of
its own for each channel: what it does there delays nobody else.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from peersync.agent.notify.outlet import read_url
from peersync.agent.notify.text import Templates, subject
from peersync.config.orchestration import Channel
from peersync.core.errors import ConfigError, Undelivered
from peersync.core.incidents import Message


class Apprise:
    """Made in a thread: files are read, and the library is imported. ConfigError."""

    def __init__(self, channel: Channel, node: str, environ: Mapping[str, str]) -> None:
        try:
            library = importlib.import_module("apprise")
        except ImportError:
            raise ConfigError(
                "channels of kind apprise need the library of that name",
                hint="pip install 'peersync[apprise]', then restart the agent",
            ) from None
        for name in ("apprise", "urllib3"):  # they log URLs, which are secrets
            logging.getLogger(name).handlers = [logging.NullHandler()]
            logging.getLogger(name).propagate = False
        self._node = node
        self._templates = Templates.load()
        self._service = library.Apprise()
        if not self._service.add(read_url(channel, environ).reveal()):
            raise ConfigError("apprise does not know a service of such a URL")
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="peersync-apprise")

    async def send(self, message: Message) -> None:
        def notify() -> bool:
            text = self._templates.text(self._node, message)
            return bool(self._service.notify(body=text, title=subject(self._node, message)))

        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self._threads, notify):
            raise Undelivered("the service did not take the message", detail="apprise says no more")

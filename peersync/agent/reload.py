"""What a running agent does when its configuration file has changed (SIGHUP).

The file is read and checked again as a whole. A file that is not valid changes nothing. Of
a valid one, `log.level`, `[full_sync]` and `[network]` apply at once: to sessions and
connections that begin from now on. For everything else the log says that a restart is
needed. It opens and closes nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from peersync.agent.logs import set_level
from peersync.agent.systemd import Notifier
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.config.table import Table
from peersync.core.errors import ConfigError

log = logging.getLogger("peersync.config")

LIVE = ("full_sync", "network")
_NEEDS_THREADS = "full_sync.parallel"  # the pool of threads was made for the old value


class Reloader:
    """`ask` from the signal handler; `run` does it, once for each time it was asked."""

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        notifier: Notifier,
        changed: Callable[[], None],
    ) -> None:
        """`read` blocks and raises ConfigError; `changed` is told that `network` is new."""
        self._config = config
        self._read = read
        self._notifier = notifier
        self._changed = changed
        self._asked = asyncio.Event()

    def ask(self) -> None:
        self._asked.set()

    async def run(self, workers: Workers) -> None:
        """Runs for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._notifier.reloading()
            try:
                new = await workers.run(self._read)
            except ConfigError as error:
                words = f"{error.message}: {error.detail}" if error.detail else error.message
                log.error(  # noqa: TRY400  # a wrong file is no bug: no traceback
                    "the configuration is not valid, the old one stays: %s%s",
                    words,
                    f" ({error.hint})" if error.hint else "",
                )
            else:
                self._apply(new)
            self._notifier.ready()

    def _apply(self, new: Config) -> None:
        keys = list(changes(self._config, new))
        live = [key for key in keys if _is_live(key)]
        later = [key for key in keys if not _is_live(key)]
        apply(self._config, new)
        if any(key.startswith("network.") or key == "full_sync.in_flight" for key in live):
            self._changed()
        set_level(new.log.level)
        if live:  # a warning: at any usual level the log says when the rules changed
            log.warning("configuration read again: %s", ", ".join(live))
        else:
            log.info("configuration read again: nothing to change")
        if later:
            log.warning("restart the agent for these to take effect: %s", ", ".join(later))


def changes(old: Config, new: Config) -> Iterator[str]:
    """The dotted keys whose values differ; of databases, schedules and the like, their names."""
    for section in Config.__struct_fields__:
        before, after = (_by_key(getattr(config, section)) for config in (old, new))
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield f"{section}.{key}"


def _by_key(section: Any) -> Mapping[str, object]:
    """A table's values by key, tables that have names by name."""
    if isinstance(section, Mapping):
        return section
    if isinstance(section, tuple):
        return {table.name: table for table in section}
    return msgspec.structs.asdict(section)


def _is_live(key: str) -> bool:
    return key == "log.level" or (key.partition(".")[0] in LIVE and key != _NEEDS_THREADS)


def apply(config: Config, new: Config) -> None:
    """Puts the live part of `new` into `config`, which the whole agent holds.

    The one place where a Config changes: whole tables are exchanged, so whoever has read
    one keeps a consistent one.
    """
    full_sync = msgspec.structs.replace(new.full_sync, parallel=config.full_sync.parallel)
    tables: dict[str, Table] = {
        "full_sync": full_sync,
        "network": new.network,
        "log": msgspec.structs.replace(config.log, level=new.log.level),
    }
    for name, table in tables.items():
        msgspec.structs.force_setattr(config, name, table)

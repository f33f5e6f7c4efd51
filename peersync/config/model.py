"""What can be configured: one frozen structure for each table of the TOML file.

Owns the names, the types, the limits and the defaults. It reads nothing: `load` merges
file, environment and flags into these values. Sizes and durations are plain numbers with
the unit in the name. docs/configuration.md explains each key; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_origin

import msgspec

from peersync.config.filters import Filters
from peersync.config.orchestration import (
    Channel,
    Complete,
    Notify,
    PeerSettings,
    Schedule,
    Statistics,
    TableSet,
)
from peersync.config.people import People
from peersync.config.proof import Verify
from peersync.config.secret import mask_conninfo
from peersync.config.table import Table

# The descriptions are what a user is told in place of the pattern (`rules`).
_NAME = "1 to 63 of a-z, 0-9 and -, and not begin with -"
_DATABASE_NAME = "1 to 63 of a-z, 0-9, _ and -, and not begin with -"
_ADDRESS = 'HOST:PORT in quotes, for example "192.0.2.7:8791" or "[::1]:8791"'
_MEMORY = 'a number and kB, MB, GB or TB, in quotes, for example "128MB"'
# (?!\n): to Python "$" is also before a line break at the end, and "a\n" looks like "a" everywhere.
NodeName = Annotated[
    str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}(?!\n)$", description=_NAME)
]
OptionalNodeName = Annotated[
    str, msgspec.Meta(pattern=r"^(?!\n)$|^[a-z0-9][a-z0-9-]{0,62}(?!\n)$", description=_NAME)
]
DatabaseName = Annotated[
    str, msgspec.Meta(pattern=r"^[a-z0-9_][a-z0-9_-]{0,62}$", description=_DATABASE_NAME)
]
Address = Annotated[
    str,
    msgspec.Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]*):[0-9]{1,5}$", description=_ADDRESS),
]
OptionalAddress = Annotated[
    str,
    msgspec.Meta(pattern=r"^$|^(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+):[0-9]{1,5}$", description=_ADDRESS),
]
Memory = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,12} ?(kB|MB|GB|TB)$", description=_MEMORY)]
Count = Annotated[int, msgspec.Meta(ge=1, le=64)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400 * 30)]


class Node(Table, frozen=True):
    """This agent: its name, where it listens, where it keeps its things."""

    name: OptionalNodeName = ""  # `load` fills it in
    listen: Address = "0.0.0.0:8791"  # peers come from other servers, over mTLS
    advertise: OptionalAddress = ""
    admin: Address = "127.0.0.1:8790"
    socket: str = ""
    state_dir: str = ""
    spool_dir: str = ""


class Database(Table, frozen=True):
    """One database that is synced, under the name that its peers share."""

    conninfo: str
    password_file: str = ""
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    filter: Filters = ()
    active: bool = True
    demo: bool = False

    def __repr__(self) -> str:
        return f"Database(conninfo={mask_conninfo(self.conninfo)!r}, include={self.include!r})"


class FullSync(Table, frozen=True):
    """How a full sync uses the machine and the network."""

    chunk_mib: Annotated[int, msgspec.Meta(ge=1, le=6)] = 4
    parallel: Count = 2
    in_flight: Count = 4
    work_mem: Memory = "128MB"
    compression_level: Annotated[int, msgspec.Meta(ge=1, le=19)] = 1
    lock_timeout_s: Seconds = 30.0
    keep_spool_h: Annotated[float, msgspec.Meta(ge=0, le=8760)] = 24.0
    undo_keep_d: Annotated[float, msgspec.Meta(ge=0, le=3650)] = 7.0
    undo_max_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)] = 1024
    spool_max_gib: Annotated[float, msgspec.Meta(ge=0, le=1 << 20)] = 0.0  # up to 1 PiB


class Periodic(Table, frozen=True):
    """How changes travel between databases that are members of one group."""

    enabled: bool = True
    interval_s: Seconds = 30.0
    wake_up: bool = True
    beat_s: Seconds = 10.0
    lock_timeout_s: Seconds = 5.0
    max_clock_offset_s: Seconds = 60.0
    retention_d: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 14.0
    retention_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)] = 0


class Network(Table, frozen=True):
    """How long peers are waited for."""

    connect_timeout_s: Seconds = 10.0
    read_timeout_s: Seconds = 60.0
    retry_max_s: Seconds = 30.0
    retry_for_s: Seconds = 600.0
    reverse_lines: bool = True


class Log(Table, frozen=True):
    """What the agent says, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class Tools(Table, frozen=True):
    """Where PostgreSQL's client programs are, beside the usual places."""

    bindirs: tuple[str, ...] = ()


class Config(Table, frozen=True):
    """Everything, as `config show` prints it."""

    node: Node = msgspec.field(default_factory=Node)
    database: dict[DatabaseName, Database] = msgspec.field(default_factory=dict)
    peer: dict[NodeName, PeerSettings] = msgspec.field(default_factory=dict)
    full_sync: FullSync = msgspec.field(default_factory=FullSync)
    periodic: Periodic = msgspec.field(default_factory=Periodic)
    network: Network = msgspec.field(default_factory=Network)
    log: Log = msgspec.field(default_factory=Log)
    tools: Tools = msgspec.field(default_factory=Tools)
    complete: Complete = msgspec.field(default_factory=Complete)
    notify: Notify = msgspec.field(default_factory=Notify)
    statistics: Statistics = msgspec.field(default_factory=Statistics)
    people: People = msgspec.field(default_factory=People)
    verify: Verify = msgspec.field(default_factory=Verify)
    table_set: tuple[TableSet, ...] = ()
    schedule: tuple[Schedule, ...] = ()
    channel: tuple[Channel, ...] = ()


SECTIONS: dict[str, type[Table]] = {
    "node": Node,
    "full_sync": FullSync,
    "periodic": Periodic,
    "network": Network,
    "log": Log,
    "tools": Tools,
    "complete": Complete,
    "notify": Notify,
    "statistics": Statistics,
    "people": People,
    "verify": Verify,
}
NAMED: dict[str, type[Table]] = {"database": Database, "peer": PeerSettings}  # [NAME.…]
LISTS: dict[str, type[Table]] = {  # [[NAME]]
    "table_set": TableSet,
    "schedule": Schedule,
    "channel": Channel,
}


def fields(table: type[Table]) -> dict[str, msgspec.structs.FieldInfo]:
    """The keys of a table, in the order of the file."""
    return {field.name: field for field in msgspec.structs.fields(table)}


def is_list(field_type: Any) -> bool:
    """Whether a key holds a list (in the environment: separated by commas)."""
    return get_origin(field_type) is tuple


def known_keys(path: Sequence[str]) -> list[str]:
    """The keys that are valid below `path`; empty below a value."""
    if not path:
        return [*SECTIONS, *NAMED, *LISTS]
    if path[0] in NAMED:
        return list(fields(NAMED[path[0]])) if len(path) == 2 else []
    return list(fields(SECTIONS[path[0]])) if path[0] in SECTIONS and len(path) == 1 else []

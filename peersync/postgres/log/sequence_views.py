"""What is told about sequences: to a peer that asks, in a plan, and in a check."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from peersync.core.sequences import MAX_STEP
from peersync.wire.messages import Message, Name

Big = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
State = Literal["fine", "change", "left alone", "full"]


class SequenceState(Message, frozen=True, kw_only=True):
    """A sequence as it is: the column that draws from it, and what it would draw next."""

    schema: Name
    name: Name
    table_schema: Name
    table: Name
    column: Name
    increment: Big
    next_value: Big


class NodeSequences(Message, frozen=True, kw_only=True):
    """What a peer answers. slot, step: what it keeps, null before its first `apply`.

    beyond: what members that it could ask for the asker have answered, each with its `node_id`.
    """

    node: Name
    node_id: str = ""
    slot: Annotated[int, msgspec.Meta(ge=0, lt=MAX_STEP)] | None = None
    step: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEP)] | None = None
    sequences: Annotated[tuple[SequenceState, ...], msgspec.Meta(max_length=100_000)] = ()
    beyond: Annotated[tuple[NodeSequences, ...], msgspec.Meta(max_length=1000)] = ()


class SequencePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence and what would be done with it. left: how many numbers it has afterwards.

    next_value: what it would draw now, and new_value after the change; null: not known, none.
    """

    schema: str
    name: str
    table_schema: str
    table: str
    column: str
    type: str
    state: State
    reason: str | None
    increment: int
    next_value: int | None
    new_value: int | None
    left: int | None
    sql: str | None


class SequencesPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `apply` would do, or did. silent: members that could not be asked, and why."""

    database: str
    members: int
    slot: int
    step: int
    sequences: tuple[SequencePlan, ...]
    silent: dict[str, str] = {}
    applied: bool = False


class CheckedSequence(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence as it is. left: how many numbers it has. problem: null where all is well."""

    schema: str
    name: str
    table_schema: str
    table: str
    column: str
    type: str
    increment: int
    next_value: int | None
    left: int | None
    problem: str | None = None
    note: str | None = None


class SequencesCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the nodes can draw the same number. `fine` only where every member has answered."""

    database: str
    fine: bool
    slot: int | None
    step: int | None
    sequences: tuple[CheckedSequence, ...]
    silent: dict[str, str]

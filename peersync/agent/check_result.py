"""What one check has found, and how the error of a check becomes its result."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Literal

import msgspec

from peersync.core.errors import PeersyncError


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """One check: ok, or a warning, or failed, which blocks syncing; `fix` can be pasted."""

    name: str
    state: Literal["ok", "warning", "failed"]
    text: str
    fix: str | None = None


async def guarded(name: str, check: Awaitable[CheckResult]) -> list[CheckResult]:
    """The result of a check; one that could not be made has failed."""
    try:
        return [await check]
    except PeersyncError as exc:
        words = f"{exc.message}: {exc.detail}" if exc.detail else exc.message
        fix = exc.hint or "see what the log of PostgreSQL, or of the peer's agent, says about it"
        return [CheckResult(name=name, state="failed", text=words, fix=fix)]

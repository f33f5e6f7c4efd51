"""Every error that peersync raises on purpose, on one screen.

A class says four things that its caller needs: the exit code of a command that
ends with it (docs/exit-codes.md), a stable code for the wire and for scripts,
whether trying again can help, and what the operator can do next. Errors of a
driver or of HTTP are translated at two edges only (`postgres.errors`,
`transport.problems`), with `raise … from`. A bug is never translated: it ends
its job aloud, with its traceback in the log.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PeersyncError(Exception):
    """Something went wrong that peersync can name.

    `message` says what happened and where; `detail` has the database's or the
    system's own words; `hint` is what to do next, a command where there is one.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, detail: str | None = None, hint: str | None = None, **data: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.data = data  # facts for scripts: plain JSON values, never a secret


# --- the caller's side --------------------------------------------------------------------
class BadRequest(PeersyncError):
    code, exit_code, http_status = "bad-request", 2, 400


class KeyReused(BadRequest):
    """An Idempotency-Key that stands for another request."""

    code, http_status = "key-reused", 422


class NotFound(PeersyncError):
    code, exit_code, http_status = "not-found", 2, 404


class ConfigError(PeersyncError):
    code, exit_code = "config-invalid", 7


class Denied(PeersyncError):
    """The other side is not known here, or has not been given this right."""

    code, exit_code, http_status = "denied", 8, 403


class LoginNeeded(Denied):
    """Nobody is logged in on this connection, or not any more."""

    code, http_status = "login-needed", 401


class LoginFailed(Denied):
    """A name and a password that do not belong together, or a link that is used up."""

    code, http_status = "login-failed", 401


class TooManyTries(Denied):
    """Too many failed logins; `data["retry_after_s"]` says when the next is looked at."""

    code, exit_code, http_status, retryable = "too-many-tries", 5, 429, True


class PairingWaits(Denied):
    """The other server's admin has to accept this one first; `data["short_id"]` is compared."""

    code, exit_code, http_status, retryable = "pairing-waits", 5, 409, True


class Locked(PeersyncError):
    """Somebody else holds what this needs; `data["holder"]` names them."""

    code, exit_code, http_status = "locked", 6, 409


# --- the network --------------------------------------------------------------------------
class PeerUnreachable(PeersyncError):
    code, exit_code, http_status, retryable = "peer-unreachable", 5, 502, True


class PeerFailed(PeersyncError):
    """The peer answered, and its answer is that it failed."""

    code, http_status = "peer-failed", 502


class ProtocolError(PeersyncError):
    """The peer sent something that a peer does not send."""

    code, http_status = "protocol", 502


class CorruptData(PeersyncError):
    """Bytes that do not have the digest, the length or the form that was announced."""

    code, retryable = "corrupt-data", True


class AgentNotRunning(PeersyncError):
    code, exit_code, retryable = "agent-not-running", 5, True


class Undelivered(PeersyncError):
    """A channel did not take a notification.

    `data["retry_after_s"]`: when it wants to be asked again. `data["refused"]`: it was the
    message that was not liked, so others may well pass.
    """

    code, retryable = "undelivered", True


# --- the database -------------------------------------------------------------------------
class DatabaseError(PeersyncError):
    """The database refused; `data["sqlstate"]` has its code where there is one."""

    code = "database"


class DatabaseUnreachable(DatabaseError):
    code, exit_code, http_status, retryable = "database-unreachable", 5, 503, True


class PermissionMissing(DatabaseError):
    code, exit_code = "permission-missing", 8


class SchemaMismatch(DatabaseError):
    """The two databases, or peersync and its own schema, do not fit together."""

    code = "schema-mismatch"


class ToolMissing(PeersyncError):
    """A client program of PostgreSQL is missing, too old or too new."""

    code = "tool-missing"


# --- periodic sync ------------------------------------------------------------------------
class ResyncRequired(PeersyncError):
    """A peer lacks what has left the log; `data["floors"]` says up to where: {origin: position}."""

    code, http_status = "resync-required", 409


class RowsLocked(Locked):
    """Another transaction holds rows or tables that came in; nothing of the run was applied."""

    code, retryable = "rows-locked", True


class RowMoved(PeersyncError):
    """The row is no longer what the conflict left."""

    code, http_status = "row-moved", 409


# --- a full sync --------------------------------------------------------------------------
class DumpRestarted(PeersyncError):
    """The source began its dump again; this attempt's rows are of no use."""

    code, retryable = "dump-restarted", True


class RowsChanged(PeersyncError):
    """Tables were written to after they had been compared; `data["tables"]` names them."""

    code, retryable = "rows-changed", True


class RefusedInput(PeersyncError):
    """A dump that holds something other than data, where only data may be."""

    code = "refused-input"


class VerifyFailed(PeersyncError):
    """What was written is not what was read. Nothing was committed."""

    code, exit_code = "verify-failed", 4


class DiskFull(PeersyncError):
    code, retryable = "disk-full", True


class Cancelled(PeersyncError):
    code, exit_code, http_status = "cancelled", 130, 409


def root_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a group of failed tasks is about: a bug first, then what no retry mends."""
    flat: list[BaseException] = []
    for error in group.exceptions:
        flat.append(root_error(error) if isinstance(error, BaseExceptionGroup) else error)
    return min(flat, key=lambda e: (isinstance(e, PeersyncError), getattr(e, "retryable", False)))


def error_class(code: str) -> type[PeersyncError]:
    """The class of a stable code; PeersyncError itself for one that this version lacks."""
    waiting = [PeersyncError]
    while waiting:
        kind = waiting.pop()
        if kind.code == code:
            return kind
        waiting.extend(kind.__subclasses__())
    return PeersyncError

"""One consistent view of a database, dumped by pg_dump in parts that can run side by side.

A keeper connection exports its snapshot, and every part (the schema's two, one for each
big table, one for all the rest) dumps that same view. What the parts print is data for
the spool; nothing here looks inside it.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg

from peersync.core.errors import (
    DatabaseError,
    DatabaseUnreachable,
    PermissionMissing,
    SchemaMismatch,
)
from peersync.core.names import TableName, quote_ident
from peersync.postgres.catalog import Fetches

READ_BYTES = 256 * 1024
# What a database's own settings would change in the text of values, and pg_dump leaves alone.
_TEXT_FORM = (
    "-c lc_monetary=C -c bytea_output=hex -c TimeZone=UTC -c standard_conforming_strings=on"
)
_STDERR_BYTES = 16 * 1024

# Objects that belong to a server or to a person, not to the rows: never part of a backup.
_RESTRICT_KEY_SINCE = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}  # minor release, by major
_COMMON_OPTIONS = (
    "--format=plain",
    "--encoding=UTF8",
    "--no-owner",
    "--no-privileges",
    "--no-publications",
    "--no-subscriptions",
    "--no-security-labels",
    "--no-tablespaces",
    "--exclude-schema=peersync",
)


@dataclass(frozen=True)
class View:
    """A snapshot that other connections can take over while the keeper holds it."""

    exported: str
    snapshot: str
    taken_at: str


async def open_view(connection: Any, tables: Sequence[TableName]) -> View:
    """Begins the keeper's transaction. It ends when the connection is closed.

    The tables are locked before the snapshot is taken (LOCK takes none): between the two, a
    TRUNCATE or a rewriting ALTER TABLE would leave a table that looks empty to the snapshot.
    """
    await begin_view(connection, tables)
    return await read_view(connection)


async def begin_view(connection: Any, tables: Sequence[TableName]) -> None:
    """The first half of `open_view`: it has no snapshot yet, and may take over another's."""
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    await lock_against_ddl(connection, tables)


async def read_view(connection: Any) -> View:
    """The second half: the snapshot of this transaction, for others to take over."""
    row = await connection.fetchrow(
        "SELECT pg_catalog.pg_export_snapshot() AS exported,"
        " pg_catalog.pg_current_snapshot()::text AS snapshot,"
        " pg_catalog.now()::text AS taken_at"
    )
    return View(row["exported"], row["snapshot"], row["taken_at"])


async def lock_against_ddl(connection: Fetches, tables: Sequence[TableName]) -> None:
    """Holds what pg_dump holds, from before the snapshot until the last part has ended.

    Raises SchemaMismatch for a table that is not there any more, DatabaseUnreachable for one
    that stays locked by another session for lock_timeout_s.
    """
    for start in range(0, len(tables), 200):
        names = ", ".join(f"ONLY {t.sql}" for t in tables[start : start + 200])
        try:
            await connection.fetch(f"LOCK TABLE {names} IN ACCESS SHARE MODE")
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as exc:
            raise SchemaMismatch(
                f"a table of the plan is gone from the source: {exc}",
                hint="Start the sync again: the plan is then made anew.",
            ) from exc
        except asyncpg.LockNotAvailableError as exc:
            raise DatabaseUnreachable(
                "another session keeps a table of the plan for itself (ALTER TABLE, …)",
                detail=str(exc),
                hint="The log of the source's agent names it. Let it end, then start again.",
            ) from exc


def pattern(name: TableName) -> str:
    """A pg_dump pattern that means this one table, whatever its name has in it."""
    return f"{quote_ident(name.schema)}.{quote_ident(name.name)}"


def leave_alone(arguments: Sequence[str], names: Sequence[TableName]) -> list[str]:
    """The arguments of a run that must not touch these: not lock them, not name them."""
    return [*arguments, *(f"--exclude-table={pattern(name)}" for name in names)]


def data_arguments(
    table: TableName | None, left_out: Sequence[TableName], *, large_objects: bool
) -> list[str]:
    """pg_dump's arguments for one big table, or for everything but what is left out."""
    if table is not None:
        return ["--data-only", "--no-comments", f"--table={pattern(table)}"]
    arguments = ["--data-only", "--no-comments"]
    arguments += [f"--exclude-table-data={pattern(name)}" for name in left_out]
    return arguments if large_objects else [*arguments, "--no-blobs"]


def key_arguments(version_num: int) -> list[str]:
    """Keeps pg_dump from a new random \\restrict key each time: same rows, same chunks.

    The key protects psql, which reads nothing of ours. `version_num` is pg_dump's.
    """
    since = _RESTRICT_KEY_SINCE.get(version_num // 10_000, 0)
    return ["--restrict-key=peersync"] if version_num % 10_000 >= since else []


def schema_arguments(section: str, tables: Sequence[TableName]) -> list[str]:
    """pg_dump's arguments for "pre-data" or "post-data", of these tables or of everything.

    Post-data without --schema-only: the REFRESH of materialized views counts as data.
    """
    arguments = [f"--section={section}"]
    if section == "pre-data":
        arguments.append("--schema-only")  # before 17, large objects are created in pre-data
    return arguments + [f"--table={pattern(name)}" for name in tables]


@cache
def tied_to_parent() -> tuple[str, ...]:
    """What is put before a command that must not outlive the thread which starts it.

    Linux's util-linux has it. Elsewhere a run whose agent was killed ends at its next write
    into the broken pipe, and the next attempt ends its session in PostgreSQL. Blocks.
    """
    program = shutil.which("setpriv")
    if program is None:
        return ()
    wrapper = (program, "--pdeathsig", "TERM")
    try:
        tried = subprocess.run([*wrapper, "true"], capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ()
    return wrapper if tried.returncode == 0 else ()


class Dump:
    """One run of pg_dump, read by the thread that calls `run` and stopped from any other.

    That thread is the parent whose death ends pg_dump: it stays in `run` until pg_dump is gone.
    """

    def __init__(
        self, program: Path, arguments: Sequence[str], env: Mapping[str, str], view: View
    ) -> None:
        self._command = [
            str(program),
            *_COMMON_OPTIONS,
            f"--snapshot={view.exported}",
            "--lock-wait-timeout=30s",
            *arguments,
        ]
        self._env = {**env, "PGOPTIONS": f"{env.get('PGOPTIONS', '')} {_TEXT_FORM}".strip()}
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()
        self._stopped = False

    def run(self, take: Callable[[bytes], None]) -> None:
        """Gives everything that pg_dump prints to `take`, in pieces of up to 256 KiB.

        Raises what pg_dump's own words say; an early end of its output is never taken for
        the end of the data.
        """
        with self._guard:
            if self._stopped:
                return
            self._process = process = subprocess.Popen(
                [*tied_to_parent(), *self._command],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        errors = _Tail(process)
        try:
            assert process.stdout is not None
            with suppress(OSError):
                fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
            while data := _read_full(process.stdout, READ_BYTES):
                take(data)
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait()
            said = errors.text()
            process.stdout.close()  # type: ignore[union-attr]  # it is a pipe, see Popen
        if code != 0 and not self._stopped:
            raise _error_of(said, code)

    def stop(self) -> None:
        """Ends pg_dump; `run` then returns or raises soon. Harmless at any time.

        First politely: pg_dump then cancels its statement, which would else stay in the queue
        of a lock. The second time it is killed.
        """
        with self._guard:
            asked_before, self._stopped = self._stopped, True
            if self._process is not None:
                with suppress(ProcessLookupError):
                    self._process.kill() if asked_before else self._process.terminate()


def _read_full(pipe: Any, size: int) -> bytes:
    """Reads until `size` bytes are there: a pipe gives pg_dump's output 6 KB at a time."""
    pieces: list[bytes] = []
    missing = size
    while missing and (data := pipe.read(missing)):
        pieces.append(data)
        missing -= len(data)
    return b"".join(pieces)


class _Tail:
    """The last words of a program, read beside its output so that neither pipe blocks."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._kept = b""
        self._thread = threading.Thread(target=self._read, name="pg_dump-stderr", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        with pipe:
            while data := pipe.read(4096):
                self._kept = (self._kept + data)[-_STDERR_BYTES:]

    def text(self) -> str:
        self._thread.join()
        return self._kept.decode("utf-8", "replace").strip()


def _error_of(said: str, code: int) -> DatabaseError:
    """The most specific error that pg_dump's last words allow."""
    low = said.lower()
    what = f"pg_dump failed with exit code {code}"
    if code < 0:
        return DatabaseUnreachable(
            f"pg_dump was ended by signal {-code}",
            detail=said or None,
            hint="Look for the reason in the system's log (out of memory?), then start again.",
        )
    if "row-level security" in low:
        return PermissionMissing(
            what, detail=said, hint="ALTER ROLE … BYPASSRLS; for the role of the conninfo."
        )
    if "permission denied" in low:
        return PermissionMissing(what, detail=said, hint=_grant_for(said))
    if "connection to server" in low or "server closed the connection" in low:
        return DatabaseUnreachable(what, detail=said, hint="Is PostgreSQL running there?")
    if "terminating connection" in low or "could not import the requested snapshot" in low:
        return DatabaseUnreachable(
            f"{what}: PostgreSQL ended its connection", detail=said, hint="The dump starts again."
        )
    if "due to lock timeout" in low or "due to statement timeout" in low:  # --lock-wait-timeout
        return DatabaseUnreachable(
            f"{what}: a table is locked",
            detail=said,
            hint="Another session holds an exclusive lock (ALTER TABLE, VACUUM FULL, …). "
            "Let it end, then start again.",
        )
    return DatabaseError(what, detail=said or None)


def _grant_for(said: str) -> str:
    """The least that would help, as far as PostgreSQL's sentence names the object."""
    every = "peersync grants --mode push prints every statement that is needed."
    found = re.search(r"permission denied for (table|sequence|schema|large object) (\S+)", said)
    if found is None:
        return every
    right = "USAGE" if found[1] == "schema" else "SELECT"
    return f"GRANT {right} ON {found[1].upper()} {found[2]} TO the role of the conninfo. {every}"

"""`peersync convert`: a plain pg_dump in, an UPSERT script for psql out.

It needs no server and no agent. The dump is read twice, so standard input goes to a
temporary file first; the output appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import shlex
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

import click
import zstandard

from peersync.cli.context import Context
from peersync.cli.convert_keys import database_keys, file_keys
from peersync.cli.output import clean, emit_json, print_err
from peersync.core.errors import BadRequest, CorruptData, DiskFull, RefusedInput
from peersync.core.names import TableName
from peersync.core.words import counted
from peersync.dump.kinds import HEAD_BYTES, directory_dump, doubt, refuse_foreign
from peersync.dump.script import Key, Survey, plan_tables, survey, write_script
from peersync.dump.upsert import TablePlan

_PART = 512 * 1024  # bytes; read from the dump, after decompression
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAKE_AGAIN = "Make it again: pg_dump DATABASE | peersync convert -"

T = TypeVar("T")


@click.command("convert")
@click.argument("dump", metavar="DUMP")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the script here.")
@click.option("--database", metavar="NAME", help="Take keys from this configured database.")
@click.option(
    "--keys",
    "keys_file",
    type=click.Path(path_type=Path),
    help='Take keys from this TOML file: "public.orders" = ["id"].',
)
@click.option("--no-restrict", is_flag=True, help=r"For a psql that does not know \restrict.")
@click.pass_obj
def convert(
    ctx: Context,
    dump: str,
    output: Path | None,
    database: str | None,
    keys_file: Path | None,
    no_restrict: bool,
) -> None:
    r"""Turn a plain pg_dump into a script that brings its rows into a full database.

    DUMP is a file (plain, or compressed with zstd) or - for standard input. Run the
    script with psql -X -v ON_ERROR_STOP=1 -d DATABASE -f SCRIPT. Rows that are
    there are updated, missing ones inserted, others stay; a second run changes nothing.
    """
    if ctx.json and output is None:
        raise BadRequest("--json prints a report, so the script needs a file", hint="Add -o FILE.")
    output = _checked_output(dump, output)
    keys: dict[TableName, Key] = {}
    if database is not None:
        keys.update(database_keys(ctx, database))
    if keys_file is not None:
        keys.update(file_keys(keys_file))
    with _dump_file(dump) as path:
        found, plans = _read(path, "DUMP" if dump == "-" else shlex.quote(dump), keys)
        restrict_key = "" if no_restrict else secrets.token_hex(24)
        with _output(output) as file:
            write_script(_parts(path), found, plans, restrict_key, file.write)
    if ctx.json:
        emit_json(_report(found, plans, keys, output))
    if not ctx.quiet:
        _tell(found, plans, verbose=ctx.verbose > 0)


def _checked_output(dump: str, output: Path | None) -> Path | None:
    """Where the script really goes; None is standard output."""
    if output is None or str(output) == "-":
        return None
    try:
        if output.exists() and not (output.is_file() or output.is_dir()):
            return output  # a pipe, a device: it has no place where a file could be put
        output = output.resolve()  # a link stays a link
        if output.is_dir():
            raise BadRequest(f"{output} is a directory", hint="Name the file: -o DIRECTORY/FILE")
        if dump != "-" and output.exists() and Path(dump).exists() and output.samefile(dump):
            raise BadRequest(
                f"{output} is the dump itself; the script would replace it",
                hint="Give the script another name with -o.",
            )
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise _unwritable(output, error) from error
    return output


def _unwritable(output: Path, error: Exception) -> BadRequest:
    return BadRequest(
        f"{output} cannot be written",
        detail=getattr(error, "strerror", None) or str(error),
        hint="Name another file with -o.",
    )


def _read(
    path: Path, name: str, keys: Mapping[TableName, Key]
) -> tuple[Survey, dict[TableName, TablePlan]]:
    """The first reading, with errors that speak of the file. Nothing is written before."""
    head = b""
    with path.open("rb") as file:
        packed = file.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
    try:
        parts = _parts(path)
        first = next(parts, b"")
        head = first[:HEAD_BYTES]
        refuse_foreign(head, name, packed=packed)
        found = survey(itertools.chain([first], parts))
        return found, plan_tables(found, keys)
    except (RefusedInput, CorruptData) as error:
        hints = [error.hint, doubt(head) if head else None, _MAKE_AGAIN]
        if isinstance(error, CorruptData):  # it may look cut off because it never was a dump
            hints[:2] = hints[1::-1]
        error.hint = next(filter(None, hints))
        error.data |= {"file": name, "did": "wrote nothing"}
        raise


@contextlib.contextmanager
def _dump_file(dump: str) -> Iterator[Path]:
    if dump != "-":
        if not dump:
            raise BadRequest("the name of the dump is empty", hint="peersync convert DUMP")
        path = Path(dump)
        with _opened(path) as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                yield path
                return
            with _spooled(file) as spool:  # a pipe: convert <(pg_dump shop)
                yield spool
        return
    if sys.stdin is None:
        raise BadRequest("standard input is closed", hint="pg_dump DATABASE | peersync convert -")
    with _spooled(sys.stdin.buffer) as spool:
        yield spool


def _opened(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise directory_dump(shlex.quote(str(path)), (path / "toc.dat").exists())
        return path.open("rb")
    except FileNotFoundError as error:
        raise BadRequest(
            f"there is no dump {path}", hint="pg_dump DATABASE | peersync convert -"
        ) from error
    except OSError as error:
        raise BadRequest(
            f"the dump {path} cannot be read",
            detail=error.strerror,
            hint="Check its name, owner and mode, or give it as standard input: -",
        ) from error


@contextlib.contextmanager
def _spooled(source: IO[bytes]) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        with _disk_named(Path(tempfile.gettempdir()), "TMPDIR=DIRECTORY names another disk."):
            spool = stack.enter_context(tempfile.NamedTemporaryFile(prefix="peersync-convert-"))
            shutil.copyfileobj(source, spool, _PART)
            spool.flush()
        yield Path(spool.name)


@contextlib.contextmanager
def _disk_named(place: Path | str, hint: str) -> Iterator[None]:
    """Turns what the system says of a full disk into an error that names it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(f"no space is left for {place}", detail=error.strerror, hint=hint) from error


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        compressed = file.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
        file.seek(0)
        if not compressed:
            yield from iter(lambda: file.read(_PART), b"")
            return
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        try:
            yield from iter(lambda: reader.read(_PART), b"")
        except zstandard.ZstdError as error:
            raise CorruptData(
                "the dump is not intact zstd", detail=str(error), hint=_MAKE_AGAIN
            ) from error


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that takes its name only when all of it is on disk.

    What is no file (a pipe, /dev/null) is written as it is: a file must not take its place.
    """
    full = _disk_named(path or "standard output", "Free some, or write elsewhere with -o FILE.")
    if path is None:
        if sys.stdout is None:
            raise BadRequest("standard output is closed", hint="Add -o FILE.")
        with full:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():
        with full, _for_writing(path, lambda: path.open("wb")) as file:
            yield file
        return
    handle, name = _for_writing(
        path, lambda: tempfile.mkstemp(prefix=f".{path.name[:80]}.", dir=path.parent)
    )
    try:
        with full, os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _for_writing(path, lambda: Path(name).replace(path))
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _for_writing(path: Path, work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        raise _unwritable(path, error) from error


def _report(
    found: Survey,
    plans: Mapping[TableName, TablePlan],
    keys: Mapping[TableName, Key],
    output: Path | None,
) -> dict[str, object]:
    tables = [
        {
            "table": str(table),
            "rows": rows,
            "method": plans[table].method if table in plans else "empty",
            "key": list(plans[table].key) if table in plans else [],
            "key_from": "given" if table in keys else "dump",
        }
        for table, rows in found.rows().items()
    ]
    return {
        "output": str(output),
        "tables": tables,
        "rows": sum(found.rows().values()),
        "sequences": found.sequences,
        "large_objects": len(found.large_objects),
        "left_out": dict(sorted(Counter(item.type for item in found.left_out).items())),
    }


def _tell(found: Survey, plans: Mapping[TableName, TablePlan], *, verbose: bool) -> None:
    rows = found.rows()
    sums = ((len(rows), "table"), (sum(rows.values()), "row"), (found.sequences, "sequence"))
    print_err(", ".join(counted(number, noun) for number, noun in sums))
    keyless = ", ".join(str(plan.table) for plan in plans.values() if not plan.key)
    if keyless:
        print_err(clean(f"without a key, compared as whole rows: {keyless}"))
    counts = Counter(item.type for item in found.left_out)
    if counts:
        left = ", ".join(f"{count} {type_}" for type_, count in sorted(counts.items()))
        print_err(clean(f"left out: {left}"))
    if verbose:
        for item in found.left_out:
            print_err(clean(f"  {item.type} {item.name}".rstrip()))

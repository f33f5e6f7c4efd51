"""`peersync convert`: a plain pg_dump in, an UPSERT script for psql out.

It needs no server and no agent. The dump is read twice, so standard input goes to a
temporary file first; the output appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import click
import zstandard

from peersync.cli.context import Context, database_keys
from peersync.cli.output import clean, emit_json, print_err
from peersync.core.errors import BadRequest, CorruptData
from peersync.core.names import TableName
from peersync.dump.grammar import parse_table_name
from peersync.dump.script import Key, Survey, plan_tables, survey, write_script
from peersync.dump.upsert import TablePlan

_PART = 512 * 1024  # bytes; read from the dump, after decompression
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


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
    _refuse_overwriting(dump, output)
    keys: dict[TableName, Key] = {}
    if database is not None:
        keys.update(database_keys(ctx, database))
    if keys_file is not None:
        keys.update(read_keys(keys_file))
    with _dump_file(dump) as path:
        found = survey(_parts(path))
        plans = plan_tables(found, keys)
        restrict_key = "" if no_restrict else secrets.token_hex(24)
        with _output(output) as file:
            write_script(_parts(path), found, plans, restrict_key, file.write)
    if ctx.json:
        emit_json(_report(found, plans, keys, output))
    if not ctx.quiet:
        _tell(found, plans, verbose=ctx.verbose > 0)


def _refuse_overwriting(dump: str, output: Path | None) -> None:
    if output is None or dump == "-" or not (output.exists() and Path(dump).exists()):
        return
    if output.samefile(dump):
        raise BadRequest(
            f"{output} is the dump itself; the script would replace it",
            hint="Give the script another name with -o.",
        )


def read_keys(path: Path) -> dict[TableName, Key]:
    """`"schema.table" = ["column", …]` from a TOML file; an empty list: no key.

    Raises BadRequest.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRequest(f"the keys in {path} cannot be read", detail=str(error)) from error
    keys: dict[TableName, Key] = {}
    for name, columns in content.items():
        schema, _, rest = name.partition(".")
        table = parse_table_name(name) or TableName(schema, rest)
        if not table.name or not isinstance(columns, list):
            raise BadRequest(
                f"{path}: {name!r} is not a key", hint='Write "schema.table" = ["column", …].'
            )
        if not all(isinstance(column, str) for column in columns):
            raise BadRequest(f"{path}: the key of {name!r} is not a list of column names")
        keys[table] = tuple(columns)
    return keys


@contextlib.contextmanager
def _dump_file(dump: str) -> Iterator[Path]:
    if dump != "-":
        path = Path(dump)
        if not path.is_file():
            raise BadRequest(f"there is no dump {dump}")
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="peersync-convert-") as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool, _PART)
        spool.flush()
        yield Path(spool.name)


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
            raise CorruptData(f"{path} is not intact zstd", detail=str(error)) from error


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that takes its name only when all of it is on disk."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise BadRequest(f"{path} cannot be written", detail=str(error)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
    print_err(f"{len(rows)} tables, {sum(rows.values())} rows, {found.sequences} sequences")
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

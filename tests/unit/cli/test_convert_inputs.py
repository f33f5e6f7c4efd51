"""`peersync convert` of what is no plain dump: what it is, what to type, and nothing written."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard

from tests.unit.dump.test_dump_convert import DUMP

HEADED = b"--\n-- PostgreSQL database dump\n--\n\n" + DUMP


def convert(
    *args: str | Path, stdin: bytes | None = None, **options: object
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "peersync.cli.main", "convert", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def a_tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("dump.sql"))
    return packed.getvalue()


FOREIGN = {
    "custom": (b"PGDMP\x01\x0e\0", "custom format", "pg_restore -f - {} | peersync convert -"),
    "tar-dump": (b"toc.dat" + bytes(600), "tar format", "pg_restore -f - {}"),
    "custom-in-zstd": (zstandard.compress(b"PGDMP\x01\x0e\0"), "custom", "<(zstd -dc {})"),
    "tar": (a_tar(), "tar archive", "tar -xf {}"),
    "gzip": (gzip.compress(HEADED), "gzip", "gzip -dc {} | peersync convert -"),
    "bzip2": (bz2.compress(HEADED), "bzip2", "bzip2 -dc {} | peersync convert -"),
    "xz": (lzma.compress(HEADED), "xz", "xz -dc {} | peersync convert -"),
    "empty": (b"", "the dump is empty", "pg_dump DATABASE"),
    "empty-zstd": (zstandard.compress(HEADED)[:12], "cut off", "Make it again"),
    "cut": (HEADED[:200], "the dump ends", "make it again"),
    "binary": (bytes(range(256)) * 9, "binary data", "pg_dump DATABASE"),
    "text": (b"hello world\n", "the dump ends", "Is it the right file?"),
    "utf-16": (HEADED.decode().encode("utf-16"), "another encoding", "--encoding=UTF8"),
    "windows": (HEADED.replace(b"\n", b"\r\n"), "line ends of Windows", "Copy it again"),
    "pg_dumpall": (b"--\n-- PostgreSQL database cluster dump\n--\n", "pg_dumpall", "pg_dump"),
}


@pytest.mark.parametrize(
    ("kind", "piped"), [*((kind, False) for kind in FOREIGN), ("custom", True), ("empty", True)]
)
def test_another_format_is_named_with_the_command_that_helps(
    kind: str, piped: bool, tmp_path: Path
) -> None:
    content, what, following = FOREIGN[kind]
    dump = tmp_path / "a dump's name"
    dump.write_bytes(content)
    source = "-" if piped else dump
    done = convert(source, "-o", tmp_path / "out.sql", stdin=content if piped else b"")
    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert what in said.splitlines()[0]
    wanted = "DUMP" if piped else shlex.quote(str(dump))
    assert following.format(wanted) in said.partition("next:")[2]
    assert "internal error" not in said and "trying again" not in said
    assert done.stdout == b""
    assert [path.name for path in tmp_path.iterdir()] == [dump.name]


def test_a_dump_in_the_directory_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "toc.dat").touch()
    done = convert(tmp_path)
    assert done.returncode == 1
    assert f"pg_restore -f - {tmp_path} | peersync convert -" in done.stderr.decode()


@pytest.mark.parametrize("name", ["nope", "", "x" * 300, "."])
def test_a_dump_that_cannot_be_opened_is_a_usage_error(name: str, tmp_path: Path) -> None:
    done = convert(name, cwd=tmp_path)
    assert done.returncode == 2
    assert b"next:" in done.stderr and b"internal error" not in done.stderr


@pytest.mark.parametrize("output", ["", ".", "none/out.sql", "x" * 300, "/proc/none/out.sql"])
def test_an_output_that_cannot_be_written_is_a_usage_error(output: str, tmp_path: Path) -> None:
    dump = tmp_path / "dump.sql"
    dump.write_bytes(HEADED)
    done = convert(dump, "-o", output, cwd=tmp_path)
    assert done.returncode == 2
    assert b"next:" in done.stderr and b"internal error" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dump.sql"]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    dump = tmp_path / "dump.sql"
    dump.write_bytes(HEADED)
    for output in ([], ["-o", "/dev/full"]):
        with Path("/dev/full").open("wb") as full:
            command = [sys.executable, "-m", "peersync.cli.main", "convert", str(dump), *output]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1
        assert b"no space is left for" in done.stderr and b"internal error" not in done.stderr


def test_a_pipe_is_read_and_written_as_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    shell = 'cat "$1" > "$2" & exec "$3" -m peersync.cli.main convert "$2"'
    dump = tmp_path / "dump.sql"
    dump.write_bytes(HEADED)
    command = ["sh", "-c", shell, "sh", str(dump), str(pipe), sys.executable]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b'ON CONFLICT ("id")' in done.stdout
    assert b"1 table, 2 rows, 0 sequences" in done.stderr
    assert convert(dump, "-o", "/dev/stdout").stdout.startswith(done.stdout[:20])
    assert convert(dump, "-o", "-").stdout.startswith(done.stdout[:20])
    before = Path("/dev/null").stat().st_rdev
    assert convert(dump, "-o", "/dev/null").returncode == 0
    assert Path("/dev/null").stat().st_rdev == before != 0


def test_an_output_that_is_a_link_stays_one(tmp_path: Path) -> None:
    dump, link = tmp_path / "dump.sql", tmp_path / "link.sql"
    dump.write_bytes(HEADED)
    link.symlink_to("real.sql")
    assert convert(dump, "-o", link).returncode == 0
    assert link.is_symlink() and (tmp_path / "real.sql").stat().st_size > 0

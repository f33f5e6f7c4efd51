"""The tools that people use today for what a first pull does, run as people run them.

It owns their command lines, and asking the system for those that are missing. It refuses to
tune them: two jobs where a tool has jobs, because peersync fills two tables at a time, and
otherwise their defaults.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zstandard
from pgcluster import SUPERUSER, Cluster

from benchlib.programs import Command, environment, pipe, run

JOBS = "2"
PGCOPYDB_MAJOR = 15  # Debian's pgcopydb 0.10 knows servers up to 15
# The other two belong to periodic sync (benchlib/periodic.py).
PACKAGES = {
    "pgcopydb": "pgcopydb",
    "bucardo": "bucardo",
    "pglogical": "postgresql-15-pglogical",
}
PLPERL = (
    "postgresql-plperl-15"  # what Bucardo's own database is written in; not told by its package
)


@dataclass(frozen=True)
class Route:
    """From one database to an empty one of the same major, with a directory for leftovers.

    replace: the target is not empty; what is there already is dropped first.
    """

    source: Cluster
    target: Cluster
    source_database: str
    target_database: str
    work: Path
    target_port: int | None = None  # of a link to the target, which psql then has to take
    replace: bool = False

    @property
    def env(self) -> dict[str, str]:
        return environment(self.source.bindir) | {"PGPASSWORD": self.target.password}

    def program(self, name: str) -> Path:
        return self.source.bindir / name

    @property
    def ends(self) -> tuple[str, str]:
        source = self.source.conninfo(self.source_database)
        if self.target_port is None:
            return source, self.target.conninfo(self.target_database)
        where = f"host=127.0.0.1 port={self.target_port} user={SUPERUSER}"
        return source, f"{where} dbname={self.target_database}"


def dump_psql(route: Route) -> None:
    """`pg_dump | psql`, with `--clean` where the target is not empty: what everybody has."""
    source, target = route.ends
    clean = ("--clean", "--if-exists") if route.replace else ()
    pipe(
        [route.program("pg_dump"), "-Fp", *clean, "-d", source],
        [route.program("psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-d", target],
        env=route.env,
        log=route.work / "dump-psql.log",
    )


def dump_directory(route: Route) -> None:
    """`pg_dump -Fd -j2`, then `pg_restore -j2`: the parallel way of the same tools."""
    source, target = route.ends
    directory, log = route.work / "dump", route.work / "dump-dir.log"
    shutil.rmtree(directory, ignore_errors=True)
    dump: Command = [route.program("pg_dump"), "-Fd", "-j", JOBS, "-f", directory, "-d", source]
    restore: Command = [route.program("pg_restore"), "-e", "-j", JOBS, "-d", target, directory]
    try:
        run(dump, env=route.env, log=log)
        run(restore, env=route.env, log=log)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def pgcopydb(route: Route) -> None:
    """`pgcopydb clone` with two table and two index jobs."""
    source, target = route.ends
    directory = route.work / "pgcopydb"
    shutil.rmtree(directory, ignore_errors=True)
    command = ["pgcopydb", "clone", "--source", source, "--target", target]
    command += ["--table-jobs", JOBS, "--index-jobs", JOBS, "--dir", str(directory)]
    command += ["--drop-if-exists"] if route.replace else []
    try:
        run(command, env=route.env, log=route.work / "pgcopydb.log")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


RUNNERS: dict[str, Callable[[Route], None]] = {
    "dump-psql": dump_psql,
    "dump-dir": dump_directory,
    "pgcopydb": pgcopydb,
}


# --- what is there --------------------------------------------------------------------------
def present() -> dict[str, str | None]:
    """Each rival's package version, None for one that is not installed."""
    return {name: _version(package) for name, package in PACKAGES.items()}


def install() -> None:
    """Ask apt for the missing ones; without root or apt, or offline, they stay missing."""
    packages = (*PACKAGES.values(), PLPERL)
    missing = [package for package in packages if _version(package) is None]
    if not missing or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=env, check=False, stdout=subprocess.DEVNULL)
    for package in missing:  # one by one: a missing one must not keep out the others
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package],
            env=env,
            check=False,
            stdout=subprocess.DEVNULL,
        )


def _version(package: str) -> str | None:
    if shutil.which("dpkg-query") is None:
        return "unpackaged" if shutil.which(package) else None
    told = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Status}|${Version}", package],
        capture_output=True,
        text=True,
        check=False,
    )
    status, _, version = told.stdout.partition("|")
    if status == "install ok installed":
        return version
    return "unpackaged" if shutil.which(package) else None


def compressed_dump(server: Cluster, database: str) -> tuple[int, int]:
    """Bytes of a plain pg_dump, and the same through zstd level 1: what a wire could carry."""
    raw, packed = 0, 0
    compress = zstandard.ZstdCompressor(level=1).compressobj()
    command: Command = [server.bindir / "pg_dump", "-Fp", "-d", server.conninfo(database)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment(server.bindir)
    ) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(256 * 1024):
            raw += len(piece)
            packed += len(compress.compress(piece))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "pg_dump")
    return raw, packed + len(compress.flush())

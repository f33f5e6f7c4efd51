"""Real databases written by others, as plain pg_dump files: `PEERSYNC_CORPUS` says where.

They are not part of this repository; without them their tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pgcluster
import pytest
import zstandard
from pgcluster import Cluster

ROLES = {"kitchensink": "postgraphile_test_authenticator"}  # what a dump grants or refers to
_PIECE_BYTES = 256 * 1024


class Corpus:
    """The directory of NAME.sql.zst files, and how one gets into a server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, name: str, cluster: Cluster, dbname: str) -> None:
        """Fill an empty database from template0, in one transaction."""
        if role := ROLES.get(name):
            cluster.createrole(role, "NOLOGIN")
        command: list[str | Path] = [_bindir() / "psql", "-Xq1", "-v", "ON_ERROR_STOP=1"]
        command += ["-d", cluster.conninfo(dbname)]
        dump = zstandard.ZstdDecompressor()
        with (
            (self.directory / f"{name}.sql.zst").open("rb") as packed,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stderr is not None
            try:
                dump.copy_stream(packed, process.stdin, write_size=_PIECE_BYTES)
                process.stdin.close()
            except BrokenPipeError:
                pass  # psql says why on its standard error
            told = process.stderr.read().decode(errors="replace")
        if process.returncode:
            raise pgcluster.ClusterError(f"{name} into {dbname} failed: {told.strip()}")

    def template(self, name: str, cluster: Cluster) -> str:
        """A database with `name` loaded, made once per server; copies of it are quick."""
        dbname = f"corpus_{name}"
        if not cluster.has_database(dbname):
            cluster.createdb("corpus_loading", template="template0")
            try:
                self.load(name, cluster, "corpus_loading")
                cluster.psql(f"ALTER DATABASE corpus_loading RENAME TO {dbname}")
            finally:
                cluster.dropdb("corpus_loading")
        return dbname


def _bindir() -> Path:
    """Where the newest psql is: the dumps carry \\restrict, which older ones do not know."""
    return list(pgcluster.find_installations().values())[-1].bindir


@pytest.fixture(scope="session")
def corpus(pytestconfig: pytest.Config) -> Corpus:
    """The corpus; its tests are skipped where it is not."""
    asked = os.environ.get("PEERSYNC_CORPUS", "../shared/corpus")
    directory = (pytestconfig.rootpath / asked).resolve()
    if not list(directory.glob("*.sql.zst")):
        pytest.skip(f"no corpus in {directory} (PEERSYNC_CORPUS)")
    return Corpus(directory)

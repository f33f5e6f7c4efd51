"""What `convert` leaves alone: peersync's own records, and the dump itself."""

from __future__ import annotations

from pathlib import Path

from peersync.cli.context import Context
from peersync.cli.main import run

DUMP = """--
-- PostgreSQL database dump
--

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

COPY peersync.leases (name, fence) FROM stdin;
full_sync\t7
\\.

COPY public.t (id) FROM stdin;
1
\\.

--
-- PostgreSQL database dump complete
--
"""


def test_peersyncs_own_rows_and_the_dump_itself_are_left_alone(tmp_path: Path) -> None:
    dump, keys, out = tmp_path / "d.sql", tmp_path / "keys.toml", tmp_path / "out.sql"
    dump.write_text(DUMP)
    keys.write_text('"public.t" = ["id"]\n')
    command = ["convert", str(dump), "--keys", str(keys), "-o"]
    assert run([*command, str(out)], Context(environ={})) == 0
    script = out.read_text()
    assert '"public"."t"' in script
    assert "leases" not in script and "full_sync" not in script
    assert run([*command, str(dump)], Context(environ={})) == 2
    assert dump.read_text() == DUMP

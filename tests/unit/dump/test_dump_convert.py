"""The command `peersync convert` as a user calls it, without a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

DUMP = b"""--
-- Name: t; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.t (
    id integer NOT NULL
);

COPY public.t (id) FROM stdin;
1
2
\\.

--
-- Name: t t_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.t
    ADD CONSTRAINT t_pkey PRIMARY KEY (id);

--
-- PostgreSQL database dump complete
--
"""


def convert(*args: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "peersync.cli.main", "convert", *args]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("piped", [False, True])
def test_the_script_goes_to_standard_output_and_the_summary_to_standard_error(
    compressed: bool, piped: bool, tmp_path: Path
) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(zstandard.compress(DUMP) if compressed else DUMP)
    done = convert("-", stdin=dump.read_bytes()) if piped else convert(dump)
    assert done.returncode == 0, done.stderr
    assert b'ON CONFLICT ("id")' in done.stdout
    assert b"\n1\n2\n\\.\n" in done.stdout
    assert b"left out: 1 CONSTRAINT, 1 TABLE" in done.stderr


@pytest.mark.parametrize(
    "dump",
    [
        DUMP[:-60],
        DUMP[:200],
        zstandard.compress(DUMP)[:-20],
        zstandard.ZstdCompressor(write_checksum=True).compress(DUMP)[:-8] + b"xxxxxxxx",
        DUMP.replace(b"1\n2\n", b"1\r\n2\n"),
    ],
)
def test_a_bad_dump_leaves_no_script_behind(dump: bytes, tmp_path: Path) -> None:
    script = tmp_path / "script.sql"
    script.write_bytes(b"the old one")
    done = convert("-", "-o", script, stdin=dump)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    assert b"internal error" not in done.stderr
    assert script.read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["script.sql"]


@pytest.mark.parametrize(
    "keys", ["public = [", '"public.t" = "id"', '"t" = ["id"]', '"public.t" = [1]']
)
def test_a_wrong_file_of_keys_is_a_usage_error(keys: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(keys)
    done = convert("-", "--keys", path, stdin=DUMP)
    assert done.returncode == 2
    assert b"keys.toml" in done.stderr


def test_what_is_left_out_can_be_listed_and_json_needs_a_file(tmp_path: Path) -> None:
    assert b"  CONSTRAINT t t_pkey" in convert("-", "--verbose", stdin=DUMP).stderr
    assert convert("-", "--json", stdin=DUMP).returncode == 2
    assert convert(tmp_path / "nothing.sql").returncode == 2

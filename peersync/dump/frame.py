"""The SQL of a script around the rows of its tables: the session, sequences, large objects.

The session is set up so that values mean what they meant where they were dumped, and
so that triggers, rules and foreign keys stay quiet where the role may ask for that. What
calls a function for its effect INSERTs the result: psql would print a SELECT's.
"""

# ruff: noqa: S608 - names are quoted by core.names

from __future__ import annotations

from peersync.core.names import quote_literal
from peersync.dump.pieces import LargeObject, LargeObjectData, SequenceValue

HEAD = r"""\set ON_ERROR_STOP on
{restrict}BEGIN;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL standard_conforming_strings = on;
SET LOCAL search_path = '';
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL xmloption = content;
SET LOCAL row_security = off;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET CONSTRAINTS ALL DEFERRED;
DO 'BEGIN
  SET LOCAL session_replication_role = replica;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE WARNING ''triggers and foreign keys stay on: no right to set session_replication_role'';
END';
CREATE TEMPORARY TABLE peersync_done (value pg_catalog.int8) ON COMMIT DROP;
"""
LARGE_HEAD = """\
CREATE TEMPORARY TABLE peersync_lo (id pg_catalog.oid) ON COMMIT DROP;
CREATE TEMPORARY TABLE peersync_lo_data
  (id pg_catalog.oid, start pg_catalog.int8, data pg_catalog.bytea) ON COMMIT DROP;
"""
LARGE_COPY = "COPY pg_temp.peersync_lo_data (id, start, data) FROM stdin;\n"
LARGE_TAIL = """\
INSERT INTO pg_temp.peersync_done SELECT pg_catalog.lo_create(n.id)::pg_catalog.int8
  FROM (SELECT DISTINCT id FROM pg_temp.peersync_lo) AS n
  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata AS m WHERE m.oid = n.id);
DO 'DECLARE
  piece record;
  target record;
  handle int;
BEGIN
  FOR piece IN SELECT id, start, data FROM pg_temp.peersync_lo_data LOOP
    IF pg_catalog.lo_get(piece.id, piece.start, pg_catalog.octet_length(piece.data))
        <> piece.data THEN
      PERFORM pg_catalog.lo_put(piece.id, piece.start, piece.data);
    END IF;
  END LOOP;
  FOR target IN SELECT n.id, COALESCE(pg_catalog.max(d.start
      + pg_catalog.octet_length(d.data)), 0) AS size
      FROM pg_temp.peersync_lo AS n LEFT JOIN pg_temp.peersync_lo_data AS d USING (id)
      GROUP BY n.id LOOP
    handle := pg_catalog.lo_open(target.id, 393216);
    IF pg_catalog.lo_lseek64(handle, 0, 2) > target.size THEN
      PERFORM pg_catalog.lo_truncate64(handle, target.size);
    END IF;
    PERFORM pg_catalog.lo_close(handle);
  END LOOP;
END';
"""


def large_object_sql(piece: LargeObject) -> str:
    """Remember that this large object must exist."""
    return f"INSERT INTO pg_temp.peersync_lo VALUES ({piece.oid});\n"


def large_object_row(piece: LargeObjectData, start: int) -> bytes:
    """A row for LARGE_COPY: the bytes of `piece` begin at `start` in their object."""
    return b"%d\t%d\t\\\\x%s\n" % (piece.oid, start, piece.data.hex().encode())


def sequence_sql(piece: SequenceValue) -> str:
    """Move the sequence forward, in its own direction, never back."""
    name = f"{quote_literal(piece.sequence.sql)}::pg_catalog.regclass"
    value, called = f"'{piece.value}'::pg_catalog.int8", str(piece.is_called).lower()
    return (
        f"INSERT INTO pg_temp.peersync_done SELECT pg_catalog.setval({name}, {value}, {called})\n"
        f"  FROM {piece.sequence.sql} AS s, pg_catalog.pg_sequence AS q\n"
        f"  WHERE q.seqrelid = {name}\n"
        f"    AND (CASE WHEN q.seqincrement > 0 THEN {value} > s.last_value"
        f" ELSE {value} < s.last_value END\n"
        f"      OR {value} = s.last_value AND {called} AND NOT s.is_called);\n"
    )

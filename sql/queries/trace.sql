-- name: known_tables
-- Every table that periodic sync knows of.
SELECT tbl, schema_name, table_name, shape, state, reason, parked, strategy, since
  FROM peersync.synced_table ORDER BY schema_name, table_name;

-- name: entries
-- What the log holds of one row, oldest version first: the newest of it, and what emptied its table.
-- $1 table, $2 key, $3 how many
SELECT * FROM (
    SELECT origin, position, ordinal, hlc, at, shape, op::text AS op, image
      FROM peersync.entry
     WHERE tbl = $1 AND (key = $2 OR op = 'T')
     ORDER BY hlc DESC, origin DESC, position DESC, ordinal DESC
     LIMIT $3) AS newest
 ORDER BY hlc, origin, position, ordinal;

-- name: unpublished
-- What was changed of one row here and has no position yet.
-- $1 table, $2 key
SELECT count(*)
  FROM peersync.change AS c
 WHERE c.tbl = $1 AND (c.key = $2 OR c.op = 'T')
   AND NOT pg_catalog.pg_visible_in_snapshot(c.xid, (SELECT published FROM peersync.replica));

-- name: newer
-- How many changes of a row, or of its whole table, the log holds that are newer than a version
-- and were not put aside.
-- $1 table, $2 key, $3 hlc, $4 origin, $5 position, $6 ordinal
SELECT count(*)
  FROM peersync.entry AS e
 WHERE e.tbl = $1 AND (e.key = $2 OR e.op = 'T')
   AND (e.hlc, e.origin, e.position, e.ordinal)
       > ($3::bigint, $4::bigint, $5::bigint, $6::bigint)
   AND NOT EXISTS (SELECT FROM peersync.quarantine AS q
                    WHERE q.origin = e.origin AND q.position = e.position
                      AND q.ordinal = e.ordinal AND q.state IN ('waiting', 'skipped'));

-- name: counts
-- How much of a row waits, and in how many conflicts it was.
-- $1 table, $2 key
SELECT (SELECT count(*) FROM peersync.quarantine
         WHERE tbl = $1 AND key = $2 AND state = 'waiting'
           AND pg_catalog.hashtextextended(key, 0) = pg_catalog.hashtextextended($2, 0)) AS quarantined,
       (SELECT count(*) FROM peersync.conflict WHERE tbl = $1 AND key = $2
           AND pg_catalog.hashtextextended(key, 0) = pg_catalog.hashtextextended($2, 0)) AS conflicts;

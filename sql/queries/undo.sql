-- name: record
-- Says, in the transaction that changed the tables, how they can be had back.
-- $1 session, $2 undo record
UPDATE peersync.full_sync_sessions SET undo = $2 WHERE session_id = $1;

-- name: forget_baseline
-- After an undo this database does not have any more what the baseline claims.
-- $1 session
DELETE FROM peersync.baselines WHERE session_id = $1;

-- name: expired
-- The sessions whose journals are older than they are kept.
-- $1 days
SELECT session_id, undo::text FROM peersync.full_sync_sessions
 WHERE undo ->> 'state' IN ('kept', 'undone')
   AND committed_at < clock_timestamp() - $1::float8 * interval '1 day';

-- name: foreign_keys
-- For each foreign key from or to these tables: a query that counts its broken rows.
-- Of a partitioned table, the key of the whole counts, not those of its partitions.
-- $1 oids
WITH touched AS (
    SELECT o.oid FROM pg_catalog.unnest($1::bigint[]) AS o (oid)
     UNION
    SELECT a.relid::bigint FROM pg_catalog.unnest($1::bigint[]) AS o (oid),
           pg_catalog.pg_partition_ancestors(o.oid::oid) AS a (relid)
)
SELECT k.conrelid::regclass::text AS child, k.confrelid::regclass::text AS parent, k.conname AS name,
       pg_catalog.format(
           'SELECT count(*) FROM %s %s AS c WHERE %s AND NOT EXISTS (SELECT FROM %s %s AS p WHERE %s)',
           CASE rc.relkind WHEN 'p' THEN '' ELSE 'ONLY' END,
           k.conrelid::regclass, pg_catalog.string_agg(
               pg_catalog.format('c.%I IS NOT NULL', a.attname), ' AND '),
           CASE rp.relkind WHEN 'p' THEN '' ELSE 'ONLY' END,
           k.confrelid::regclass, pg_catalog.string_agg(
               pg_catalog.format('p.%I OPERATOR(%I.%s) c.%I', b.attname, n.nspname, o.oprname,
                                 a.attname), ' AND ')) AS query
  FROM pg_catalog.pg_constraint AS k
  JOIN pg_catalog.pg_class AS rc ON rc.oid = k.conrelid
  JOIN pg_catalog.pg_class AS rp ON rp.oid = k.confrelid
 CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey),
                               pg_catalog.unnest(k.conpfeqop)) AS u (own, theirs, op)
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.own
  JOIN pg_catalog.pg_attribute AS b ON b.attrelid = k.confrelid AND b.attnum = u.theirs
  JOIN pg_catalog.pg_operator AS o ON o.oid = u.op
  JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0 AND k.convalidated
   AND (k.conrelid::bigint IN (SELECT oid FROM touched)
        OR k.confrelid::bigint IN (SELECT oid FROM touched))
 GROUP BY k.oid, k.conrelid, k.confrelid, k.conname, rc.relkind, rp.relkind;

-- name: get
-- What is kept of a session so far.
-- $1 session
SELECT undo::text FROM peersync.full_sync_sessions WHERE session_id = $1;

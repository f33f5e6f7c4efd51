-- The records of verifications.

-- name: note_table
-- The state of one table with one peer after it was compared.
-- $1 peer, $2 its name, $3 schema, $4 table, $5 result, $6 intended, $7 reason, $8 when it was
-- compared, $9 different, $10 missing, $11 extra rows
INSERT INTO peersync.table_proofs AS p
       (peer_id, peer_name, table_schema, table_name, result, intended, reason, checked_at,
        proved_at, differs_since, different, missing, extra)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8,
        CASE WHEN $5 = 'equal' THEN $8::timestamptz END,
        CASE WHEN $5 = 'differs' THEN $8::timestamptz END, $9, $10, $11)
ON CONFLICT (peer_id, table_schema, table_name) DO UPDATE
   SET peer_name = excluded.peer_name, result = excluded.result, intended = excluded.intended,
       reason = excluded.reason, checked_at = excluded.checked_at,
       proved_at = coalesce(excluded.proved_at, p.proved_at),
       differs_since = CASE WHEN excluded.result = 'differs'
                            THEN coalesce(p.differs_since, excluded.differs_since)
                            WHEN excluded.result = 'equal' THEN NULL
                            ELSE p.differs_since END,
       different = excluded.different, missing = excluded.missing, extra = excluded.extra;

-- name: forget_tables
-- Tables that were not met by a verification of all.
-- $1 peer, $2 when it began
DELETE FROM peersync.table_proofs WHERE peer_id = $1 AND checked_at < $2;

-- name: note_run
-- One verification that has ended, and of older ones with the same peer all but 30 are forgotten.
-- $1 id, $2 peer, $3 its name, $4 result, $5 by whom, $6 began, $7 ended, $8 what was found
WITH old AS (
    DELETE FROM peersync.verifications AS v
     WHERE v.peer_id = $2
       AND v.started_at < (SELECT o.started_at FROM peersync.verifications AS o
                            WHERE o.peer_id = $2 ORDER BY o.started_at DESC OFFSET 28 LIMIT 1)
)
INSERT INTO peersync.verifications
       (verify_id, peer_id, peer_name, result, requested_by, started_at, completed_at, view)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb);

-- name: runs
-- The newest verifications, or those whose id begins so.
-- $1 how many, $2 beginning of the id, or null
SELECT v.verify_id, v.view::text AS view FROM peersync.verifications AS v
 WHERE $2::text IS NULL OR pg_catalog.replace(v.verify_id::text, '-', '') LIKE $2 || '%'
 ORDER BY v.started_at DESC LIMIT $1;

-- name: tables
-- The state of every table that was ever compared.
-- $1 peer, or null for all
SELECT p.* FROM peersync.table_proofs AS p
 WHERE $1::text IS NULL OR p.peer_id = $1
 ORDER BY p.peer_name, p.table_schema, p.table_name;

-- name: summaries
-- For each peer: what all tables together are.
SELECT p.peer_id, pg_catalog.min(p.peer_name) AS peer_name,
       pg_catalog.max(p.checked_at) AS checked_at,
       CASE WHEN pg_catalog.bool_and(p.result = 'equal' OR p.result = 'not compared')
            THEN pg_catalog.min(p.proved_at) FILTER (WHERE p.result = 'equal') END AS proved_at,
       pg_catalog.min(p.differs_since) FILTER (WHERE p.differs_since IS NOT NULL) AS differs_since,
       pg_catalog.count(*) FILTER (WHERE NOT p.intended) AS tables,
       pg_catalog.count(*) FILTER (WHERE p.differs_since IS NOT NULL) AS differing,
       pg_catalog.count(*) FILTER (WHERE p.result IN ('not compared', 'failed')
                                     AND NOT p.intended) AS not_compared
  FROM peersync.table_proofs AS p GROUP BY p.peer_id;

-- name: is_synced
-- Whether rows ever went between this database and a peer.
-- $1 peer
SELECT EXISTS (SELECT FROM peersync.full_sync_sessions AS s
                WHERE s.peer_id = $1 AND s.state IN ('done', 'partly'))
       OR EXISTS (SELECT FROM peersync.member AS m
                   WHERE m.node_id = $1 AND m.state IN ('member', 'joining')) AS synced;

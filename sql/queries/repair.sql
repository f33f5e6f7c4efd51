-- The records of repairs.

-- name: note_repair
-- How far a repair is, and of older ones with the same peer all but 30 are forgotten.
-- $1 id, $2 peer, $3 began, $4 it has ended, $5 what is known of it
WITH old AS (
    DELETE FROM peersync.repairs AS r
     WHERE r.peer_id = $2 AND r.ended
       AND r.started_at < (SELECT o.started_at FROM peersync.repairs AS o
                            WHERE o.peer_id = $2 ORDER BY o.started_at DESC OFFSET 28 LIMIT 1)
)
INSERT INTO peersync.repairs AS r (repair_id, peer_id, started_at, ended, view)
VALUES ($1, $2, $3, $4, $5::jsonb)
ON CONFLICT (repair_id) DO UPDATE SET ended = excluded.ended, view = excluded.view;

-- name: repairs
-- The newest repairs, or those whose id begins so.
-- $1 how many, $2 beginning of the id, or null
SELECT r.view::text AS view FROM peersync.repairs AS r
 WHERE $2::text IS NULL OR pg_catalog.replace(r.repair_id::text, '-', '') LIKE $2 || '%'
 ORDER BY r.started_at DESC LIMIT $1;

-- name: unfinished_repairs
-- Repairs that an agent has left in the middle.
SELECT r.peer_id, r.view::text AS view FROM peersync.repairs AS r
 WHERE NOT r.ended ORDER BY r.started_at;

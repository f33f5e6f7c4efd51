-- name: create
-- Records a complete sync before anything is done for it.
-- $1 id, $2 database, $3 node, $4 sync type, $5 requested by, $6 bulk sync, $7 retry of,
-- $8 number of peers, $9 configuration
INSERT INTO peersync.complete_syncs
       (complete_id, database_name, node_name, sync_type, requested_by, bulk_id, retry_of,
        peers_total, configuration)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: add_peer
-- Records a peer in its turn, or that it is passed over, and why.
-- $1 id, $2 place, $3 peer id, $4 peer name, $5 way, $6 status, $7 reason, $8 error as jsonb
INSERT INTO peersync.peer_sync_references
       (complete_id, place, peer_id, peer_name, way, status, reason, error)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: peer_began
-- A peer's turn has come, or it is tried again.
-- $1 id, $2 place, $3 tries
UPDATE peersync.peer_sync_references
   SET status = 'running', started_at = coalesce(started_at, clock_timestamp()), tries = $3
 WHERE complete_id = $1 AND place = $2;

-- name: peer_waits
-- For whom a peer waits while it has its turn.
-- $1 id, $2 place, $3 in words
UPDATE peersync.peer_sync_references SET reason = $3 WHERE complete_id = $1 AND place = $2;

-- name: peer_session
-- The full sync that was started for a peer.
-- $1 id, $2 place, $3 session
UPDATE peersync.peer_sync_references SET session_id = $3 WHERE complete_id = $1 AND place = $2;

-- name: peer_ended
-- What came of a peer.
-- $1 id, $2 place, $3 status, $4 reason, $5 error, $6 rows, $7 raw bytes, $8 wire bytes, $9 cost,
-- $10 positions
UPDATE peersync.peer_sync_references
   SET status = $3, reason = $4, error = $5, rows_total = $6, raw_bytes = $7, wire_bytes = $8,
       cost = $9, positions = $10, completed_at = clock_timestamp(),
       duration_s = extract(epoch FROM clock_timestamp() - started_at)
 WHERE complete_id = $1 AND place = $2;

-- name: close
-- Ends a complete sync, or, without an id, all that a dead process has left: peers that were not
-- done are not run, and the sums are those of its peers. Its caller holds the lease.
-- $1 id or null, $2 status, $3 why peers were not run
WITH open AS MATERIALIZED (
    SELECT complete_id FROM peersync.complete_syncs
     WHERE status = 'running' AND complete_id = coalesce($1, complete_id)
), not_run AS (
    UPDATE peersync.peer_sync_references r
       SET status = 'not_run', reason = $3,
           completed_at = CASE WHEN r.status = 'running' THEN clock_timestamp() END
      FROM open
     WHERE r.complete_id = open.complete_id AND r.status IN ('waiting', 'running')
), sums AS (
    SELECT open.complete_id,
           count(*) FILTER (WHERE r.status = 'success') AS successful,
           count(*) FILTER (WHERE r.status IN ('error', 'partial')) AS failed,
           count(*) FILTER (WHERE r.status = 'skipped') AS skipped,
           coalesce(sum(r.rows_total), 0) AS rows_total,
           coalesce(sum(r.raw_bytes), 0) AS raw_bytes,
           coalesce(sum(r.wire_bytes), 0) AS wire_bytes,
           coalesce(sum(r.cost), 0) AS cost,
           coalesce(jsonb_object_agg(r.peer_name, r.cost)
                    FILTER (WHERE r.started_at IS NOT NULL), '{}') AS cost_by_peer,
           coalesce(jsonb_object_agg(r.peer_name, r.rows_total)
                    FILTER (WHERE r.started_at IS NOT NULL), '{}') AS rows_by_peer,
           coalesce(jsonb_object_agg(r.peer_name, r.error)
                    FILTER (WHERE r.error IS NOT NULL), '{}') AS errors
      FROM open JOIN peersync.peer_sync_references r USING (complete_id)
     GROUP BY open.complete_id
)
UPDATE peersync.complete_syncs c
   SET status = $2, completed_at = clock_timestamp(),
       duration_s = extract(epoch FROM clock_timestamp() - c.started_at),
       peers_successful = s.successful, peers_failed = s.failed, peers_skipped = s.skipped,
       rows_total = s.rows_total, raw_bytes = s.raw_bytes, wire_bytes = s.wire_bytes,
       cost = s.cost, cost_by_peer = s.cost_by_peer, rows_by_peer = s.rows_by_peer,
       errors = s.errors
  FROM sums s
 WHERE c.complete_id = s.complete_id
RETURNING c.complete_id;

-- name: history
-- Complete syncs with their peers in order, newest first.
-- $1 at most so many, $2 beginning of the id without dashes, or null, $3 bulk sync or null
SELECT c.complete_id, c.database_name, c.node_name, c.sync_type, c.status, c.requested_by,
       c.bulk_id, c.retry_of, c.started_at, c.completed_at,
       coalesce(c.duration_s, extract(epoch FROM clock_timestamp() - c.started_at)::float8) AS took,
       c.peers_total, c.peers_successful, c.peers_failed, c.peers_skipped, c.rows_total,
       c.raw_bytes, c.wire_bytes, c.cost, c.configuration,
       (SELECT coalesce(jsonb_agg(jsonb_build_object(
                   'peer', r.peer_name, 'way', r.way, 'status', r.status, 'reason', r.reason,
                   'error', r.error, 'rows', r.rows_total, 'raw_bytes', r.raw_bytes,
                   'wire_bytes', r.wire_bytes, 'cost', r.cost, 'tries', r.tries,
                   'session', replace(r.session_id::text, '-', ''),
                   'seconds', coalesce(r.duration_s, CASE WHEN r.status = 'running' THEN
                       extract(epoch FROM clock_timestamp() - r.started_at) END, 0))
                   ORDER BY r.place), '[]')
          FROM peersync.peer_sync_references r
         WHERE r.complete_id = c.complete_id) AS peers
  FROM peersync.complete_syncs c
 WHERE ($2::text IS NULL OR replace(c.complete_id::text, '-', '') LIKE $2 || '%')
   AND ($3::uuid IS NULL OR c.bulk_id = $3)
 ORDER BY c.started_at DESC, c.complete_id
 LIMIT $1;

-- name: by_request_key
-- The complete sync that a request with this key started within a day, and the request's digest.
-- $1 Idempotency-Key
SELECT complete_id, configuration ->> 'request_digest' AS digest
  FROM peersync.complete_syncs
 WHERE configuration ->> 'idempotency_key' = $1
   AND started_at > clock_timestamp() - interval '1 day'
 ORDER BY started_at DESC LIMIT 1;

-- name: begun_since
-- The first complete sync with all peers that has begun since then and did not fail.
-- $1 time
SELECT complete_id, node_name, started_at FROM peersync.complete_syncs
 WHERE started_at >= $1 AND status IN ('success', 'partial') AND retry_of IS NULL
   AND configuration -> 'peers' = '[]'
 ORDER BY started_at LIMIT 1;

-- name: failures
-- How often in a row each of these peers has failed, when last, and with what. A peer that went
-- well in part was reached. What this database or its disk refused is not the peer's fault.
-- $1 node ids, $2 codes of errors that do not count
SELECT asked.peer_id, failed.times, failed.last_at, failed.message
  FROM unnest($1::text[]) AS asked (peer_id)
 CROSS JOIN LATERAL (
       SELECT coalesce(max(r.completed_at), '-infinity') AS at
         FROM peersync.peer_sync_references r
        WHERE r.peer_id = asked.peer_id AND r.status IN ('success', 'partial')) good
 CROSS JOIN LATERAL (
       SELECT count(*) AS times, max(r.completed_at) AS last_at,
              (array_agg(r.error ->> 'message' ORDER BY r.completed_at DESC))[1] AS message
         FROM peersync.peer_sync_references r
        WHERE r.peer_id = asked.peer_id AND r.status = 'error' AND r.completed_at > good.at
          AND coalesce(r.error ->> 'code', '') <> ALL ($2::text[])) failed
 WHERE failed.times > 0;

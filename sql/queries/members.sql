-- name: replica
-- This database as a member of its group; no row where it takes part in none.
SELECT group_id::text, origin, node_id, state, reason, position, hlc FROM peersync.replica;

-- name: members
-- Every origin of the group, in the order in which they became known.
SELECT origin, node_id, node_name, state, applied, applied_hlc, floor, seen::text, sponsor, joined_at
  FROM peersync.member
 ORDER BY since, origin;

-- name: vector
-- How far each origin is applied here, this database's own included.
SELECT origin, applied FROM peersync.member;

-- name: found
-- Makes this database an origin. What was captured before counts as published: it has no position.
-- $1 group, $2 origin, $3 node id, $4 state, $5 hlc in microseconds
INSERT INTO peersync.replica (group_id, origin, node_id, state, hlc, published)
VALUES ($1::uuid, $2, $3, $4, $5, pg_catalog.pg_current_snapshot());

-- name: add_member
-- Makes an origin known.
-- $1 origin, $2 node id, $3 node name, $4 state, $5 applied, $6 floor, $7 seen, $8 sponsor,
-- $9 position of the sponsor that made it a member
INSERT INTO peersync.member
       (origin, node_id, node_name, state, applied, floor, seen, sponsor, joined_at)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9);

-- name: set_replica_state
-- Says how this database takes part, and why so.
-- $1 state, $2 reason
UPDATE peersync.replica SET state = $1, reason = $2;

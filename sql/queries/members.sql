-- name: replica
-- This database as a member of its group; no row where it takes part in none.
SELECT group_id::text, origin, node_id, state, reason, direction, position, hlc FROM peersync.replica;

-- name: home
-- The oids of two tables. Copies of the server's files, CREATE DATABASE … TEMPLATE and pg_upgrade
-- keep them, as they keep the numbers of transactions; a dump that is restored keeps neither.
SELECT pg_catalog.concat_ws('/', 'peersync.replica'::regclass::oid,
                            'peersync.change'::regclass::oid) AS home;

-- name: members
-- Every origin of the group, in the order in which they became known.
SELECT origin, node_id, node_name, state, applied, applied_hlc, floor, seen::text, sponsor,
       joined_at, (info ->> 'by')::bigint AS expired_by, (info ->> 'at')::bigint AS expired_at,
       coalesce(info ->> 'direction', 'both') AS direction, coalesce(info -> 'words', '{}')::text AS words
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
-- Says how this database takes part, and why so. A look that lies in the future is another server's,
-- which a dump has brought: what is written here from now on would count as published.
-- $1 state, $2 reason
UPDATE peersync.replica
   SET state = $1, reason = $2,
       published = CASE WHEN pg_catalog.pg_snapshot_xmax(published)
                             > pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
                        THEN pg_catalog.pg_current_snapshot() ELSE published END;

-- name: set_direction
-- What this database does with changes: receive, give, or both.
-- $1 direction
UPDATE peersync.replica SET direction = $1;

-- name: note_direction
-- What an origin does with changes, by its own word.
-- $1 origin, $2 direction
UPDATE peersync.member SET info = info || pg_catalog.jsonb_build_object('direction', $2::text)
 WHERE origin = $1;

-- name: leave
-- Says that an origin takes part no more, by its own word.
-- $1 origin
UPDATE peersync.member SET state = 'left' WHERE origin = $1 AND state IN ('member', 'joining');

-- name: expire
-- Says that an origin is waited for no more, by the word of another; that it is us, if it is us.
-- $1 origin, $2 who said it, $3 the position at which
WITH own AS (
    UPDATE peersync.replica SET state = 'expired', reason = 'the others have expired it: they keep nothing for it any more'
     WHERE origin = $1)
UPDATE peersync.member
   SET state = 'expired', info = info || pg_catalog.jsonb_build_object('by', $2::bigint, 'at', $3::bigint)
 WHERE origin = $1 AND state IN ('member', 'joining');

-- name: note_word
-- What a member has said: that an origin be waited for no more, if more than half say so.
-- $1 origin, $2 who said it, $3 when it came here, in seconds since 1970, $4 whether it asks the others
UPDATE peersync.member
   SET info = pg_catalog.jsonb_set(info, '{words}', coalesce(info -> 'words', '{}')
              || pg_catalog.jsonb_build_object($2::bigint::text,
                     pg_catalog.jsonb_build_object('at', $3::float8, 'asks', $4::boolean)))
 WHERE origin = $1 AND state IN ('member', 'joining');

-- name: dissolve
-- Forgets the group and its log. What is kept for people (conflicts, quarantine) stays readable.
WITH q AS (UPDATE peersync.quarantine
              SET state = 'superseded', settled_at = clock_timestamp(), settled_by = 'left the group'
            WHERE state = 'waiting'),
     p AS (UPDATE peersync.synced_table
              SET parked = NULL, parked_at = NULL, parked_relation = NULL, parked_shape = NULL
            WHERE parked IS NOT NULL),
     a AS (DELETE FROM peersync.replica),
     b AS (DELETE FROM peersync.member),
     c AS (DELETE FROM peersync.change),
     d AS (DELETE FROM peersync.transaction),
     e AS (DELETE FROM peersync.relayed),
     f AS (DELETE FROM peersync.row_base),
     w AS (DELETE FROM peersync.withheld),
     g AS (DELETE FROM peersync.link)
SELECT;

-- name: change_origin
-- Gives this database a new origin: what it published under the earlier one stays in its log.
-- $1 new origin
UPDATE peersync.replica
   SET origin = $1, state = 'joining', reason = 'it is being taken anew', position = 0;

-- name: last_said
-- The last transaction of this database that others answer to: to heartbeats nobody does. Of what
-- the log does not keep any more all have told that they have it.
SELECT coalesce(max(t.position), 0)
  FROM peersync.transaction AS t
 WHERE t.origin = (SELECT origin FROM peersync.replica) AND t.kind <> 'b';

-- name: note_earlier
-- What this database was before it took a new origin. It may have had several: the one that it
-- published under last is not told by what the others know of them. Its place among those that
-- draw numbers stays: its sequences are as they were.
-- $1 new origin, $2 the one before, $3 which way its rows went
UPDATE peersync.member AS m
   SET info = info || pg_catalog.jsonb_build_object('before',
                  pg_catalog.jsonb_build_object('origin', $2::bigint, 'direction', $3::text))
           || coalesce((SELECT pg_catalog.jsonb_build_object('sequences', e.info->'sequences')
                          FROM peersync.member AS e
                         WHERE e.origin = $2 AND e.info ? 'sequences'), '{}')
 WHERE m.origin = $1;

-- name: earlier_origin
-- The origin that this database had before the one that it joins with; no row at a first join.
SELECT m.origin, m.applied AS position, own.info #>> '{before,direction}' AS direction
  FROM peersync.replica AS r
  JOIN peersync.member AS own ON own.origin = r.origin
  JOIN peersync.member AS m ON m.origin = (own.info #>> '{before,origin}')::bigint
 WHERE r.state = 'joining';

-- name: back_to_origin
-- A return that came to nothing: the earlier origin again, held, and as one-way as it was.
-- $1 origin, $2 position, $3 reason, $4 which way its rows went
WITH gone AS (DELETE FROM peersync.member AS m USING peersync.replica AS r WHERE m.origin = r.origin)
UPDATE peersync.replica
   SET origin = $1, position = $2, state = 'held', reason = $3, direction = $4;

-- name: disown
-- What was published under the origin that this database shares with the one it is a copy of
-- becomes that of an origin which nobody knows: none of it counts as sent. The place among those
-- that draw numbers stays with the other one.
-- $1 an origin that nobody has, $2 node id
WITH own AS (SELECT origin FROM peersync.replica),
     a AS (UPDATE peersync.member SET origin = $1, node_id = $2, info = info - 'sequences'
            WHERE origin IN (SELECT origin FROM own)),
     b AS (UPDATE peersync.transaction SET origin = $1 WHERE origin IN (SELECT origin FROM own))
UPDATE peersync.replica SET origin = $1, node_id = $2;

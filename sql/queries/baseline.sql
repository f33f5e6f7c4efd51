-- name: lock
-- Keeps pruning, runs of apply and publishers out, for this session: before the snapshot is taken.
-- A run that began before somebody joins does not keep its changes for him.
SELECT pg_catalog.pg_advisory_lock(x'70737963'::int, pg_catalog.hashtext('prune')),
       pg_catalog.pg_advisory_lock(x'70737963'::int, pg_catalog.hashtext('join')),
       pg_catalog.pg_advisory_lock(x'70737963'::int, pg_catalog.hashtext('publish'));

-- name: unlock
-- Lets them go on.
SELECT pg_catalog.pg_advisory_unlock(x'70737963'::int, pg_catalog.hashtext('publish')),
       pg_catalog.pg_advisory_unlock(x'70737963'::int, pg_catalog.hashtext('join')),
       pg_catalog.pg_advisory_unlock(x'70737963'::int, pg_catalog.hashtext('prune'));

-- name: give_transactions
-- Everything that the log has, in the columns of the staging table.
SELECT origin, position, hlc, kind, changes, bytes, at, seen, info FROM peersync.transaction;

-- name: give_entries
-- The changes of those transactions.
SELECT origin, position, ordinal, at, shape, op, key, image, old FROM peersync.entry;

-- name: give_shapes
-- What the columns of their images are.
SELECT DISTINCT ON (shape) shape, schema_name, table_name, columns, types, key
  FROM peersync.shape
 ORDER BY shape;

-- name: give_bases
-- What lies beneath the kept changes of rows that were in conflict.
SELECT s.schema_name, s.table_name, b.key, b.shape, b.image
  FROM peersync.row_base AS b JOIN peersync.synced_table AS s USING (tbl);

-- name: give_strategies
-- How conflicts of tables end, where it is not by the newest change.
SELECT schema_name, table_name, strategy FROM peersync.synced_table WHERE strategy <> 'newer_wins';

-- name: unsent_state
-- Whether there is anything to keep, and of which shapes: changes that the baseline does not have.
-- $1 vector of the baseline
WITH unsent AS (
    SELECT e.tbl, e.shape, e.op, e.key
      FROM peersync.entry AS e
     WHERE e.position > coalesce(($1::jsonb ->> e.origin::text)::bigint, 0)
     UNION ALL
    SELECT c.tbl, c.shape, c.op, c.key
      FROM peersync.change AS c
     WHERE NOT pg_catalog.pg_visible_in_snapshot(c.xid, (SELECT published FROM peersync.replica))
     UNION ALL
    SELECT w.tbl, w.shape, w.op, w.key FROM peersync.withheld AS w
)
SELECT s.schema_name, s.table_name, u.op::text, coalesce(h.key, '{}'), pg_catalog.array_agg(DISTINCT u.key)
  FROM unsent AS u
  JOIN peersync.synced_table AS s ON s.tbl = u.tbl
  LEFT JOIN LATERAL (SELECT key FROM peersync.shape WHERE shape.shape = u.shape LIMIT 1) AS h ON true
 GROUP BY s.schema_name, s.table_name, u.op, h.key;

-- name: forget_withheld
-- A full sync overwrites what a database that only receives has changed in these tables.
-- $1 oids of relations, $2 whether rows that only this database has are deleted, too
DELETE FROM peersync.withheld AS w
 USING peersync.synced_table AS s
 WHERE s.tbl = w.tbl AND ($2 OR w.op <> 'I')
   AND s.relation IN (SELECT coalesce(pg_catalog.pg_partition_root(o.oid::regclass)::oid, o.oid)
                        FROM pg_catalog.unnest($1::oid[]) AS o (oid));

-- name: take_member
-- An origin of the group, as the source knows it; our own row stays.
-- $1 origin, $2 node id, $3 node name, $4 state, $5 applied, $6 applied hlc, $7 floor, $8 seen,
-- $9 sponsor, $10 joined at, $11 who expired it, $12 at which of its positions, $13 direction
INSERT INTO peersync.member AS m (origin, node_id, node_name, state, applied, applied_hlc, floor,
                                  seen, sponsor, joined_at, info)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10,
        pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
            'by', $11::bigint, 'at', $12::bigint, 'direction', nullif($13::text, 'both'))))
    ON CONFLICT (origin) DO UPDATE
   SET seen = excluded.seen, sponsor = excluded.sponsor, joined_at = excluded.joined_at,
       state = excluded.state;

-- name: waiting
-- How many changes this database has accepted and does not have in its rows.
SELECT count(*) FROM peersync.quarantine WHERE state = 'waiting';

-- name: settle_waiting
-- All rows were taken anew: what waited is in them, or older than they are.
WITH q AS (UPDATE peersync.quarantine
              SET state = 'superseded', settled_at = clock_timestamp(),
                  settled_by = 'the rows were taken anew'
            WHERE state = 'waiting')
UPDATE peersync.synced_table
   SET parked = NULL, parked_at = NULL, parked_relation = NULL, parked_shape = NULL
 WHERE parked IS NOT NULL;

-- name: become_member
-- From now on this database publishes, and knows everything that its rows have in them.
-- $1 group, $2 hlc of the source
UPDATE peersync.replica
   SET group_id = $1::uuid, state = 'active', reason = NULL, hlc = greatest(hlc, $2)
 WHERE state = 'joining';

-- name: tell_agent
-- There is something to publish, as soon as this is committed.
SELECT peersync.wake();

-- name: state
-- How this database takes part in periodic sync; no row where it does not.
SELECT group_id::text, state FROM peersync.replica;

-- name: roots
-- The partitioned tables that these partitions belong to.
-- $1 oids of relations
SELECT o.oid, n.nspname, c.relname
  FROM pg_catalog.unnest($1::oid[]) AS o (oid)
  JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.pg_partition_root(o.oid::regclass)
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace;

-- name: captured_as
-- Under which table and shape the rows of a relation are logged: a partition's under its root's.
-- $1 oid of the relation
-- Last is the SQL of a row's key, of alias t; null where there is none.
SELECT s.tbl, s.shape, pg_catalog.format('%I.%I', s.schema_name, s.table_name),
       peersync.key_sql(peersync.capture_facts(s.relation), 't')
  FROM peersync.synced_table AS s
 WHERE s.state = 'captured'
   AND s.relation = coalesce(pg_catalog.pg_partition_root($1::oid::regclass)::oid, $1::oid);

-- Kept digests: what they rest on, and what may have changed since they were made.

-- name: register
-- A verification asks for this table in this form. No row where that is known.
-- $1 schema, $2 table, $3 form, $4 shape as JSON
INSERT INTO peersync.proof_list AS l (table_schema, table_name, form, shape)
VALUES ($1, $2, $3, $4::jsonb)
ON CONFLICT (table_schema, table_name, form) DO UPDATE SET asked_at = clock_timestamp()
 WHERE l.asked_at < clock_timestamp() - interval '1 day';

-- name: find
-- The list of a table in one form.
-- $1 schema, $2 table, $3 form
SELECT list, stamp, origin, position, snapshot::text AS snapshot FROM peersync.proof_list
 WHERE table_schema = $1 AND table_name = $2 AND form = $3 AND snapshot IS NOT NULL;

-- name: get
-- A list by its number.
-- $1 list
SELECT list, table_schema, table_name, shape::text AS shape, stamp, origin, position,
       snapshot::text AS snapshot
  FROM peersync.proof_list WHERE list = $1;

-- name: lists
-- unread: some block of it is to be read.
SELECT l.list, l.tbl, l.snapshot IS NULL OR EXISTS (
           SELECT FROM peersync.proof_block AS b
            WHERE b.list = l.list AND b.digest IS NULL) AS unread
  FROM peersync.proof_list AS l WHERE l.armed ORDER BY l.list;

-- name: progress
-- How far all lists are. changed: read once, and to be read again. unread: never read.
SELECT pg_catalog.count(*) AS tables,
       pg_catalog.count(*) FILTER (WHERE l.snapshot IS NOT NULL AND b.unread = 0) AS complete,
       pg_catalog.count(*) FILTER (WHERE l.snapshot IS NULL) AS waiting,
       coalesce(pg_catalog.sum(b.blocks), 0)::bigint AS blocks,
       coalesce(pg_catalog.sum(b.changed), 0)::bigint AS changed,
       coalesce(pg_catalog.sum(b.unread), 0)::bigint AS unread,
       coalesce(pg_catalog.sum(b.rows), 0)::bigint AS rows,
       pg_catalog.min(b.read_at) AS oldest_at,
       pg_catalog.min(l.advanced_at) FILTER (WHERE l.snapshot IS NOT NULL) AS up_to_date_at
  FROM peersync.proof_list AS l
 CROSS JOIN LATERAL (
       SELECT pg_catalog.count(*) AS blocks,
              pg_catalog.count(*) FILTER (WHERE b.digest IS NULL AND b.rows IS NOT NULL) AS changed,
              pg_catalog.count(*) FILTER (WHERE b.rows IS NULL) AS unread,
              pg_catalog.sum(b.rows) AS rows,
              pg_catalog.min(b.read_at) FILTER (WHERE b.digest IS NOT NULL) AS read_at
         FROM peersync.proof_block AS b WHERE b.list = l.list) AS b;

-- name: size
-- About how long a table is, and how many rows it has; -1: nobody has looked.
-- $1 schema, $2 table
SELECT pg_catalog.pg_relation_size(c.oid) AS bytes, c.reltuples AS rows
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2;

-- name: any
-- Whether a session that applies has to say what it writes.
SELECT EXISTS (SELECT FROM peersync.proof_list) AS any;

-- name: unarmed
-- Lists that a session may not have seen which is applying now.
SELECT pg_catalog.array_agg(list) AS lists FROM peersync.proof_list WHERE NOT armed;

-- name: let_applies_end
-- Waits until every session that is applying has committed; those that begin later see our lists.
SELECT pg_catalog.pg_advisory_xact_lock(x'70737963'::int, pg_catalog.hashtext('join'));

-- name: arm
-- $1 lists
UPDATE peersync.proof_list SET armed = true WHERE list = ANY ($1::bigint[]);

-- name: try_work
-- Whether this session may work on the lists now: one does.
SELECT pg_catalog.pg_try_advisory_lock(x'70737963'::int, pg_catalog.hashtext('proof'));

-- name: end_work
-- Lets the next one.
SELECT pg_catalog.pg_advisory_unlock(x'70737963'::int, pg_catalog.hashtext('proof'));

-- name: subject
-- A table as it is now: what a list of its digests rests on. stamp: a number that changes with all
-- that could change its rows, their texts, or whether their changes are caught. unfit: why no list
-- can be kept of it. schemas, names: it, and the partitioned tables that it is part of. log_key: the
-- columns of the keys in the log.
-- $1 schema, $2 table, $3 columns, $4 home of this database
WITH RECURSIVE c AS (
    SELECT c.oid, c.relkind, c.relpersistence,
           coalesce(pg_catalog.pg_partition_root(c.oid::pg_catalog.regclass)::oid, c.oid) AS root
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2
), tree AS (
    SELECT c.oid FROM c
     UNION
    SELECT a.relid::oid FROM c CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(c.oid::pg_catalog.regclass) AS a (relid)
), types (oid) AS (
    SELECT a.atttypid FROM c JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
     WHERE a.attname = ANY ($3::text[]) AND NOT a.attisdropped
     UNION
    SELECT p.oid FROM types AS t JOIN pg_catalog.pg_type AS y ON y.oid = t.oid
     CROSS JOIN LATERAL (
           SELECT y.typelem AS oid UNION ALL SELECT y.typbasetype
            UNION ALL
           SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
            WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
           SELECT g.rngsubtype FROM pg_catalog.pg_range AS g
            WHERE y.oid::text IN (g.rngtypid::text, pg_catalog.to_jsonb(g) ->> 'rngmultitypid')) AS p
     WHERE p.oid <> 0
), caught AS (  -- the triggers of ours on each of the tables through which a row can be written
    SELECT t.oid AS relation, pg_catalog.count(DISTINCT g.tgname) FILTER (
               WHERE g.tgname IN ('peersync_i', 'peersync_u', 'peersync_d')) = 3
           AND pg_catalog.bool_or(g.tgname IN ('peersync_t', 'peersync_b'))
           AND pg_catalog.bool_and(g.tgenabled = 'O') AS good,
           pg_catalog.string_agg(pg_catalog.concat_ws(' ', g.oid, g.xmin, p.xmin), ',' ORDER BY g.oid) AS stamp
      FROM tree AS t
      LEFT JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = t.oid AND g.tgname ~ '^peersync_[iudtb]$'
      LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
     GROUP BY t.oid
)
SELECT s.tbl, h.key AS log_key, r.origin, r.position, m.floor,
       pg_catalog.pg_current_snapshot()::text AS snapshot,
       (SELECT pg_catalog.array_agg(n.nspname::text ORDER BY t.oid) FROM tree AS t
          JOIN pg_catalog.pg_class AS k ON k.oid = t.oid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = k.relnamespace) AS schemas,
       (SELECT pg_catalog.array_agg(k.relname::text ORDER BY t.oid) FROM tree AS t
          JOIN pg_catalog.pg_class AS k ON k.oid = t.oid) AS names,
       CASE WHEN c.relkind <> 'r' OR c.relpersistence <> 'p' THEN 'not an ordinary table'
            WHEN r.state IS DISTINCT FROM 'active' OR r.direction = 'receive'
            THEN 'its changes do not stay in the log'
            WHEN s.tbl IS NULL OR h.key IS NULL THEN 'its changes are not captured'
            WHEN NOT (SELECT pg_catalog.bool_and(coalesce(g.good, false)) FROM caught AS g)
            THEN 'a trigger of peersync is missing or switched off'
            WHEN EXISTS (SELECT FROM pg_catalog.pg_subscription_rel AS u JOIN tree ON tree.oid = u.srrelid)
            THEN 'a subscription writes it'
            WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgenabled IN ('A', 'R'))
                 OR EXISTS (SELECT FROM pg_catalog.pg_rewrite AS w WHERE w.ev_enabled IN ('A', 'R'))
            THEN 'a trigger or rule fires for what is applied, too'
            WHEN EXISTS (SELECT FROM types AS t JOIN pg_catalog.pg_type AS y ON y.oid = t.oid
                          WHERE y.typname ~ '^reg' AND y.typnamespace = 'pg_catalog'::pg_catalog.regnamespace)
            THEN 'the text of a value depends on names'
       END AS unfit,
       pg_catalog.md5(pg_catalog.concat_ws(' ', $4::text, pg_catalog.current_setting('server_version_num'),
           (SELECT pg_catalog.concat_ws(' ', i.system_identifier, d.oid)
              FROM pg_catalog.pg_control_system() AS i, pg_catalog.pg_database AS d
             WHERE d.datname = pg_catalog.current_database()),
           c.oid, s.tbl, s.shape,
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', k.oid, k.xmin, k.relfilenode, n.oid, n.xmin),
                                         ',' ORDER BY k.oid)
              FROM tree AS t JOIN pg_catalog.pg_class AS k ON k.oid = t.oid
              JOIN pg_catalog.pg_namespace AS n ON n.oid = k.relnamespace),
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attrelid, a.attnum, a.xmin),
                                         ',' ORDER BY a.attrelid, a.attnum)
              FROM tree AS t JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0),
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', i.inhrelid, i.inhparent, i.xmin),
                                         ',' ORDER BY i.inhrelid, i.inhparent)
              FROM tree AS t JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = t.oid),
           (SELECT pg_catalog.string_agg(g.relation || ' ' || coalesce(g.stamp, ''), ',' ORDER BY g.relation)
              FROM caught AS g),
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', y.oid, y.xmin), ',' ORDER BY y.oid)
              FROM types AS t JOIN pg_catalog.pg_type AS y ON y.oid = t.oid),
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', e.oid, e.xmin), ',' ORDER BY e.oid)
              FROM types AS t JOIN pg_catalog.pg_enum AS e ON e.enumtypid = t.oid),
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attrelid, a.attnum, a.xmin),
                                         ',' ORDER BY a.attrelid, a.attnum)
              FROM types AS t JOIN pg_catalog.pg_type AS y ON y.oid = t.oid AND y.typrelid <> 0
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = y.typrelid AND a.attnum > 0),
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', e.oid, e.xmin), ',' ORDER BY e.oid)
              FROM pg_catalog.pg_extension AS e))) AS stamp
  FROM c
  JOIN pg_catalog.pg_class AS rc ON rc.oid = c.root
  JOIN pg_catalog.pg_namespace AS rn ON rn.oid = rc.relnamespace
  LEFT JOIN peersync.synced_table AS s
         ON s.schema_name = rn.nspname AND s.table_name = rc.relname AND s.relation = c.root
        AND s.home = $4 AND s.state = 'captured'
  LEFT JOIN LATERAL (SELECT h.key FROM peersync.shape AS h WHERE h.shape = s.shape LIMIT 1) AS h ON true
  LEFT JOIN peersync.replica AS r ON true
  LEFT JOIN peersync.member AS m ON m.origin = r.origin;

-- name: changed
-- What was written since a list was brought up to date. whole: rows of it that nobody can name.
-- $1 tbl, $2 snapshot of the list, $3 schemas, $4 names, $5 columns of the key
WITH e AS MATERIALIZED (
    SELECT c.shape, c.key IS NULL OR c.op = 'T' AS whole FROM peersync.change AS c
     WHERE c.tbl = $1 AND c.xid >= pg_catalog.pg_snapshot_xmin($2::text::pg_snapshot)
       AND NOT pg_catalog.pg_visible_in_snapshot(c.xid, $2::text::pg_snapshot)
     UNION ALL
    SELECT m.shape, m.key IS NULL FROM peersync.proof_mark AS m
     WHERE m.xid >= pg_catalog.pg_snapshot_xmin($2::text::pg_snapshot)
       AND NOT pg_catalog.pg_visible_in_snapshot(m.xid, $2::text::pg_snapshot)
       AND (m.table_name IS NULL OR (m.table_schema, m.table_name) IN (
                SELECT w.s, w.t FROM unnest($3::text[], $4::text[]) AS w (s, t)))
)
SELECT EXISTS (SELECT FROM e) AS any,
       coalesce((SELECT pg_catalog.bool_or(e.whole) FROM e), false)
       OR EXISTS (SELECT FROM (SELECT DISTINCT e.shape FROM e) AS d
                   WHERE NOT EXISTS (SELECT FROM peersync.shape AS h
                                      WHERE h.shape = d.shape AND h.key = $5::text[])) AS whole;

-- name: touched
-- Numbers of the tables that have changed since the oldest of the lists was brought up to date; null
-- where it could be any.
WITH o AS MATERIALIZED (
    SELECT pg_catalog.min(pg_catalog.pg_snapshot_xmin(l.snapshot)) AS xmin FROM peersync.proof_list AS l
), t AS (
    SELECT c.tbl FROM o JOIN peersync.change AS c ON c.xid >= o.xmin
     UNION
    SELECT s.tbl FROM o JOIN peersync.proof_mark AS m ON m.xid >= o.xmin
      LEFT JOIN peersync.synced_table AS s
             ON s.schema_name = m.table_schema AND s.table_name = m.table_name
)
SELECT CASE WHEN pg_catalog.bool_or(t.tbl IS NULL) THEN NULL
            ELSE coalesce(pg_catalog.array_agg(t.tbl), '{}') END AS tables
  FROM t;

-- name: advance_quiet
-- Lists of tables that nobody has written are up to date. In REPEATABLE READ.
-- $1 numbers of tables that were
UPDATE peersync.proof_list AS l
   SET snapshot = pg_catalog.pg_current_snapshot(), position = r.position,
       advanced_at = clock_timestamp()
  FROM peersync.replica AS r JOIN peersync.member AS m USING (origin)
 WHERE l.origin = r.origin AND l.position >= m.floor AND l.tbl <> ALL ($1::integer[])
   AND pg_catalog.pg_snapshot_xmax(l.snapshot)
       <= pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot());

-- name: advance
-- $1 list, $2 stamp, $3 origin, $4 position, $5 snapshot, $6 tbl
UPDATE peersync.proof_list
   SET stamp = $2, origin = $3, position = $4, snapshot = $5::text::pg_snapshot, tbl = $6,
       advanced_at = clock_timestamp()
 WHERE list = $1;

-- name: holds
-- From which position of this database the log is still needed for lists. One that nobody has
-- brought up to date for ten minutes is not waited for.
SELECT r.origin, pg_catalog.min(l.position) AS position
  FROM peersync.proof_list AS l JOIN peersync.replica AS r ON r.origin = l.origin
 WHERE l.advanced_at > clock_timestamp() - interval '10 minutes'
 GROUP BY r.origin;

-- name: clear
-- Nothing is known of the table.
-- $1 list
DELETE FROM peersync.proof_block WHERE list = $1;

-- name: begin
-- One block for all keys, which is to be read.
-- $1 list
INSERT INTO peersync.proof_block (list, place) VALUES ($1, 0);

-- name: forget
-- $1 list
WITH b AS (DELETE FROM peersync.proof_block WHERE list = $1)
DELETE FROM peersync.proof_list WHERE list = $1;

-- name: forget_old
-- Lists that no verification has asked for.
-- $1 days
WITH l AS (DELETE FROM peersync.proof_list
            WHERE asked_at < clock_timestamp() - $1::float8 * interval '1 day' RETURNING list)
DELETE FROM peersync.proof_block AS b USING l WHERE b.list = l.list;

-- name: forget_marks
-- What all lists know.
DELETE FROM peersync.proof_mark AS m
 WHERE m.xid < (SELECT coalesce(pg_catalog.min(pg_catalog.pg_snapshot_xmin(
                                    coalesce(l.snapshot, pg_catalog.pg_current_snapshot()))),
                                pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()))
                  FROM peersync.proof_list AS l);

-- name: forget_all
-- Nothing is kept here any more.
WITH b AS (DELETE FROM peersync.proof_block), m AS (DELETE FROM peersync.proof_mark)
DELETE FROM peersync.proof_list;

-- name: state
-- How much of a list is known: never read, changed since, and all blocks.
-- $1 list
SELECT pg_catalog.count(*) FILTER (WHERE b.rows IS NULL) AS unread,
       pg_catalog.count(*) FILTER (WHERE b.digest IS NULL) AS marked,
       pg_catalog.count(*) AS blocks
  FROM peersync.proof_block AS b WHERE b.list = $1;

-- name: place_of
-- Where a block begins. $1 list, $2 key
SELECT place FROM peersync.proof_block WHERE list = $1 AND low = $2::text[];

-- name: kept
-- The blocks of a list in their order, each with where it ends.
-- $1 list, $2 the first place
SELECT b.place, b.low, b.rows, b.digest, b.read_at,
       lead(b.low) OVER w AS high, lead(false, 1, true) OVER w AS last
  FROM peersync.proof_block AS b WHERE b.list = $1 AND b.place >= $2::numeric
WINDOW w AS (ORDER BY b.place) ORDER BY b.place;

-- name: total
-- All blocks of a list together, but for those that have to be read.
-- $1 list, $2 places of the blocks that have changed
SELECT coalesce(pg_catalog.sum(b.rows), 0)::bigint AS rows,
       coalesce(bit_xor(b.digest), 0) AS digest,
       pg_catalog.min(b.read_at) AS read_at, pg_catalog.count(*) AS blocks
  FROM peersync.proof_block AS b
 WHERE b.list = $1 AND b.digest IS NOT NULL AND b.place <> ALL ($2::numeric[]);

-- name: stale
-- The blocks that have to be read, with where they end.
-- $1 list, $2 places of the blocks that have changed
SELECT b.place, b.low, n.low AS high
  FROM peersync.proof_block AS b
  LEFT JOIN LATERAL (SELECT n.place, n.low FROM peersync.proof_block AS n
                      WHERE n.list = b.list AND n.place > b.place ORDER BY n.place LIMIT 1) AS n ON true
 WHERE b.list = $1 AND (b.digest IS NULL OR b.place = ANY ($2::numeric[]))
 ORDER BY b.place;

-- name: marked
-- The next blocks that are to be read, with where they end.
-- $1 list, $2 how many, $3 whether they were ever read
SELECT b.place, b.low, n.place AS next, n.low AS high
  FROM peersync.proof_block AS b
  LEFT JOIN LATERAL (SELECT n.place, n.low FROM peersync.proof_block AS n
                      WHERE n.list = b.list AND n.place > b.place ORDER BY n.place LIMIT 1) AS n ON true
 WHERE b.list = $1 AND b.digest IS NULL AND (b.rows IS NOT NULL) = $3
 ORDER BY b.place LIMIT $2;

-- name: blocks_read
-- Blocks as they are now; those that have become too large are cut later.
-- $1 list, $2 places, $3 rows, $4 digests, $5 rows that are too many
UPDATE peersync.proof_block AS b
   SET rows = CASE WHEN w.rows < $5 THEN w.rows END, digest = CASE WHEN w.rows < $5 THEN w.digest END,
       read_at = clock_timestamp()
  FROM unnest($2::numeric[], $3::bigint[], $4::bigint[]) AS w (place, rows, digest)
 WHERE b.list = $1 AND b.place = w.place;

-- name: oldest
-- The next blocks that are read again, whatever is known of them.
-- $1 list, $2 days, $3 how many
SELECT b.place, b.low, b.rows, b.digest, n.low AS high, n.place IS NULL AS last
  FROM (SELECT * FROM peersync.proof_block AS b
         WHERE b.list = $1 AND b.digest IS NOT NULL
           AND b.read_at < clock_timestamp() - $2::float8 * interval '1 day'
         ORDER BY b.place LIMIT $3) AS b
  LEFT JOIN LATERAL (SELECT n.place, n.low FROM peersync.proof_block AS n
                      WHERE n.list = b.list AND n.place > b.place ORDER BY n.place LIMIT 1) AS n ON true
 ORDER BY b.place;

-- name: read_again
-- $1 list, $2 places
UPDATE peersync.proof_block SET read_at = clock_timestamp()
 WHERE list = $1 AND place = ANY ($2::numeric[]);

-- name: renumber
-- Gives all blocks short places again, in the same order. In two steps, so that no two have the same
-- place in between: first below 0, where none is.
-- $1 list
UPDATE peersync.proof_block AS b SET place = n.place
  FROM (SELECT o.place AS old,
               row_number() OVER (ORDER BY o.place) - 1 - pg_catalog.count(*) OVER () AS place
          FROM peersync.proof_block AS o WHERE o.list = $1) AS n
 WHERE b.list = $1 AND b.place = n.old;

-- name: renumbered
-- The second step: from 0 on. $1 list
UPDATE peersync.proof_block AS b
   SET place = b.place + (SELECT pg_catalog.count(*) FROM peersync.proof_block AS o WHERE o.list = $1)
 WHERE b.list = $1;

-- name: block_read
-- A block as it is now. $1 list, $2 place, $3 rows, $4 digest
UPDATE peersync.proof_block SET rows = $3, digest = $4, read_at = clock_timestamp()
 WHERE list = $1 AND place = $2;

-- name: block_joined
-- Rows belong to the block that is the last one before a place now.
-- $1 list, $2 place, $3 rows, $4 digest
UPDATE peersync.proof_block SET rows = rows + $3, digest = digest # $4
 WHERE list = $1 AND place = (SELECT pg_catalog.max(p.place) FROM peersync.proof_block AS p
                               WHERE p.list = $1 AND p.place < $2);

-- name: block_gone
-- $1 list, $2 place
DELETE FROM peersync.proof_block WHERE list = $1 AND place = $2;

-- name: block_new
-- $1 list, $2 place, $3 low, $4 rows, $5 digest
INSERT INTO peersync.proof_block (list, place, low, rows, digest) VALUES ($1, $2, $3, $4, $5);

-- name: mark_row
-- This transaction writes a row that nothing of ours sees.
-- $1 schema, $2 table, $3 shape of the key, $4 key
INSERT INTO peersync.proof_mark (table_schema, table_name, shape, key)
VALUES ($1, $2, $3, $4);

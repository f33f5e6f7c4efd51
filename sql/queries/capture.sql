-- name: relations
-- Every relation that could be captured, with what its capture should be and what it is: of a
-- partitioned table the root, the tables between and the leaves, all under the root's name.
-- marker: what its function is made of; null where there is none. off: our triggers that do not
-- fire as they should. known: this very relation has been looked at before. moved: this table was,
-- in the database that a dump of it was made of; its rows are no news.
-- $1 what the home of this database is
WITH version AS MATERIALIZED (SELECT peersync.capture_version() AS v),
relations AS (
    SELECT c.oid, c.relname, c.relkind, c.relpersistence, c.relnamespace, c.relispartition,
           coalesce(pg_catalog.pg_partition_root(c.oid::pg_catalog.regclass)::oid, c.oid) AS root
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
       AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync')),
triggers AS (
    SELECT g.tgrelid, array_agg(g.tgtype::int ORDER BY g.tgtype) AS types,
           pg_catalog.min(g.tgname) FILTER (WHERE g.tgenabled <> 'O') AS off
      FROM pg_catalog.pg_trigger AS g
      JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid AND p.proname = 'capture_' || g.tgrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = 'peersync'
     GROUP BY g.tgrelid)
SELECT c.oid::bigint AS oid, rn.nspname AS schema, r.relname AS name, c.root::bigint AS root,
       pg_catalog.format('%I.%I', cn.nspname, c.relname) AS own,
       c.relkind = 'f' AS is_foreign, c.relpersistence = 'u' AS unlogged,
       EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.root
                  AND d.deptype = 'e') AS extension,
       pg_catalog.has_table_privilege(c.oid, 'TRIGGER') AS may,
       f.facts -> 'columns' = '[]' AS empty, f.facts ->> 'bad_key' AS bad_key,
       peersync.facts_shape(f.facts) AS shape,
       s.tbl, s.state, s.reason, s.strategy, s.shape AS known_shape,
       coalesce(s.relation = c.root AND s.home = $1, false) AS known,
       p.oid IS NOT NULL AS has_function, t.off,
       p.oid IS NOT NULL AND coalesce(pg_catalog.strpos(p.prosrc, pg_catalog.format('/* peersync %s */',
           peersync.capture_marker(version.v, peersync.facts_stamp(f.facts, c.oid),
                                   peersync.quick_stamp(c.oid, (f.facts ->> 'root')::oid), s.tbl,
                                   s.strategy ~ '^(merge_columns|delta)'))), 0) > 0
       AND t.types IS NOT DISTINCT FROM ARRAY(
           SELECT e::int FROM pg_catalog.jsonb_array_elements_text(f.facts -> 'triggers') AS e
            ORDER BY e::int) AS current,
       coalesce((SELECT y.state = 'active' FROM peersync.replica AS y), false) AS active,
       coalesce(s.relation IS NOT NULL AND s.home <> $1, false) AS moved
  FROM version CROSS JOIN relations AS c
  JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
  JOIN pg_catalog.pg_class AS r ON r.oid = c.root
  JOIN pg_catalog.pg_namespace AS rn ON rn.oid = r.relnamespace
 CROSS JOIN LATERAL (SELECT peersync.capture_facts(c.oid) AS facts OFFSET 0) AS f
  LEFT JOIN peersync.synced_table AS s ON s.schema_name = rn.nspname AND s.table_name = r.relname
  LEFT JOIN pg_catalog.pg_proc AS p
         ON p.proname = 'capture_' || c.oid
        AND p.pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'peersync')
  LEFT JOIN triggers AS t ON t.tgrelid = c.oid
 ORDER BY rn.nspname, r.relname, c.oid <> c.root, c.oid;

-- name: add_number
-- Gives a table a number at its first sight; it is not captured yet. Waits for somebody who does
-- the same, who may be the one that applies a peer's changes of it.
-- $1 schema, $2 table
INSERT INTO peersync.synced_table (schema_name, table_name, state, reason)
VALUES ($1, $2, 'refused', 'not captured yet')
ON CONFLICT (schema_name, table_name) DO NOTHING;

-- name: number
-- The number of a table. A statement of its own: one that waited does not see what it waited for.
-- $1 schema, $2 table
SELECT tbl FROM peersync.synced_table WHERE schema_name = $1 AND table_name = $2;

-- name: vacuum_gives_way
-- Autovacuum ends for whoever has waited for its table that long: milliseconds; null where none runs.
-- $1 oid
SELECT (SELECT s.setting::bigint FROM pg_catalog.pg_settings AS s WHERE s.name = 'deadlock_timeout')
  FROM pg_catalog.pg_locks AS l
  JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid AND a.backend_type = 'autovacuum worker'
 WHERE l.relation = $1::bigint::oid AND l.granted AND l.mode = 'ShareUpdateExclusiveLock'
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                      WHERE d.datname = pg_catalog.current_database())
 LIMIT 1;

-- name: install
-- Makes or renews the capture of a relation; gives the number of its rows that were logged.
-- Null: there is no such table number.
-- $1 oid, $2 tbl, $3 whether rows that were never captured are new to the others
SELECT peersync.capture_install($1::bigint::oid, s.tbl, s.strategy ~ '^(merge_columns|delta)', $3)
  FROM peersync.synced_table AS s WHERE s.tbl = $2;

-- name: record
-- What is captured of a table. A null relation leaves the one that is known.
-- $1 schema, $2 table, $3 oid of the root, $4 shape, $5 state, $6 reason, $7 home
INSERT INTO peersync.synced_table AS s (schema_name, table_name, relation, shape, state, reason, home)
VALUES ($1, $2, $3::bigint::oid, $4, $5, $6, $7)
ON CONFLICT (schema_name, table_name) DO UPDATE
   SET relation = coalesce(excluded.relation, s.relation), shape = excluded.shape,
       home = CASE WHEN excluded.relation IS NULL THEN s.home ELSE excluded.home END,
       state = excluded.state, reason = excluded.reason, since = pg_catalog.clock_timestamp();

-- name: gone
-- Tables that were dropped or renamed, and those that a peer has and this database never had.
-- $1 schemas, $2 tables that there are
UPDATE peersync.synced_table AS s
   SET state = 'gone', reason = 'the table was dropped or renamed', relation = NULL,
       since = pg_catalog.clock_timestamp()
 WHERE s.state IN ('captured', 'excluded', 'refused')
   AND NOT EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS u (schema_name, table_name)
                    WHERE u.schema_name = s.schema_name AND u.table_name = s.table_name);

-- name: orphans
-- Capture functions of relations that are not there any more.
SELECT p.oid::pg_catalog.regprocedure::text AS function
  FROM pg_catalog.pg_proc AS p
  JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = 'peersync'
 WHERE p.proname ~ '^capture_[0-9]+$'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgfoid = p.oid)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c
                    WHERE c.oid::text = pg_catalog.substr(p.proname, 9));

-- name: functions
-- The capture functions of these tables and of their partitions; of all of them for null.
-- $1 schemas, $2 tables
SELECT DISTINCT p.oid::pg_catalog.regprocedure::text AS function
  FROM pg_catalog.pg_proc AS p
  JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = 'peersync'
  LEFT JOIN pg_catalog.pg_trigger AS g ON g.tgfoid = p.oid
  LEFT JOIN pg_catalog.pg_class AS c
         ON c.oid = coalesce(pg_catalog.pg_partition_root(g.tgrelid::pg_catalog.regclass)::oid, g.tgrelid)
  LEFT JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
 WHERE p.proname ~ '^capture_[0-9]+$'
   AND ($1::text[] IS NULL
        OR EXISTS (SELECT FROM unnest($1, $2::text[]) AS u (schema_name, table_name)
                    WHERE u.schema_name = cn.nspname AND u.table_name = c.relname));

-- name: removed
-- Says of tables that their capture was taken away.
-- $1 schemas, $2 tables; null: all
UPDATE peersync.synced_table AS s
   SET state = 'excluded', reason = 'its capture was removed', since = pg_catalog.clock_timestamp()
 WHERE s.state IN ('captured', 'refused')
   AND ($1::text[] IS NULL
        OR EXISTS (SELECT FROM unnest($1, $2::text[]) AS u (schema_name, table_name)
                    WHERE u.schema_name = s.schema_name AND u.table_name = s.table_name));

-- name: states
-- What is captured and what is not, as it is this moment: triggers that somebody has switched
-- off or dropped since are seen.
SELECT s.tbl, s.schema_name, s.table_name, s.shape, s.strategy, s.parked,
       CASE WHEN s.state = 'captured' AND x.reason IS NOT NULL THEN 'refused' ELSE s.state END AS state,
       CASE WHEN s.state = 'captured' THEN x.reason ELSE s.reason END AS reason
  FROM peersync.synced_table AS s
  LEFT JOIN LATERAL (
    SELECT CASE WHEN count(g.oid) = 0 THEN 'its triggers were dropped'
                WHEN bool_or(g.tgenabled <> 'O')
                THEN 'its trigger ' || pg_catalog.min(g.tgname) FILTER (WHERE g.tgenabled <> 'O')
                     || ' on ' || pg_catalog.min(g.tgrelid::pg_catalog.regclass::text)
                                  FILTER (WHERE g.tgenabled <> 'O')
                     || ' is switched off or fires always: ALTER TABLE ... ENABLE TRIGGER'
           END AS reason
      FROM (SELECT s.relation AS oid
             UNION
            SELECT i.relid FROM pg_catalog.pg_partition_tree(s.relation::pg_catalog.regclass) AS i) AS r
      LEFT JOIN pg_catalog.pg_trigger AS g
             ON g.tgrelid = r.oid AND g.tgname IN ('peersync_i', 'peersync_u', 'peersync_d',
                                                   'peersync_t', 'peersync_b')) AS x ON true
 ORDER BY s.schema_name, s.table_name;

-- name: keyless
-- Captured tables whose rows are told apart by nothing.
SELECT s.schema_name, s.table_name
  FROM peersync.synced_table AS s JOIN peersync.shape AS h USING (shape)
 WHERE s.state = 'captured' AND h.key = '{}'
 ORDER BY s.schema_name, s.table_name;

-- name: catalog_stamp
-- A number that changes when something changed that capture may depend on.
SELECT pg_catalog.md5(pg_catalog.concat_ws(' ',
    (SELECT pg_catalog.concat(count(*), ' ', sum(c.xmin::text::bigint * (c.oid::bigint % 8191 + 1)))
       FROM pg_catalog.pg_class AS c
      WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'f', 'i', 'I') AND c.relpersistence <> 't'),
    (SELECT pg_catalog.concat(count(*), ' ', sum(a.xmin::text::bigint * a.attnum))
       FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
      WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
        AND a.attnum > 0),
    (SELECT pg_catalog.concat(count(*), ' ', sum(g.xmin::text::bigint))
       FROM pg_catalog.pg_trigger AS g WHERE g.oid >= 16384),
    (SELECT sum(n.xmin::text::bigint) FROM pg_catalog.pg_namespace AS n WHERE n.nspname !~ '^pg_'),
    (SELECT pg_catalog.concat(count(*), ' ', sum(i.xmin::text::bigint))
       FROM pg_catalog.pg_inherits AS i),
    (SELECT sum(pg_catalog.hashtext(s.tbl || s.strategy || s.state)::bigint)
       FROM peersync.synced_table AS s)));

-- name: event_trigger
-- Whether DDL could wake the agent, and does.
SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = 'peersync_ddl') AS made,
       (SELECT r.rolsuper FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user) AS may;

-- name: schema_state
-- Whether schema peersync exists, has the runner's tables, and how many other relations.
SELECT n.oid IS NOT NULL AS has_schema,
       count(c.oid) FILTER (WHERE c.relname = 'migration' AND c.relkind = 'r') > 0 AS has_migration,
       count(c.oid) FILTER (WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')) AS relations
  FROM (SELECT 1) AS always
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'peersync'
  LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
 GROUP BY n.oid;

-- name: take_migration_lock
-- Waits for the lock that lets one migration run at a time.
SELECT pg_catalog.pg_advisory_lock(x'70737963'::int, pg_catalog.hashtext('migrate'));

-- name: give_migration_lock
-- Gives it back.
SELECT pg_catalog.pg_advisory_unlock(x'70737963'::int, pg_catalog.hashtext('migrate'));

-- name: applied
-- The migrations that the schema has, in order.
SELECT number, name, sha256, breaking, applied_at, by_version
  FROM peersync.migration ORDER BY number;

-- name: record_migration
-- Remembers a migration, in the transaction that made it.
-- $1 number, $2 name, $3 sha256, $4 breaking, $5 version of peersync
INSERT INTO peersync.migration (number, name, sha256, breaking, by_version)
VALUES ($1, $2, $3, $4, $5);

-- name: functions_hash
-- The hash of the function files that were last created here.
SELECT sha256 FROM peersync.functions_version;

-- name: record_functions
-- Remembers the hash, in the transaction that created the functions.
-- $1 sha256, $2 version of peersync
INSERT INTO peersync.functions_version (sha256, by_version) VALUES ($1, $2)
ON CONFLICT (only_one) DO UPDATE
   SET sha256 = excluded.sha256, by_version = excluded.by_version,
       applied_at = pg_catalog.clock_timestamp();

-- name: objects
-- Everything that an uninstall drops: kind and name, our triggers on other tables first.
SELECT 0 AS rank, 'trigger' AS kind,
       pg_catalog.format('%I ON %s', t.tgname, pg_catalog.format('%I.%I', tn.nspname, c.relname))
       AS name
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
  JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace AND pn.nspname = 'peersync'
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace tn ON tn.oid = c.relnamespace AND tn.nspname <> 'peersync'
 WHERE NOT t.tgisinternal AND t.tgparentid = 0
UNION ALL
SELECT 0, 'event trigger', pg_catalog.format('%I', e.evtname)
  FROM pg_catalog.pg_event_trigger e
  JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'peersync'
UNION ALL
SELECT 1,
       CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                      WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' ELSE 'table' END,
       pg_catalog.format('%I.%I', n.nspname, c.relname)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'peersync' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
UNION ALL
SELECT 2, 'function', p.oid::pg_catalog.regprocedure::text
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'peersync'
UNION ALL
SELECT 3, 'type', pg_catalog.format('%I.%I', n.nspname, t.typname)
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
 WHERE n.nspname = 'peersync' AND (t.typtype IN ('d', 'e', 'r') OR c.relkind = 'c')
UNION ALL
SELECT 4, 'schema', n.nspname
  FROM pg_catalog.pg_namespace n WHERE n.nspname = 'peersync'
 ORDER BY 1, 2, 3;

-- name: membership
-- Where the database is a member of a group: the nodes of the other members, and how many of its
-- changes none of them is known to have. No row where it is not.
SELECT r.state,
       ARRAY(SELECT m.node_name FROM peersync.member AS m
              WHERE m.origin <> r.origin AND m.state IN ('member', 'joining')
              ORDER BY m.node_name) AS others,
       (SELECT count(*) FROM peersync.change AS c
         WHERE NOT EXISTS (
               SELECT FROM peersync.transaction AS t
                WHERE t.xid = c.xid AND t.origin = r.origin
                  AND t.position <= (SELECT coalesce(max((m.seen ->> r.origin::text)::bigint), 0)
                                       FROM peersync.member AS m
                                      WHERE m.origin <> r.origin
                                        AND m.state IN ('member', 'joining'))))
       + (SELECT count(*) FROM peersync.withheld) AS unsent
  FROM peersync.replica AS r;

-- name: foreign_dependents
-- What the user built on our tables, which a cascade would take away with them.
WITH ours AS (
    SELECT c.oid FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'peersync'
)
SELECT DISTINCT pg_catalog.pg_describe_object('pg_catalog.pg_class'::pg_catalog.regclass, c.oid, 0)
       AS name
  FROM pg_catalog.pg_depend d
  JOIN ours ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = ours.oid
  LEFT JOIN pg_catalog.pg_rewrite r
         ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = d.objid
  LEFT JOIN pg_catalog.pg_constraint k
         ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = d.objid
  LEFT JOIN pg_catalog.pg_attrdef a
         ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND a.oid = d.objid
  JOIN pg_catalog.pg_class c ON c.oid = coalesce(r.ev_class, k.conrelid, a.adrelid)
 WHERE c.oid NOT IN (SELECT oid FROM ours)
 ORDER BY 1;

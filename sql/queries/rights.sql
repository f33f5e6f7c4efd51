-- name: role
-- A role, and what holds for all of its databases; no row when there is no such role.
-- $1 its name, NULL for the one that is connected
SELECT r.rolname::text AS role, r.rolsuper AS superuser, r.rolbypassrls AS bypass_rls,
       pg_catalog.current_setting('server_version_num')::int AS version_num,
       pg_catalog.current_database()::text AS database,
       pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT') AS may_connect,
       pg_catalog.has_database_privilege(r.oid, d.oid, 'CREATE') AS may_create,
       pg_catalog.has_parameter_privilege(r.oid, 'session_replication_role', 'SET')
           AS may_set_replica,
       EXISTS (SELECT FROM pg_catalog.pg_namespace n
                WHERE n.nspname = 'peersync'
                  AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE')) AS has_schema
  FROM pg_catalog.pg_roles r
  JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
 WHERE r.rolname = coalesce($1::text, current_user::text);

-- name: schemas
-- The schemas that have something to copy, and public, with what a role may do in them.
-- $1 name of the role
SELECT n.nspname::text AS schema,
       pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE') AS may_use,
       pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE') AS may_create
  FROM pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_roles r ON r.rolname = $1::text
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync')
   AND (n.nspname = 'public'
        OR EXISTS (SELECT FROM pg_catalog.pg_class c
                    WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'S')))
 ORDER BY n.nspname;

-- name: relations
-- What pg_dump locks or reads: tables, parents of partitions, sequences. `row_security`: rows may
-- be hidden from this role. `belongs_to`: the table of a sequence. `parents`: those above a
-- partition, which pg_dump locks too.
-- $1 name of the role
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name,
       c.relkind = 'S' AS is_sequence, c.relkind = 'p' AS is_parent,
       pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE') AS may_use_schema,
       pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT') AS may_select,
       pg_catalog.has_table_privilege(r.oid, c.oid, 'INSERT') AS may_insert,
       pg_catalog.has_table_privilege(r.oid, c.oid, 'UPDATE') AS may_update,
       pg_catalog.has_table_privilege(r.oid, c.oid, 'DELETE') AS may_delete,
       pg_catalog.has_table_privilege(r.oid, c.oid, 'TRIGGER') AS may_trigger,
       c.relrowsecurity AND NOT (r.rolsuper OR r.rolbypassrls
           OR NOT c.relforcerowsecurity AND pg_catalog.pg_has_role(r.oid, c.relowner, 'USAGE'))
           AS row_security,
       (SELECT d.refobjid::bigint FROM pg_catalog.pg_depend d
         WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
           AND d.objsubid = 0 AND d.refclassid = 'pg_catalog.pg_class'::regclass
           AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0 LIMIT 1) AS belongs_to,
       CASE WHEN c.relispartition
            THEN (SELECT array_agg(a.relid::oid::bigint)
                    FROM pg_catalog.pg_partition_ancestors(c.oid) AS a (relid)
                   WHERE a.relid <> c.oid) END AS parents
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_roles r ON r.rolname = $1::text
 WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname;

-- name: large_objects
-- The large objects, with what a role may do with them. has_largeobject_privilege() is of 18.
-- There can be millions: those that the role may read and change are of interest to few.
-- $1 name of the role, $2 whether also those
SELECT m.oid::bigint AS oid,
       o.all_of_it OR 'SELECT' = ANY (p.given) AS may_select,
       o.all_of_it OR 'UPDATE' = ANY (p.given) AS may_update
  FROM pg_catalog.pg_largeobject_metadata m
  JOIN pg_catalog.pg_roles r ON r.rolname = $1::text
 CROSS JOIN LATERAL (
        SELECT r.rolsuper OR pg_catalog.current_setting('lo_compat_privileges')::boolean
               OR pg_catalog.pg_has_role(r.oid, m.lomowner, 'USAGE') AS all_of_it) AS o
 CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(a.privilege_type), '{}') AS given
          FROM pg_catalog.aclexplode(m.lomacl) AS a
         WHERE CASE WHEN a.grantee = 0 THEN true
                    ELSE pg_catalog.pg_has_role(r.oid, a.grantee, 'USAGE') END) AS p
 WHERE $2::boolean OR NOT (o.all_of_it OR p.given @> '{SELECT,UPDATE}')
 ORDER BY m.oid;

-- name: triggers_off
-- Our triggers that do not fire as they should, as SQL writes them and their tables.
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS on_table,
       pg_catalog.format('%I', g.tgname) AS trigger
  FROM pg_catalog.pg_trigger AS g
  JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
  JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.pronamespace AND pn.nspname = 'peersync'
  JOIN pg_catalog.pg_class AS c ON c.oid = g.tgrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE g.tgenabled <> 'O'
 ORDER BY 1, 2;

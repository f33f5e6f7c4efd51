-- name: sequences
-- The sequences whose values go with the rows: those of the user's, not an extension's.
SELECT n.nspname AS schema, c.relname AS name
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname;

-- name: large_objects
-- Which large objects there are.
SELECT oid::bigint AS oid FROM pg_catalog.pg_largeobject_metadata ORDER BY oid;

-- name: beginnings
-- The first bytes of several large objects, as hexadecimal digits.
-- $1 oids, $2 how many bytes of each
SELECT o.oid, pg_catalog.encode(pg_catalog.lo_get(o.oid::oid, 0, $2::int), 'hex') AS digits
  FROM pg_catalog.unnest($1::bigint[]) WITH ORDINALITY AS o (oid, n) ORDER BY o.n;

-- name: object_part
-- More bytes of a large object, as hexadecimal digits.
-- $1 oid, $2 the first byte, $3 how many
SELECT pg_catalog.encode(pg_catalog.lo_get($1::bigint::oid, $2::bigint, $3::int), 'hex') AS digits;

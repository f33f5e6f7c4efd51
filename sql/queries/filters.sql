-- name: partitions
-- A partitioned table and all below it; no row where there is no such partitioned table.
-- $1 schema, $2 name
WITH RECURSIVE tree AS (
    SELECT c.oid, c.relkind
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1::text AND c.relname = $2::text AND c.relkind = 'p'
    UNION ALL
    SELECT c.oid, c.relkind
      FROM tree
      JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
)
SELECT n.nspname AS schema, c.relname AS name, c.relkind = 'r' AS holds_rows
  FROM tree
  JOIN pg_catalog.pg_class c ON c.oid = tree.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY 1, 2;

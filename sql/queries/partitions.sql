-- name: hashed_by_enum
-- The partitions whose rows are placed by the hash of an enum somewhere above them. That hash is
-- made of oids, which no two databases share: pg_dump writes such rows as rows of the root.
WITH RECURSIVE unsafe AS (
    SELECT p.partrelid AS oid
      FROM pg_catalog.pg_partitioned_table p
     WHERE p.partstrat = 'h'
       AND EXISTS (SELECT FROM unnest(p.partclass::oid[]) AS u (opclass)
                     JOIN pg_catalog.pg_opclass o ON o.oid = u.opclass
                    WHERE o.opcintype = 'pg_catalog.anyenum'::pg_catalog.regtype)
    UNION
    SELECT i.inhrelid FROM unsafe u JOIN pg_catalog.pg_inherits i ON i.inhparent = u.oid
)
SELECT n.nspname AS schema, c.relname AS name
  FROM unsafe u
  JOIN pg_catalog.pg_class c ON c.oid = u.oid AND c.relkind = 'r'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY 1, 2;

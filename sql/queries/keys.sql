-- name: conflict_keys
-- One key a table that ON CONFLICT can name: the primary key, else the unique index with the
-- fewest columns that is not partial, has no expression, no nullable column and is immediate.
SELECT DISTINCT ON (n.nspname, c.relname)
       n.nspname AS schema, c.relname AS name,
       ARRAY(SELECT a.attname::text
               FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
              WHERE k.n <= i.indnkeyatts ORDER BY k.n) AS columns
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE i.indisunique AND i.indisvalid AND i.indimmediate
   AND i.indpred IS NULL AND i.indexprs IS NULL
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync')
   AND NOT EXISTS (
         SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
           JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
          WHERE k.n <= i.indnkeyatts AND NOT a.attnotnull)
 ORDER BY n.nspname, c.relname, i.indisprimary DESC, i.indnkeyatts, ic.relname;

-- Digests of tables: what decides how rows are hashed and in which order keys are compared.

-- name: probe
-- A fixed row, hashed as row_hash() does it where PostgreSQL's own functions are used. Two servers
-- that do not agree on it (another processor, another encoding) use the portable form.
SELECT pg_catalog.getdatabaseencoding() || ' ' || pg_catalog.hashint4extended(0,
           pg_catalog.hashint2extended((-7)::smallint, 1)
           # pg_catalog.hashint4extended(-2147483648, 2)
           # pg_catalog.hashint8extended(-9007199254740993, -2097153::bigint # 8031924123371070792)
           # pg_catalog.hashoidextended(4000000000::oid, 4)
           # pg_catalog.uuid_hash_extended('deadbeef-0000-4000-8000-00000000cafe'::uuid, 5)
           # pg_catalog.hashtextextended('peersync ~'::text COLLATE pg_catalog."C", 6)
           # pg_catalog.hashbpcharextended('odd'::char(7) COLLATE pg_catalog."C", 7)
           # pg_catalog.hashfloat4extended(1.5::float4, 8)
           # pg_catalog.hashfloat8extended(-1e300::float8, 9)
           # pg_catalog.hashfloat8extended('NaN'::float8, 10)
           # pg_catalog.hashint4extended('0044-03-15 BC'::date - '2000-01-01'::date, 11)
           # pg_catalog.hash_record_extended(ROW('\x00ff10'::bytea), 12)
           # pg_catalog.hashtextextended(pg_catalog.concat(
               pg_catalog.encode('\x00ff10'::bytea, 'hex'),
               pg_catalog.encode(pg_catalog.timestamptz_send('2024-02-29 12:34:56.789012+00'), 'hex'),
               pg_catalog.encode(pg_catalog.interval_send('1 mon -2 days 00:00:03.5'), 'hex'),
               pg_catalog.textin(pg_catalog.numeric_out(-1234.500)),
               pg_catalog.textin(pg_catalog.jsonb_out('{"b": 1.0, "a": null}'::jsonb)),
               pg_catalog.textin(pg_catalog.array_out('[0:1]={1,2}'::int[])),
               ROW(1.0::float8, NULL::text, 'x'))
               COLLATE pg_catalog."C", 13))::text AS probe;

-- name: column_types
-- The types of some columns of a table, null for those that are not there.
-- $1 schema, $2 table, $3 columns
SELECT pg_catalog.array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) ORDER BY w.n) AS types
  FROM pg_catalog.unnest($3::text[]) WITH ORDINALITY AS w (name, n)
  LEFT JOIN (pg_catalog.pg_attribute a
             JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relname = $2
             JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace AND s.nspname = $1)
         ON a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped;

-- name: leaves
-- What holds the rows of a partitioned table: all below it that is not partitioned itself.
-- No row where there is no such partitioned table, or nothing below it.
-- $1 schema, $2 table
SELECT ln.nspname AS schema, l.relname AS name
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL pg_catalog.pg_partition_tree(c.oid) AS t
  JOIN pg_catalog.pg_class l ON l.oid = t.relid
  JOIN pg_catalog.pg_namespace ln ON ln.oid = l.relnamespace
 WHERE n.nspname = $1::text AND c.relname = $2::text AND c.relkind = 'p' AND l.relkind <> 'p';

-- name: key_order
-- Which columns of a key are ordered by their bytes here whatever collation is asked for, and
-- whether a btree index begins with just these columns, so that a range of keys is a range of it.
-- $1 schema, $2 table, $3 columns of the key
WITH wanted AS (
    SELECT k.n, a.attnum, a.attcollation, c.oid AS relation
      FROM pg_catalog.unnest($3::text[]) WITH ORDINALITY AS k (name, n)
      JOIN pg_catalog.pg_namespace s ON s.nspname = $1
      JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid AND c.relname = $2
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name
                                    AND a.attnum > 0 AND NOT a.attisdropped
)
SELECT pg_catalog.array_agg(
           w.attcollation = 0
           OR CASE WHEN l.collprovider = 'd' THEN d.provider = 'b' OR d.provider = 'c'
                                                  AND d.datcollate IN ('C', 'POSIX')
                   ELSE l.collprovider = 'b'
                        OR l.collprovider = 'c' AND l.collcollate IN ('C', 'POSIX') END
           ORDER BY w.n) AS plain,
       EXISTS (
           SELECT FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
             JOIN pg_catalog.pg_am am ON am.oid = ic.relam AND am.amname = 'btree'
            WHERE i.indrelid = pg_catalog.min(w.relation::bigint)::oid
              AND i.indisvalid AND i.indpred IS NULL
              AND (i.indkey::int2[])[0:pg_catalog.cardinality($3::text[]) - 1]
                  = pg_catalog.array_agg(w.attnum ORDER BY w.n)
              AND (i.indcollation::oid[])[0:pg_catalog.cardinality($3::text[]) - 1]
                  = pg_catalog.array_agg(w.attcollation ORDER BY w.n)
              AND (SELECT pg_catalog.count(DISTINCT u.option & 1) = 1
                     FROM pg_catalog.unnest(
                          (i.indoption::int2[])[0:pg_catalog.cardinality($3::text[]) - 1])
                          AS u (option))
              AND NOT EXISTS (
                    SELECT FROM pg_catalog.unnest(
                           (i.indclass::oid[])[0:pg_catalog.cardinality($3::text[]) - 1]) AS o (oid)
                      JOIN pg_catalog.pg_opclass oc ON oc.oid = o.oid
                     WHERE NOT oc.opcdefault)) AS indexed
  FROM wanted w
  LEFT JOIN pg_catalog.pg_collation l ON l.oid = w.attcollation
 CROSS JOIN (SELECT coalesce(pg_catalog.to_jsonb(b) ->> 'datlocprovider', 'c') AS provider,
                    b.datcollate::text AS datcollate
               FROM pg_catalog.pg_database b
              WHERE b.datname = pg_catalog.current_database()) AS d;

-- name: size
-- Bytes of a table's rows, without TOAST; of a partitioned table those of all its partitions.
-- $1 schema, $2 table
SELECT coalesce(pg_catalog.pg_relation_size(c.oid), 0)
       + (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_relation_size(p.relid)), 0)::bigint
            FROM pg_catalog.pg_partition_tree(c.oid) AS p WHERE c.relkind = 'p') AS size
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2;

-- name: share_out
-- With how many further processes a scan of this session may be shared out; never more than the
-- server's own setting. $1 number of processes
SELECT pg_catalog.set_config('max_parallel_workers_per_gather', least($1::integer,
           pg_catalog.current_setting('max_parallel_workers_per_gather')::integer)::text, false);

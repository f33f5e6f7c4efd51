-- name: late_keys
-- Deferrable unique and exclusion constraints, which a trigger checks, or nobody where triggers are
-- quiet: what each compares, by which operators, in which rows, and whether nulls are equal.
-- $1 oids of tables
SELECT c.conrelid::bigint AS oid, c.conname AS name, c.contype <> 'x' AS is_unique,
       x.indnullsnotdistinct AS nulls_equal,
       pg_catalog.pg_get_expr(x.indpred, x.indrelid) AS predicate,
       array_agg(pg_catalog.pg_get_indexdef(x.indexrelid, u.n::int, false) ORDER BY u.n) AS compared,
       array_agg(pg_catalog.format('OPERATOR(%I.%s)', s.nspname, o.oprname) ORDER BY u.n) AS operators
  FROM pg_catalog.pg_constraint AS c
  JOIN pg_catalog.pg_index AS x ON x.indexrelid = c.conindid
 CROSS JOIN LATERAL pg_catalog.unnest(x.indclass::oid[]) WITH ORDINALITY AS u (opclass, n)
  JOIN pg_catalog.pg_opclass AS k ON k.oid = u.opclass
  LEFT JOIN pg_catalog.pg_amop AS a ON a.amopfamily = k.opcfamily AND a.amopstrategy = 3
   AND a.amoplefttype = k.opcintype AND a.amoprighttype = k.opcintype AND c.contype <> 'x'
  JOIN pg_catalog.pg_operator AS o
    ON o.oid = CASE WHEN c.contype = 'x' THEN c.conexclop[u.n] ELSE a.amopopr END
  JOIN pg_catalog.pg_namespace AS s ON s.oid = o.oprnamespace
 WHERE c.conrelid = ANY ($1::bigint[]::oid[]) AND c.condeferrable AND c.contype IN ('p', 'u', 'x')
   AND u.n <= x.indnkeyatts
 GROUP BY c.oid, c.conrelid, c.conname, c.contype, x.indexrelid, x.indrelid, x.indnullsnotdistinct,
          x.indpred
 ORDER BY c.conname;

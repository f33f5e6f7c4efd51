-- name: objects
-- Every object of the user's that has a DROP of its own: what exists before the peer's schema is
-- restored, and again after it, so that the difference can be taken back.
-- Left out: what goes with something else (identity sequences, members of extensions). A partition
-- goes with its parent too, but its parent may have been here before.
SELECT o.classid::bigint AS classid, o.objid::bigint AS objid
  FROM (SELECT 'pg_class'::regclass::oid AS classid, c.oid AS objid, c.relnamespace AS ns
          FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace FROM pg_catalog.pg_type
                   WHERE typtype IN ('b', 'd', 'e', 'r') AND typcategory <> 'A'
                      OR typtype = 'c' AND typrelid IN (SELECT oid FROM pg_catalog.pg_class
                                                         WHERE relkind = 'c')
        UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace FROM pg_catalog.pg_proc
        UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace FROM pg_catalog.pg_operator
        UNION ALL SELECT 'pg_opclass'::regclass, oid, opcnamespace FROM pg_catalog.pg_opclass
        UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfnamespace FROM pg_catalog.pg_opfamily
        UNION ALL SELECT 'pg_collation'::regclass, oid, collnamespace FROM pg_catalog.pg_collation
        UNION ALL SELECT 'pg_conversion'::regclass, oid, connamespace FROM pg_catalog.pg_conversion
        UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgnamespace FROM pg_catalog.pg_ts_config
        UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictnamespace FROM pg_catalog.pg_ts_dict
        UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxnamespace
                    FROM pg_catalog.pg_statistic_ext
        UNION ALL SELECT 'pg_cast'::regclass, oid, 0 FROM pg_catalog.pg_cast
        UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0
                    FROM pg_catalog.pg_foreign_data_wrapper
        UNION ALL SELECT 'pg_foreign_server'::regclass, oid, 0 FROM pg_catalog.pg_foreign_server
        UNION ALL SELECT 'pg_language'::regclass, oid, 0 FROM pg_catalog.pg_language
        UNION ALL SELECT 'pg_extension'::regclass, oid, 0 FROM pg_catalog.pg_extension
        UNION ALL SELECT 'pg_namespace'::regclass, oid, 0 FROM pg_catalog.pg_namespace
       ) AS o
 WHERE o.objid >= 16384
   AND o.ns NOT IN (SELECT oid FROM pg_catalog.pg_namespace
                     WHERE nspname ~ '^pg_' OR nspname IN ('information_schema', 'peersync'))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0
                      AND (d.deptype IN ('i', 'e') OR d.deptype = 'a' AND NOT EXISTS (
                            SELECT FROM pg_catalog.pg_class p
                             WHERE p.oid = o.objid AND p.relispartition
                               AND o.classid = 'pg_class'::regclass)));

-- name: relations
-- Every relation of the user's by name, with its kind.
SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync');

-- name: identify
-- What these objects are called now; gone ones are not in the answer.
-- $1 class oids, $2 object oids
SELECT o.classid, o.objid, i.type, i.identity
  FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS o (classid, objid, n)
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid::oid, o.objid::oid, 0) AS i
 WHERE i.identity IS NOT NULL
 ORDER BY o.n DESC;

-- name: foreign_keys_among
-- The foreign keys between these tables, which would keep them from being dropped one by one.
-- $1 oids of tables
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS table_name, k.conname AS name
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0
   AND k.conrelid = ANY ($1::bigint[]::oid[]) AND k.confrelid = ANY ($1::bigint[]::oid[]);

-- What the catalog says of a relation that is captured: its columns, its key, the triggers that
-- belong to it, and a number (stamp) by which a generated function sees that they have changed.

CREATE OR REPLACE FUNCTION peersync.shape_hash(
    schema_name text, table_name text, columns text[], types text[], key text[])
RETURNS bigint LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ('x' || substr(md5(jsonb_build_array(schema_name, table_name, to_jsonb(columns),
                                                to_jsonb(types), to_jsonb(key))::text), 1, 16)
           )::bit(64)::bigint
$$;

-- The settings that the texts of a relation's values depend on, as name and value. Setting one
-- costs each of the user's statements some of a microsecond, so the others are left alone.
CREATE OR REPLACE FUNCTION peersync.output_settings(relation oid)
RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
WITH RECURSIVE parts AS (
    SELECT a.atttypid AS oid FROM pg_attribute AS a
     WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT u.oid FROM parts
      JOIN pg_type AS t ON t.oid = parts.oid
     CROSS JOIN LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL SELECT g.rngsubtype FROM pg_range AS g WHERE t.oid IN (g.rngtypid, g.rngmultitypid)
        UNION ALL SELECT f.atttypid FROM pg_attribute AS f
                   WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0
                     AND NOT f.attisdropped) AS u (oid))
SELECT coalesce(jsonb_object_agg(s.name, s.value), '{}')
  FROM (VALUES
        ('DateStyle', 'ISO', '{date,timestamp,timestamptz}'::regtype[]),
        ('IntervalStyle', 'postgres', '{interval}'),
        ('TimeZone', 'UTC', '{timestamptz}'),
        ('bytea_output', 'hex', '{bytea}'),
        ('extra_float_digits', '1', '{float4,float8,point,line,lseg,box,path,polygon,circle}'),
        ('lc_monetary', 'C', '{money}'),
        ('quote_all_identifiers', 'off',
         '{regclass,regproc,regprocedure,regoper,regoperator,regtype,regconfig,regdictionary,'
         'regnamespace,regrole,regcollation}')) AS s (name, value, types)
 WHERE EXISTS (SELECT FROM parts WHERE parts.oid = ANY (s.types))
    OR s.name <> 'quote_all_identifiers'  -- an extension's: who knows
       AND EXISTS (SELECT FROM parts JOIN pg_type AS t ON t.oid = parts.oid
                    WHERE t.typtype = 'b' AND t.typelem = 0 AND t.oid >= 16384)
$$;

-- How a key's column is written so that equal values have one text: 'text' as it is, the name of
-- a type that peersync.key_field can normalise, or null where nothing does. Rows are matched by
-- the key's operator, conflicts are found by its text: the two have to agree. PostgreSQL itself
-- says which types have equal values of different images (support function 4: deduplication).
CREATE OR REPLACE FUNCTION peersync.key_form(opclass oid, type oid, coll oid)
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
WITH RECURSIVE base AS (
    SELECT t.oid, t.typtype, t.typbasetype FROM pg_type AS t WHERE t.oid = type
    UNION ALL
    SELECT t.oid, t.typtype, t.typbasetype FROM base
      JOIN pg_type AS t ON t.oid = base.typbasetype WHERE base.typtype = 'd'),
field AS (  -- what the values are made of
    SELECT i.typname AS name, coalesce(g.rngsubtype, CASE WHEN b.typcategory = 'A' THEN b.typelem END,
                                       b.oid) AS part
      FROM pg_opclass AS oc JOIN pg_type AS i ON i.oid = oc.opcintype
     CROSS JOIN base JOIN pg_type AS b ON b.oid = base.oid
      LEFT JOIN pg_range AS g ON g.rngtypid = b.oid
     WHERE oc.oid = opclass AND base.typtype <> 'd')
SELECT CASE WHEN f.name = 'citext' THEN 'citext'
            WHEN NOT coalesce((SELECT l.collisdeterministic FROM pg_collation AS l WHERE l.oid = coll),
                              true) THEN NULL
            WHEN f.name IN ('numeric', 'float4', 'float8', 'bpchar') THEN f.name
            WHEN f.part IN ('interval'::regtype, 'bpchar'::regtype) THEN NULL
            WHEN f.part IN ('varchar'::regtype, 'name'::regtype, 'oidvector'::regtype)
                 OR (SELECT t.typtype = 'e' FROM pg_type AS t WHERE t.oid = f.part)
                 OR EXISTS (SELECT FROM pg_amproc AS s
                              JOIN pg_opfamily AS y ON y.oid = s.amprocfamily
                              JOIN pg_am AS m ON m.oid = y.opfmethod AND m.amname = 'btree'
                             WHERE s.amprocnum = 4 AND s.amproclefttype = f.part
                               AND s.amprocrighttype = f.part) THEN 'text' END
  FROM field AS f
$$;

-- The same of a column under an index: rows are compared by the column's own collation, `own`, which
-- may call equal what the index tells apart.
CREATE OR REPLACE FUNCTION peersync.key_form(opclass oid, type oid, coll oid, own oid)
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE WHEN own = coll OR coalesce((SELECT l.collisdeterministic FROM pg_collation AS l
                                          WHERE l.oid = own), true)
            THEN peersync.key_form(opclass, type, coll) END
$$;

CREATE OR REPLACE FUNCTION peersync.key_field(expression text, form text)
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format(CASE form WHEN 'numeric' THEN 'pg_catalog.trim_scale(%s)'
                            WHEN 'float4' THEN '(%s OPERATOR(pg_catalog.+) ''0''::pg_catalog.float4)'
                            WHEN 'float8' THEN '(%s OPERATOR(pg_catalog.+) ''0''::pg_catalog.float8)'
                            WHEN 'bpchar' THEN '%s::pg_catalog.text'  -- without blanks at its end
                            WHEN 'citext' THEN 'pg_catalog.lower(%s::pg_catalog.text'
                                               ' COLLATE pg_catalog."default")'
                            ELSE '%s' END, expression)
$$;

-- SQL of a key's text, from the fields of a table alias, or from k1, k2, ... for a null alias; null
-- for a table without key.
CREATE OR REPLACE FUNCTION peersync.key_sql(facts jsonb, a text)
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'ROW(' || string_agg(peersync.key_field(
               CASE WHEN a IS NULL THEN format('k%s', n) ELSE format('%s.%I', a, k ->> 0) END,
               k ->> 2), ', ' ORDER BY n) || ')::pg_catalog.text'
      FROM jsonb_array_elements(facts -> 'key') WITH ORDINALITY AS u (k, n)
$$;

-- Everything that the capture of a relation depends on, from the catalog as it is now. Partitions
-- are described by their root, under whose name, columns and key they are logged.
-- Names are written as they are on every node, whatever the session's quote_all_identifiers.
--   columns: name, type, readable (not virtual), how its size is known (text, any, null: small)
--   key: name, equality operator, form (peersync.key_form); empty: the whole row
--   bad_key: a column that makes the only keys useless, because equal values have many texts
--   mode: statement, row (in an inheritance tree); current: whether rows may be read back
--   direct: the operations after which a transition table has the rows as they are, unless the
--           client's statement has logged something before (peersync.capture_choice)
--   settings: those that the texts of its values depend on
--   triggers: pg_trigger.tgtype of those that belong to it
CREATE OR REPLACE FUNCTION peersync.capture_facts(relation oid)
RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
AS $$
SELECT jsonb_build_object(
    'own', format('%I.%I', cn.nspname, c.relname), 'root', r.oid::bigint,
    'schema', n.nspname, 'table', r.relname, 'partitioned', r.relkind = 'p',
    'leaf', c.relispartition AND c.relkind = 'r',
    'mode', CASE WHEN tree.row_mode THEN 'row' ELSE 'statement' END,
    'current', has_table_privilege(r.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
               AND NOT row_security_active(r.oid),
    'settings', peersync.output_settings(r.oid),
    'columns', coalesce(cols.list, '[]'), 'key', coalesce(keys.list, '[]'),
    'bad_key', keys.bad, 'direct', coalesce(plain.ops, '[]'),
    'triggers', CASE WHEN tree.row_mode AND keys.list IS NULL THEN '[5, 9, 17, 34]'
                     WHEN tree.row_mode THEN '[5, 9, 17, 32]'
                     WHEN r.relkind <> 'p' AND keys.list IS NULL THEN '[4, 8, 16, 34]'
                     WHEN r.relkind <> 'p' THEN '[4, 8, 16, 32]'
                     WHEN c.oid = r.oid THEN '[4, 8, 16, 32, 34]'
                     WHEN c.relkind = 'p' THEN '[4, 8, 16]'
                     ELSE '[4, 8, 16, 34]' END::jsonb)
  FROM pg_class AS c
  JOIN pg_namespace AS cn ON cn.oid = c.relnamespace
  JOIN pg_class AS r ON r.oid = coalesce(pg_partition_root(c.oid::regclass)::oid, c.oid)
  JOIN pg_namespace AS n ON n.oid = r.relnamespace
 CROSS JOIN LATERAL (
    SELECT r.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits AS i
                                        WHERE r.oid IN (i.inhparent, i.inhrelid)) AS row_mode) AS tree
 CROSS JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(
               a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated <> 'v',
               CASE WHEN b.typlen <> -1
                         OR b.oid IN ('numeric'::regtype, 'inet'::regtype, 'cidr'::regtype,
                                      'bit'::regtype, 'interval'::regtype)
                         OR b.oid IN ('bpchar'::regtype, 'varchar'::regtype)
                            AND a.atttypmod BETWEEN 0 AND 100000 THEN NULL
                    WHEN b.oid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype,
                                   'bytea'::regtype) THEN 'text'
                    ELSE 'any' END) ORDER BY a.attnum) AS list
      FROM pg_attribute AS a
      JOIN pg_type AS t ON t.oid = a.atttypid
      JOIN pg_type AS b ON b.oid = CASE t.typtype WHEN 'd' THEN (
               WITH RECURSIVE base AS (
                   SELECT t.oid, t.typtype, t.typbasetype
                   UNION ALL
                   SELECT u.oid, u.typtype, u.typbasetype FROM base
                     JOIN pg_type AS u ON u.oid = base.typbasetype WHERE base.typtype = 'd')
               SELECT base.oid FROM base WHERE base.typtype <> 'd') ELSE t.oid END
     WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped) AS cols
  LEFT JOIN LATERAL (
    SELECT jsonb_agg(o.op) AS ops
      FROM (VALUES ('INSERT', NULL), ('UPDATE', 'u'), ('DELETE', 'd')) AS o (op, action)
     WHERE NOT tree.row_mode AND r.relkind = 'r' AND NOT r.relhasrules
       AND NOT EXISTS (SELECT FROM pg_trigger AS g
                         JOIN pg_proc AS p ON p.oid = g.tgfoid
                        WHERE g.tgrelid = r.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D'
                          AND p.pronamespace <> 'peersync'::regnamespace)
       AND NOT EXISTS (SELECT FROM pg_constraint AS f
                        WHERE f.contype = 'f' AND f.confrelid = r.oid
                          AND CASE o.action WHEN 'u' THEN f.confupdtype
                                            WHEN 'd' THEN f.confdeltype END NOT IN ('a', 'r'))
       -- two rows may have one key until it is checked: what leaves it is not all that was there
       AND NOT EXISTS (SELECT FROM pg_index AS di
                        WHERE di.indrelid = r.oid AND di.indisprimary AND NOT di.indimmediate)
       -- a cascade is part of the same statement: one transition table has both moves of a key
       AND NOT (o.op = 'UPDATE' AND EXISTS (
             SELECT FROM pg_constraint AS f
               JOIN pg_index AS fi ON fi.indrelid = r.oid AND fi.indisunique
                                  AND fi.indkey::int2[] && f.conkey
              WHERE f.contype = 'f' AND f.conrelid = r.oid
                AND (f.confupdtype NOT IN ('a', 'r') OR f.confdeltype IN ('n', 'd'))))
       ) AS plain ON true
  LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(a.attname, format('OPERATOR(%I.%s)', opn.nspname, op.oprname),
                                       form.name) ORDER BY k.n) AS list,
           min(a.attname) FILTER (WHERE form.name IS NULL) AS bad
      FROM (SELECT i.* FROM pg_index AS i
              JOIN pg_class AS ic ON ic.oid = i.indexrelid
              JOIN pg_am AS am ON am.oid = ic.relam AND am.amname = 'btree'
             WHERE i.indrelid = r.oid AND i.indisunique AND i.indisvalid
               AND i.indpred IS NULL AND i.indexprs IS NULL
               AND (i.indisprimary OR i.indimmediate AND NOT EXISTS (
                     SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS u (attnum, n)
                       JOIN pg_attribute AS na ON na.attrelid = r.oid AND na.attnum = u.attnum
                      WHERE u.n <= i.indnkeyatts AND NOT na.attnotnull))
             ORDER BY EXISTS (
                     SELECT FROM unnest(i.indclass::oid[], i.indcollation::oid[])
                                 WITH ORDINALITY AS u (opclass, coll, n)
                       JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS w (attnum, n) USING (n)
                       JOIN pg_attribute AS ka ON ka.attrelid = r.oid AND ka.attnum = w.attnum
                      WHERE n <= i.indnkeyatts
                        AND peersync.key_form(u.opclass, ka.atttypid, u.coll, ka.attcollation) IS NULL),
                   i.indisprimary DESC, i.indnkeyatts, ARRAY(  -- not the index's name: nodes differ in it
                     SELECT ka.attname::text COLLATE "C" FROM unnest(i.indkey::int2[])
                              WITH ORDINALITY AS w (attnum, n)
                       JOIN pg_attribute AS ka ON ka.attrelid = r.oid AND ka.attnum = w.attnum
                      WHERE n <= i.indnkeyatts ORDER BY n), ic.relname LIMIT 1) AS i
     CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[])
                        WITH ORDINALITY AS k (attnum, opclass, coll, n)
      JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum = k.attnum
     CROSS JOIN LATERAL (SELECT peersync.key_form(k.opclass, a.atttypid, k.coll, a.attcollation) AS name) AS form
      JOIN pg_opclass AS oc ON oc.oid = k.opclass
      JOIN pg_amop AS ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
                        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
      JOIN pg_operator AS op ON op.oid = ao.amopopr
      JOIN pg_namespace AS opn ON opn.oid = op.oprnamespace
     WHERE k.n <= i.indnkeyatts) AS keys ON true
 WHERE c.oid = relation
$$;

CREATE OR REPLACE FUNCTION peersync.facts_shape(facts jsonb)
RETURNS bigint LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT peersync.shape_hash(facts ->> 'schema', facts ->> 'table',
        ARRAY(SELECT c ->> 0 FROM jsonb_array_elements(facts -> 'columns') WITH ORDINALITY AS u (c, n)
               ORDER BY n),
        ARRAY(SELECT c ->> 1 FROM jsonb_array_elements(facts -> 'columns') WITH ORDINALITY AS u (c, n)
               ORDER BY n),
        ARRAY(SELECT k ->> 0 FROM jsonb_array_elements(facts -> 'key') WITH ORDINALITY AS u (k, n)
               ORDER BY n))
$$;

-- The shape under which a relation is logged. IMMUTABLE on purpose, as table_stamp is.
CREATE OR REPLACE FUNCTION peersync.table_shape(relation oid)
RETURNS bigint LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT peersync.facts_shape(peersync.capture_facts(relation)) $$;

-- A number that changes with anything that the generated function of a relation relies on. A
-- transaction of an old snapshot sees the catalog as it was; pg_describe_object does not, so that
-- names which are wrong now are noticed there, too.
CREATE OR REPLACE FUNCTION peersync.facts_stamp(facts jsonb, relation oid)
RETURNS bigint LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
AS $$
    SELECT ('x' || substr(md5(facts::text || coalesce(string_agg(d.name, ',' ORDER BY d.o, d.n), '')),
                          1, 16))::bit(64)::bigint
      FROM (SELECT o, n, pg_describe_object('pg_class'::regclass, o, n) AS name
              FROM (SELECT DISTINCT unnest(ARRAY[relation, (facts ->> 'root')::bigint::oid]) AS o) AS u
              JOIN pg_class AS c ON c.oid = o
             CROSS JOIN generate_series(0, c.relnatts + 1) AS n) AS d
     WHERE facts IS NOT NULL
$$;

-- A cheap look at the same catalog rows. Where it gives the same twice, facts_stamp does, too; null
-- where that can't be said so cheaply: composite types, key types of extensions.
CREATE OR REPLACE FUNCTION peersync.quick_stamp(relation oid, root oid)
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
AS $$
SELECT md5(ROW(columns.list, keys.list,
    has_table_privilege(root, 'SELECT'), row_security_active(root), pg_partition_root(relation)::oid,
    EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = root),
    EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = root),
    -- foreign keys of both directions have triggers here, each action a function of its own
    (SELECT array_agg(ROW(g.tgfoid, g.tgenabled, g.tgconstraint)::text
                      ORDER BY g.tgfoid, g.tgenabled, g.tgconstraint)
       FROM pg_trigger AS g JOIN pg_proc AS p ON p.oid = g.tgfoid
      WHERE g.tgrelid = root AND p.pronamespace <> 'peersync'::regnamespace),
    (SELECT array_agg(ROW(c.oid, n.nspname, c.relname, c.relkind, c.relhasrules, c.relispartition,
                          has_schema_privilege(n.oid, 'USAGE'),
                          ARRAY(SELECT pg_describe_object('pg_class'::regclass, c.oid, s)
                                  FROM generate_series(0, c.relnatts + 1) AS s))::text ORDER BY c.oid)
       FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
      WHERE c.oid IN (relation, root)))::text)
  FROM (SELECT array_agg(ROW(a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attisdropped,
                             a.attgenerated, format_type(a.atttypid, a.atttypmod))::text
                         ORDER BY a.attnum) AS list,
               coalesce(bool_and(a.attisdropped OR t.typtype IN ('b', 'e') AND NOT EXISTS (
                   SELECT FROM pg_type AS e
                    WHERE e.oid = t.typelem AND e.typtype NOT IN ('b', 'e'))), true) AS simple
          FROM pg_attribute AS a LEFT JOIN pg_type AS t ON t.oid = a.atttypid
         WHERE a.attrelid = root AND a.attnum > 0) AS columns,
       (SELECT array_agg(ROW(i.indexrelid, c.relname, i.indkey, i.indclass, i.indcollation, i.indnkeyatts,
                             i.indisprimary, i.indisvalid, i.indimmediate, i.indpred IS NULL,
                             i.indexprs IS NULL)::text ORDER BY i.indexrelid) AS list,
               coalesce(bool_and(NOT EXISTS (
                   SELECT FROM unnest(i.indclass::oid[]) AS o WHERE o >= 16384)), true) AS simple
          FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
         WHERE i.indrelid = root AND i.indisunique) AS keys
 WHERE columns.simple AND keys.simple
$$;

-- The stamp of a relation as it is now: `stamp`, which it had when it looked like `quick`, or anew.
-- `root` has to be a constant in the calling plan, too.
CREATE OR REPLACE FUNCTION peersync.table_stamp(relation oid, root oid, quick text, stamp bigint)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF peersync.quick_stamp(relation, root) = quick THEN
        RETURN stamp;
    END IF;
    RETURN peersync.facts_stamp(peersync.capture_facts(relation), relation);
END $$;

CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree;
CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'Ünïcode "quoted"');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN mail AS citext CHECK (VALUE ~ '@');
CREATE TYPE point3 AS (x float8, y float8, label text);
CREATE DOMAIN point3s AS point3[] CHECK (cardinality(VALUE) < 9);
CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
CREATE TABLE scalars (id int PRIMARY KEY, m mood, d positive, e mail, p point3, ps point3s,
  r textrange, ir int4range, tr tstzrange, im int4multirange, dm datemultirange);
INSERT INTO scalars VALUES
  (1, 'sad', 5, 'A@b.c', (1.5, 'NaN', 'a,"b"\c'), ARRAY[(1,2,NULL)::point3], '[a,b)', '[1,5)',
   '[2024-03-31 00:30+01,infinity)', '{[1,3),[5,9)}', '{}'),
  (2, 'it''s ok', NULL, NULL, NULL, '{}', 'empty', 'empty', '(,)', '{}', '{(,)}'),
  (3, 'Ünïcode "quoted"', 1, 'x@Y', (NULL, NULL, ''), NULL, '["",]', NULL, NULL, NULL, NULL);
CREATE TABLE numbers (id int PRIMARY KEY, n numeric, f4 float4, f8 float8, m money, i8 bigint);
INSERT INTO numbers VALUES (1, 'NaN', 'NaN', '-0', '12.34', 9223372036854775807),
  (2, 'Infinity', 'Infinity', '-Infinity', '-0.01', -9223372036854775808),
  (3, ('0.' || repeat('1234567890', 100))::numeric, 3.4028235e38, 1.7976931348623157e308, 0, 0),
  (4, (repeat('9876543210', 100) || '.50')::numeric, 1e-45, 5e-324, 92233720368547758.07, 1),
  (5, 1.0, 0.1, 0.30000000000000004, NULL, NULL), (6, 1.000, '-0', 1/3.0::float8, NULL, NULL),
  (7, 0.000, 1e10, 123456789012345680, NULL, NULL);
CREATE TABLE times (id int PRIMARY KEY, t timestamptz, u timestamp, d date, h time, z timetz,
  i interval);
INSERT INTO times VALUES (1, 'infinity', '-infinity', 'infinity', '24:00', '24:00+15:59', '1 mon'),
  (2, '2024-03-31 01:59:59.999999+01', '0044-03-15 12:00 BC', '4714-11-24 BC', '0:0:0.000001',
   '12:00-03:30', '-1 year 2 mons -3 days +04:05:06.789'),
  (3, '2024-10-27 02:30+02', '294276-12-31 23:59:59.999999', '5874897-12-31', NULL, NULL,
   '178000000 years'),
  (4, '2024-10-27 02:30+01', '2024-03-31 02:30', '2024-02-29', NULL, NULL, '00:00:00.000001');
CREATE TABLE texts (id int PRIMARY KEY, t text, v varchar(10), c char(8), n name, q "char", x citext);
INSERT INTO texts VALUES (1, '\N', E'\\.', 'a  ', 'n', 'q', 'AbC'), (2, '', '', '', '', '', ''),
  (3, E'tab\there\nnew\rline\x01\x1f\x7f\b\f\v', E'\\\\', E'\n', NULL, NULL, NULL),
  (4, E'\\.\n\\.\n.', E'\n\\.\n', 'x', '\.', '\', '\'), (5, '😀𝄞ﷺé', '𐍈', '𝄞 ', 'é', NULL, 'É'),
  (6, ' lead trail ', E'  ', '        ', NULL, ' ', E'\\N'),
  (7, (SELECT string_agg(chr(i), '') FROM generate_series(1, 1000) i), NULL, NULL, NULL, NULL, NULL);
CREATE TABLE documents (id int PRIMARY KEY, j json, b jsonb, h hstore, l ltree, s tsvector,
  q tsquery, o oid, r regclass, u uuid, p jsonpath);
INSERT INTO documents VALUES
  (1, '{"a": 1, "a" : 2,  "b":null}', '{"a":1.00,"é":"\u00e9\"\\"}', 'a=>NULL,"b c"=>"d\"e"',
   'A.b.c', '''fat'':2A,5B ''it''''s'':1', 'fat & !(rat | ''x y'':*)', 42, 'pg_class',
   'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '$.a[*] ? (@ > 1)'),
  (2, 'null', 'null', '', '', '', '', 0, NULL, NULL, NULL), (3, '[1e400, -0]', '-0.0', NULL,
   NULL, NULL, NULL, 4294967295, NULL, NULL, NULL), (4, '""', '12345678901234567890123.10', NULL,
   NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE arrays (id int PRIMARY KEY, a int[], t text[], m int[][], b bytea[], j jsonb[], e mood[]);
INSERT INTO arrays VALUES (1, '[0:2]={1,2,NULL}', '{"a,b","c\"d","NULL",NULL,"\\"}',
   '[-1:0][5:6]={{1,2},{3,4}}', ARRAY['\x00ff'::bytea, ''], ARRAY['{"a":"b,c"}'::jsonb], '{sad}'),
  (2, '{}', '{""}', '{}', '{}', '{}', '{}');
CREATE TABLE bits (id int PRIMARY KEY, b bit(9), v bit varying, y bytea, i inet, c cidr,
  m macaddr8, g pg_lsn, x xid8, s pg_snapshot, po point, bo box, pa path, ci circle);
INSERT INTO bits VALUES (1, B'101010101', B'', '\x5c4e00ff', '::1/64', '10.0.0.0/8',
  '08:00:2b:01:02:03:04:05', 'FFFFFFFF/FFFFFFFF', '18446744073709551615', '10:20:10,14',
  '(1e-300,-0)', '(1,2),(3,4)', '[(0,0),(1,1)]', '<(0,0),1e300>'),
  (2, B'000000000', B'1', '', '192.168.1.5/24', '::/0', NULL, '0/0', '0', NULL, 'NaN,inf'::text::point,
  NULL, '((0,0),(1,1))', NULL);

-- A little of everything that all supported versions have; definitions that print alike.
CREATE EXTENSION citext; CREATE TYPE state AS ENUM ('new', 'it''s done');
CREATE DOMAIN amount AS numeric(12, 3) CHECK (VALUE >= 0); CREATE TYPE point2 AS (x float8, y float8);
CREATE FUNCTION twice(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i * 2';
CREATE SEQUENCE tickets INCREMENT -2 MAXVALUE 0 START 0; SELECT nextval('tickets'), nextval('tickets');
CREATE TABLE places (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name citext UNIQUE, at point2);
INSERT INTO places (name, at) SELECT 'Place ' || i, ROW(i, 'NaN')::point2 FROM generate_series(1, 9) i;
CREATE TABLE orders (id bigserial PRIMARY KEY, place int REFERENCES places, state state DEFAULT 'new',
  price amount, note text, tags text[], doc jsonb, raw json, span tstzrange, spans int4multirange,
  words tsvector, bits bytea, net inet, double int GENERATED ALWAYS AS (1 + 1) STORED,
  CONSTRAINT spoken CHECK (note <> 'silence'));
INSERT INTO orders (place, state, price, note, tags, doc, raw, span, spans, words, bits, net)
  SELECT 1 + i % 9, (ARRAY['new', 'it''s done'])[1 + i % 2]::state, i / 7.0, E'tab\there\\' || i,
  ARRAY['a,b', NULL, '"' || i], '{"a": 1.0, "é": null}', '{"a": 1, "a" : 2}',
  tstzrange('2024-03-31 00:30+01', 'infinity'), '{[1,3),[5,9)}', 'a:1 b:2', '\x00ff5c', '::1/64'
  FROM generate_series(1, 100) i;
CREATE INDEX ON orders USING gin (tags); CREATE INDEX ON orders (twice(place)) WHERE state = 'new';
CREATE UNIQUE INDEX ON orders (id) INCLUDE (note); COMMENT ON COLUMN orders.note IS E'a\n''note''';
CREATE TABLE lines (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE lines_1 PARTITION OF lines FOR VALUES FROM (MINVALUE) TO ('2024-02-01');
CREATE TABLE lines_2 PARTITION OF lines DEFAULT;
INSERT INTO lines SELECT i, date '2024-01-01' + i, 'v' || i FROM generate_series(1, 60) i;
CREATE TABLE base (id int PRIMARY KEY, v text); CREATE TABLE derived (w int, PRIMARY KEY (id)) INHERITS (base);
INSERT INTO base VALUES (1, 'b'); INSERT INTO derived VALUES (1, 'd', 2);
CREATE TABLE keyless (f float8, t timestamptz); INSERT INTO keyless VALUES ('-0', 'infinity'), ('-0', 'infinity');
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := ''fired''; RETURN NEW; END';
CREATE TRIGGER noted BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION noted();
ALTER TABLE base ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON base USING (id > 0);
CREATE MATERIALIZED VIEW totals AS SELECT place, count(*) AS n FROM orders GROUP BY place;
CREATE STATISTICS orders_st (dependencies) ON place, state FROM orders;
SELECT lo_from_bytea(60001, 'object');

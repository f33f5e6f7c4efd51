-- Everything here exists on the source alone at first, and then on both sides with other rows.
CREATE SCHEMA "Sch ema"; COMMENT ON SCHEMA "Sch ema" IS 'odd';
CREATE EXTENSION btree_gist; CREATE EXTENSION citext; CREATE EXTENSION postgres_fdw;
-- sequences: shared by two tables, cycling, descending, used by nobody, owned by another table
CREATE SEQUENCE shared MINVALUE 10 START 10; CREATE SEQUENCE round MAXVALUE 3 CYCLE;
CREATE SEQUENCE down INCREMENT -5 MAXVALUE 0 START 0; CREATE SEQUENCE free AS smallint;
CREATE TABLE left_one (id int DEFAULT nextval('shared') PRIMARY KEY, v text);
CREATE TABLE right_one (id int DEFAULT nextval('shared') PRIMARY KEY, v text);
ALTER SEQUENCE free OWNED BY right_one.id;
INSERT INTO left_one (v) SELECT 'l' || i FROM generate_series(1, 9) i;
INSERT INTO right_one (v) SELECT 'r' || i FROM generate_series(1, 9) i;
SELECT nextval('round') FROM generate_series(1, 5); SELECT nextval('down') FROM generate_series(1, 3);
SELECT setval('free', 7);
CREATE TABLE numbered (a int GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 10) PRIMARY KEY,
  b serial, v text);
INSERT INTO numbered (v) SELECT 'n' || i FROM generate_series(1, 9) i;
-- second unique keys of every kind
CREATE TABLE uniques (id int PRIMARY KEY, part int, expr text, nnd int, incl int, late int,
  span int4range, room int, UNIQUE NULLS NOT DISTINCT (nnd), UNIQUE (incl) INCLUDE (expr),
  UNIQUE (late) DEFERRABLE INITIALLY DEFERRED,
  EXCLUDE USING gist (room WITH =, span WITH &&) DEFERRABLE INITIALLY DEFERRED);
CREATE UNIQUE INDEX ON uniques (part) WHERE part > 3; CREATE UNIQUE INDEX ON uniques (lower(expr));
INSERT INTO uniques SELECT i, i % 3, 'E' || i, nullif(i, 4), i, i, int4range(i * 10, i * 10 + 10), 1
  FROM generate_series(1, 9) i;
CREATE TABLE no_key (v text, u int UNIQUE NULLS NOT DISTINCT);
INSERT INTO no_key VALUES ('one', 1), ('none', NULL), (NULL, 2);
-- foreign keys in circles, late and cascading
CREATE TABLE hen (id int PRIMARY KEY, egg int); CREATE TABLE egg (id int PRIMARY KEY, hen int
  REFERENCES hen ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg ON DELETE SET NULL DEFERRABLE;
BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO hen SELECT i, 10 - i FROM generate_series(1, 9) i;
INSERT INTO egg SELECT i, 10 - i FROM generate_series(1, 9) i; COMMIT;
CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE);
INSERT INTO tree SELECT i, nullif(i / 2, 0) FROM generate_series(1, 20) i;
-- what fires, and on what
CREATE TABLE fired (id int PRIMARY KEY, v text, n int); CREATE TABLE heard (v text);
CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.heard VALUES (TG_NAME); RETURN NEW; END $$;
INSERT INTO fired SELECT i, 'f' || i, i FROM generate_series(1, 9) i;
CREATE TRIGGER ordinary AFTER INSERT OR UPDATE ON fired FOR EACH ROW EXECUTE FUNCTION hear();
CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON fired DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION hear();
CREATE TRIGGER off BEFORE DELETE ON fired FOR EACH ROW EXECUTE FUNCTION hear();
ALTER TABLE fired DISABLE TRIGGER off;
CREATE VIEW fired_view AS SELECT id, v FROM fired WITH CHECK OPTION;
CREATE VIEW fired_instead AS SELECT count(*) AS n FROM fired;
CREATE TRIGGER instead INSTEAD OF INSERT ON fired_instead FOR EACH ROW EXECUTE FUNCTION hear();
CREATE RULE quiet AS ON UPDATE TO fired DO ALSO INSERT INTO heard VALUES ('rule');
CREATE TABLE guarded (id int PRIMARY KEY, who text); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
ALTER TABLE guarded FORCE ROW LEVEL SECURITY; CREATE POLICY nobody ON guarded USING (false);
INSERT INTO guarded SELECT i, 'g' FROM generate_series(1, 9) i;
-- partitions of partitions, and inheritance
CREATE TABLE "Sch ema"."Par ted" (id int, "at" date, kind text, v text, PRIMARY KEY (id, "at", kind))
  PARTITION BY RANGE ("at");
CREATE TABLE parted_old PARTITION OF "Sch ema"."Par ted" FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
CREATE TABLE parted_new PARTITION OF "Sch ema"."Par ted" FOR VALUES FROM ('2024-01-01') TO (MAXVALUE)
  PARTITION BY LIST (kind);
CREATE TABLE parted_new_a PARTITION OF parted_new FOR VALUES IN ('a');
CREATE TABLE parted_new_rest PARTITION OF parted_new DEFAULT PARTITION BY HASH (id);
CREATE TABLE parted_new_rest_0 PARTITION OF parted_new_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_new_rest_1 PARTITION OF parted_new_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO "Sch ema"."Par ted" SELECT i, date '2023-12-01' + i, chr(97 + i % 3), 'p' || i
  FROM generate_series(1, 60) i;
CREATE TABLE detached (LIKE parted_old); INSERT INTO detached SELECT * FROM parted_old;
CREATE TABLE elder (id int PRIMARY KEY, v text); CREATE TABLE other_elder (w int);
CREATE TABLE heir (x int, PRIMARY KEY (id)) INHERITS (elder, other_elder);
INSERT INTO elder VALUES (1, 'e'); INSERT INTO heir VALUES (1, 'h', 2, 3), (2, 'h', 2, 3);
-- names, columns, storage
CREATE TABLE "select" ("from" int PRIMARY KEY, "a""b" text, "名名名名名名名名名名名名名名名名名名名名名" text,
  s int, t int, x int, r int, n int, peersync_row int);
INSERT INTO "select" SELECT i, 'q', 'u', i, i, i, i, i, i FROM generate_series(1, 9) i;
CREATE TABLE sessions (id int PRIMARY KEY, v text); CREATE TABLE stage_0 (id int, v text);
INSERT INTO sessions VALUES (1, 'mine'); INSERT INTO stage_0 VALUES (1, 'mine');
CREATE TABLE dropped (a int, id int PRIMARY KEY, b text, c int); ALTER TABLE dropped DROP COLUMN a;
ALTER TABLE dropped DROP COLUMN b; INSERT INTO dropped SELECT i, i FROM generate_series(1, 9) i;
CREATE UNLOGGED TABLE hasty (id int PRIMARY KEY, v text COMPRESSION pglz);
INSERT INTO hasty SELECT i, repeat('toast' || i, 20000) FROM generate_series(1, 3) i;
ALTER TABLE hasty ALTER v SET STORAGE EXTERNAL; CREATE STATISTICS hasty_n (ndistinct) ON id, v FROM hasty;
CREATE STATISTICS hasty_e ON (id * 2), v FROM hasty; ALTER STATISTICS hasty_e SET STATISTICS 50;
COMMENT ON STATISTICS hasty_n IS 'few'; COMMENT ON COLUMN hasty.v IS E'it''s\nlong';
CREATE TABLE made (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED,
  c citext COLLATE "C", d text COLLATE "POSIX");
INSERT INTO made (id, a, c, d) SELECT i, i, 'C' || i, 'd' FROM generate_series(1, 9) i;
CREATE TABLE described (id int PRIMARY KEY, r regclass, l pg_lsn, m nummultirange, ts tsvector);
INSERT INTO described VALUES (1, 'hasty', '1/F', '{[1.5,2),(3,)}', 'a:1 b:2');
-- views that hold rows, and rows that are elsewhere
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM fired; CREATE UNIQUE INDEX ON counted (n);
CREATE MATERIALIZED VIEW of_counted AS SELECT n * 2 AS n FROM counted;
CREATE MATERIALIZED VIEW never AS SELECT 1 AS one WITH NO DATA;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname 'nowhere');
CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (user 'u', password 'secret');
CREATE FOREIGN TABLE far_away (id int) SERVER far;
CREATE TABLE half_far (id int) PARTITION BY RANGE (id);
CREATE FOREIGN TABLE half_far_0 PARTITION OF half_far FOR VALUES FROM (0) TO (10) SERVER far;
CREATE TABLE half_far_1 PARTITION OF half_far FOR VALUES FROM (10) TO (20);
INSERT INTO half_far VALUES (11), (12);
CREATE PUBLICATION told FOR TABLE fired; CREATE FUNCTION watch() RETURNS event_trigger
  LANGUAGE plpgsql AS 'BEGIN NULL; END'; CREATE EVENT TRIGGER watching ON sql_drop EXECUTE FUNCTION watch();
CREATE TABLE member (id int); INSERT INTO member VALUES (1); ALTER EXTENSION citext ADD TABLE member;
SELECT lo_from_bytea(70001, 'there'), lo_create(70002);

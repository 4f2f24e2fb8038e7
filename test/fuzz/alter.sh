# alter.sh: chunks read with a row type that has changed since.  Sourced by run.sh.

query -c "CREATE TABLE altered (a int, b text, c timestamp, d int, e varchar(10));
	INSERT INTO altered SELECT i, 'b' || i % 7, '2026-01-01'::timestamp + i * interval '1 s', i - 5, i FROM generate_series(1, 1000) i;
	CREATE TABLE stored AS SELECT * FROM chunk_store('altered')" >/dev/null || bail "no stored chunk"

rows="chunk_rows('altered', (SELECT head FROM stored), (SELECT body FROM stored))"
test_query "added columns have their missing values" \
	"ALTER TABLE altered ADD f text DEFAULT 'f', ADD g int, ADD h numeric NOT NULL DEFAULT 1.5, ADD i bool DEFAULT true;
	SELECT count(*), min(f), max(g), sum(h), bool_and(i) FROM $rows AS t (a int, b text, c timestamp, d int, e varchar, f text, g int, h numeric, i bool)" \
	"1000|f||1500.0|t"
test_query "dropped columns are left out" \
	"ALTER TABLE altered DROP b, DROP g;
	SELECT sum(a), sum(d), min(e), min(f) FROM $rows AS t (a int, c timestamp, d int, e varchar, f text, h numeric, i bool)" \
	"500500|495500|1|f"
test_query "types that are stored alike are read as what they are now" \
	"SET timezone = 'UTC'; ALTER TABLE altered ALTER c TYPE timestamptz, ALTER d TYPE oid, ALTER e TYPE text;
	SELECT min(c), min(d), max(d), max(e) FROM $rows AS t (a int, c timestamptz, d oid, e text, f text, h numeric, i bool)" \
	"2026-01-01 00:00:01+00|0|4294967295|999"

-- The functions of the test module, and a server whose wrapper takes any option.
CREATE FUNCTION format_check(regclass) RETURNS void AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION format_decode(anyelement, bytea) RETURNS anyelement AS :'module' LANGUAGE c;
CREATE FUNCTION format_encode(anyelement) RETURNS bytea AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION format_column(regclass, bytea) RETURNS text AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION format_fuzz(regclass, bytea, int, int) RETURNS text AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION format_value_fuzz(int, int) RETURNS text AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION format_time(regclass, bytea, int) RETURNS float8 AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION format_encode_time(anyelement, int) RETURNS float8 AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION format_json_time(bytea, int) RETURNS float8 AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION avro_schema_fuzz(int, int) RETURNS text AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION avro_oracle(int, int) RETURNS text AS :'module' LANGUAGE c STRICT;

CREATE FOREIGN DATA WRAPPER any_option;
CREATE SERVER outside FOREIGN DATA WRAPPER any_option;

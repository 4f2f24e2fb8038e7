# Bad input: what fails is said clearly, nothing is lost, neighbours are unharmed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Test;
use Test::More;

my $node = penstock_node('bad');
sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

# refused(statement, SQLSTATE, text, what): it fails so, and no session is lost.
sub refused
{
	my ($statement, $state, $text, $what) = @_;
	my ($out, $err);
	my $rc = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement", stdout => \$out, stderr => \$err, on_error_stop => 1, timeout => 60);
	is($rc, 3, $what);
	return like($err, qr/ERROR:  $state: .*$text/s, "$what: error");
}

sub status { my ($view) = @_; return sql("SELECT status FROM penstock.stat_view WHERE view = '$view'::regclass"); }

# ---- a view whose query fails for one row
sql('CREATE TABLE events (id int, a int, b int, t text) USING stream;
	CREATE MATERIALIZED VIEW healthy USING continuous AS SELECT b, count(*) AS n FROM events GROUP BY b;
	CREATE MATERIALIZED VIEW divides USING continuous AS SELECT id, a / b AS q FROM events;
	CREATE MATERIALIZED VIEW averages USING continuous AS SELECT a % 2 AS k, sum(a / b) AS n FROM events GROUP BY 1;
	CREATE MATERIALIZED VIEW numbers USING continuous AS SELECT id, t::int AS number FROM events WHERE t IS NOT NULL;
	INSERT INTO events SELECT i, i, 1 + i % 3 FROM generate_series(1, 100) i;
	SELECT penstock.catch_up()');
sql('INSERT INTO events VALUES (101, 1, 0)');
sql('INSERT INTO events SELECT i, i, 1 + i % 3 FROM generate_series(102, 200) i');
refused("SELECT penstock.catch_up('divides')", 'PS003', 'division by zero', 'catch_up on a view that has stopped');
sql("SELECT penstock.catch_up('healthy')");
is(sql(differences('healthy', 'SELECT b, count(*) FROM events GROUP BY b')), '0', 'its neighbour goes on');
is(status('divides'), 'failed', 'the view is marked');
is(status('averages'), 'failed', 'and the other one too');
is(status('numbers'), 'active', 'those that do not divide are not');
like(sql("SELECT last_error FROM penstock.stat_view WHERE view = 'divides'::regclass"), qr/division by zero/, 'with the error');
is(sql(differences('divides', 'SELECT id, a / b FROM events WHERE id <= 100')), '0', 'it keeps what it had');
sql("INSERT INTO events VALUES (201, 1, 1, 'no number')");
refused("SELECT penstock.catch_up('numbers')", 'PS003', 'invalid input syntax for type integer', 'a failing cast');
sql("SELECT penstock.resume('divides')");
refused("SELECT penstock.catch_up('divides')", 'PS003', 'division by zero', 'resume without a repair fails again');
sql("DROP MATERIALIZED VIEW divides; CREATE MATERIALIZED VIEW divides USING continuous AS SELECT id, a / nullif(b, 0) AS q FROM events");
sql("SELECT penstock.catch_up('divides'), penstock.catch_up('healthy')");
is(sql(differences('divides', 'SELECT id, a / nullif(b, 0) FROM events')), '0', 'made anew it has everything');
sql('DROP MATERIALIZED VIEW averages, numbers');

# an error that goes away: a lookup function that can be repaired
sql("CREATE FUNCTION weight(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF \$1 = 999 THEN RAISE EXCEPTION ''no weight for %'', \$1; END IF; RETURN \$1; END';
	CREATE MATERIALIZED VIEW weights USING continuous AS SELECT b, sum(weight(a)) AS w FROM events GROUP BY b;
	INSERT INTO events VALUES (300, 999, 1)");
refused("SELECT penstock.catch_up('weights')", 'PS003', 'no weight for 999', 'a function that raises');
sql("CREATE OR REPLACE FUNCTION weight(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT \$1'");
sql("SELECT penstock.resume('weights'); SELECT penstock.catch_up()");
is(sql(differences('weights', 'SELECT b, sum(a) FROM events GROUP BY b')), '0', 'after the repair it goes on, nothing lost, nothing twice');

# ---- privileges
sql("CREATE ROLE alice; CREATE ROLE bob; GRANT CREATE ON SCHEMA public TO alice;
	CREATE TABLE secrets (k int PRIMARY KEY, v int); INSERT INTO secrets SELECT i, i FROM generate_series(0, 5) i; GRANT SELECT ON events, secrets TO alice");
sql("SET ROLE alice; CREATE MATERIALIZED VIEW hers USING continuous AS SELECT s.v, count(*) AS n FROM events e JOIN secrets s ON s.k = e.b GROUP BY s.v");
refused('SET ROLE bob; SELECT * FROM hers', '42501', 'permission denied', "reading another's view");
refused("SET ROLE bob; SELECT penstock.pause('hers')", '42501', 'must be owner', "pausing another's view");
refused("SET ROLE bob; SELECT penstock.rebuild('hers')", '42501', 'must be owner', "rebuilding another's view");
refused('SET ROLE bob; REFRESH MATERIALIZED VIEW hers', '42501', 'must be owner', "refreshing another's view");
refused('SET ROLE bob; CREATE MATERIALIZED VIEW his USING continuous AS SELECT count(*) FROM events', '42501', 'permission denied', 'a view without privileges');
refused('SET ROLE bob; INSERT INTO events VALUES (1)', '42501', 'permission denied', 'writing without privileges');
sql('REVOKE SELECT ON secrets FROM alice; INSERT INTO events VALUES (400, 1, 1)');
refused("SELECT penstock.catch_up('hers')", 'PS003', 'permission denied for table secrets', 'a view whose owner lost a privilege');
sql("GRANT SELECT ON secrets TO alice; SELECT penstock.resume('hers'); SELECT penstock.catch_up()");
is(sql(differences('hers', 'SELECT s.v, count(*) FROM events e JOIN secrets s ON s.k = e.b GROUP BY s.v')), '0', 'with the privilege back it goes on');

# a view's functions run as its owner, not as the worker
sql("CREATE FUNCTION who(int) RETURNS text STABLE LANGUAGE sql AS 'SELECT current_user::text';
	CREATE FUNCTION fixed(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN current_user; END';
	SET ROLE alice; CREATE MATERIALIZED VIEW roles USING continuous AS SELECT fixed(id) AS role, count(*) AS n FROM events GROUP BY 1;
	RESET ROLE; INSERT INTO events VALUES (401, 1, 1); SELECT penstock.catch_up()");
is(sql('SELECT string_agg(DISTINCT role, $$,$$) FROM roles'), 'alice', 'filled and kept as the owner');

# ---- wrong options and arguments
refused("CREATE TABLE x (a int) USING stream WITH (penstock.retention = 'soon')", '22007', 'interval', 'a retention that is none');
refused("CREATE TABLE x (a int) USING stream WITH (penstock.retention = '-1 day')", '22023', 'retention', 'a negative retention');
refused("CREATE TABLE x (a int) USING stream WITH (penstock.event_time = 'b')", '42703', 'b', 'an event time that is not there');
refused("CREATE TABLE x (a int) USING stream WITH (penstock.event_time = 'a')", '42804', 'event time', 'an event time of another type');
refused("CREATE TABLE x (a int) USING stream WITH (penstock.nonsense = 1)", '22023', 'nonsense', 'an option that is not known');
refused('CREATE TABLE x (a int) USING continuous', '0A000', 'materialized views only', 'a table that is continuous');
refused('CREATE MATERIALIZED VIEW x USING stream AS SELECT 1', '0A000', 'stream', 'a materialized view that is a stream');
refused("SELECT penstock.catch_up('events')", '42809', 'events', 'catch_up of something else');
refused("SELECT penstock.pause('secrets')", '42809', 'secrets', 'pause of something else');
refused("SELECT penstock.rebuild('secrets')", '42809', 'secrets', 'rebuild of something else');

# ---- values over limits
sql('CREATE TABLE wide (id int, t text, b bytea) USING stream;
	CREATE MATERIALIZED VIEW sizes USING continuous AS SELECT id, length(t) AS t, length(b) AS b FROM wide');
sql("INSERT INTO wide SELECT 1, repeat('x', 50000000), decode(repeat('00', 20000000), 'hex')");
sql("INSERT INTO wide SELECT i, md5(i::text), NULL FROM generate_series(2, 100) i; SELECT penstock.catch_up()");
is(sql(differences('sizes', 'SELECT id, length(t), length(b) FROM wide')), '0', 'a row of 70 MB');
sql('CREATE TABLE many (' . join(', ', map { "c$_ int" } 1 .. 1500) . ') USING stream');
sql('INSERT INTO many (c1, c1500) SELECT i, -i FROM generate_series(1, 100) i');
is(sql('SELECT sum(c1), sum(c1500), count(c700) FROM many'), '5050|-5050|0', 'a stream of 1,500 columns');
is(sql('SELECT count(*) FROM events'), sql('SELECT sum(n) FROM healthy'), 'all that time the neighbour stayed current');
$node->stop;
done_testing();

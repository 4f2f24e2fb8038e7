# What is wrong is refused or stops one view: the error says what and where, nothing is lost, and
# neighbours go on.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Test;
use PostgreSQL::Test::Cluster;
use Test::More;

my $node = penstock_node('main');
our $role = '';

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $role . $sql); }

# refused(sql, pattern, name): it fails, with an error (detail, hint) that matches.
sub refused
{
	my ($sql, $pattern, $name) = @_;
	my $err;
	my $status = $node->psql('postgres', "\\set VERBOSITY verbose\n$role$sql", stderr => \$err, timeout => 60);

	isnt($status, 0, "$name: refused");
	return like($err, $pattern, "$name: says why");
}

sub as { my ($user, $code) = @_; local $role = "SET ROLE $user;"; return $code->(); }

sub status { my ($view) = @_; return sql("SELECT status FROM penstock.stat_view WHERE view = '$view'::regclass"); }

sub same
{
	my ($view, $query, $name) = @_;
	return is(sql(differences($view, $query)), '0', $name);
}

# ---- not preloaded ----

my $bare = PostgreSQL::Test::Cluster->new('bare');
$bare->init;
$bare->start;
my $err;
isnt($bare->psql('postgres', 'CREATE EXTENSION penstock', stderr => \$err), 0, 'not preloaded: CREATE EXTENSION is refused');
like($err, qr/must be loaded when the server starts.*HINT:.*shared_preload_libraries/s, 'and says what to put where');
$bare->append_conf('postgresql.conf', "shared_preload_libraries = 'penstock'");
$bare->restart;
$bare->safe_psql('postgres', "CREATE EXTENSION penstock; CREATE TABLE s (a int) USING stream; INSERT INTO s VALUES (1);
	CREATE MATERIALIZED VIEW v USING continuous AS SELECT count(*) AS n FROM s");
$bare->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$bare->restart;
for my $statement ('SELECT * FROM s', 'INSERT INTO s VALUES (2)', 'SELECT penstock.catch_up()', 'SELECT * FROM v')
{
	isnt($bare->psql('postgres', $statement, stderr => \$err), 0, "no longer preloaded: $statement is refused");
	like($err, qr/HINT:.*shared_preload_libraries/s, 'and says what to do');
}
$bare->append_conf('postgresql.conf', "shared_preload_libraries = 'penstock'");
$bare->restart;
$bare->safe_psql('postgres', 'INSERT INTO s VALUES (2); SELECT penstock.catch_up()');
is($bare->safe_psql('postgres', 'SELECT n FROM v'), '2', 'preloaded again it goes on');
$bare->stop;

# ---- library and SQL of different versions ----

sql('CREATE TABLE s (k int, v int) USING stream; INSERT INTO s VALUES (1, 1);
	CREATE MATERIALIZED VIEW v USING continuous AS SELECT k, count(*) AS n FROM s GROUP BY k');
my $version = sql('SELECT penstock.library_version()');
is(sql("SELECT extversion FROM pg_extension WHERE extname = 'penstock'"), $version, 'library and extension have one version');
sql("UPDATE pg_extension SET extversion = '0.0.0' WHERE extname = 'penstock'");
my $versions = qr/PS004.*library \Q$version\E.*version 0\.0\.0.*HINT:.*ALTER EXTENSION penstock UPDATE.*restart/s;
refused('INSERT INTO s VALUES (1, 2)', $versions, 'another version, INSERT');
refused('SELECT penstock.catch_up()', $versions, 'another version, catch_up()');
refused("SELECT penstock.pause('v')", $versions, 'another version, pause()');
refused("SELECT penstock.rebuild('v')", $versions, 'another version, rebuild()');
refused('REFRESH MATERIALIZED VIEW v', $versions, 'another version, REFRESH');
refused('CREATE MATERIALIZED VIEW w USING continuous AS SELECT count(*) FROM s', $versions, 'another version, CREATE');
refused("ALTER EXTENSION penstock UPDATE TO '$version'", qr/no update path/, 'another version, without a script that leads here');
is(sql('SELECT * FROM s, v'), '1|1|1|1', 'reading goes always');
$node->restart;
ok($node->poll_query_until('postgres', "SELECT last_error LIKE 'PS004: penstock library%' FROM penstock.stat_worker"), 'the engine does not run and says why');
sql("UPDATE pg_extension SET extversion = '$version' WHERE extname = 'penstock'");
sql('INSERT INTO s VALUES (1, 2)');
sql('SELECT penstock.catch_up()');
same('v', 'SELECT k, count(*) AS n FROM s GROUP BY k', 'with one version again all goes on');

# ---- privileges ----

sql("CREATE ROLE owner; CREATE ROLE maker; CREATE ROLE stranger;
	GRANT CREATE, USAGE ON SCHEMA public TO owner, maker, stranger;
	ALTER TABLE s OWNER TO owner; ALTER MATERIALIZED VIEW v OWNER TO owner");
as('maker', sub {
	refused('SELECT * FROM s', qr/permission denied for table s/, 'reading a stream');
	refused('INSERT INTO s VALUES (1, 1)', qr/permission denied for table s/, 'writing a stream');
	refused('CREATE MATERIALIZED VIEW m USING continuous AS SELECT k, count(*) AS n FROM s GROUP BY k', qr/42501.*permission denied for table s/s,
		'a view of a stream that may not be read');
	sql('CREATE MATERIALIZED VIEW m0 USING continuous AS SELECT k, count(*) AS n FROM s GROUP BY k WITH NO DATA');
	refused('REFRESH MATERIALIZED VIEW m0', qr/permission denied for table s/, 'and its start');
});
sql('GRANT SELECT ON s TO maker');
as('maker', sub { sql('CREATE MATERIALIZED VIEW m USING continuous AS SELECT k, count(*) AS n FROM s GROUP BY k; REFRESH MATERIALIZED VIEW m0'); });
as('stranger', sub {
	refused("SELECT penstock.pause('m')", qr/must be owner of materialized view m/, 'pause() by a stranger');
	refused("SELECT penstock.resume('m')", qr/must be owner of materialized view m/, 'resume() by a stranger');
	refused("SELECT penstock.rebuild('m')", qr/must be owner of materialized view m/, 'rebuild() by a stranger');
	refused('REFRESH MATERIALIZED VIEW m', qr/must be owner of materialized view m/, 'REFRESH by a stranger');
	refused('SELECT penstock.pause()', qr/must be owner of database/, 'pause() of all by a stranger');
	refused("SELECT penstock.explain('m')", qr/permission denied for materialized view m/, 'explain() by a stranger');
	refused('SELECT * FROM m', qr/permission denied for materialized view m/, 'reading a view');
	refused('SELECT penstock.stat_reset()', qr/permission denied for function stat_reset/, 'stat_reset() by a stranger');
	refused('SELECT penstock.engine_start()', qr/permission denied for function engine_start/, 'engine_start() by a stranger');
	refused('SELECT * FROM penstock.saved_state', qr/permission denied for table saved_state/, 'states that a dump brought');
	refused('SELECT * FROM ' . $node->safe_psql('postgres', q{SELECT 'penstock.' || quote_ident(relname) FROM pg_class WHERE relname LIKE 'state_%' AND relkind = 'm' LIMIT 1}),
		qr/permission denied for materialized view state_/, 'states of views');
	refused("SELECT * FROM penstock.stream_chunks('s')", qr/permission denied/, 'chunks of a stream');
	refused('DROP EXTENSION penstock CASCADE', qr/must be owner of extension/, 'DROP EXTENSION');
	refused('SELECT * FROM penstock.save_state()', qr/42501.*permission denied for the state of continuous view/s, 'saving states');
	is(sql('SELECT count(*) > 0 FROM penstock.stat_view'), 't', 'everybody sees that views run');
});
sql('GRANT SELECT ON m TO stranger');
as('stranger', sub { refused('SELECT * FROM penstock.save_state()', qr/permission denied for the state/, 'saving states of what may be read'); });
refused("UPDATE penstock.position SET seen = NULL", qr/cannot change materialized view/, 'even a superuser: UPDATE of positions');
refused("DELETE FROM penstock.continuous_view", qr/cannot change materialized view/, 'even a superuser: DELETE of views');

sql('REVOKE SELECT ON s FROM maker; INSERT INTO s VALUES (2, 1)');
sql('SELECT penstock.catch_up()');
is(status('m'), 'failed', 'a view whose owner may no longer read the stream stops');
same('v', 'SELECT k, count(*) AS n FROM s GROUP BY k', 'its neighbour does not');
refused("SELECT penstock.catch_up('m')", qr/PS003.*has stopped with an error.*42501: permission denied for table s.*HINT:.*penstock\.resume/s, 'waiting for it');
sql("GRANT SELECT ON s TO maker; SELECT penstock.resume('m')");
sql("SELECT penstock.catch_up('m')");
same('m', 'SELECT k, count(*) AS n FROM s GROUP BY k', 'granted again it goes on');

# ---- arguments and settings ----

refused("SELECT penstock.catch_up('s')", qr/42809.*"s" is not a continuous view/s, 'catch_up() of a stream');
refused('SELECT penstock.catch_up(4711::regclass)', qr/42P01.*OID 4711 does not exist/s, 'catch_up() of nothing');
refused("SELECT penstock.catch_up(NULL, interval '-1 s')", qr/timeout must be positive/, 'catch_up() with a negative time');
refused("SELECT penstock.catch_up(NULL, interval '100 years')", qr/less than 24 days/, 'catch_up() with too long a time');
refused("SELECT penstock.pause('pg_class')", qr/is not a continuous view/, 'pause() of a table');
refused("SELECT penstock.rebuild('s')", qr/is not an active continuous view/, 'rebuild() of a stream');
refused("SELECT penstock.explain('v', -1)", qr/22023.*must not be negative/s, 'explain() for a negative number of events');
refused('ALTER SYSTEM SET penstock.batch_rows = 0', qr/22023.*outside the valid range/s, 'a setting out of range');
refused("ALTER SYSTEM SET penstock.batch_pause = 'soon'", qr/22023|invalid value/, 'a setting of the wrong kind');
refused('SET penstock.batch_rows = 5', qr/cannot be changed now/, 'a setting of the whole server');
refused('SET penstock.nothing = 1', qr/invalid configuration parameter name|unrecognized/, 'a setting that is none');

# ---- values ----

sql('CREATE TABLE t (ts timestamptz, k int NOT NULL CHECK (k < 1000), v int, w text) USING stream WITH (penstock.event_time = ts)');
my %views = (
	counts => 'SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k',
	shares => 'SELECT t.k, sum(100 / d) AS s FROM t JOIN divisors USING (k) GROUP BY t.k',
	all_v => 'SELECT k, v FROM t WHERE v IS NOT NULL',
	words => 'SELECT w, count(*) AS n FROM t GROUP BY w',
	texts => 'SELECT k, w FROM t',
	narrow => 'SELECT k, sum(v::bigint) AS n FROM t WHERE k = 5 GROUP BY k',
	casts => 'SELECT w::int AS i FROM t WHERE k = 6');
sql('CREATE TABLE divisors (k int PRIMARY KEY, d int); INSERT INTO divisors SELECT i, 5 FROM generate_series(1, 9) i');
sql("CREATE MATERIALIZED VIEW $_ USING continuous AS $views{$_}") for sort keys %views;
sql('CREATE INDEX texts_w ON texts (w)');
my @fine = grep { !/shares|words|casts|texts/ } sort keys %views;

refused("INSERT INTO t VALUES (now(), 1, 1), (now(), NULL, 1)", qr/23502/, 'NULL where there must be none');
refused("INSERT INTO t VALUES (now(), 1, 1), (now(), 1000, 1)", qr/23514/, 'a value against a CHECK');
refused("INSERT INTO t SELECT now(), i, 1 FROM generate_series(1, 5000) i", qr/23514/, 'the same, after full chunks');
refused("INSERT INTO t VALUES (now(), 1, 3000000000)", qr/22003/, 'a number too large');
refused("COPY t FROM STDIN;\n2024-01-01\t1\t1\tx\n2024-01-01\tone\t1\tx\n\\.\n", qr/invalid input syntax for type integer: "one".*COPY t, line 2, column k/s, 'COPY of a line that is wrong');
refused("COPY t FROM STDIN;\n2024-01-01\t1\t1\n\\.\n", qr/missing data for column "w"/, 'COPY of too short a line');
is(sql('SELECT count(*) FROM t'), '0', 'nothing of all that is in');
sql("INSERT INTO t VALUES ('infinity', 1, 2147483647, ''), ('-infinity', 1, -2147483648, NULL), (NULL, 1, NULL, 'x'), ('294276-12-31', 2, 0, repeat('x', 30000)), ('4713-01-01 BC', -2147483648, 1, 'y')");
sql('SELECT penstock.catch_up()');
same($_, $views{$_}, "extreme values: $_") for sort keys %views;
is(sql("SELECT count(*), count(ts), min(ts), max(ts), max(length(w)) FROM t"), '5|4|-infinity|infinity|30000', 'and the stream has them');

# a value too long for an index that a user made: the view stops, and goes on without the index
sql("INSERT INTO t SELECT '2024-01-01', 3, 1, string_agg(md5(i::text), '') FROM generate_series(1, 1000) i");
sql('SELECT penstock.catch_up()');
is(status('texts'), 'failed', 'a value that its index cannot hold stops the view');
same($_, $views{$_}, "beside it: $_") for @fine, 'words';
like(sql("SELECT last_error FROM penstock.stat_view WHERE view = 'texts'::regclass"), qr/^54000: index row /, 'stat_view shows the error');
sql('DROP INDEX texts_w');
sql("SELECT penstock.resume('texts')");
sql("SELECT penstock.catch_up('texts')");
same('texts', $views{texts}, 'without the index it goes on');

# one row that a view cannot compute
sql('UPDATE divisors SET d = 0 WHERE k = 4');
sql("INSERT INTO t SELECT '2024-01-02', 1 + i % 5, i, 'd' FROM generate_series(1, 100) i");
sql('SELECT penstock.catch_up()');
sql("INSERT INTO t SELECT '2024-01-02', 1 + i % 5, i, 'e' FROM generate_series(1, 100) i");
sql('SELECT penstock.catch_up()');
is(status('shares'), 'failed', 'a division by zero stops the view');
same($_, $views{$_}, "beside it: $_") for @fine, 'words', 'texts';
like(sql("SELECT last_error FROM penstock.stat_view WHERE view = 'shares'::regclass"), qr/^22012: division by zero/, 'stat_view shows the error');
is(sql("SELECT error FROM penstock.continuous_view WHERE view = 'shares'::regclass"), '22012: division by zero', 'and so does the registry');
like(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/continuous view public\.shares has stopped: 22012: division by zero/, 'and the server log');
refused("SELECT penstock.catch_up('shares')", qr/PS003.*22012: division by zero.*HINT:.*Remove the cause/s, 'waiting for it');
$node->restart;
is(status('shares'), 'failed', 'it is still stopped after a restart');
sql('UPDATE divisors SET d = 10 WHERE k = 4');
sql("SELECT penstock.resume('shares')");
sql("SELECT penstock.catch_up('shares')");
is(sql('SELECT k, s FROM shares WHERE k = 4'), '4|400', 'with the cause gone it has everything');
is(sql('SELECT sum(s) FROM shares WHERE k IN (3, 5)'), '1620', 'once');

# a row that can never be computed: the view stays, its neighbours go on, it can be dropped or made anew
sql("INSERT INTO t VALUES ('2024-01-03', 6, 1, 'no number')");
sql('SELECT penstock.catch_up()');
is(status('casts'), 'failed', 'a cast that fails stops the view');
same($_, $views{$_}, "beside it: $_") for @fine, 'words', 'texts';
refused('REFRESH MATERIALIZED VIEW casts', qr/PS003.*22P02: invalid input syntax/s, 'REFRESH of a failed view');
refused("SELECT penstock.rebuild('casts')", qr/22P02/, 'rebuild() as long as the row is there');
is(status('casts'), 'failed', 'and changes nothing');
refused("CREATE MATERIALIZED VIEW again USING continuous AS $views{casts}", qr/22P02/, 'a new view of such a row');
is(sql("SELECT count(*) FROM pg_class WHERE relname = 'again'"), '0', 'which is not there then');
sql('DROP MATERIALIZED VIEW casts');

# sums that leave their type
sql('CREATE MATERIALIZED VIEW big USING continuous AS SELECT sum(v * 1000000000::bigint)::bigint AS s, count(*) AS n FROM t WHERE k = 7');
sql("INSERT INTO t SELECT '2024-01-04', 7, 2147483647, 'f' FROM generate_series(1, 2)");
sql("INSERT INTO t VALUES ('2024-01-04', 8, 1, 'f')");
sql('SELECT penstock.catch_up()');
is(status('big'), 'active', 'below the limit') or diag sql("SELECT last_error FROM penstock.stat_view WHERE view = 'big'::regclass");
sql("INSERT INTO t SELECT '2024-01-04', 7, 2147483647, 'f' FROM generate_series(1, 5000)");
sql('SELECT penstock.catch_up()');
is(status('big'), 'failed', 'a result beyond its type stops the view');
is(sql('SELECT s, n FROM big'), '4294967294000000000|2', 'it shows what it showed');
same($_, $views{$_}, "beside it: $_") for @fine, 'words', 'texts';

$node->stop;
done_testing();

# Dumps in every form and by users other than a superuser: what a view has counted of events that
# are gone comes back, also of views that lag or have failed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = penstock_node('forms');
our $db = 'kept';
sub sql { my ($sql) = @_; return $node->safe_psql($db, $sql); }

$node->safe_psql('postgres', 'CREATE ROLE keeper LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE auditor LOGIN IN ROLE pg_read_all_data; CREATE DATABASE kept OWNER keeper');
sql('CREATE EXTENSION penstock');
my $hll = sql("SELECT count(*) FROM pg_available_extensions WHERE name = 'hll'");
my $tdigest = sql("SELECT count(*) FROM pg_available_extensions WHERE name = 'tdigest'");
sql('CREATE EXTENSION hll') if $hll;
sql('CREATE EXTENSION tdigest') if $tdigest;

my %views = (
	by_key => 'SELECT k, count(*) AS n, avg(v) AS mean, var_pop(v) AS spread, min(ts) AS first, bool_or(v > 5) AS some FROM events GROUP BY k',
	by_text => 'SELECT note, k IS NULL AS none, count(v) AS n, sum(v) AS s FROM events GROUP BY note, 2',
	total => 'SELECT count(*) AS n, avg(v) AS mean, max(note) AS note FROM events',
	often => 'SELECT k, count(*) AS n FROM events GROUP BY k HAVING count(*) > 310',
	hidden => 'SELECT count(*) AS n FROM events GROUP BY k, note',
	sevens => 'SELECT k, v, note, ts FROM events WHERE v = 7',
	lagging => 'SELECT k, sum(v) AS s FROM events GROUP BY k',
	broken => 'SELECT count(*) AS n, sum(6 / k) AS s FROM small');
$views{users} = 'SELECT note, hll_add_agg(hll_hash_integer(k)) AS users FROM events GROUP BY note' if $hll;
# (tdigest itself does not return from a NaN)
$views{medians} = 'SELECT k, tdigest(v::float8, 100) AS d FROM events WHERE v <> \'NaN\' GROUP BY k' if $tdigest;
my @views = sort keys %views;

sql('SET ROLE keeper; CREATE TABLE events (ts timestamptz, k int, v numeric, note text) USING stream;
	CREATE TABLE small (k int) USING stream;'
	. join('', map { "CREATE MATERIALIZED VIEW $_ USING continuous AS $views{$_};" } @views)
	. "CREATE MATERIALIZED VIEW unstarted USING continuous AS SELECT count(*) AS n FROM small WITH NO DATA;
	INSERT INTO events SELECT '2024-01-01'::timestamptz + i * interval '1 min', i % 10, i % 17, CASE WHEN i % 3 > 0 THEN 'n' || i % 3 END FROM generate_series(1, 3000) i;
	INSERT INTO events VALUES (NULL, NULL, NULL, NULL), ('infinity', NULL, 'NaN', E'tab\\tline\\nquote\\'\\\\');
	INSERT INTO small VALUES (1), (2), (3)");
sql('SELECT penstock.catch_up()');
my %expected = map { $_ => sql("SELECT array_agg(x ORDER BY x) FROM (SELECT r::text AS x FROM ($views{$_}) r) y") } @views;
sql('TRUNCATE events, small');
sql("SELECT penstock.pause('lagging')");
my $more = "INSERT INTO events SELECT '2024-05-01', i % 12, 7, 'late' FROM generate_series(1, 120) i";
sql("$more; INSERT INTO small VALUES (0)");
sql('SELECT penstock.catch_up()');
is(sql(q{SELECT string_agg(view::text || ' ' || status, ',' ORDER BY view::text) FROM penstock.stat_view WHERE status <> 'active'}),
	'broken failed,lagging paused', 'one view lags and one has failed');

# contents(): what every view shows, and the events
sub contents
{
	return { map { my $name = $_; $name => sql("SELECT array_agg(x ORDER BY x) FROM (SELECT r::text AS x FROM $name r) y") } @views, 'events', 'small' };
}
my $before = contents();

# check(database, name): everything is there, and goes on.
sub check
{
	my ($database, $name) = @_;
	local $db = $database;
	my $now = contents();
	my @same = grep { !/^(lagging|broken)$/ } @views, 'events', 'small';

	is_deeply({ map { $_ => $now->{$_} } @same }, { map { $_ => $before->{$_} } @same }, "$name: streams and views");
	is(sql('SELECT sum(s) FROM lagging WHERE k < 10'), sql('SELECT sum(n * mean) FROM by_key WHERE k < 10')
			=~ s/\..*//r, "$name: the view that lagged has everything");
	is(sql(q{SELECT status, n, s, last_error FROM broken, penstock.stat_view WHERE view = 'broken'::regclass}),
		'failed|3|11|PS002: events that it could not compute when it was dumped are missing', "$name: the failed view says what it lacks");
	is(sql('SELECT count(*) FROM penstock.saved_state'), '0', "$name: nothing is left over");
	sql($more);
	sql('SELECT penstock.catch_up()');
	is(sql('SELECT n FROM total'), '3242', "$name: a total goes on");
	is(sql('SELECT sum(n) FROM hidden'), '3242', "$name: groups go on");
	is(sql("SELECT n FROM by_text WHERE note = 'late' AND NOT none"), '240', "$name: and so do others");
	return;
}

my $path = $node->basedir;

# dump(name, user, option ...): makes a dump.
sub dump_to
{
	my ($name, $user, @options) = @_;
	return $node->command_ok([ 'pg_dump', '--no-sync', '-U', $user, '-f', "$path/$name", @options, $node->connstr('kept') ], "dump: $name");
}

# restore(database, file ...): into a new database.
sub restore
{
	my ($database, @files) = @_;
	my ($out, $err);

	$node->safe_psql('postgres', "CREATE DATABASE $database OWNER keeper");
	for my $file (@files)
	{
		$node->psql($database, "\\i $path/$file", stdout => \$out, stderr => \$err, on_error_stop => 0);
		is(join('|', grep { /ERROR/ } split /\n/, $err), '', "restore: $database, $file");
	}
	return;
}

my $super = $node->safe_psql('postgres', 'SELECT current_user');
dump_to('inserts.sql', $super, '--inserts');
restore('inserts', 'inserts.sql');
check('inserts', '--inserts');

dump_to('schema.sql', $super, '--schema-only');
dump_to('data.sql', $super, '--data-only');
restore('halves', 'schema.sql', 'data.sql');
# a dump of data alone has no REFRESH, of any materialized view
{
	local $db = 'halves';
	sql("REFRESH MATERIALIZED VIEW $_") for @views;
}
check('halves', 'schema, then data');

# by who is not a superuser: states are for owners and for members of pg_read_all_data
$node->command_fails([ 'pg_dump', '-U', 'reader', '-f', "$path/none.sql", $node->connstr('kept') ], 'who may not read the streams cannot dump them');
sql('GRANT SELECT ON penstock.saved_state, penstock.claim_object, penstock.claim_dictionary TO keeper');
dump_to('keeper.sql', 'keeper');
restore('by_owner', 'keeper.sql');
check('by_owner', 'by the owner');
dump_to('auditor.sql', 'auditor');
restore('by_auditor', 'auditor.sql');
check('by_auditor', 'by a member of pg_read_all_data');
sql('GRANT SELECT ON penstock.saved_state, penstock.claim_object, penstock.claim_dictionary, events, small, ' . join(', ', @views) . ' TO reader');
$node->command_fails_like([ 'pg_dump', '-U', 'reader', '-f', "$path/reader.sql", $node->connstr('kept') ],
	qr/permission denied for the state of continuous view/, 'who may only read is told that it would not be whole');

# a dump of a restored database that has not been refreshed carries on what the first one brought
$node->command_ok([ 'pg_dump', '--no-sync', '-f', "$path/second.sql", $node->connstr('halves') ], 'a dump of what was restored');
restore('second', 'second.sql');
{
	local $db = 'second';
	is(sql('SELECT n FROM total'), '3242', 'and its restore');
}

$node->stop;
done_testing();

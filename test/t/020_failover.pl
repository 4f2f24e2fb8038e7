# A streaming standby reads streams and views; promoted while the primary dies under load, its
# views go on and equal their queries over what it received.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Session;
use Penstock::Test;
use PostgreSQL::Test::Cluster;
use Test::More;

my %views = (
	by_key => 'SELECT k, count(*) AS n, sum(v) AS total, avg(v) AS mean FROM events GROUP BY k',
	total => 'SELECT count(*) AS n, max(id) AS last FROM events',
	sevenths => 'SELECT id, v FROM events WHERE v % 7 = 0');

sub compare
{
	my ($node, $when) = @_;
	is($node->safe_psql('postgres', differences($_, $views{$_})), '0', "$_ equals its query $when") for sort keys %views;
	return;
}

my $primary = penstock_node('primary');
$primary->safe_psql('postgres', 'CREATE TABLE events (id bigint, k int, v int) USING stream;'
	. join('', map { "CREATE MATERIALIZED VIEW $_ USING continuous AS $views{$_};" } sort keys %views)
	. 'INSERT INTO events SELECT i, i % 10, i % 100 FROM generate_series(1, 20000) i');
$primary->backup('base');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# on the standby: everything can be read, nothing be waited for or changed
$primary->safe_psql('postgres', 'INSERT INTO events SELECT i, i % 10, i % 100 FROM generate_series(20001, 20100) i');
$primary->safe_psql('postgres', 'SELECT penstock.catch_up()');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is($standby->safe_psql('postgres', 'SELECT count(*), max(id) FROM events'), '20100|20100', 'standby reads the stream');
compare($standby, 'on the standby');
like($standby->safe_psql('postgres', "SELECT string_agg(e, ' ') FROM penstock.continuous_view v, penstock.explain(v.view) e"),
	qr/Strategy/, 'views are explained on a standby');
$standby->command_ok([ 'pg_dump', '-f', "$ENV{TESTDATADIR}/standby.sql", $standby->connstr('postgres') ], 'a standby is dumped');
for my $statement ("SELECT penstock.catch_up()", "SELECT penstock.pause('total')", "SELECT penstock.rebuild('total')",
	'REFRESH MATERIALIZED VIEW total', "INSERT INTO events VALUES (0, 0, 0)")
{
	my ($out, $err);
	isnt($standby->psql('postgres', $statement, stdout => \$out, stderr => \$err, timeout => 30), 0, "refused on a standby: $statement");
	like($err, qr/ERROR:/, 'with an error');
}
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'penstock engine'"), '0',
	'no worker on a standby');

# the primary dies while three sessions write; one transaction is prepared, one is open
my @writers = map { Penstock::Session->new($primary) } 1 .. 3;
my $open = Penstock::Session->new($primary);
$open->must('BEGIN; INSERT INTO events VALUES (-1, 0, 0)');
$primary->safe_psql('postgres', "BEGIN; INSERT INTO events VALUES (-2, 0, 7); PREPARE TRANSACTION 'kept'");
for my $writer (0 .. 2)
{
	$writers[$writer]->send(join('', map { my $id = 100000 * ($writer + 1) + $_; "INSERT INTO events VALUES ($id, $id % 10, $id % 100);" } 1 .. 4000));
}
$primary->poll_query_until('postgres', 'SELECT count(*) > 21000 FROM events') or die "no load";
$primary->kill9;
$_->receive(30) for @writers;
$standby->promote;
$standby->safe_psql('postgres', 'SELECT penstock.catch_up()');
cmp_ok($standby->safe_psql('postgres', 'SELECT count(*) FROM events'), '>', 20100, 'the standby received events of the load');
compare($standby, 'after the promotion');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM events WHERE id = -1'), '0', 'the open transaction is gone');

$standby->safe_psql('postgres', "COMMIT PREPARED 'kept'");
$standby->safe_psql('postgres', 'INSERT INTO events SELECT -i, i % 10, i % 100 FROM generate_series(10, 5000) i');
$standby->safe_psql('postgres', 'SELECT penstock.catch_up()');
is($standby->safe_psql('postgres', 'SELECT id FROM sevenths WHERE id = -2'), '-2', 'the prepared transaction is in');
compare($standby, 'after more events');

$standby->stop('fast');
done_testing();

# Aggregates of other extensions in continuous views: HyperLogLog and t-digest.
use strict;
use warnings;
use Penstock::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = penstock_node('view_extensions');

sub sql { return $node->safe_psql('postgres', $_[0]); }

my %have = map { $_ => sql("SELECT count(*) FROM pg_available_extensions WHERE name = '$_'") } qw(hll tdigest);
plan skip_all => 'neither hll nor tdigest is installed' unless $have{hll} || $have{tdigest};

sql('CREATE TABLE s (k int, v int, x float8) USING stream');

my $users = 'SELECT k, hll_add_agg(hll_hash_integer(v)) AS users, count(*) AS n FROM s GROUP BY k';
my $shown = 'SELECT k, hll_cardinality(users), n FROM';
my $digest = 'SELECT k, tdigest(x, 100) AS digest, count(*) AS n FROM s GROUP BY k';

sql("CREATE EXTENSION hll; CREATE MATERIALIZED VIEW v_users USING continuous AS $users") if $have{hll};
sql("CREATE EXTENSION tdigest; CREATE MATERIALIZED VIEW v_digest USING continuous AS $digest") if $have{tdigest};

sub check
{
	my ($what) = @_;
	sql('SELECT penstock.catch_up()');
	if ($have{hll})
	{
		is(sql("SELECT count(*) FROM (($shown v_users EXCEPT ALL $shown ($users) q) UNION ALL ($shown ($users) q EXCEPT ALL $shown v_users)) d"),
			'0', "$what: HyperLogLog");
	}
	if ($have{tdigest})
	{
		is(sql("SELECT count(*) FROM (SELECT k, n FROM v_digest EXCEPT ALL SELECT k, count(*) FROM s GROUP BY k) d"),
			'0', "$what: t-digest, counts");
		# 50,000 values of 0 .. 1000 a group: the median of a digest of 100 centroids is within two percent
		is(sql(q{SELECT count(*) FROM (SELECT k, tdigest_percentile(digest, 0.5) AS median FROM v_digest GROUP BY k) v
			JOIN (SELECT k, percentile_cont(0.5) WITHIN GROUP (ORDER BY x) AS median FROM s GROUP BY k) b USING (k)
			WHERE abs(v.median - b.median) > 20}),
			'0', "$what: t-digest, medians");
	}
	return;
}

check('no events');
for my $batch (1 .. 5)
{
	sql("INSERT INTO s SELECT i % 7, (i * $batch) % 5000, (i * 37 % 1001) FROM generate_series(1, 20000) i");
	check("batch $batch");
}
sql('INSERT INTO s VALUES (NULL, NULL, NULL), (1, NULL, NULL)');
check('NULLs');
sql("SELECT penstock.rebuild('v_users')") if $have{hll};
sql("SELECT penstock.rebuild('v_digest')") if $have{tdigest};
check('rebuilt');
$node->restart;
sql('INSERT INTO s SELECT i % 9, i, i FROM generate_series(1, 1000) i');
check('restarted');

$node->stop;
done_testing();

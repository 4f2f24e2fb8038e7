# Penstock::Test: finds the server's own test modules through PG_CONFIG, makes nodes that have
# the library loaded, and compares views with their queries.
package Penstock::Test;

use strict;
use warnings;
use Exporter 'import';
use File::Basename;
use File::Temp;

our @EXPORT = qw(penstock_node differences tell_user);

BEGIN
{
	my $pg_config = $ENV{PG_CONFIG} || 'pg_config';
	chomp(my $bindir = `$pg_config --bindir`);
	chomp(my $pgxs = `$pg_config --pgxs`);
	my $tests = dirname($pgxs) . '/../test';

	unshift @INC, "$tests/perl";
	$ENV{PATH} = "$bindir:$ENV{PATH}";
	$ENV{PG_REGRESS} ||= "$tests/regress/pg_regress";
	$ENV{TESTDATADIR} ||= File::Temp::tempdir('penstock-XXXXXX', TMPDIR => 1, CLEANUP => 1);
	mkdir $ENV{TESTDATADIR};
	$ENV{TESTLOGDIR} ||= "$ENV{TESTDATADIR}/log";
	$ENV{TESTDIR} ||= $ENV{TESTDATADIR};	# what 15 calls it
}

# Servers are stopped by END blocks: let a signal lead there.
$SIG{$_} = sub { exit 130 } for qw(INT TERM HUP);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More ();

# tell_user(text ...): to the program's own output; the server's test modules turn STDOUT into a log.
sub tell_user
{
	my $out = Test::More->builder->output;
	return print $out @_;
}

# penstock_node(name, line ...): a started node with the extension in its database "postgres";
# further lines go into postgresql.conf.
sub penstock_node
{
	my ($name, @conf) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(allows_streaming => 1, extra => [ '--locale=C', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', join("\n",
		"shared_preload_libraries = 'penstock'", 'max_prepared_transactions = 20',
		'max_connections = 50', 'max_worker_processes = 20', 'log_min_messages = log', @conf) . "\n");
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION penstock');
	return $node;
}

# differences(view, query): SQL that gives the number of rows in which a view and its query
# differ, counting duplicates.
sub differences
{
	my ($view, $query) = @_;
	return "SELECT (SELECT count(*) FROM (SELECT * FROM $view EXCEPT ALL ($query)) a)"
		. " + (SELECT count(*) FROM (($query) EXCEPT ALL SELECT * FROM $view) b)";
}

1;

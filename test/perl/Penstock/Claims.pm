# Penstock::Claims: payloads that the client keeps, and what must be left of them in a database.
package Penstock::Claims;

use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use Exporter 'import';
use Test::More ();

our @EXPORT = qw(payload ticket literal load_payloads held_claims leftovers check_claims start_again);

# payload(n): bytes that are the same for the same number: text, noise, small and of several frames.
sub payload
{
	my ($n) = @_;
	my $kind = $n % 8;

	return '' if $n == 0;
	return "payload $n" if $kind == 1;
	return join(',', map { "\"field_$_\": \"value $n\"" } 1 .. 40 + $n % 50) if $kind == 2;
	return noise($n, 700 + $n) if $kind == 3;
	return noise($n, 5000 + $n) if $kind == 4;
	return join("\n", map { "2026-01-01 line $_ of log $n, user " . $_ * 7919 % 101 } 1 .. 3000) if $kind == 5;
	return noise($n, 90_000) . ('x' x 30_000) if $kind == 6;
	return noise($n, 70_000) x 37 if $kind == 7;
	return ("$n " x 2000) . chr(0) x 1_048_576;
}

# Bytes that do not compress, from a generator of our own: they are the same in every run.
sub noise
{
	my ($seed, $length) = @_;
	my $bytes = '';

	for (my $i = 0; length $bytes < $length; $i++) { $bytes .= pack('H*', sha256_hex("$seed/$i")); }
	return substr($bytes, 0, $length);
}

sub ticket { return 'sha256:' . sha256_hex($_[0]) . ':' . length $_[0]; }

# literal(bytes): as SQL.
sub literal { return "'\\x" . unpack('H*', $_[0]) . "'::bytea"; }

# load_payloads(node, number ...): a table payloads (n, data); returns tickets => bytes.
sub load_payloads
{
	my ($node, @numbers) = @_;
	my %payloads = map { $_ => payload($_) } @numbers;
	my $file = $node->basedir . '/payloads';

	open(my $out, '>', $file) or die $!;
	print $out "$_\t\\\\x" . unpack('H*', $payloads{$_}) . "\n" for @numbers;
	close $out;
	$node->safe_psql('postgres', "CREATE TABLE payloads (n int PRIMARY KEY, data bytea, ticket text); COPY payloads (n, data) FROM '$file';
		UPDATE payloads SET ticket = 'sha256:' || encode(sha256(data), 'hex') || ':' || length(data); ANALYZE payloads");
	unlink $file;
	return { map { ticket($_) => $_ } values %payloads };
}

# held(column ...): SQL of the tickets, as column c, that stand in the columns ("table.column", or a whole query).
sub held
{
	my (@columns) = @_;
	my $all = join(' UNION ALL ', map { /^(\w+)\.(\w+)$/ ? "SELECT $2::text FROM $1" : $_ } @columns);
	return "SELECT DISTINCT c FROM ($all) AS q (c) WHERE c IS NOT NULL";
}

# held_claims(node, database, column ...): these tickets.
sub held_claims
{
	my ($node, $database, @columns) = @_;
	return sort split /\n/, $node->safe_psql($database, held(@columns));
}

# leftovers(): SQL that is empty if large objects and the rows of claim_object fit each other, and each claim is there once.
sub leftovers
{
	return q{SELECT 'large object of nobody ' || oid FROM pg_largeobject_metadata m WHERE NOT EXISTS (SELECT FROM penstock.claim_object o WHERE o.loid = m.oid)
		UNION ALL SELECT DISTINCT 'pages of nobody ' || loid FROM pg_largeobject l WHERE NOT EXISTS (SELECT FROM penstock.claim_object o WHERE o.loid = l.loid)
		UNION ALL SELECT 'no large object ' || claim FROM penstock.claim_object o WHERE loid IS NOT NULL AND NOT EXISTS (SELECT FROM pg_largeobject_metadata m WHERE m.oid = o.loid)
		UNION ALL SELECT 'several times ' || min(claim::text) FROM penstock.claim_object GROUP BY claim HAVING count(*) > 1};
}

# check_claims(node, database, payloads, what, column ...): what is held is there byte for byte, and after a collection there is nothing else.
sub check_claims
{
	my ($node, $database, $payloads, $what, @columns) = @_;
	my @held = held_claims($node, $database, @columns);
	my @wrong;

	for (split /\n/, @held ? $node->safe_psql($database, "SELECT c || ' ' || encode(penstock.claim_fetch(c::penstock.claim), 'hex')
		FROM unnest('{" . join(',', @held) . "}'::text[]) c") : '')
	{
		my ($ticket, $hex) = split / /, $_, 2;
		push @wrong, $ticket unless defined $payloads->{$ticket} && pack('H*', $hex) eq $payloads->{$ticket};
	}
	Test::More::is("@wrong", '', "$what: " . @held . ' held claims fetch back');
	# the background may be at work on the same rows, something may still hold a lock, and what a retention removes meanwhile is held no longer
	my $all = q{coalesce(string_agg(c, ',' ORDER BY c COLLATE "C"), '')};
	my $held = held(@columns);
	Test::More::ok($node->poll_query_until($database, "SELECT penstock.claim_collect(grace => '0') IS NULL OR
		(SELECT $all FROM (SELECT claim::text FROM penstock.claim_object) o (c)) = (SELECT $all FROM ($held) h)", 't'),
		"$what: nothing else is left after a collection")
		or Test::More::diag($node->safe_psql($database, 'SELECT * FROM penstock.claim_object'), "\ninstead of\n", $node->safe_psql($database, $held));
	Test::More::is($node->safe_psql($database, leftovers()), '', "$what: large objects are those of claims");
	return scalar @held;
}

# start_again(node): after a kill; the old server's last processes may still be going.
sub start_again
{
	my ($node) = @_;

	for (1 .. 600)
	{
		return if $node->start(fail_ok => 1);
		$node->{_pid} = undef;
		select(undef, undef, undef, 0.1);
	}
	die "the server does not start\n";
}

1;

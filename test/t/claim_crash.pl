# Random histories of claims in many connections, and kill -9: what a row holds is there byte for byte, nothing else is left.
# PENSTOCK_KILLS=100 for the long run, CLAIM_SEED to repeat one.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Claims;
use Penstock::Session;
use Penstock::Test;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{CLAIM_SEED} || time ^ $$;
srand($seed);
diag("seed $seed");
my $writers = 5;
my $transactions = 8;
my $node = penstock_node('claim_crash', 'fsync = off', 'restart_after_crash = on', 'checkpoint_timeout = 30s', 'autovacuum_naptime = 1s',
	'penstock.claim_grace = 1s', 'penstock.claim_collect_interval = 1s');
sub sql { return $node->safe_psql('postgres', $_[0]); }

my @numbers = (0 .. 47);
my $payloads = load_payloads($node, @numbers);
my %ticket = map { $_ => ticket(payload($_)) } @numbers;
sql(q{SELECT setseed(0.5); CREATE DOMAIN ticket AS penstock.claim;
	CREATE TABLE kept (w int, id int, c penstock.claim, PRIMARY KEY (w, id));
	CREATE TABLE lists (w int, id int, cs penstock.claim[]);
	CREATE TABLE parts (w int, id int, c ticket) PARTITION BY LIST (w);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (0, 1);
	CREATE TABLE parts_2 PARTITION OF parts DEFAULT USING stream;
	CREATE TABLE shared (w int, id int, c penstock.claim) USING stream;
	CREATE TABLE brief (at timestamptz DEFAULT now(), c penstock.claim) USING stream WITH (penstock.event_time = 'at', penstock.retention = '2 s')});
sql("CREATE TABLE own_$_ (id int, c penstock.claim) USING stream; CREATE TABLE dropped_$_ (c penstock.claim)") for 0 .. $writers - 1;
my @columns = ('kept.c', 'SELECT unnest(cs)::text FROM lists', 'parts.c', 'shared.c', 'brief.c', map { ("own_$_.c", "dropped_$_.c") } 0 .. $writers - 1);

# ---- histories: what each writer's own rows are after each of its transactions ----

my @state = map { { kept => {}, lists => {}, parts => {}, shared => {}, own => {} } } 1 .. $writers;
my $next_id = 1;

sub copy_of { my ($s) = @_; return { map { $_ => { %{ $s->{$_} } } } keys %$s }; }
sub any { return $_[int rand @_]; }
# mostly of the same few, so that writers meet
sub any_number { return rand() < 0.6 ? $numbers[int rand 16] : any(@numbers); }
sub stored { my ($n) = @_; return "penstock.claim_store(data) FROM payloads WHERE n = $n"; }

# pieces(n, insert): through a handle, appended in two pieces, in a block of its own.
sub pieces
{
	my ($n, $into) = @_;
	return "DO \$\$ DECLARE h int := penstock.claim_open(); c penstock.claim; BEGIN
		PERFORM penstock.claim_append(h, substr(data, 1, length(data) / 3)), penstock.claim_append(h, substr(data, 1 + length(data) / 3)) FROM payloads WHERE n = $n;
		c := penstock.claim_close(h); INSERT INTO $into; END \$\$;";
}

my @checks = (
	q{SELECT 'BAD fetch ' || n FROM kept JOIN payloads ON ticket = c::text WHERE w = %d AND penstock.claim_fetch(c) <> data},
	q{SELECT 'BAD range ' || n FROM kept JOIN payloads ON ticket = c::text WHERE w = %d AND penstock.claim_fetch_range(c, n * 100, 5000) <> substr(data, n * 100 + 1, 5000)},
	q{SELECT 'BAD reading ' || n FROM (SELECT n, data, penstock.claim_reader(c) AS h FROM shared JOIN payloads ON ticket = c::text WHERE w = %d LIMIT 3) q
		WHERE penstock.claim_read(h, 2000000) || penstock.claim_read(h, 2000000) <> data},
	q{SELECT 'BAD text' FROM own_%1$d WHERE NOT penstock.claim_verify(c) OR penstock.claim_info(c) IS NULL});

# operation(w, state): one statement or a few; changes the state to what it is after them.
sub operation
{
	my ($w, $s) = @_;
	my ($n, $id) = (any_number(), $next_id++);
	my $kind = int rand 16;
	my $old = any(keys %{ $s->{kept} });

	if ($kind <= 2) { $s->{kept}{$id} = $ticket{$n}; return "INSERT INTO kept SELECT $w, $id, " . stored($n); }
	if ($kind == 3) { $s->{kept}{$id} = $ticket{$n}; return pieces($n, "kept VALUES ($w, $id, c)"); }
	if ($kind == 4) { $s->{lists}{$id} = "$ticket{$n},$ticket{$n}"; return "INSERT INTO lists SELECT $w, $id, ARRAY[c, NULL, c] FROM (SELECT " . stored($n) . ') q (c)'; }
	if ($kind == 5) { $s->{parts}{$id} = $ticket{$n}; return "INSERT INTO parts SELECT $w, $id, " . stored($n); }
	if ($kind == 6) { $s->{shared}{$id} = $ticket{$n}; return "INSERT INTO shared SELECT $w, $id, " . stored($n); }
	if ($kind == 7) { $s->{own}{$id} = $ticket{$n}; return "INSERT INTO own_$w SELECT $id, " . stored($n); }
	if ($kind == 8) { return "INSERT INTO brief (c) SELECT " . stored($n); }
	if ($kind == 9)
	{
		$s->{own} = {};
		return "TRUNCATE own_$w";
	}
	if ($kind == 10) { return "DROP TABLE dropped_$w; CREATE TABLE dropped_$w AS SELECT " . stored($n) =~ s/claim_store\(data\)/claim_store(data) AS c/r; }
	if ($kind == 11)
	{
		# nothing is stored, and yet large objects were written
		my $large = any(7, 15, 40);
		return "SELECT penstock.claim_append(penstock.claim_open(), data) FROM payloads WHERE n = $large";
	}
	if ($kind == 12)
	{
		my $inner = copy_of($s);
		return "SAVEPOINT s; " . operation($w, $inner) . '; ' . operation($w, $inner) . '; ROLLBACK TO s; RELEASE s';
	}
	if ($kind == 13) { return sprintf(any(@checks), $w); }
	return "SELECT count(penstock.claim_store(data)) FROM payloads WHERE n IN ($n, 1, 3)" unless defined $old;
	if ($kind == 14)
	{
		# a copy of a ticket, of a row that stays until this transaction ends
		$s->{shared}{$id} = $s->{kept}{$old};
		return "INSERT INTO shared SELECT $w, $id, c FROM kept WHERE (w, id) = ($w, $old) FOR KEY SHARE";
	}
	my @gone = grep { rand() < 0.5 } keys %{ $s->{kept} };
	delete @{ $s->{kept} }{@gone};
	return "DELETE FROM kept WHERE w = $w AND id = ANY ('{" . join(',', @gone) . "}')";
}

# history(w): a script, and the states that it goes through.
sub history
{
	my ($w) = @_;
	my ($script, $s) = ('', $state[$w]);
	my @states = ($s);

	for my $t (1 .. $transactions)
	{
		my $how = int rand 10;
		if ($how == 0)
		{
			$script .= "SELECT collected < 0 FROM penstock.claim_collect(grace => '0');\n";
			push @states, $s;
		}
		else
		{
			my $new = copy_of($s);
			$script .= 'BEGIN;' . join('', map { operation($w, $new) . ";\n" } 1 .. 1 + rand 5);
			$script .= $how == 1 ? "ROLLBACK;\n" : "COMMIT;\n";
			$s = $new if $how > 1;
			push @states, $s;
		}
		$script .= "\\echo <$t>\n";
	}
	return ($script, \@states);
}

# rows(w): what the writer's rows are in the database, in the form of its state.
sub rows
{
	my ($w) = @_;
	my %found = map { $_ => {} } keys %{ $state[$w] };
	for (split /\n/, sql("SELECT 'kept', id, c::text FROM kept WHERE w = $w UNION ALL SELECT 'lists', id, array_to_string(cs, ',') FROM lists WHERE w = $w
		UNION ALL SELECT 'parts', id, c::text FROM parts WHERE w = $w UNION ALL SELECT 'shared', id, c::text FROM shared WHERE w = $w
		UNION ALL SELECT 'own', id, c::text FROM own_$w"))
	{
		my ($table, $id, $c) = split /\|/;
		$found{$table}{$id} = $c;
	}
	return \%found;
}

sub as_text { my ($s) = @_; return join("\n", map { my $t = $_; map { "$t $_ $s->{$t}{$_}" } sort keys %{ $s->{$t} } } sort keys %$s); }

# ---- at every stop point ----

for my $point (qw(claim_after_pages claim_before_merge claim_after_lock claim_after_delete))
{
	sql(q{SELECT penstock.claim_store(data) FROM payloads WHERE n IN (4, 7)});
	my $victim = Penstock::Session->new($node);
	$victim->query("SET penstock.stop_points = '$point:crash'; BEGIN; INSERT INTO brief (c) SELECT penstock.claim_store(data) FROM payloads WHERE n > 15;
		SELECT penstock.claim_store(data) FROM payloads WHERE n IN (4, 7); UPDATE penstock.claim_object SET duplicate = true; SELECT penstock.claim_collect(grace => '0'); COMMIT");
	ok(!defined $victim->query('SELECT 1') || $victim->{buffer} =~ /connection to server was lost|server closed/, "killed at $point");
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	check_claims($node, 'postgres', $payloads, $point, @columns);
}

# ---- at random ----

my ($done, $checked, %count) = (0, 0);
my $kills = $ENV{PENSTOCK_KILLS} || 8;
for my $round (1 .. $kills)
{
	my @histories = map { [ history($_) ] } 0 .. $writers - 1;
	my @sessions = map { Penstock::Session->new($node) } 1 .. $writers;
	$sessions[$_]->send("\\set QUIET on\n" . $histories[$_][0]) for 0 .. $writers - 1;

	my $kind = (qw(postmaster postmaster backend backend engine))[ int rand 5 ];
	my $until = time + 0.05 + rand 1.2;
	select(undef, undef, undef, 0.005) while time < $until;
	$count{$kind}++;
	if ($kind eq 'postmaster')
	{
		$node->kill9;
		start_again($node);
	}
	else
	{
		my $which = $kind eq 'engine' ? "backend_type = 'penstock engine'" : "backend_type = 'client backend' AND pid <> pg_backend_pid()";
		my $pid = eval { sql("SELECT pid FROM pg_stat_activity WHERE $which ORDER BY random() LIMIT 1") };
		kill 'KILL', $pid if $pid;
	}
	my @wrong;
	my @output = map { $_->receive(120) // $_->{buffer} } @sessions;
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	for my $w (0 .. $writers - 1)
	{
		my $states = $histories[$w][1];
		my $last = () = $output[$w] =~ /^<\d+>$/mg;
		push @wrong, grep { /BAD|ERROR|WARNING|PANIC/ && !/terminating connection|server closed|shutting down|starting up|recovery mode/ } split /\n/, $output[$w];
		my $found = rows($w);
		my ($now) = grep { defined && as_text($_) eq as_text($found) } @$states[$last, $last + 1];
		push @wrong, "writer $w has neither what it had after its transaction $last nor after the next" unless $now;
		$state[$w] = $now || $found;
		$done += $last;
	}
	is(join("\n", @wrong), '', "kill $round ($kind)") or diag(map { "history: $_->[0]\n" } $ENV{CLAIM_SEED} ? @histories : ());
	$checked += check_claims($node, 'postgres', $payloads, "kill $round", @columns) if $round % 4 == 0 || $round == $kills || @wrong;
}
tell_user('# ' . join(', ', map { "$count{$_} $_" } sort keys %count) . "; $done transactions, $checked claims fetched\n");

# all rows go: nothing is left
sql('TRUNCATE kept, lists, parts, shared, brief, ' . join(', ', map { "own_$_, dropped_$_" } 0 .. $writers - 1));
check_claims($node, 'postgres', $payloads, 'without rows', @columns);
is(sql('SELECT claims, large_objects, bytes FROM penstock.stat_claim'), '0|0|0', 'stat_claim says so, too');
$node->stop;
done_testing();

# pg_dump and restore in every form keep claims byte for byte: large objects, dictionaries, owners, expiry; and DROP EXTENSION leaves none.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Claims;
use Penstock::Test;
use PostgreSQL::Test::Utils;
use Test::More;

our $node = penstock_node('claim_dump', 'penstock.claim_collect_interval = 0');
our $db = 'kept';
sub sql { return $node->safe_psql($db, $_[0]); }
sub admin { return $node->safe_psql('postgres', $_[0]); }

admin('CREATE ROLE storer; CREATE ROLE leaver; CREATE ROLE reader; CREATE DATABASE kept');
sql('CREATE EXTENSION penstock; GRANT CREATE ON SCHEMA public TO storer, leaver');
my @numbers = (0 .. 31);
my %bytes = map { $_ => payload($_) } @numbers;
my %payloads = map { ticket($_) => $_ } values %bytes;
# like each other: for a dictionary
my @alike = map { qq({"kind": "order", "customer": "customer number $_", "items": [{"article": "a$_", "price": ) . $_ * 37 % 1000 . '}], "state": "open"}' } 1 .. 200;
$payloads{ ticket($_) } = $_ for @alike;

my $alike = 'ARRAY[' . join(',', map { literal($_) } @alike) . ']';
sql("SELECT penstock.claim_class_train('orders', $alike, 4096)");
sql('CREATE TABLE events (who text, c penstock.claim) USING stream; CREATE TABLE rows (who text, c penstock.claim, more penstock.claim[]);
	GRANT INSERT, SELECT ON events, rows TO storer, leaver; GRANT SELECT ON events TO reader');
my $half = @numbers / 2;
for my $n (@numbers)
{
	my $role = $n < $half ? 'storer' : 'leaver';
	sql("SET ROLE $role; WITH s AS MATERIALIZED (SELECT penstock.claim_store(" . literal($bytes{$n}) . ") AS c)
		INSERT INTO " . ($n % 2 ? "events SELECT '$role', c FROM s" : "rows SELECT '$role', c, ARRAY[c, NULL] FROM s"));
}
sql("SET ROLE storer; INSERT INTO events SELECT 'storer', penstock.claim_store(p, class => 'orders') FROM unnest($alike) p;");
# the first dictionary is needed when there is a newer one
sql("SELECT penstock.claim_class_train('orders', $alike, 2048, 5)");
sql("INSERT INTO rows SELECT 'orders', penstock.claim_store(p || '!', class => 'orders') FROM unnest($alike) p");
$payloads{ ticket("$_!") } = "$_!" for @alike;
my $large = join("\n", @alike) x 60;
$payloads{ ticket($large) } = $large;
sql("INSERT INTO rows SELECT 'large', penstock.claim_store(" . literal($large) . ", class => 'orders', expires => '2100-01-01')");
# unheld ones are dumped, too
sql("SELECT penstock.claim_store('of nobody')");
# other large objects stay as they are
sql('SELECT lo_from_bytea(4242, decode(repeat(\'abcd\', 1000), \'hex\'))');

my $contents = q{SELECT md5(string_agg(who || c::text || md5(penstock.claim_fetch(c)), ',' ORDER BY c::text)), count(*) FROM (SELECT who, c FROM events UNION ALL SELECT who, c FROM rows) x};
my $before = sql($contents);
my $stored = sql('SELECT claims, large_objects, bytes, stored FROM penstock.stat_claim');
my $info = q{SELECT size, stored, codec, frames, dictionary, stored_at, expires_at FROM rows, penstock.claim_info(c) WHERE who = 'large'};
my $large_info = sql($info);
like($large_info, qr/zstd with dictionary/, 'a large one with a dictionary');

# check(what, roles): a restored database is what it was.
sub check
{
	my ($what, $left) = @_;
	is(sql($contents), $before, "$what: payloads");
	is(sql('SELECT claims, large_objects, bytes, stored FROM penstock.stat_claim'), $stored, "$what: figures");
	is(sql($info), $large_info, "$what: dictionary, frames, expiry");
	is(sql("SELECT count(DISTINCT substr(penstock.claim_fetch_range(c, 3, 50)::text, 3)) > 20 FROM rows"), 't', "$what: ranges");
	is(sql("SET ROLE storer; SELECT count(*) FROM penstock.claim_class"), '1', "$what: classes");
	is(sql("SET ROLE reader; SELECT count(penstock.claim_fetch(c)) FROM events WHERE who = 'storer'"), $half / 2 + @alike, "$what: a role that may read a column");
	my ($out, $err);
	my $mine = ticket($bytes{2});
	$node->psql($db, "SET ROLE reader; SELECT penstock.claim_fetch('$mine')", stdout => \$out, stderr => \$err);
	like($err, qr/there is no payload for claim "\Q$mine\E"/, "$what: and one that may not");
	# goes on: same payload, same object; new ones; collection
	is(sql('SELECT penstock.claim_store(' . literal($bytes{7}) . ')'), ticket($bytes{7}), "$what: stored once more");
	is(sql("SELECT count(*) FROM penstock.claim_object WHERE claim = '" . ticket($bytes{7}) . "'"), '1', "$what: is there once");
	sql("INSERT INTO rows SELECT 'new', penstock.claim_store(repeat('new', 5000000))");
	is(sql("SELECT length(penstock.claim_text(c)) FROM rows WHERE who = 'new'"), '15000000', "$what: new ones are stored");
	is(sql("SELECT penstock.claim_class_train('orders', $alike, 2048)"), '3', "$what: dictionaries are numbered on");
	sql("DELETE FROM rows WHERE who IN ('new', 'large')");
	is(sql(q{SELECT collected FROM penstock.claim_collect(grace => '0')}), '3', "$what: a collection takes what nobody holds, also what a restored row held");
	is(sql("SELECT count(*) FROM pg_largeobject_metadata m WHERE oid <> 4242 AND NOT EXISTS (SELECT FROM penstock.claim_object WHERE loid = oid)"), '0', "$what: large objects are those of claims");
	is(sql(q{SELECT lo_get(4242) = decode(repeat('abcd', 1000), 'hex')}), 't', "$what: another one is as it was");
	# the dump of a restored database
	sql('DROP EXTENSION penstock CASCADE');
	is(sql('SELECT string_agg(oid::text, \',\') FROM pg_largeobject_metadata'), '4242', "$what: DROP EXTENSION leaves no large object of claims");
	is(sql('SELECT string_agg(DISTINCT loid::text, \',\') FROM pg_largeobject'), '4242', "$what: and no page");
	return;
}

my $path = $node->basedir;
$node->command_ok([ 'pg_dump', '--no-sync', '-f', "$path/plain.sql", $node->connstr('kept') ], 'plain dump');
$node->command_ok([ 'pg_dump', '--no-sync', '-Fc', '-f', "$path/custom.dump", $node->connstr('kept') ], 'custom dump');
$node->command_ok([ 'pg_dump', '--no-sync', '-Fd', '-j', '2', '-f', "$path/directory", $node->connstr('kept') ], 'parallel dump');
$node->command_ok([ 'pg_dump', '--no-sync', '--inserts', '-f', "$path/inserts.sql", $node->connstr('kept') ], 'dump as INSERTs');
for my $how (qw(plain custom directory inserts))
{
	$db = "copy_$how";
	admin("CREATE DATABASE $db");
	$node->command_ok([ $how =~ /plain|inserts/ ? ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$path/$how.sql", '-d', $node->connstr($db))
			: ('pg_restore', '--exit-on-error', ($how eq 'directory' ? ('-j', '2') : ()), '-d', $node->connstr($db), "$path/" . ($how eq 'custom' ? 'custom.dump' : 'directory')) ],
		"$how: restore");
	# a dump of what was restored is as good
	$node->command_ok([ 'pg_dump', '--no-sync', '-Fc', '-f', "$path/second.dump", $node->connstr($db) ], "$how: second dump") if $how eq 'plain';
	check($how);
}
$db = 'second';
admin('CREATE DATABASE second');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($db), "$path/second.dump" ], 'second: restore');
check('second');

# in a cluster where roles do not exist
my $other = penstock_node('claim_dump_other', 'penstock.claim_collect_interval = 0');
{
	local $node = $other;
	$db = 'kept';
	admin('CREATE ROLE storer; CREATE ROLE reader; CREATE DATABASE kept');
	IPC::Run::run([ 'pg_restore', '-d', $other->connstr('kept'), "$path/custom.dump" ], '>', \my $out, '2>', \my $err);
	is(join("\n", grep { !/role "leaver" does not exist/ } grep { /error:|ERROR/ } split /\n/, $err), '', 'without one of the roles: no other error');
	is(sql($contents), $before, 'and all payloads');
	my $mine = ticket($bytes{2});
	is(sql("SET ROLE storer; SELECT md5(penstock.claim_fetch('$mine'))"), sql("SELECT md5(penstock.claim_fetch('$mine'))"), 'who stored it and exists is known');
	# one GRANT of several failed with that
	sql('GRANT SELECT ON events TO reader');
	check('without a role');
	$other->stop;
}
$node->stop;
done_testing();

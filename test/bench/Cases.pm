# Cases: one measurement each.  A case gives rows of [what, ratio, target, what was measured].
package Cases;

use strict;
use warnings;
use Server;
use Time::HiRes qw(time sleep);

my $columns = '(ts timestamptz, user_id int, url text, latency float8, status int)';
my $minute = "date_bin('1 minute', ts, '2024-01-01')";
my $by_minute_and_url = "SELECT $minute AS minute, url, count(*) AS n, avg(latency) AS latency FROM %s GROUP BY 1, 2";
my @four = ($by_minute_and_url,
	"SELECT user_id, count(*) AS n, max(ts) AS last FROM %s GROUP BY 1",
	"SELECT status, $minute AS minute, count(*) AS n FROM %s GROUP BY 1, 2",
	"SELECT url, count(*) AS n, sum(latency) AS total, max(latency) AS worst FROM %s GROUP BY 1");
my @eight = (@four,
	"SELECT date_bin('1 hour', ts, '2024-01-01') AS hour, avg(latency) AS latency FROM %s GROUP BY 1",
	"SELECT user_id %% 1000 AS bucket, count(*) AS n FROM %s WHERE status >= 400 GROUP BY 1",
	"SELECT url, status, count(*) AS n FROM %s GROUP BY 1, 2",
	"SELECT count(*) AS n, avg(latency) AS latency, min(ts) AS first, max(ts) AS last FROM %s");

sub all
{
	return (
		[ 'copy_csv', 'COPY of csv', \&copy_csv ],
		[ 'copy_binary', 'COPY binary', \&copy_binary ],
		[ 'disk', 'disk and WAL', \&disk ],
		[ 'scan', 'scans', \&scan ],
		[ 'insert', '1-row transactions, 8 clients', \&insert ],
		[ 'producer', 'the same with begin_produce', \&producer ],
		[ 'backlog', 'backlog through one view', \&backlog ],
		[ 'visible', 'COPY until visible in a view', \&visible ],
		[ 'visible_four', 'the same with four views', \&visible_four ],
		[ 'visible_hll', 'the same with HLL', \&visible_hll ],
		[ 'small_copies', '100-row COPY transactions until visible', \&small_copies ],
		[ 'eight', 'eight views against one', \&eight ],
		[ 'groups', 'groups merged', \&groups ],
		[ 'latency', 'commit to visible', \&latency ],
		[ 'memory', 'memory', \&memory ],
		[ 'idle', 'an idle database', \&idle ],
		[ 'retention', 'a steady stream', \&retention ]);
}

# new(class, server, options): with the events as csv and as binary file, and in a heap "base".
sub new
{
	my ($class, $server, $options) = @_;
	my $self = bless { server => $server, o => $options, events => $options->{events}, csv => "$server->{scratch}/events.csv",
		binary => "$server->{scratch}/events.bin" }, $class;
	my $db = $self->{db} = $server->session;

	$db->must('CREATE EXTENSION penstock');
	$self->{pid} = $db->must('SELECT pg_backend_pid()');
	$db->must("CREATE TABLE base $columns; SELECT setseed(0.5)");
	$db->must("INSERT INTO base SELECT timestamptz '2024-01-01' + i * interval '1 millisecond', (random() * 99999)::int,
		'https://example.com/page/' || (random() * 999)::int, round((random() * random() * 500)::numeric, 2)::float8,
		(array[200,200,200,200,200,200,200,304,404,500])[1 + floor(random() * 10)] FROM generate_series(1, $self->{events}) i", 1800);
	$db->must("COPY base TO '$self->{csv}' WITH (FORMAT csv); COPY base TO '$self->{binary}' WITH (FORMAT binary)", 1800);
	$db->must('VACUUM ANALYZE base; CHECKPOINT', 1800);
	return $self;
}

# timed(sql): wall seconds, CPU seconds of this backend.
sub timed
{
	my ($self, $sql) = @_;
	my ($start, $cpu) = (time, Server::cpu($self->{pid}));
	$self->{db}->must($sql, 7200);
	return (time - $start, Server::cpu($self->{pid}) - $cpu);
}

sub worker
{
	my ($self) = @_;
	return $self->{db}->must('SELECT pid FROM penstock.stat_worker WHERE database = current_database()') || 0;
}

sub create { my ($self, $name, $using, $unlogged) = @_; $self->{db}->must("DROP TABLE IF EXISTS $name CASCADE; CREATE " . ($unlogged ? 'UNLOGGED ' : '') . "TABLE $name $columns $using"); return; }
sub views { my ($self, $stream, @queries) = @_; my $n = 0; $self->{db}->must("CREATE MATERIALIZED VIEW v" . ++$n . ' USING continuous AS ' . sprintf($_, $stream)) for @queries; return; }

# paired(runs, a, b): both sides in turn, the order changing; medians of each figure and of the
# ratio a/b of each pair.
sub paired
{
	my ($self, $a, $b) = @_;
	my (@ratios, @a, @b);

	for my $run (1 .. $self->{o}{runs})
	{
		my ($x, $y);
		if ($run % 2) { $x = [ $a->() ]; $y = [ $b->() ]; }
		else { $y = [ $b->() ]; $x = [ $a->() ]; }
		push @ratios, $x->[0] / ($y->[0] || 1e-9);
		push @{ $a[$_] }, $x->[$_] for 0 .. $#$x;
		push @{ $b[$_] }, $y->[$_] for 0 .. $#$y;
	}
	return (Server::median(@ratios), [ map { Server::median(@$_) } @a ], [ map { Server::median(@$_) } @b ]);
}

sub figures
{
	my ($what, $seconds, $cpu, @more) = @_;
	return sprintf('%s %.2f s', $what, $seconds) . (defined $cpu ? sprintf(' (CPU %s)', join(' + ', map { sprintf('%.2f', $_) } $cpu, @more)) : '');
}

# ---- writing

sub copy
{
	my ($self, $file, $format, $target, $target_unlogged) = @_;
	my $into = sub {
		my ($using, $unlogged) = @_;
		return sub {
			$self->create('t', $using, $unlogged);
			$self->{db}->must('CHECKPOINT');
			return $self->timed("COPY t FROM '$file' WITH (FORMAT $format)");
		};
	};
	my ($ratio, $heap, $stream) = $self->paired($into->(''), $into->('USING stream'));
	my ($floor, $unlogged, $again) = $self->paired($into->('', 1), $into->('USING stream'));
	return ([ "COPY $format: heap / stream", $ratio, $target, figures('heap', @$heap) . ', ' . figures('stream', @$stream) ],
		[ "COPY $format: UNLOGGED heap / stream", $floor, $target_unlogged, figures('unlogged', @$unlogged) . ', ' . figures('stream', @$again) ]);
}

sub copy_csv { my ($self) = @_; return $self->copy($self->{csv}, 'csv', '>= 1.3', '>= 1.0'); }
sub copy_binary { my ($self) = @_; return $self->copy($self->{binary}, 'binary', '>= 1.8', '>= 1.1'); }

sub disk
{
	my ($self) = @_;
	my (@size, @wal);
	for my $using ('', 'USING stream')
	{
		$self->create('t', $using);
		my $from = $self->{db}->must('SELECT pg_current_wal_insert_lsn()');
		$self->{db}->must("COPY t FROM '$self->{csv}' WITH (FORMAT csv)", 1800);
		push @wal, $self->{db}->must("SELECT pg_current_wal_insert_lsn() - '$from'") / $self->{events};
		push @size, $self->{db}->must("SELECT pg_total_relation_size('t')") / $self->{events};
	}
	return ([ 'disk: heap / stream', $size[0] / $size[1], '>= 8', sprintf('%.1f and %.1f bytes an event', @size) ],
		[ 'WAL: heap / stream', $wal[0] / $wal[1], '>= 6', sprintf('%.1f and %.1f bytes an event', @wal) ]);
}

sub insert
{
	my ($self) = @_;
	my $script = "$self->{server}{scratch}/insert.sql";
	open(my $out, '>', $script) or die $!;
	print $out "\\set u random(1, 100000)\n\\set p random(1, 1000)\nINSERT INTO :t (ts, user_id, url, latency, status) VALUES (now(), :u, 'https://example.com/page/:p', :u / 7.0, 200);\n";
	close $out;
	$self->{db}->must("DROP TABLE IF EXISTS keyed, t CASCADE; CREATE TABLE keyed (id bigserial PRIMARY KEY, ts timestamptz, user_id int, url text, latency float8, status int)");
	$self->create('t', 'USING stream');
	$self->views('t', $by_minute_and_url);
	my $tps = sub {
		my ($table) = @_;
		return sub { my ($tps) = $self->{server}->pgbench("-c 8 -j 2 -T $self->{o}{seconds} -D t=$table -f $script") =~ /tps = ([\d.]+)/; return $tps; };
	};
	my ($ratio, $stream, $heap) = $self->paired($tps->('t'), $tps->('keyed'));
	return [ 'tps, stream with one view / heap with primary key', $ratio, '>= 0.95', sprintf('stream %.0f, heap %.0f', $stream->[0], $heap->[0]) ];
}

# Batches of one row, each asked for by a producer of its client, beside the same insert without the question.
sub producer
{
	my ($self) = @_;
	my %scripts = (
		plain => "INSERT INTO t VALUES (now(), :n, 'https://example.com/page/1', :n / 7.0, 200);\n",
		asked => "INSERT INTO t SELECT now(), :n, 'https://example.com/page/1', :n / 7.0, 200 WHERE penstock.begin_produce('t', 'client ' || :client_id, :n);\n");
	for my $name (keys %scripts)
	{
		open(my $out, '>', "$self->{server}{scratch}/producer_$name.sql") or die $!;
		print $out "\\set n :n + 1\n$scripts{$name}";
		close $out;
	}
	my $tps = sub {
		my ($name) = @_;
		return sub {
			$self->create('t', 'USING stream');
			$self->{db}->must("SELECT penstock.new_producer('t', 'client ' || i) FROM generate_series(0, 7) i; CHECKPOINT");
			my ($tps) = $self->{server}->pgbench("-M prepared -c 8 -j 2 -T $self->{o}{seconds} -D n=0 -f $self->{server}{scratch}/producer_$name.sql") =~ /tps = ([\d.]+)/;
			return $tps;
		};
	};
	my ($ratio, $asked, $plain) = $self->paired($tps->('asked'), $tps->('plain'));
	return [ 'tps, 1-row inserts with begin_produce / without', $ratio, '>= 0.85', sprintf('with %.0f, without %.0f', $asked->[0], $plain->[0]) ];
}

# ---- reading

sub scan
{
	my ($self) = @_;
	my @rows;
	$self->create('t', 'USING stream');
	$self->{db}->must("COPY t FROM '$self->{csv}' WITH (FORMAT csv)", 1800);
	$self->{db}->must('VACUUM ANALYZE t', 1800);
	for my $parallel (0, 2)
	{
		$self->{db}->must("SET max_parallel_workers_per_gather = $parallel");
		for my $case ([ 'count(*)', 'SELECT count(*) FROM %s', '>= 1.0' ],
			[ 'group by, 3 of 5 columns', 'SELECT url, status, avg(latency) FROM %s GROUP BY url, status', '>= 1.0' ],
			[ 'one column of five', 'SELECT sum(latency) FROM %s', '>= 3.0' ])
		{
			my ($what, $sql, $target) = @$case;
			$self->{db}->must(sprintf($sql, $_)) for qw(base t);
			my ($ratio, $heap, $stream) = $self->paired(sub { $self->timed(sprintf($sql, 'base')) }, sub { $self->timed(sprintf($sql, 't')) });
			push @rows, [ "$what: heap / stream" . ($parallel ? ', parallel allowed' : ''), $ratio, $target, figures('heap', @$heap) . ', ' . figures('stream', @$stream) ];
		}
	}
	$self->{db}->must('RESET max_parallel_workers_per_gather');
	return @rows;
}

# ---- views

# until_visible(queries, work): wall time of the work until the views show it; CPU of writer and worker.
sub until_visible
{
	my ($self, $queries, $work) = @_;
	$self->create('t', 'USING stream');
	$self->views('t', @$queries);
	$self->{db}->must('SELECT penstock.catch_up(); CHECKPOINT', 600);
	my $worker = $self->worker;
	my ($start, $cpu, $engine) = (time, Server::cpu($self->{pid}), Server::cpu($worker));
	$work->();
	$self->{db}->must('SELECT penstock.catch_up()', 7200);
	return (time - $start, Server::cpu($self->{pid}) - $cpu, Server::cpu($worker) - $engine);
}

sub copy_until_visible
{
	my ($self, $what, $target, @queries) = @_;
	my $copy = "COPY t FROM '$self->{csv}' WITH (FORMAT csv)";
	my ($ratio, $heap, $stream) = $self->paired(
		sub { $self->create('t', ''); $self->{db}->must('CHECKPOINT'); return $self->timed($copy); },
		sub { return $self->until_visible(\@queries, sub { $self->{db}->must($copy, 7200); }); });
	return [ "COPY into heap / COPY until visible in $what", $ratio, $target, figures('heap', @$heap) . ', ' . figures('stream', @$stream) ];
}

sub visible { my ($self) = @_; return $self->copy_until_visible('one view', '>= 0.95', $by_minute_and_url); }
sub visible_four { my ($self) = @_; return $self->copy_until_visible('four views', '>= 0.6', @four); }

sub visible_hll
{
	my ($self) = @_;
	$self->{db}->must('CREATE EXTENSION IF NOT EXISTS hll');
	return $self->copy_until_visible('HLL users by url', '>= 0.6', 'SELECT url, hll_add_agg(hll_hash_integer(user_id)) AS users FROM %s GROUP BY 1');
}

sub backlog
{
	my ($self) = @_;
	my ($ratio, $stream, $batch) = $self->paired(
		sub {
			$self->create('t', 'USING stream');
			$self->views('t', $by_minute_and_url);
			$self->{db}->must("SELECT penstock.catch_up(); SELECT penstock.pause('v1')");
			$self->{db}->must("COPY t FROM '$self->{csv}' WITH (FORMAT csv); CHECKPOINT", 7200);
			my $worker = $self->worker;
			my ($start, $engine) = (time, Server::cpu($worker));
			$self->{db}->must("SELECT penstock.resume('v1'); SELECT penstock.catch_up()", 7200);
			return (time - $start, Server::cpu($worker) - $engine);
		},
		sub {
			$self->{db}->must('DROP TABLE IF EXISTS result; CHECKPOINT');
			return $self->timed('CREATE TABLE result AS ' . sprintf($by_minute_and_url, 'base'));
		});
	return [ 'backlog through one view / batch GROUP BY over a heap', $ratio, '<= 1.2', figures('backlog', @$stream) . ', ' . figures('batch', @$batch) ];
}

sub small_copies
{
	my ($self) = @_;
	my $scratch = $self->{server}{scratch};
	my $transactions = int($self->{events} / 500);
	system("head -n 50000 $self->{csv} | split -l 100 -d -a 3 - $scratch/part_") == 0 or die "split\n";
	open(my $out, '>', "$scratch/copies.sql") or die $!;
	print $out "\\set a random(0, 4)\n\\set b random(0, 9)\n\\set c random(0, 9)\nCOPY t FROM '$scratch/part_:a:b:c' WITH (FORMAT csv);\n";
	close $out;
	my $work = sub { $self->{server}->pgbench("-c 1 -t $transactions -f $scratch/copies.sql"); };
	my ($ratio, $heap, $stream) = $self->paired(
		sub { $self->create('t', ''); my $start = time; $work->(); return time - $start; },
		sub { my ($wall) = $self->until_visible([$by_minute_and_url], $work); return $wall; });
	return [ '100-row COPYs: heap / until visible in one view', $ratio, '>= 0.8',
		sprintf('%d transactions: heap %.2f s, stream %.2f s', $transactions, $heap->[0], $stream->[0]) ];
}

sub eight
{
	my ($self) = @_;
	my $copy = sub { $self->{db}->must("COPY t FROM '$self->{csv}' WITH (FORMAT csv)", 7200); };
	my ($ratio, $eight, $one) = $self->paired(sub { $self->until_visible(\@eight, $copy) }, sub { $self->until_visible([ $eight[0] ], $copy) });
	return [ 'COPY until visible: eight views / one', $ratio, '<= 4', figures('eight', @$eight) . ', ' . figures('one', @$one) ];
}

sub groups
{
	my ($self) = @_;
	my (@rates, @cpu);
	$self->create('t', 'USING stream');
	$self->views('t', 'SELECT user_id, count(*) AS n, avg(latency) AS latency FROM %s GROUP BY 1');
	for my $run (0 .. $self->{o}{runs})
	{
		$self->{db}->must("SELECT penstock.catch_up(); SELECT penstock.pause('v1')", 600);
		$self->{db}->must("INSERT INTO t SELECT now(), i, 'x', i, 200 FROM generate_series(1, 100000) i; CHECKPOINT", 600);
		my $worker = $self->worker;
		my ($start, $cpu) = (time, Server::cpu($worker));
		$self->{db}->must("SELECT penstock.resume('v1'); SELECT penstock.catch_up()", 600);
		push @rates, 100000 / (time - $start) if $run;		# the first run makes them
		push @cpu, Server::cpu($worker) - $cpu if $run;
	}
	my $rate = Server::median(@rates);
	return [ 'groups merged a second / 150,000', $rate / 150000, '>= 1', sprintf('%.0f groups a second, CPU %.2f s per 100,000', $rate, Server::median(@cpu)) ];
}

sub latency
{
	my ($self) = @_;
	my $script = "$self->{server}{scratch}/rate.sql";
	my $count = $self->{o}{quick} ? 300 : 2000;
	open(my $out, '>', $script) or die $!;
	print $out "\\set u random(1, 100000)\nINSERT INTO t VALUES (now(), :u, 'https://example.com/page/1', :u / 7.0, 200);\n";
	close $out;
	$self->create('t', 'USING stream');
	$self->views('t', 'SELECT user_id, count(*) AS n, avg(latency) AS latency FROM %s GROUP BY 1');
	$self->{db}->must('CREATE INDEX ON v1 (user_id); DROP TABLE IF EXISTS seen; CREATE UNLOGGED TABLE seen (ms float8)');
	my $pid = fork // die $!;
	if (!$pid) { $self->{server}{owner} = 0; exec("pgbench -h $self->{server}{scratch} -p " . Server::PORT . " -U postgres -n -c 4 -j 1 -R 1000 -T " . ($self->{o}{quick} ? 6 : 30) . " -f $script postgres >/dev/null 2>&1"); }
	$self->{db}->must("DO \$\$ DECLARE t0 timestamptz; BEGIN FOR i IN 1..$count LOOP
		INSERT INTO t VALUES (now(), -i, 'x', 1, 200); COMMIT; t0 := clock_timestamp();
		LOOP PERFORM 1 FROM v1 WHERE user_id = -i; EXIT WHEN FOUND; PERFORM pg_sleep(0.0002); COMMIT; END LOOP;
		INSERT INTO seen VALUES (extract(epoch FROM clock_timestamp() - t0) * 1000); COMMIT; END LOOP; END \$\$", 600);
	waitpid($pid, 0);
	my ($median, $p99) = split /\|/, $self->{db}->must("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) FROM seen");
	return ([ 'commit to visible, ms, median', $median, '<= 5', sprintf('%.2f ms over %d events beside 1,000 transactions a second', $median, $count) ],
		[ 'commit to visible, ms, p99', $p99, '<= 50', sprintf('%.2f ms', $p99) ]);
}

# ---- limits

# peak(pid, session): the most memory of its own that the process has until the session answers.
sub peak
{
	my ($pid, $session) = @_;
	my $peak = 0;
	while (!defined $session->receive(0.05))
	{
		my $now = Server::own_memory($pid);
		$peak = $now if $now > $peak;
		last if $session->{ended};
	}
	die "$session->{error}\n" if $session->error;
	return $peak;
}

sub memory
{
	my ($self) = @_;
	my $rounds = int(($self->{o}{backlog} + $self->{events} - 1) / $self->{events});
	$self->create('t', 'USING stream');
	$self->views('t', $by_minute_and_url);
	$self->{db}->must("SELECT penstock.catch_up(); SELECT penstock.pause('v1')", 600);
	my $writer = $self->{server}->session;
	my $writer_pid = $writer->must('SELECT pg_backend_pid()');
	$writer->must('BEGIN');
	my $most = 0;
	for (1 .. $rounds)
	{
		$writer->send("COPY t FROM '$self->{csv}' WITH (FORMAT csv)");
		my $peak = peak($writer_pid, $writer);
		$most = $peak if $peak > $most;
	}
	$writer->must('COMMIT');
	my $worker = $self->worker;
	$writer->send("SELECT penstock.resume('v1'); SELECT penstock.catch_up()");
	my $engine = peak($worker, $writer);
	my $million = sprintf('%.1f', $rounds * $self->{events} / 1e6);
	return ([ "worker's memory in a backlog of $million M events, MB", $engine / 2**20, '<= 256', 'most memory not shared' ],
		[ "writer's memory in one transaction of $million M rows, MB", $most / 2**20, '<= 64', 'most memory not shared' ]);
}

sub idle
{
	my ($self) = @_;
	my $seconds = $self->{o}{quick} ? 5 : 30;
	$self->create('t', 'USING stream');
	$self->views('t', @four);
	$self->{db}->must("INSERT INTO t SELECT * FROM base LIMIT 1000; SELECT penstock.catch_up(); CHECKPOINT", 600);
	sleep(2);
	my @pids = split /\n/, $self->{db}->must("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'penstock%'");
	my $count = sub { my ($cpu, $switches) = (0, 0); for (@pids) { $cpu += Server::cpu($_); $switches += Server::switches($_); } return ($cpu, $switches); };
	my @before = $count->();
	sleep($seconds);
	my @after = $count->();
	return [ 'idle: CPU ms a second of all Penstock processes', ($after[0] - $before[0]) * 1000 / $seconds, '<= 0',
		sprintf('%d processes, %d wake-ups in %d s', scalar @pids, $after[1] - $before[1], $seconds) ];
}

sub retention
{
	my ($self) = @_;
	my $period = $self->{o}{quick} ? 1 : 3;
	my ($until, @sizes) = (time + 10 * $period);
	$self->{db}->must("DROP TABLE IF EXISTS t CASCADE; CREATE TABLE t $columns USING stream WITH (penstock.event_time = 'ts', penstock.retention = '$period seconds')");
	$self->views('t', "SELECT url, count(*) AS n FROM %s GROUP BY 1");
	$self->{db}->must("ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET autovacuum_naptime = '1s'; SELECT pg_reload_conf()");
	while (time < $until)
	{
		$self->{db}->must("INSERT INTO t SELECT clock_timestamp(), i, 'page ' || i % 100, i, 200 FROM generate_series(1, 5000) i; SELECT penstock.catch_up()");
		push @sizes, [ time, $self->{db}->must("SELECT pg_total_relation_size('t')") ];
		sleep(0.1);
	}
	$self->{db}->must('ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()');
	my $start = $sizes[0][0];
	my $largest = sub { my ($from, $to) = @_; my $most = 1; for (@sizes) { my $at = ($_->[0] - $start) / $period; $most = $_->[1] if $at >= $from && $at < $to && $_->[1] > $most; } return $most; };
	my ($early, $late) = ($largest->(2, 5), $largest->(7, 11));
	return [ 'size after ten retention periods / after five', $late / $early, '<= 1.1', sprintf('%.0f kB and %.0f kB', $early / 1024, $late / 1024) ];
}

1;

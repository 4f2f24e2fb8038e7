# World: the tables that one round of the oracle test works on, and random rows for them.
package World;

use strict;
use warnings;

# Types a stream's further columns can have: how a random value is made, and what the query
# generator may do with it (o: has an order, i: integer, n: number, b: boolean, t: text).
our %types = (
	int2      => [ '(random() * 200 - 100)::int2', 'oi' ],
	int4      => [ '(random() * 2000 - 1000)::int', 'oin' ],
	int8      => [ '(random() * 1e15 - 5e14)::int8', 'oi' ],
	numeric   => [ '(random() * 1e6 - 5e5)::numeric(12,3)', 'on' ],
	float8    => [ 'floor(random() * 2000 - 1000) / 2', 'of' ],
	float4    => [ '(floor(random() * 200 - 100) / 2)::float4', 'o' ],
	bool      => [ 'random() < 0.7', 'b' ],
	text      => [ "repeat(md5(random()::text), (random() * 3)::int)", 'ot' ],
	word      => [ "(array['apple','pear','plum','fig','date','lime',''])[1 + floor(random() * 7)]", 'ot', 'text' ],
	wide      => [ "repeat('x', 3000 + (random() * 9000)::int)", 't', 'text' ],
	date      => [ "date '2020-01-01' + (random() * 1000)::int", 'o' ],
	timestamp => [ "timestamp '2020-01-01' + (random() * 1e6)::int * interval '1 second'", 'o' ],
	interval  => [ "(random() * 1e5)::int * interval '1 second'", 'os' ],
	uuid      => [ 'gen_random_uuid()', '' ],
	bytea     => [ "decode(md5(random()::text), 'hex')", '' ],
	inet      => [ "('10.0.' || (random() * 255)::int || '.1')::inet", 'o' ],
	jsonb     => [ "jsonb_build_object('a', (random() * 9)::int, 'b', array[random() < 0.5])", '' ],
	'int4[]'  => [ 'array[(random() * 5)::int, null, (random() * 5)::int]', 'a' ],
	'text[]'  => [ "string_to_array(md5(random()::text), 'a')", '' ],
	int4range => [ 'int4range((random() * 10)::int, 10 + (random() * 10)::int)', '' ],
	colour    => [ "(array['red','green','blue'])[1 + floor(random() * 3)]::colour", '' ],
	pair      => [ '((random() * 10)::int, md5(random()::text))::pair', '' ],
	small     => [ '(random() * 100)::int::small', 'oi' ],
	'char(5)' => [ "(array['aa','bb','ccccc'])[1 + floor(random() * 3)]::char(5)", '' ],
);

sub pick { return $_[ int rand @_ ]; }

# types that all worlds share
sub prelude
{
	return "CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
		CREATE TYPE pair AS (x int, y text);
		CREATE DOMAIN small AS int CHECK (VALUE BETWEEN 0 AND 1000);";
}

# new(class): two plain streams, one partitioned, one table to look things up in.
sub new
{
	my ($class) = @_;
	my $self = bless { tables => {}, number => 0 }, $class;

	for my $name (qw(s1 s2 p1))
	{
		my @columns = ([ 'k', 'int4', '(random() * 20)::int' ], [ 'v', 'int4', '(random() * 1000)::int' ],
			[ 'w', 'text', $types{word}[0] ]);
		my %used;
		for my $i (1 .. 2 + int rand 5)
		{
			my $type = pick(sort keys %types);
			next if $type eq 'wide' && $used{wide}++;
			push @columns, [ "c$i", $types{$type}[2] || $type, $types{$type}[0], $types{$type}[1] ];
		}
		for my $column (@columns)
		{
			my $nulls = pick(0, 0.02, 0.3);
			$column->[2] = "CASE WHEN random() >= $nulls THEN $column->[2] END" if $nulls;
		}
		$self->{tables}{$name} = \@columns;
	}
	return $self;
}

# create(self): SQL that makes the tables.
sub create
{
	my ($self) = @_;
	my $sql = '';

	for my $name (sort keys %{ $self->{tables} })
	{
		my $columns = join(', ', 'id int8', 'tx xid8 DEFAULT pg_current_xact_id()', 'ts timestamptz',
			map { "$_->[0] $_->[1]" } @{ $self->{tables}{$name} });
		if ($name =~ /^p/)
		{
			$sql .= "CREATE TABLE $name ($columns) PARTITION BY LIST (w);
				CREATE TABLE ${name}_a PARTITION OF $name FOR VALUES IN ('apple', 'pear') USING stream;
				CREATE TABLE ${name}_b PARTITION OF $name DEFAULT USING stream;\n";
		}
		else { $sql .= "CREATE TABLE $name ($columns) USING stream;\n"; }
	}
	return $sql . "CREATE TABLE dim (k int PRIMARY KEY, label text, factor int);
		INSERT INTO dim SELECT i, 'label ' || i % 5, i % 7 FROM generate_series(0, 14) i;";
}

sub drop
{
	my ($self) = @_;
	return 'DROP TABLE ' . join(', ', sort(keys %{ $self->{tables} }), 'dim') . ' CASCADE';
}

# insert(self, rows): SQL that inserts random rows into a random stream.
sub insert
{
	my ($self, $rows) = @_;
	my $name = pick(sort keys %{ $self->{tables} });
	my @columns = @{ $self->{tables}{$name} };
	my $from = $self->{number} + 1;
	my $list = join(', ', 'id', 'ts', map { $_->[0] } @columns);
	my $target = $name eq 'p1' && rand() < 0.2 ? 'p1_b' : $name;
	my @values = map { $target eq 'p1_b' && $_->[0] eq 'w' ? "'fig'" : $_->[2] } @columns;

	$self->{number} += $rows;
	return "INSERT INTO $target ($list) SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '7 seconds', "
		. join(', ', @values) . " FROM generate_series($from, $self->{number}) i";
}

1;

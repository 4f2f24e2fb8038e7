# Query: random queries of the kinds that a continuous view can keep.
#
# A query is text in which each stream stands as {name}, so that the same query can be made for
# the view and for events up to a position.
package Query;

use strict;
use warnings;

sub pick { return $_[ int rand @_ ]; }
sub chance { return rand() < $_[0]; }

# generate(world): text, or the text of a view without GROUP BY.
sub generate
{
	my ($world) = @_;
	return chance(0.35) ? append($world) : grouped($world);
}

# of(columns, flag): the columns whose type has the flag.
sub of
{
	my ($columns, $flag) = @_;
	return map { $_->[0] } grep { $_->[1] =~ /$flag/ } @$columns;
}

# source(world): (FROM clause, columns as [expression, flags], WHERE condition or '').
sub source
{
	my ($world) = @_;
	my $name = pick(sort keys %{ $world->{tables} });
	my @columns = map { [ "e.$_->[0]", $_->[3] // 'oin' ] } @{ $world->{tables}{$name} };
	my $from = "{$name} e";
	my @where;

	$columns[2][1] = 'ot';
	push @columns, [ 'e.id', 'oi' ];
	if (chance(0.15))
	{
		my @names = grep { $_ ne $name } sort keys %{ $world->{tables} };
		my $other = pick(@names);
		$from = "(SELECT id, ts, k, v, w FROM {$name} a UNION ALL SELECT id, ts, k, v + 1, w FROM {$other} b WHERE v > 300) e";
		@columns = ([ 'e.k', 'oin' ], [ 'e.v', 'oin' ], [ 'e.w', 'ot' ], [ 'e.id', 'oi' ]);
	}
	elsif (chance(0.1))
	{
		$from = "(SELECT *, k * 2 AS kk FROM {$name} a WHERE v % 3 <> 0) e";
		push @columns, [ 'e.kk', 'oin' ];
	}
	if (chance(0.25))
	{
		$from .= pick(' JOIN dim d ON d.k = e.k', ' LEFT JOIN dim d USING (k)', ' JOIN dim d ON d.k = e.v % 15 AND d.factor > 2');
		push @columns, [ 'd.label', 'ot' ], [ 'd.factor', 'oin' ];
	}
	if (chance(0.12))
	{
		my ($array) = of(\@columns, 'a');
		$from .= $array ? " CROSS JOIN LATERAL unnest($array) u" : ' CROSS JOIN LATERAL generate_series(1, e.v % 3) u';
		push @columns, [ 'u', 'oin' ];
	}
	push @where, predicate(\@columns) if chance(0.5);
	push @where, predicate(\@columns) if chance(0.2);
	return ($from, \@columns, @where ? ' WHERE ' . join(' AND ', @where) : '');
}

sub predicate
{
	my ($columns) = @_;
	my $column = pick(of($columns, 'i'));
	return pick("$column % 3 = 1", "$column > 5", "$column IS NOT NULL", "$column IN (1, 2, 3, 5, 8, 13)",
		"(e.w <> 'fig' OR e.k IS NULL)", 'e.v BETWEEN 100 AND 900', "e.w LIKE 'p%'",
		"e.ts < timestamptz '2024-01-02 00:00+00'", 'e.k IN (SELECT k FROM dim WHERE factor < 5)');
}

# scalar(columns): an expression over one row.
sub scalar_expression
{
	my ($columns) = @_;
	my $any = pick(@$columns)->[0];
	my $integer = pick(of($columns, 'i'));
	return pick($any, $any, $any, "$integer + 1", "coalesce(e.k, -1)", 'upper(e.w)', "CASE WHEN e.v > 500 THEN 'big' ELSE e.w END",
		"date_bin('1 hour', e.ts, '2024-01-01 00:00+00')", "($any) IS NULL", "e.v % 4");
}

sub append
{
	my ($world) = @_;
	my @branches;
	my $width = 1 + int rand 4;
	my $count = chance(0.2) ? 2 : 1;

	for my $branch (1 .. $count)
	{
		my ($from, $columns, $where) = source($world);
		my @list = $count > 1
			? map { pick('e.k', 'e.v', 'e.v % 7', 'e.v + coalesce(e.k, 0)') . " AS x$_" } 1 .. $width
			: map { scalar_expression($columns) . " AS x$_" } 1 .. $width;
		push @list, 'generate_series(1, e.v % 3) AS g' if $count == 1 && chance(0.1);
		push @branches, 'SELECT ' . join(', ', @list) . " FROM $from$where";
	}
	return join(' UNION ALL ', @branches);
}

# aggregate(columns): one aggregate call with a combine function.
sub aggregate
{
	my ($columns) = @_;
	my $any = pick(@$columns)->[0];
	my $integer = pick(of($columns, 'i'));
	my $number = pick(of($columns, '[in]'));
	my $ordered = pick(of($columns, 'o'));
	my @calls = ('count(*)', "count($any)", "sum($integer)", "sum($number)", "avg($number)", "avg($integer)", "min($ordered)",
		"max($ordered)", 'max(e.ts)', "stddev_samp($number)", "var_pop($number)", "variance($integer)", "stddev($number)",
		'bit_or(e.v)', 'bit_and(e.v)', 'bool_and(e.v > 10)', "bool_or(e.w = 'fig')", 'every(e.k < 25)', "sum($integer + e.v)",
		"round(avg($number), 2)", "coalesce(sum($integer), 0)", "sum(e.v) * 1.0 / count(*)", "max($ordered) IS NULL");
	push @calls, map { "sum($_)" } of($columns, 'f'), of($columns, 's');
	push @calls, map { "avg($_)" } of($columns, 'f'), of($columns, 's');
	push @calls, map { "bool_or($_)" } of($columns, 'b');
	my $call = pick(@calls);
	my $filter = chance(0.2) ? ' FILTER (WHERE ' . predicate($columns) . ')' : '';
	$call =~ s/^(\w+\([^()]*\))$/$1$filter/ if $filter;
	return $call;
}

sub grouped
{
	my ($world) = @_;
	my ($from, $columns, $where) = source($world);
	my (%seen, @keys);

	for (1 .. pick(0, 1, 1, 1, 2, 2, 3))
	{
		my $key = pick('e.k', 'e.w', 'e.v % 10', "date_bin('10 minutes', e.ts, '2024-01-01 00:00+00')",
			"date_bin('1 day', e.ts, '2024-01-01 00:00+00')", 'e.v', pick(@$columns)->[0], 'upper(e.w)', "e.k IS NULL");
		push @keys, $key unless $seen{$key}++;
	}
	my $number = 0;
	my @list = ((map { "$_ AS k" . ++$number } grep { chance(0.9) } @keys),
		map { aggregate($columns) . ' AS a' . ++$number } 1 .. 1 + int rand 4);
	@list = reverse @list if chance(0.2);
	my $group = @keys ? ' GROUP BY ' . join(', ', @keys) : '';
	my $having = chance(0.2) ? ' HAVING ' . pick('count(*) > 2', 'sum(e.v) % 2 = 0', 'count(*) % 3 <> 1',
		'max(e.v) > 500 AND count(e.k) > 0', 'min(e.v) < 100') : '';
	return 'SELECT ' . join(', ', @list) . " FROM $from$where$group$having";
}

# text(query): as it is said at CREATE, or over the source that the function names for a stream.
sub text
{
	my ($query, $source) = @_;
	$query =~ s/\{(\w+)\}/$source ? $source->($1) : $1/ge;
	return $query;
}

1;

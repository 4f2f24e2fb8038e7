# The connectors against real brokers, where test/run has brought their packages: on the machine's own major.

# against_broker FILE: a broker is somebody else's program with time-outs of its own, and this machine may be busy: a file that
# fails is run once more, and says so.  What fails twice has failed.
against_broker() {
	local name=$1 file=$2 try
	for try in 1 2; do
		: >"$OUT/broker-results"
		program "$name" 900 perl -I"$PGXS/src/test/perl" -Itest/perl -Itest/brokers "$file" 3>"$OUT/broker-results"
		grep -q '^not ok' "$OUT/broker-results" || break
		[ "$try" = 2 ] || echo "# $name failed once: again"
	done
	cat "$OUT/broker-results" >&3
}

if [ -z "${PENSTOCK_LIGHT:-}" ]; then
	check "build connectors" 600 make -s WERROR=-Werror PG_CONFIG="$PG_CONFIG" connectors install-connectors
	program connector-symbols 60 bash test/checks/symbols src/connector/*/*.so src/format/avro/*.so
	for file in test/connectors/*.pl; do
		[ ! -f "$file" ] || against_broker "$(basename "$file" .pl)" "$file"
	done
fi

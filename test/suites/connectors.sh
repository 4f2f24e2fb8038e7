# The connectors against real brokers, where test/run has brought their packages: on the machine's own major.
if [ -z "${PENSTOCK_LIGHT:-}" ]; then
	check "build connectors" 600 make -s WERROR=-Werror PG_CONFIG="$PG_CONFIG" connectors install-connectors
	program connector-symbols 60 bash test/checks/symbols src/connector/*/*.so src/format/avro/*.so
	for file in test/connectors/*.pl; do
		[ ! -f "$file" ] || program "$(basename "$file" .pl)" 900 perl -I"$PGXS/src/test/perl" -Itest/perl -Itest/brokers "$file"
	done
fi

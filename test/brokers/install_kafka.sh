#!/bin/bash
# install_kafka.sh: makes a real Kafka ready for the tests: its jars in the cache folder, Java to run them.
# Prints the folder of the jars.  Does nothing that is done already.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../server/common.sh"

jars=$CACHE/kafka-$(sed -n '/kafka_2.13/{n;s/.*<version>\(.*\)<.*/\1/p}' "$here/kafka/pom.xml")

fail() { say "kafka: $*"; exit 1; }

if [ ! -e "$jars/complete" ] || ! command -v java >/dev/null; then
	command -v java >/dev/null || need_packages openjdk-17-jre-headless || fail "no Java"
	command -v mvn >/dev/null || need_packages maven || fail "no Maven"
	mkdir -p "$CACHE" || fail "cannot write $CACHE"
	work=$(mktemp -d "$CACHE/kafka.XXXXXX") || fail "cannot write $CACHE"
	trap 'rm -rf "$work"' EXIT
	cp "$here/kafka/pom.xml" "$work/" &&
		(cd "$work" && mvn -B -q dependency:copy-dependencies -DoutputDirectory="$work/jars" >&2) ||
		fail "Maven could not get the broker"
	[ -n "$(ls "$work"/jars/kafka_2.13-*.jar 2>/dev/null)" ] || fail "Maven left no broker behind"
	touch "$work/jars/complete"
	chmod -R go+rX "$work/jars"
	rm -rf "$jars" && mv "$work/jars" "$jars" || fail "cannot write $jars"
fi
need_packages librdkafka-dev openssl gcc >&2 || fail "no librdkafka"

# The classes that a broker loads, ready to be mapped: halves the time it takes to start.  Nice to have.
if [ ! -e "$jars/classes.jsa" ] && [ -w "$jars" ]; then
	perl -I"$here" -MKafka -e 'Kafka->archive($ARGV[0])' "$jars" >&2 || say "kafka: no class archive"
fi
echo "$jars"

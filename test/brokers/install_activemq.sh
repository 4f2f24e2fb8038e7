#!/bin/bash
# install_activemq.sh: makes an ActiveMQ broker ready for the tests: its jars and a few lines of Java in the cache folder.
# Prints that folder.  Does nothing that is done already.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../server/common.sh"

source=$here/activemq
version=$(sed -n '/>activemq-broker</{n;s/.*<version>\(.*\)<.*/\1/p}' "$source/pom.xml")
folder=$CACHE/activemq-$version-$(cat "$source/pom.xml" "$source/ActiveMQ.java" | cksum | cut -d' ' -f1)

fail() { say "activemq: $*"; exit 1; }

if [ ! -e "$folder/complete" ] || ! command -v java >/dev/null; then
	command -v javac >/dev/null || need_packages openjdk-17-jdk-headless || fail "no Java"
	command -v mvn >/dev/null || need_packages maven || fail "no Maven"
	mkdir -p "$CACHE" || fail "cannot write $CACHE"
	work=$(mktemp -d "$CACHE/activemq.XXXXXX") || fail "cannot write $CACHE"
	trap 'rm -rf "$work"' EXIT
	cp "$source/pom.xml" "$work/" &&
		(cd "$work" && mvn -B -q -Dstyle.color=never dependency:copy-dependencies -DoutputDirectory="$work/jars" >&2) ||
		fail "Maven could not get the broker"
	[ -n "$(ls "$work"/jars/activemq-broker-*.jar 2>/dev/null)" ] || fail "Maven left no broker behind"
	javac -cp "$work/jars/*" -d "$work/jars" "$source/ActiveMQ.java" >&2 || fail "ActiveMQ.java does not compile"
	touch "$work/jars/complete"
	chmod -R go+rX "$work/jars"
	rm -rf "$folder" && mv "$work/jars" "$folder" || fail "cannot write $folder"
fi
need_packages libqpid-proton11-dev openssl >&2 || fail "no Qpid Proton"
echo "$folder"

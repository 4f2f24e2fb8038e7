#!/bin/bash
# source.sh MAJOR DEST: the regression tests out of the Debian source package of the server,
# unpacked in DEST/regress; cached.  Fails, quietly, when the machine cannot get them.
set -u
. "$(dirname "$0")/common.sh"

major=$1 dest=$2
store=$CACHE/source$major

# fetch: with the machine's own package sources; a copy of them that also asks for sources is
# used when it does not.
fetch() {
	local lists=$store/lists options=() version
	if [ -z "$(apt-get indextargets 'Created-By: Sources' 2>/dev/null | head -1)" ]; then
		mkdir -p "$lists/partial" "$store/parts"
		cp /etc/apt/sources.list "$store/sources.list" 2>/dev/null || : >"$store/sources.list"
		cp -r /etc/apt/sources.list.d/. "$store/parts/" 2>/dev/null
		sed -i 's/^deb /deb-src /' "$store/sources.list" "$store"/parts/*.list 2>/dev/null
		sed -i 's/^Types: *deb$/Types: deb-src/' "$store"/parts/*.sources 2>/dev/null
		options=(-o "Dir::Etc::SourceList=$store/sources.list" -o "Dir::Etc::SourceParts=$store/parts"
			-o "Dir::State::Lists=$lists")
		apt-get -qq "${options[@]}" update || return 1
	fi
	cd "$store" || return 1
	for version in $(apt-cache "${options[@]}" showsrc "postgresql-$major" | sed -n 's/^Version: //p' | sort -rV); do
		apt-get -qq "${options[@]}" source --download-only "postgresql-$major=$version" && return 0
	done
	return 1
}

mkdir -p "$store" || exit 1
if ! ls "$store"/*.orig.tar.* >/dev/null 2>&1; then
	is_root && need_packages dpkg-dev bzip2 xz-utils || true
	fetch >"$store/log" 2>&1 || { tail -3 "$store/log" >&2; exit 1; }
fi
mkdir -p "$dest" && cd "$dest" || exit 1
tar -xf "$(ls "$store"/*.orig.tar.* | grep -v '\.asc$' | tail -1)" --strip-components=3 \
	--wildcards '*/src/test/regress'
[ -f regress/parallel_schedule ]

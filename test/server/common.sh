# common.sh: what test/run, the bench and the demo share.  Sourced by bash with set -u.
#
# Everything is made in a scratch folder and in a cache outside the checkout; the server that
# is installed on the machine, and any that runs there, stay as they are.

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${PENSTOCK_CACHE:-${XDG_CACHE_HOME:-/var/cache}/penstock}
[ "$(id -u)" = 0 ] || [ -n "${PENSTOCK_CACHE:-}" ] || CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/penstock
export LC_ALL=C.UTF-8 TZ=UTC
# tests that need brokers find what root has installed
export PENSTOCK_CACHE=$CACHE
unset "${!PG@}" 2>/dev/null || true

say() { printf '%s\n' "$*" >&2; }
is_root() { [ "$(id -u)" = 0 ]; }

# as_user COMMAND...: servers refuse to run as root, so root becomes "postgres".
as_user() {
	if is_root; then
		setpriv --reuid=postgres --regid=postgres --init-groups env HOME="${SCRATCH:-/tmp}" "$@"
	else
		"$@"
	fi
}

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# need_packages PACKAGE...: installs those that are missing (as root), or says what to install.
need_packages() {
	local missing=() p guard=/etc/postgresql-common/createcluster.d/penstock.conf
	for p in "$@"; do installed "$p" || missing+=("$p"); done
	[ ${#missing[@]} -eq 0 ] && return 0
	if ! is_root; then
		say "missing packages; as root: apt-get install ${missing[*]}"
		return 1
	fi
	say "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	[ -n "$(find /var/lib/apt/lists -maxdepth 1 -type f -name '*_Packages*' -mtime -1 2>/dev/null)" ] ||
		apt-get -qq update || return 1
	# A server package makes and starts a cluster when it is installed: not wanted here.
	mkdir -p "${guard%/*}" && echo 'create_main_cluster = false' >"$guard"
	apt-get -qq -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold \
		install --no-install-recommends "${missing[@]}" >&2 ||
		{ apt-get -qq update && apt-get -qq -y -o Dpkg::Options::=--force-confold \
			install --no-install-recommends "${missing[@]}" >&2; }
	local rc=$?
	rm -f "$guard"
	return $rc
}

# native_major: the server major of this machine's own packages.
native_major() {
	local m
	for m in 15 16 17 18; do
		installed "postgresql-$m" && { echo "$m"; return; }
	done
	for m in 15 16 17 18; do
		apt-cache show "postgresql-server-dev-$m" >/dev/null 2>&1 && { echo "$m"; return; }
	done
	return 1
}

build_packages() {
	echo build-essential libzstd-dev libcurl4-openssl-dev libipc-run-perl perl "postgresql-$1" "postgresql-server-dev-$1"
}

connector_packages() {
	echo librdkafka-dev librabbitmq-dev libqpid-proton11-dev libpq-dev libcurl4-openssl-dev libavro-dev openssl
}

# private_copy MAJOR DEST [ROOT]: a copy of the server installed below ROOT that can be installed
# into; prints its pg_config.  PG_CONFIG_FROM names another server to be copied (built from source,
# say).
private_copy() {
	local major=$1 dest=$2 root=${3:-} prefix
	mkdir -p "$dest"
	if [ -n "${PG_CONFIG_FROM:-}" ] && [ -z "$root" ]; then
		prefix=$(cd "$(dirname "$PG_CONFIG_FROM")/.." && pwd)
		cp -r "$prefix/." "$dest/" && echo "$dest/bin/pg_config"
		return
	fi
	mkdir -p "$dest"/usr/{lib,share}/postgresql "$dest/usr/include"
	cp -r "$root/usr/lib/postgresql/$major" "$dest/usr/lib/postgresql/" &&
		rm -rf "$dest/usr/lib/postgresql/$major/lib/bitcode" &&
		cp -r "$root/usr/share/postgresql/$major" "$dest/usr/share/postgresql/" &&
		ln -sfn /usr/include/postgresql "$dest/usr/include/postgresql" &&
		echo "$dest/usr/lib/postgresql/$major/bin/pg_config"
}

# copy_checkout DEST: the checkout's files, without what was built or belongs to git.
copy_checkout() {
	mkdir -p "$1" && tar -C "$CHECKOUT" --exclude=.git --exclude='*.o' --exclude='*.d' \
		--exclude='*.so' --exclude='penstock--*.sql' -cf - . | tar -C "$1" --no-same-owner -xf -
}

# stop_servers FOLDER: stops every server whose data lies below FOLDER, by its process id.
stop_servers() {
	local f pid data
	while IFS= read -r f; do
		data=$(dirname "$f")
		pid=$(head -1 "$f" 2>/dev/null) || continue
		[ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$data" ] || continue
		kill -INT "$pid" 2>/dev/null
		for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
		kill -0 "$pid" 2>/dev/null && kill -QUIT "$pid" 2>/dev/null
	done < <(find "$1" -name postmaster.pid 2>/dev/null)
	return 0
}

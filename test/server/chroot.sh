# chroot.sh: other PostgreSQL majors, each in a slim Debian of its own, kept in the cache.

suite_of() { case $1 in 15) echo bookworm ;; 17) echo trixie ;; 18) echo forky ;; esac; }

# mirror: where this machine gets its Debian packages from.
mirror() {
	apt-get indextargets --format '$(SITE) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
		awk '$2 == "Debian" && $1 !~ /security/ { print $1; exit }'
}

# chroot_for MAJOR: prints the folder of a chroot that has the server; makes it when missing.
chroot_for() {
	local major=$1 suite root
	suite=$(suite_of "$major")
	[ -n "$suite" ] || return 1
	root=$CACHE/pg$major-$suite
	if [ ! -f "$root/.complete-2" ]; then
		say "making a $suite chroot for PostgreSQL $major in $root"
		make_chroot "$major" "$suite" "$root" >"$CACHE-log.$$" 2>&1 ||
			{ tail -5 "$CACHE-log.$$" >&2; rm -f "$CACHE-log.$$"; return 1; }
		rm -f "$CACHE-log.$$"
	fi
	echo "$root"
}

make_chroot() {
	local major=$1 suite=$2 root=$3 site script=
	mkdir -p "$CACHE"
	need_packages debootstrap || return 1
	site=$(mirror)
	[ -n "$site" ] || return 1
	[ -e "/usr/share/debootstrap/scripts/$suite" ] || script=/usr/share/debootstrap/scripts/sid
	rm -rf "$root"
	timeout 900 debootstrap --variant=minbase "$suite" "$root" "$site" $script || return 1
	echo "deb [check-valid-until=no] $site $suite main" >"$root/etc/apt/sources.list"
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod +x "$root/usr/sbin/policy-rc.d"
	mkdir -p "$root/etc/postgresql-common/createcluster.d"
	echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.d/penstock.conf"
	mount -t proc proc "$root/proc" || return 1
	chroot "$root" timeout 900 sh -ec "
		export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
		apt-get -qq update
		apt-get -qq -y install --no-install-recommends postgresql-$major libpq-dev libcurl4-openssl-dev gcc make \
			libc6-dev libzstd-dev libipc-run-perl perl
		apt-get -qq -y install --no-install-recommends postgresql-$major-hll \
			postgresql-$major-tdigest || true
		cd /tmp
		apt-get download postgresql-server-dev-$major
		dpkg -x postgresql-server-dev-$major*.deb /
		rm postgresql-server-dev-$major*.deb
		apt-get clean"
	local rc=$?
	umount "$root/proc"
	mkdir -p "$root/dev/shm" && chmod 1777 "$root/dev/shm"
	[ $rc -eq 0 ] && touch "$root/.complete-2"
}

# chroot_run ROOT COMMAND...: runs a command in the chroot as the user "postgres".
chroot_run() {
	local root=$1
	shift
	chroot "$root" setpriv --reuid=postgres --regid=postgres --init-groups \
		env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/tmp LC_ALL=C.UTF-8 TZ=UTC \
		ONLY="${ONLY:-all}" PENSTOCK_LIGHT=1 "$@"
}

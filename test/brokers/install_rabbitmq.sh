#!/bin/bash
# install_rabbitmq.sh: makes RabbitMQ ready for the tests: Debian's packages; its service is not started.  Does nothing
# that is done already.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../server/common.sh"

fail() { say "rabbitmq: $*"; exit 1; }

packages="rabbitmq-server librabbitmq-dev libssl-dev gcc openssl"
missing=0
for package in $packages; do installed "$package" || missing=1; done
[ $missing = 0 ] && exit 0
is_root || fail "missing packages; as root: apt-get install $packages"

# Debian starts a service when it is installed, unless a policy says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy || fail "cannot write $policy"
	trap 'rm -f $policy' EXIT
fi
need_packages $packages >&2 || fail "the packages could not be installed"

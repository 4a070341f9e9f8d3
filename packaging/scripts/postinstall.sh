#!/bin/sh
# deb: configure [old version]; rpm: how many versions are installed now.
# Makes the user of the server. Starts nothing: an administrator does.
set -e

case "$1" in
configure | [0-9]*) ;;
*) exit 0 ;;
esac

# A root to install into can be empty but for this package.
if command -v systemd-sysusers >/dev/null 2>&1; then
	systemd-sysusers slipcover.conf
elif ! getent passwd slipcover >/dev/null; then
	useradd --system --user-group --no-create-home --home-dir /var/lib/slipcover-server --shell /usr/sbin/nologin slipcover
fi

# The first time only: later it is as the administrator left it.
if { [ "$1" = configure ] && [ -z "$2" ]; } || [ "$1" = 1 ]; then
	chgrp slipcover /etc/slipcover /etc/slipcover/slipcover.yml
fi

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi

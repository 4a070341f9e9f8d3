#!/bin/sh
# deb: remove, purge, upgrade and the like; rpm: how many versions stay installed.
# No repository and no backup is ever touched, and no state: it holds the keys that
# sign backups, and those that agents and tokens are known by. Only directories that
# are empty go, at a purge. The user stays, so that its files have an owner.
set -e

case "$1" in
purge)
	for dir in /var/lib/slipcover-server /var/lib/slipcover /var/log/slipcover; do
		if [ -d "$dir" ] && ! rmdir "$dir" 2>/dev/null; then
			echo "slipcover: $dir is kept, since it may hold keys or records; remove it yourself if no backup depends on it" >&2
		fi
	done
	;;
esac
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi

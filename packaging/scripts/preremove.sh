#!/bin/sh
# deb: remove, or upgrade and the like; rpm: how many versions stay installed.
# What runs is stopped when its program goes. At an upgrade it goes on as it is, with
# the old program, until an administrator restarts it: a backup may be at work.
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl --no-reload disable --now slipcover-agent.service slipcover-ship.service slipcover-server.service || true
fi

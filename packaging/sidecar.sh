#!/bin/sh
# What the image "sidecar" runs, beside a CouchDB. With arguments it is slipcover. Without any it makes the repository, if
# there is none, and then a backup every BACKUP_EVERY seconds. It doesn't end by itself, since a pod of which a container
# ends is out of service: what failed is tried again after RETRY_AFTER seconds.
#
# STORAGE_ENV is a file with the storage's credentials, as lines NAME=value of the variables that docs/s3.md, docs/swift.md
# and docs/clouds.md name. So they are neither in the container's description nor in CouchDB's container.

if [ -s "${STORAGE_ENV:=/run/secrets/storage.env}" ]; then
  set -a
  . "$STORAGE_ENV" || exit
  set +a
fi
[ $# = 0 ] || exec slipcover "$@"

# A signal is lost on a process that has begun and isn't its program yet: so it is sent again if that goes on. What ends
# within five seconds gets one, after which a backup ends in good order.
stop() {
  for n in 0 1 2 3 4 5; do
    kill -0 "$!" 2> /dev/null || exit 0
    [ "$n" != 0 ] && [ "$n" != 5 ] || kill "$!" 2> /dev/null
    sleep 1
  done
  exit 0
}
trap stop TERM INT
run() { "$@" & wait "$!"; }
tell() { echo "sidecar: $*" >&2; }

# A key that was made here would lie beside what it protects.
for recipient in $(echo "${SLIPCOVER_RECIPIENTS:?the age recipient (age1…) who can read the backups}" | tr -d '[]' | tr ',' ' '); do
  set -- "$@" --recipient "$recipient"
done
repository() { said=$(slipcover init "$@" 2>&1) || [ $? = 11 ] || { echo "$said" >&2; return 1; }; } # 11: there is one
until repository "$@"; do
  tell "there is no repository: looking again in ${RETRY_AFTER:-300} s"
  run sleep "${RETRY_AFTER:-300}"
done

while :; do
  run slipcover backup create --progress none
  code=$?
  case $code in
    0) next=${BACKUP_EVERY:-86400} ;;
    3) next=${BACKUP_EVERY:-86400} && tell "the backup is complete, and CouchDB's files are damaged" ;;
    *) next=${RETRY_AFTER:-300} && tell "exit code $code" ;;
  esac
  tell "the next backup is in $next s"
  run sleep "$next"
done

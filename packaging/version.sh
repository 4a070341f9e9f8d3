#!/bin/sh
# Turns what git describes into a version for deb and rpm, which sorts as it should:
#
#	v1.2.0               1.2.0
#	v1.2.0-rc.1          1.2.0~rc.1           before 1.2.0
#	v1.2.0-5-gabc1234    1.2.0+5.gabc1234     after it
#	abc1234              0.0.0+N.gabc1234     no tag yet; N is how many commits there are
#	-dirty               .dirty               at the end, or +dirty after a bare version
#
# Usage: version.sh DESCRIPTION COMMITS
set -eu
describe=$1 commits=${2:-0} dirty=
case $describe in
*-dirty) dirty=dirty describe=${describe%-dirty} ;;
esac
if echo "$describe" | grep -Eq '^v?[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$'; then
	# The distance to the tag first, then what is left is a release to be.
	version=$(echo "${describe#v}" | sed -E 's/-([0-9]+)-(g[0-9a-f]+)$/+\1.\2/; s/-/~/; s/-/./g')
elif [ -n "$describe" ]; then
	version=0.0.0+$commits.g$(echo "$describe" | tr -c -d '0-9A-Za-z.')
else
	version=0.0.0
fi
case $version$dirty in
*+*dirty) version=$version.dirty ;;
*dirty) version=$version+dirty ;;
esac
echo "$version"

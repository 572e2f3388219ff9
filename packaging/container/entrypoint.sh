#!/bin/sh
# Starts a program of kelpfs in a container: `kelpfs FILER MOUNTPOINT ...`, `kelpd ...`, `kelpctl ...`, or
# any other command. It becomes the program, which hears the signals of the container itself.
#
# Environment variables stand in for options that are not given; those with other names than here are
# ignored. They are the ones that SeaweedFS's RDMA sidecar had, where there is something like them here.
#
#   VOLUME_SERVER_URL   kelpd: --volume-server (kelpd has its data directory under the same path)
#   MAX_CONNECTIONS     kelpd: --max-connections
#   MAX_IDLE_TIME       kelpd: --idle-timeout, in seconds or as 5m, 90s, 1h
#   ENABLE_RDMA, RDMA_ENABLED   kelpfs: false is -o rdma=off, true is rdma=auto
#   RDMA_FALLBACK       kelpfs: false is -o rdma=require
#   RDMA_TIMEOUT_MS     kelpfs: -o timeout=, in milliseconds
set -eu

seconds() {
	case $1 in
	*ms) echo "$1: at least one second" >&2; exit 64 ;;
	*h) echo $((${1%h} * 3600)) ;;
	*m) echo $((${1%m} * 60)) ;;
	*s) echo "${1%s}" ;;
	*) echo "$1" ;;
	esac
}

host_port() {
	local address=${1#http://}
	echo "${address%%/*}"
}

# Whether an option is among the arguments: given NAME ARGUMENT...
given() {
	local name=$1 argument
	shift
	for argument; do
		case $argument in "$name" | "$name"=*) return 0 ;; esac
	done
	return 1
}

program=${1:-}
[ $# = 0 ] || shift
case $program in
kelpd)
	given --foreground "$@" || given -f "$@" || set -- --foreground "$@"
	[ -z "${VOLUME_SERVER_URL:-}" ] || given --dir "$@" || given --volume-server "$@" ||
		set -- --volume-server="$(host_port "$VOLUME_SERVER_URL")" "$@"
	[ -z "${MAX_CONNECTIONS:-}" ] || given --max-connections "$@" || set -- --max-connections="$MAX_CONNECTIONS" "$@"
	[ -z "${MAX_IDLE_TIME:-}" ] || given --idle-timeout "$@" ||
		set -- --idle-timeout="$(seconds "$MAX_IDLE_TIME")" "$@"
	;;
kelpfs)
	options=
	case ${ENABLE_RDMA:-${RDMA_ENABLED:-}} in
	false | 0 | no) options=rdma=off ;;
	esac
	[ "${RDMA_FALLBACK:-}" != false ] || [ -n "$options" ] || options=rdma=require
	[ -z "${RDMA_TIMEOUT_MS:-}" ] || options=${options:+$options,}timeout=$(((RDMA_TIMEOUT_MS + 999) / 1000))
	# The last of several wins: what is given in the arguments.
	[ -z "$options" ] || set -- -o "$options" "$@"
	given -f "$@" || set -- -f "$@"
	;;
esac
exec "$program" "$@"

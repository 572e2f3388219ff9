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
#   RDMA_TIMEOUT_MS     kelpfs: -o timeout=; kelpctl: --timeout; in milliseconds
#   FILER_ADDR          kelpctl serve: --filer
#   MASTER_ADDR         kelpctl serve: --master
#   VOLUME_SERVER_URL   kelpctl serve: --server, without FILER_ADDR
#   SIDECAR_PORT, SIDECAR_ADDRESS   kelpctl serve: --listen
#   AGENT_PORT          kelpctl serve: --agent-port
#   ENABLE_RDMA         kelpctl serve: false is --via tcp,http,proxy
#   RDMA_MAX_CONCURRENT kelpctl serve: --reads
#
# `health ADDR:PORT` asks a status page whether all is well.
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

seconds_of_ms() {
	echo $((($1 + 999) / 1000))
}

is_off() {
	case $1 in
	false | 0 | no | off) return 0 ;;
	*) return 1 ;;
	esac
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
	if is_off "${ENABLE_RDMA:-${RDMA_ENABLED:-}}"; then
		options=rdma=off
	elif is_off "${RDMA_FALLBACK:-}"; then
		options=rdma=require
	fi
	[ -z "${RDMA_TIMEOUT_MS:-}" ] || options=${options:+$options,}timeout=$(seconds_of_ms "$RDMA_TIMEOUT_MS")
	# The last of several wins: what is given in the arguments.
	[ -z "$options" ] || set -- -o "$options" "$@"
	given -f "$@" || set -- -f "$@"
	;;
kelpctl)
	if [ "${1:-}" = serve ]; then
		shift
		if [ -n "${FILER_ADDR:-}" ]; then
			given --filer "$@" || set -- --filer="$(host_port "$FILER_ADDR")" "$@"
		elif [ -n "${VOLUME_SERVER_URL:-}" ]; then
			given --server "$@" || set -- --server="$(host_port "$VOLUME_SERVER_URL")" "$@"
		fi
		[ -z "${MASTER_ADDR:-}" ] || given --master "$@" ||
			set -- --master="$(host_port "$MASTER_ADDR")" "$@"
		[ -z "${SIDECAR_PORT:-}" ] || given --listen "$@" ||
			set -- --listen="${SIDECAR_ADDRESS:-*}:$SIDECAR_PORT" "$@"
		[ -z "${AGENT_PORT:-}" ] || given --agent-port "$@" || set -- --agent-port="$AGENT_PORT" "$@"
		! is_off "${ENABLE_RDMA:-}" || given --via "$@" || set -- --via=tcp,http,proxy "$@"
		[ -z "${RDMA_MAX_CONCURRENT:-}" ] || given --reads "$@" || set -- --reads="$RDMA_MAX_CONCURRENT" "$@"
		[ -z "${RDMA_TIMEOUT_MS:-}" ] || given --timeout "$@" ||
			set -- --timeout="$(seconds_of_ms "$RDMA_TIMEOUT_MS")" "$@"
		set -- serve "$@"
	fi
	;;
health)
	program=curl
	set -- --silent --fail --output /dev/null "http://$1/health"
	;;
esac
exec "$program" "$@"

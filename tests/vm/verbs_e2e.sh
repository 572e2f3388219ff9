#!/bin/bash
# A real cluster, kelpd and kelpfs, all over RDMA; then the agent is killed while a file is read.
# To be run in a VM:  scripts/vm --timeout 250 -- tests/vm/verbs_e2e.sh BUILD_FOLDER WEED
set -euo pipefail
bin=$(realpath "$1/bin") weed=$2
work=$(mktemp -d /tmp/kelp-e2e-XXXXXX)
pids=()
say() { echo "verbs_e2e: $*"; }
fail() { say "FAILED: $*"; tail -n 5 "$work"/kelp*.log; exit 1; }
cleanup() {
	fusermount3 -u "$work/mnt" 2>/dev/null || true
	[ ${#pids[@]} = 0 ] || kill -9 "${pids[@]}" 2>/dev/null || true
}
trap cleanup EXIT

await() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "no: $*"
		sleep 0.1
	done
}

start_kelpd() {
	"$bin/kelpd" -f --dir "$work/data" >>"$work/kelpd.log" 2>&1 &
	kelpd=$!
	pids+=("$kelpd")
}

mount_with() {
	"$bin/kelpfs" 127.0.0.1:8888 "$work/mnt" -f -o "$1" >>"$work/kelpfs.log" 2>&1 &
	pids+=($!)
	await 30 mountpoint -q "$work/mnt"
}

unmount() {
	fusermount3 -u "$work/mnt"
	await 20 bash -c "! mountpoint -q '$work/mnt'"
}

mkdir "$work/data" "$work/mnt"
"$weed" -logtostderr=true server -ip=127.0.0.1 -dir="$work/data" -filer -volume.max=4 \
	-master.volumeSizeLimitMB=64 >"$work/weed.log" 2>&1 &
pids+=($!)
await 60 curl -sf http://127.0.0.1:8888/
head -c 24000000 /dev/urandom >"$work/large"
head -c 3000 /dev/urandom >"$work/small"
seq 400000 >"$work/text.txt"
for f in large small text.txt; do
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		curl -sf -F "file=@$work/$f" "http://127.0.0.1:8888/$f" >/dev/null && break
		sleep 0.5
	done
done
start_kelpd

say "over RDMA only"
mount_with rdma=require
for f in large small text.txt; do
	cmp "$work/$f" "$work/mnt/$f" || fail "$f"
done
unmount
kill -USR1 "$kelpd" && sleep 0.3
tail -3 "$work/kelpd.log"

say "the agent is killed while a file is read"
mount_with rdma=auto
cmp "$work/small" "$work/mnt/small" || fail "small"
start=$SECONDS
cmp "$work/large" "$work/mnt/large" &
reader=$!
sleep 0.1
kill -9 "$kelpd"
wait $reader || fail "large, with the agent gone"
say "read to its end in $((SECONDS - start)) s"
unmount

say "ok"

#!/usr/bin/python3
"""Where the time of a 4 KiB read over verbs goes, step by step. To be run in a VM:

  scripts/vm --timeout 300 -- tests/bench/verbs_steps.py --bin build/release/bin --weed .venv/bin/weed

Traces system calls, changes of threads, wake-ups and soft-RoCE's work while kelpctl bench reads at depth 1,
and shows what there was of each per read, and the fastest reads event by event. Tracing takes about a
microsecond for each event.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from verbs import opened, running

TRACING = Path("/sys/kernel/tracing")
EVENTS = (
    "raw_syscalls/sys_enter",
    "raw_syscalls/sys_exit",
    "sched/sched_switch",
    "sched/sched_waking",
    "workqueue/workqueue_execute_start",
    "workqueue/workqueue_execute_end",
    "irq_vectors/reschedule_entry",
)
# Of x86-64, which is what the VM is.
CALLS = {
    0: "read",
    1: "write: a post",
    7: "poll",
    16: "ioctl: arms the queue",
    24: "sched_yield",
    202: "futex",
    232: "epoll_wait",
    262: "newfstatat",
    327: "preadv2",
    451: "cachestat",
}
POST = "write: a post"
LINE = re.compile(r"\s*(.+?)-\d+\s+\[(\d+)\]\s+\S+\s+([\d.]+):\s+(\w+): (.*)")
FILE_BYTES = 16 << 20


def write(name, text):
    (TRACING / name).write_text(text)


def trace(seconds):
    for event in EVENTS:
        write(f"events/{event}/enable", "1")
    time.sleep(seconds)
    write("tracing_on", "0")
    return (TRACING / "trace").read_text()


def describe(event, text):
    """What happened, in a few words."""
    call = re.match(r"NR (\d+)", text)
    if call:
        name = CALLS.get(int(call[1]), f"system call {call[1]}")
        return name if event == "sys_enter" else f"{name} returns"
    if event == "sched_switch":
        return "change to " + re.search(r"next_comm=(\S+)", text)[1]
    if event == "sched_waking":
        return "wakes " + re.search(r"comm=(\S+)", text)[1]
    if event.startswith("workqueue"):
        verb = "begins " if event.endswith("start") else "ends "
        return verb + re.search(r"function (\S+)", text)[1]
    return event


def parse(text):
    """(us, processor, thread, what)"""
    found = filter(None, map(LINE.match, text.splitlines()))
    return [(float(m[3]) * 1e6, int(m[2]), m[1], describe(m[4], m[5])) for m in found]


def split(events):
    """The events of each read, from one post of the client to the next one."""
    posts = [i for i, e in enumerate(events) if e[2] == "kelpctl" and e[3] == POST]
    return [events[a : b + 1] for a, b in zip(posts, posts[1:], strict=False)]


def took(read):
    return read[-1][0] - read[0][0]


def kind(thread):
    return "kernel" if thread.startswith("kworker") else thread


def show_counts(reads):
    counts = collections.Counter((kind(e[2]), re.sub(r"kworker\S*", "kworker", e[3])) for r in reads for e in r[:-1])
    print("per read:")
    for (thread, what), n in sorted(counts.items()):
        if "returns" not in what and "ends" not in what and n >= len(reads) / 4:
            print(f"  {thread:10} {what:34} {n / len(reads):6.1f}")


def show_read(read):
    print(f"a read of {took(read):.0f} us:")
    before = read[0][0]
    yields = False
    for at, processor, thread, what in read:
        again = what.startswith("sched_yield")
        if not (again and yields):
            print(f"  {at - read[0][0]:6.0f} {at - before:+5.0f}  {processor} {thread:14} {what}")
        yields, before = again, at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/bin", help="folder with kelpd and kelpctl")
    parser.add_argument("--weed", default=".venv/bin/weed")
    parser.add_argument("--seconds", type=float, default=0.5, help="traced")
    parser.add_argument("--reads", type=int, default=1, help="to be shown event by event")
    parser.add_argument("--slower", type=float, default=0, help="which: 0 is the fastest, 0.5 the median")
    options = parser.parse_args()
    if "KELP_VM_DEV" not in os.environ:
        sys.exit("needs the VM: scripts/vm -- tests/bench/verbs_steps.py")
    subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=False, stderr=subprocess.DEVNULL)
    write("trace_clock", "mono")
    write("buffer_size_kb", "16384")
    with opened(options, file_bytes=FILE_BYTES) as bench:
        command = [bench.bin / "kelpctl", "bench", *bench.fids, "--agent", os.environ["KELP_VM_ADDR"]]
        command += ["--via", "rdma", "--connections", "1", "--sizes", "4K", "--depths", "1", "--seconds", "4"]
        with bench.weed_stopped(), running(command, bench.work / "kelpctl.log"):
            time.sleep(2)
            text = trace(options.seconds)
    reads = sorted(split(parse(text)), key=took)
    if not reads:
        sys.exit("nothing was read")
    print(f"{len(reads)} reads, traced: least {took(reads[0]):.0f} us, median {took(reads[len(reads) // 2]):.0f} us")
    show_counts(reads)
    first = int((len(reads) - 1) * options.slower)
    for read in reads[first : first + options.reads]:
        show_read(read)


if __name__ == "__main__":
    main()

#!/usr/bin/python3
"""Which part takes the CPU time of large reads: over RDMA, over HTTP, and of the device alone. To be run in a VM:

  scripts/vm --timeout 300 -- tests/bench/verbs_cpu.py --bin build/release/bin --weed .venv/bin/weed

CPU seconds per GiB by program; those of soft-RoCE are of the kernel's workers. ib_read_bw sleeps for its
completions here, since what polls is busy all the time. "from the slab" is a file that the mount has in memory:
what FUSE and its reader cost, whatever the bytes come over. Half of the sum is the time that a GiB takes at
least, as there are two processors.
"""

import argparse
import collections
import os
import re
import resource
import statistics
import sys
from pathlib import Path

from verbs import FILE_BYTES, HTTP, MIB, RDMA, SEQUENTIAL, log, opened

GIB = 1 << 30
NS = 1e9
TICKS = os.sysconf("SC_CLK_TCK")
# By the beginnings of their names.
PARTS = {"kelpfs": "kelpfs", "kelpd": "kelpd", "weed": "weed", "kworker": "soft-RoCE"}
READER = "reader"
COLUMNS = ("soft-RoCE", "kelpd", "weed", "kelpfs", READER)


def read_text(path):
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_time(process, name):
    """Seconds. Workers run for microseconds at a time, which ticks do not see; threads of others come and go."""
    if name == "kworker":
        fields = read_text(process / "schedstat").split()
        return int(fields[0]) / NS if fields else 0
    fields = read_text(process / "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0


def cpu_times():
    """By part, of all that live."""
    times = collections.Counter()
    for process in Path("/proc").glob("[0-9]*"):
        name = re.match("[a-z]*", read_text(process / "comm"))[0]
        if name in PARTS:
            times[PARTS[name]] += cpu_time(process, name)
    return times


class Measured:
    """CPU time of what is done within it."""

    def __enter__(self):
        self.before = cpu_times()
        return self

    def __exit__(self, *_):
        after = cpu_times()
        self.times = {part: after[part] - self.before[part] for part in COLUMNS}


def per_gib(measured, size, mib_per_s):
    figures = {part: seconds * GIB / size for part, seconds in measured.times.items()}
    figures["all"] = sum(figures.values())
    figures["MiB/s"] = mib_per_s
    return figures


def device(b):
    size = b.options.megabytes * MIB
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with b.weed_stopped(), Measured() as m:
        n = str(b.options.megabytes)
        speed = b.perftest("ib_read_bw", "-e", "-s", str(MIB), "-n", n, "-t", "16", "-q", "1")[3]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    m.times[READER] = after.ru_stime - before.ru_stime
    return per_gib(m, size, speed)


def mount(options, warm=False):
    def run(b):
        with b.mounted(options) as mnt:
            b.warm_up(mnt)
            if warm:
                b.fio_job(mnt, *SEQUENTIAL)
            with Measured() as m:
                job = b.fio_job(mnt, *SEQUENTIAL)
        m.times[READER] = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
        return per_gib(m, FILE_BYTES, job["read"]["bw_bytes"] / MIB)

    return run


ROWS = {
    "device": ("ib_read_bw -e, 1 MiB, depth 16", device),
    "rdma": ("mount, sequential, over RDMA", mount(RDMA)),
    "http": ("mount, sequential, over HTTP", mount(HTTP)),
    "slab": ("mount, sequential, from the slab", mount("rdma=require", warm=True)),
}


def show(title, figures):
    medians = [statistics.median(f[column] for f in figures) for column in (*COLUMNS, "all", "MiB/s")]
    print(f"{title:42}" + "".join(f"{value:10.2f}" for value in medians[:-1]) + f"{medians[-1]:8.0f}")


def measure(b, options):
    results = {row: [] for row in ROWS if re.fullmatch(options.only, row)}
    for _ in range(options.rounds):
        for row, figures in results.items():
            figures.append(ROWS[row][1](b))
            log(f"{row}: {figures[-1]}")
    print(f"{'CPU s/GiB':42}" + "".join(f"{column:>10}" for column in (*COLUMNS, "all")) + f"{'MiB/s':>8}")
    for row, figures in results.items():
        show(ROWS[row][0], figures)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/bin", help="folder with kelpfs, kelpd and kelpctl")
    parser.add_argument("--weed", default=".venv/bin/weed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=150, help="read by ib_read_bw")
    parser.add_argument("--only", default=".*", help=f"rows, as a regular expression: {', '.join(ROWS)}")
    options = parser.parse_args()
    if "KELP_VM_DEV" not in os.environ:
        sys.exit("needs the VM: scripts/vm -- tests/bench/verbs_cpu.py")
    with opened(options) as bench:
        measure(bench, options)


if __name__ == "__main__":
    main()

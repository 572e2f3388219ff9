#!/usr/bin/python3
"""RDMA side by side with what the device itself can do, and with HTTP. To be run in a VM:

  scripts/vm --timeout 900 -- tests/bench/verbs.py --bin build/release/bin --weed .venv/bin/weed

kelpctl bench takes turns with perftest (ib_read_bw with as many queue pairs and reads under way;
ib_send_lat in both directions), then a mount over RDMA with one over HTTP. Emulated processors on a
machine with other work give no figures that mean anything by themselves: each ratio is of two
measurements that follow each other. Shown are the medians of all rounds, and next to them the best of
the rounds, which are nearer to what a quiet machine would show.
"""

import argparse
import contextlib
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

FILER = "127.0.0.1:8888"
FILE_BYTES = 128 << 20
FILES = ("seq", "other")
CHUNK_MB = 4
SEQUENTIAL = ("--rw=read", "--bs=1M")
MIB = 1 << 20
START_S = 180
PERFTEST_PORT = "28515"


def log(text):
    print(text, file=sys.stderr, flush=True)


def await_it(what, condition):
    end = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not come up")
        time.sleep(0.1)


def put(name, data):
    request = urllib.request.Request(f"http://{FILER}/{name}?maxMB={CHUNK_MB}", data, method="PUT")
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.status == 201


def stored(name, data):
    try:
        return put(name, data)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def running(command, log_file):
    with open(log_file, "ab") as out:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Bench:
    def __init__(self, options, work, weed):
        self.options = options
        self.bin = Path(options.bin).resolve()
        self.work = work
        self.weed = weed
        self.fids = []

    def find_fids(self):
        out = subprocess.run([self.bin / "kelpctl", "locate", f"{FILER}/seq"], capture_output=True, text=True, check=True)
        self.fids = re.findall(r"\b\d+,[0-9a-f]{9,}\b", out.stdout)

    @contextlib.contextmanager
    def weed_stopped(self):
        """It is not needed, and takes part of the processors."""
        self.weed.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.weed.send_signal(signal.SIGCONT)

    # --- perftest

    def perftest(self, program, *arguments):
        """As perftest_once(), which sometimes finds no speed for the clock and says "inf"."""
        for _ in range(5):
            columns = self.perftest_once(program, *arguments)
            if all(math.isfinite(column) for column in columns):
                return columns
        raise RuntimeError(f"{program}: {columns}")

    def perftest_once(self, program, *arguments):
        """Both ends; returns the columns of the result."""
        # Its default port is kelpd's.
        device = ["-d", os.environ["KELP_VM_DEV"], "-x", "1", "-p", PERFTEST_PORT]
        command = [program, *device, *arguments]
        with running(command, self.work / "perftest.log"):
            for _ in range(20):
                time.sleep(0.25)
                client = subprocess.run(
                    [*command, os.environ["KELP_VM_ADDR"]], capture_output=True, text=True, check=False
                )
                if client.returncode == 0:
                    break
        lines = [line.split() for line in client.stdout.splitlines() if re.match(r" \d", line)]
        if not lines:
            raise RuntimeError(f"{' '.join(command)}: {client.stdout}{client.stderr}")
        return [float(column) for column in lines[-1]]

    def read_bw(self, size, depth):
        """MiB/s."""
        n = str(self.options.megabytes * MIB // size)
        return self.perftest("ib_read_bw", "-s", str(size), "-n", n, "-t", str(depth), "-q", "1")[3]

    def send_lat(self, size):
        """Columns; one way, us: half of a round trip."""
        return self.perftest("ib_send_lat", "-s", str(size), "-n", "1000")

    # --- kelpctl

    def pings(self):
        ping = [self.bin / "kelpctl", "ping", os.environ["KELP_VM_ADDR"], "--via", "rdma", "--count", "1"]
        return subprocess.run(ping, capture_output=True, check=False).returncode == 0

    def kelpctl(self, size, depth):
        command = [self.bin / "kelpctl", "bench", *self.fids, "--agent", os.environ["KELP_VM_ADDR"], "--via", "rdma"]
        command += ["--connections", "1", "--sizes", size, "--depths", depth]
        command += ["--seconds", self.options.seconds, "--json", "-"]
        out = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if out.returncode:
            raise RuntimeError(f"kelpctl: {out.stdout}{out.stderr}")
        point = json.loads(out.stdout)["points"][0]
        if point["errors"]:
            log(f"kelpctl: {point['errors']} errors")
        return point

    # --- a mount

    @contextlib.contextmanager
    def mounted(self, options):
        mnt = self.work / "mnt"
        mnt.mkdir(exist_ok=True)
        with running([self.bin / "kelpfs", FILER, mnt, "-f", "-o", options], self.work / "kelpfs.log"):
            await_it("the mount", mnt.is_mount)
            time.sleep(0.3)
            try:
                yield mnt
            finally:
                subprocess.run(["fusermount3", "-u", mnt], check=True)
                await_it("the end of the mount", lambda: not mnt.is_mount())

    def warm_up(self, mnt):
        """Connected, memory registered, and all of the slab written to once, by another file."""
        subprocess.run(["dd", f"if={mnt}/other", "of=/dev/null", "bs=1M"], capture_output=True, check=True)

    def fio_job(self, mnt, *arguments):
        """What fio says of its one job."""
        command = ["fio", "--name=x", f"--filename={mnt}/seq", "--ioengine=psync", "--readonly"]
        command += ["--allow_file_create=0", "--invalidate=1", "--thread", "--output-format=json", *arguments]
        out = subprocess.run(command, capture_output=True, text=True, check=False)
        if out.returncode:
            raise RuntimeError(f"fio: {out.stdout}{out.stderr}")
        return json.loads(out.stdout[out.stdout.index("{") :])["jobs"][0]

    def fio(self, options, *arguments, warm_up=True):
        """Reads a second and bytes a second of a file that was not read yet."""
        with self.mounted(options) as mnt:
            if warm_up:
                self.warm_up(mnt)
            read = self.fio_job(mnt, *arguments)["read"]
        return read["iops"], read["bw_bytes"] / MIB

    def sequential(self, options, warm_up=True):
        return self.fio(options, *SEQUENTIAL, warm_up=warm_up)[1]

    def random(self, options):
        return self.fio(options, "--rw=randread", "--bs=4k", f"--runtime={self.options.seconds}")[0]


SLAB = f"slab={FILE_BYTES}"
RDMA = f"rdma=require,{SLAB}"
HTTP = f"agent=off,rdma=off,{SLAB}"


def bandwidth(depth):
    def run(b):
        with b.weed_stopped():
            return b.kelpctl("1M", depth)["mib_per_s"], b.read_bw(MIB, depth)

    return run


def latency(which, column, *sizes):
    """sizes: of the messages that go both ways."""

    def run(b):
        with b.weed_stopped():
            return b.kelpctl("4K", 1)["latency_us"][which], sum(b.send_lat(size)[column] for size in sizes)

    return run


def sequential(b):
    return b.sequential(RDMA), b.sequential(HTTP)


def first(b):
    return b.sequential("rdma=require", warm_up=False), b.sequential("agent=off,rdma=off", warm_up=False)


def random(b):
    return b.random(RDMA), b.random(HTTP)


# Columns of ib_send_lat.
T_MIN, T_TYPICAL = 2, 4

EVEN = (4096, 4096)
# A read of one extent and its answer, as docs/protocol.md has them, with what the link puts in front.
OURS = (80, 4192)

ROWS = {
    "bw1": ("1 MiB, depth 1, MiB/s, against ib_read_bw", max, bandwidth(1)),
    "bw4": ("1 MiB, depth 4, MiB/s, against ib_read_bw", max, bandwidth(4)),
    "bw16": ("1 MiB, depth 16, MiB/s, against ib_read_bw", max, bandwidth(16)),
    "lat": ("4 KiB, depth 1, median us, against 2 x ib_send_lat", min, latency("p50", T_TYPICAL, *EVEN)),
    "latmin": ("4 KiB, depth 1, least us, against 2 x ib_send_lat", min, latency("min", T_MIN, *EVEN)),
    "latreal": ("4 KiB, depth 1, least us, against our messages", min, latency("min", T_MIN, *OURS)),
    "seq": ("mount, sequential, MiB/s, against HTTP", max, sequential),
    "first": ("new mount, sequential, MiB/s, against HTTP", max, first),
    "rand": ("mount, random 4 KiB, reads/s, against HTTP", max, random),
}


def show(title, best, figures):
    ratio = statistics.median(ours / theirs for ours, theirs in figures)
    columns = list(zip(*figures, strict=True))
    ours, theirs = (statistics.median(column) for column in columns)
    best_ours, best_theirs = (best(column) for column in columns)
    print(
        f"{title:52} {ours:9.1f} {theirs:9.1f} {ratio:6.2f}   "
        f"{best_ours:9.1f} {best_theirs:9.1f} {best_ours / best_theirs:6.2f}"
    )


def measure(b, options):
    results = {row: [] for row in ROWS if re.fullmatch(options.only, row)}
    for number in range(options.rounds):
        for row, figures in results.items():
            ours, theirs = ROWS[row][2](b)
            figures.append((ours, theirs))
            log(f"round {number + 1}: {row}: {ours:.1f} {theirs:.1f} {ours / theirs:.2f}")
    print(f"{options.rounds} rounds: medians of kelpfs, other, ratio; the best{'':3}".rstrip())
    for row, figures in results.items():
        title, best, _ = ROWS[row]
        show(title, best, figures)


@contextlib.contextmanager
def opened(options, kelpd_prefix=(), file_bytes=FILE_BYTES):
    """A Bench: SeaweedFS with the files in it, and kelpd, whose command begins with that prefix."""
    # Everywhere else in the VM kelpd cannot know what is cached.
    work = Path(tempfile.mkdtemp(prefix="kelp-verbs-", dir="/dev/shm"))
    data = work / "data"
    data.mkdir()
    server = [options.weed, "-logtostderr=true", "server", "-ip=127.0.0.1", f"-dir={data}", "-filer"]
    server += ["-volume.max=4", "-master.volumeSizeLimitMB=1024"]
    with running(server, work / "weed.log") as weed:
        log("weed starts")
        for name in FILES:
            await_it("weed", lambda name=name: stored(name, os.urandom(file_bytes)))
        with running([*kelpd_prefix, Path(options.bin) / "kelpd", "-f", "--dir", data], work / "kelpd.log"):
            bench = Bench(options, work, weed)
            await_it("kelpd", bench.pings)
            bench.find_fids()
            log("ready")
            yield bench


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/bin", help="folder with kelpfs, kelpd and kelpctl")
    parser.add_argument("--weed", default=".venv/bin/weed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--megabytes", type=int, default=50, help="read by ib_read_bw")
    parser.add_argument("--only", default=".*", help=f"rows, as a regular expression: {', '.join(ROWS)}")
    parser.add_argument("--kelpd", nargs="*", default=[], help="prefix of kelpd's command, such as a profiler's")
    options = parser.parse_args()
    if "KELP_VM_DEV" not in os.environ:
        sys.exit("needs the VM: scripts/vm -- tests/bench/verbs.py")
    with opened(options, options.kelpd) as bench:
        measure(bench, options)


if __name__ == "__main__":
    main()

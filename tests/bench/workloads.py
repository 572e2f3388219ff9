"""How it is read: what is run on a mount, and what that used."""

import itertools
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import mounts
import weed
from contenders import SLAB_OF_WARM_BYTES
from data import BUCKET

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
GIB = 1 << 30
WORKLOAD_TIMEOUT_S = 600
SETTLE_S = 0.3  # between a mount and its measurement
SETTLE_AGAIN_S = 0.1
SLAB_DEFAULT_BYTES = 256 << 20
OWN_SOURCES = ("cache", "ssd")


def run(command, work_dir, env=None):
    """Runs a shell command to its end and returns its output and the seconds it took."""
    with open(work_dir / "stdout", "w+b") as out, open(work_dir / "stderr", "w+b") as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=work_dir,
            env=dict(os.environ, LC_ALL="C", **(env or {})),
            start_new_session=True,
            preexec_fn=weed.die_with_parent,
        )
        try:
            status = process.wait(WORKLOAD_TIMEOUT_S)
            took_s = time.perf_counter() - started
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        err.seek(0)
        message = err.read().decode(errors="replace").strip()
        if status != 0:
            raise RuntimeError(f"status {status}: {message[:500]}")
        out.seek(0)
        return out.read(), took_s


def expect(what, got, wanted):
    if got != wanted:
        raise RuntimeError(f"{got} {what} instead of {wanted}")


def fio(job, whole=0):
    """A workload: the job file of that name; whole: it reads so many files from end to end."""

    def work(bench, mount, scratch):
        tree = bench.trees["seq"]
        directory = mount.data / tree.name / "d00000"
        env = {
            "BENCH_DIR": str(directory),
            "BENCH_RUNTIME_S": str(bench.options.runtime_s),
            "BENCH_QUARTER": str(tree.bytes // 4),
        }
        output, _ = run(f"exec fio --readonly --output-format=json {shlex.quote(str(HERE / job))}.fio", scratch, env)
        result = json.loads(output)["jobs"][0]
        read = result["read"]
        expect("errors", result["error"], 0)
        if whole:
            expect("bytes", read["io_bytes"], tree.bytes * whole)
        return {
            "bytes_per_s": read["bw_bytes"],
            "reads_per_s": read["iops"],
            "read_bytes": read["io_bytes"],
            "reader_cpu_s": (result["usr_cpu"] + result["sys_cpu"]) / 100 * result["job_runtime"] / 1000,
            "latency_p50_us": read["clat_ns"]["percentile"]["50.000000"] / 1000,
            "latency_p99_us": read["clat_ns"]["percentile"]["99.000000"] / 1000,
        }

    return work


def cat_found(bench, mount, scratch):
    tree = bench.trees["small"]
    command = f"find {shlex.quote(str(mount.data / tree.name))} -type f -print0 | xargs -0 -n 50 -P 4 cat"
    return _cat(tree, command, scratch)


def cat_listed(bench, mount, scratch):
    tree = bench.trees["small"]
    names = scratch / "names"
    names.write_text("".join(f"{mount.data}/{path}\n" for path in tree.paths()))
    return _cat(tree, "xargs -a names -n 50 -P 4 cat", scratch)


def _cat(tree, command, scratch):
    output, took_s = run(command, scratch)
    expect("bytes", len(output), tree.count * tree.bytes)
    return {"seconds": took_s, "read_bytes": tree.count * tree.bytes}


def find_size(tree_name):
    def work(bench, mount, scratch):
        tree = bench.trees[tree_name]
        output, took_s = run(f"find {shlex.quote(str(mount.data / tree.name))} -type f -size {tree.bytes}c", scratch)
        expect("files", output.count(b"\n"), tree.count)
        return {"seconds": took_s}

    return work


def ls_recursive(tree_name):
    def work(bench, mount, scratch):
        tree = bench.trees[tree_name]
        output, took_s = run(f"ls -lR {shlex.quote(str(mount.data / tree.name))}", scratch)
        expect("files", output.count(b"\n-"), tree.count)
        return {"seconds": took_s}

    return work


WORKLOADS = {
    "seq-1": fio("seq-1", whole=1),
    "seq-4": fio("seq-4", whole=4),
    "rand4k-1": fio("rand4k-1"),
    "rand4k-16": fio("rand4k-16"),
    "rand1m-4": fio("rand1m-4"),
    "cat-found": cat_found,
    "cat-listed": cat_listed,
    "find": find_size("small"),
    "ls": ls_recursive("small"),
    "find-large": find_size("large"),
    "ls-large": ls_recursive("large"),
}

# Not of scripts/bench, which goes by rows that have targets.
SEQ_LONG = fio("seq-long", whole=4)


# What the bare loop around libcurl does for a workload: how much at a time, and on how many connections.
RAW = {"seq-1": ("whole", 1), "seq-4": ("whole", 4), "rand4k-1": (4096, 1), "rand4k-16": (4096, 16),
       "rand1m-4": (MIB, 4)}


def chunk_list(bench, n_files):
    """A line for each chunk of the first big files: where it is, and how many bytes it has."""
    connection = bench.cluster.connect(bench.cluster.filer_port)
    lines = []
    try:
        for path in itertools.islice(bench.trees["seq"].paths(), n_files):
            connection.request("GET", f"/buckets/{BUCKET}/{path}?metadata=true")
            for chunk in json.loads(connection.getresponse().read())["chunks"]:
                lines.append(f"http://{weed.HOST}:{bench.cluster.volume_ports[0]}/{chunk['file_id']} {chunk['size']}\n")
    finally:
        connection.close()
    return "".join(lines)


def measure_raw(bench, workload):
    """The same bytes without a file system."""
    size, threads = RAW[workload]
    (bench.work_dir / "chunks").write_text(chunk_list(bench, 1 if workload == "seq-1" else bench.trees["seq"].count))
    seconds = bench.options.runtime_s
    before_s = resource.getrusage(resource.RUSAGE_CHILDREN)
    output, _ = run(f"exec {shlex.quote(str(mounts.bin_dir() / 'rawcurl'))} {size} {threads} {seconds} < chunks",
                    bench.work_dir)
    after_s = resource.getrusage(resource.RUSAGE_CHILDREN)
    count, reads, took_s = (float(word) for word in output.split())
    cpu = (after_s.ru_utime + after_s.ru_stime) - (before_s.ru_utime + before_s.ru_stime)
    return {"bytes_per_s": count / took_s, "reads_per_s": reads / took_s, "read_bytes": count, "cpu_s": cpu,
            "cpu_s_per_gib": cpu / (count / GIB), "others_share": 0}


# What is measured when it is in the client's own cache already, and what is read for that before.
WARM = {"kelpfs-warm": {"seq-1": 1, "rand4k-1": 4}}
EVENTS = ("cat-found",)
ONLY = {"curl": RAW, **WARM, "kelpfs-events": EVENTS, "kelpfs-agent-events": EVENTS}


def can_measure(contender, workload):
    return contender not in ONLY or workload in ONLY[contender]


# What a measurement takes beside what is told to take runtime_s: a mount, and what came out on two cores. It is
# for the first guess only: how long the rest takes is judged by what the others took.
ABOUT_MOUNT_S = 1.5
ABOUT_WARM_S = 3
ABOUT_S = {"seq-1": 0.5, "seq-4": 1.5, "cat-found": 1.5, "cat-listed": 1.5, "find-large": 4, "ls-large": 6}


def about_s(contender, workload, runtime_s):
    took_s = runtime_s + 0.5 if workload.startswith("rand") else ABOUT_S.get(workload, 0.3)
    return took_s + ABOUT_MOUNT_S + (ABOUT_WARM_S if contender in WARM else 0)


def forget(bench, mount):
    """Takes the big files out of the page cache."""
    for path in bench.trees["seq"].paths():
        with open(mount.data / path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def slab_present_bytes(mount):
    """Of huge pages if the machine has reserved some."""
    return (mount.status("RssShmem") + mount.status("HugetlbPages")) * 1024


def await_slab(mount, slab_bytes):
    """kelpfs makes it present in the background."""
    weed.wait_until(lambda: slab_present_bytes(mount) >= slab_bytes, "the whole slab")


def settle(mount):
    """Until nothing of the mounting itself is left to be done: kelpfs gets its memory in the background."""
    time.sleep(SETTLE_S)
    if isinstance(mount, mounts.KelpMount):
        last = None
        while (now := slab_present_bytes(mount)) != last:
            last = now
            time.sleep(SETTLE_AGAIN_S)


def warm_up(bench, mount, n_files):
    """Reads the first files of the tree of big ones, and lets the kernel forget them. (fio does so too.)"""
    for path in itertools.islice(bench.trees["seq"].paths(), n_files):
        with open(mount.data / path, "rb", buffering=0) as file:
            while file.read(MIB):
                pass
    forget(bench, mount)
    await_slab(mount, SLAB_OF_WARM_BYTES)


def cpu_s(pid):
    """CPU time of a process, all threads, those that ended too: its POSIX CPU-time clock."""
    return time.clock_gettime((~pid << 3) | 2)


@dataclass
class Usage:
    """What was used until now: by the client, by all that belongs to the run, by the machine."""

    client_s: float
    run_s: float
    machine_s: float
    at_s: float

    @classmethod
    def now(cls, bench, client_pid):
        client_s = cpu_s(client_pid)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_s = client_s + time.process_time() + children.ru_utime + children.ru_stime
        run_s += sum(cpu_s(process.pid) for process in bench.servers)
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
        machine_s = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return cls(client_s, run_s, machine_s, time.monotonic())

    def others_share(self, before):
        """How much of the machine went to what has nothing to do with the run."""
        others_s = (self.machine_s - before.machine_s) - (self.run_s - before.run_s)
        return max(0, others_s) / ((self.at_s - before.at_s) * os.cpu_count())


def asked_bytes(mount):
    """Bytes of needles that a kelpfs that has ended got from servers and agents."""
    said = re.search(r"reads by source: (.*); failed", mount.log_text())[1]
    return sum(int(n) for source, n in re.findall(r"(\w+) \d+ \((\d+) bytes\)", said) if source not in OWN_SOURCES)


def run_on(bench, mount, work):
    """What a workload says of itself, and the CPU time that it took of the mount's process and of others."""
    before = Usage.now(bench, mount.pid)
    values = work(bench, mount, mount.process.work_dir)
    after = Usage.now(bench, mount.pid)
    values["cpu_s"] = after.client_s - before.client_s
    values["others_share"] = after.others_share(before)
    if values.get("read_bytes"):
        values["cpu_s_per_gib"] = values["cpu_s"] / (values["read_bytes"] / GIB)
    return values


def memory_of(mount):
    """Of its process. The slab is all of its shared memory, or of its huge pages, and is never given back."""
    values = {f"{name}_bytes": mount.status(name) * 1024
              for name in ("VmHWM", "VmRSS", "RssAnon", "RssShmem", "HugetlbPages")}
    values["peak_bytes"] = values["VmHWM_bytes"] + values["HugetlbPages_bytes"]  # the former has not the latter
    if isinstance(mount, mounts.KelpMount):
        values["above_slab_bytes"] = values["VmHWM_bytes"] - values["RssShmem_bytes"]
    return values


def measure(bench, contender, workload):
    if contender == "curl":
        return measure_raw(bench, workload)
    with bench.mounted(contender) as mount:
        settle(mount)
        if contender in WARM:
            warm_up(bench, mount, WARM[contender][workload])
        sent_bytes = bench.server_bytes()
        values = run_on(bench, mount, WORKLOADS[workload])
        values["server_bytes"] = bench.server_bytes() - sent_bytes
        values.update(memory_of(mount))
        if values.get("read_bytes") and contender not in ("null", *WARM):
            values["asked_bytes"] = values["server_bytes"]
            if isinstance(mount, mounts.KelpMount):
                mount.unmount()
                values["asked_bytes"] = asked_bytes(mount)
            values["asked_per_byte"] = values["asked_bytes"] / values["read_bytes"]
        return values

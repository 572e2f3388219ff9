"""kelpfs over HTTP and through kelpd, weed mount and a null file system side by side, on one cluster,
in one run.

Every figure is taken cold on the client's side: each measurement has a mount of its own, made just
before, with empty caches, while the servers' files are in the page cache. In each round all
contenders do one workload before the next workload begins, each round in another order, so that
what else goes on in the machine meets all of them. Shown are the medians of the rounds.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import platform
import re
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
import mounts  # noqa: E402
import weed  # noqa: E402

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
GIB = 1 << 30
WORKLOAD_TIMEOUT_S = 600
SETTLE_S = 0.3  # between a mount and its measurement
NULL_READAHEAD_KB = 1024  # what kelpfs sets for its own mounts
UPLOADERS = 4
OTHERS_SHARE_MAX = 0.1  # of the CPUs; above it the figures come with a warning


# --- what is read


@dataclass(frozen=True)
class Tree:
    """Directory `name` with directories d00000, ... of files f000000, ..., as nullfs shows it too."""

    name: str
    dirs: int
    files: int
    bytes: int

    @property
    def count(self):
        return self.dirs * self.files

    @property
    def null_argument(self):
        return f"{self.name}:{self.dirs}:{self.files}:{self.bytes}"

    def paths(self):
        for d, f in itertools.product(range(self.dirs), range(self.files)):
            yield f"{self.name}/d{d:05}/f{f:06}"


def trees(options):
    """Four big files, many small ones, and with --large very many."""
    big = 64 * MIB if options.quick else 256 * MIB
    result = [Tree("seq", 1, 4, big), Tree("small", 10, 50 if options.quick else 500, 4096)]
    if options.large:
        result.append(Tree("large", 100, 1000, 1024))
    return {tree.name: tree for tree in result}


class Progress:
    """One line that is overwritten, on a terminal only."""

    def __init__(self):
        self.shown = sys.stderr.isatty()

    def __call__(self, text=""):
        if self.shown:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)


def upload(cluster, tree, chunk_mb, progress):
    """Stores the files of a tree through the filer: random bytes, which nobody compresses."""
    paths = tree.paths()
    lock = threading.Lock()
    done = itertools.count(1)
    failures = []

    def store(connection, path):
        connection.request("PUT", f"/{path}?maxMB={chunk_mb}", body=os.urandom(tree.bytes))
        response = connection.getresponse()
        response.read()
        if response.status != 201:
            raise RuntimeError(f"storing {path}: status {response.status}")

    def work():
        connection = cluster.connect(cluster.filer_port, timeout_s=120)
        try:
            while not failures:
                with lock:
                    path = next(paths, None)
                if path is None:
                    return
                store(connection, path)
                n = next(done)
                if n % 100 == 0 or n == tree.count:
                    progress(f"storing {tree.name}: {n} of {tree.count} files")
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(UPLOADERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# --- who reads


class NullMount(mounts.Mount):
    def __init__(self, data, mountpoint, work_dir, name):
        command = [mounts.bin_dir() / "nullfs", mountpoint, *(tree.null_argument for tree in data)]
        super().__init__(name, command, mountpoint, work_dir)
        device = self.path.stat().st_dev
        bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        with contextlib.suppress(OSError):  # only root may; then kelpfs may not either
            bdi.write_text(str(NULL_READAHEAD_KB))

    def end(self):
        try:
            self.unmount()
        finally:
            self.abandon()


CONTENDERS = {"kelpfs": "kelpfs", "kelpfs-agent": "kelpfs, kelpd over TCP", "weed": "weed mount", "null": "null"}
OURS = ("kelpfs", "kelpfs-agent")


class Agent(weed.Process):
    """kelpd beside the volume server."""

    def __init__(self, cluster, work_dir):
        self.port = weed.free_port()
        command = [mounts.bin_dir() / "kelpd", "-f", "--dir", cluster.work_dir / "volume0", "--listen",
                   f"{weed.HOST}:{self.port}"]
        super().__init__("kelpd", command, work_dir)
        weed.wait_until(self._listens, "kelpd listens")

    def _listens(self):
        if not self.running():
            raise RuntimeError(f"kelpd ended: {self.log_tail()}")
        with contextlib.suppress(OSError):
            socket.create_connection((weed.HOST, self.port), 1).close()
            return True
        return False


class Bench:
    """The cluster, its data, and what mounts it."""

    def __init__(self, options, work_dir, progress):
        self.options = options
        self.work_dir = work_dir
        self.progress = progress
        self.trees = trees(options)
        self.numbers = itertools.count()
        progress("starting the cluster")
        self.cluster = weed.Cluster(work_dir / "cluster")
        self.agent = None

    def start_agent(self):
        self.agent = Agent(self.cluster, self.work_dir)

    @property
    def servers(self):
        return [*self.cluster.processes.values(), *([self.agent] if self.agent else [])]

    def fill(self):
        for tree in self.trees.values():
            upload(self.cluster, tree, self.options.chunk_mb, self.progress)
        self.progress("writing back")
        os.sync()

    def close(self):
        if self.agent:
            self.agent.kill()
        self.cluster.stop()

    @contextlib.contextmanager
    def mounted(self, contender):
        """A mount with empty caches; nothing of it is left afterwards."""
        name = f"{contender}{next(self.numbers)}"
        scratch = self.work_dir / name
        scratch.mkdir()
        try:
            mount = self._mount(contender, scratch / "mnt", scratch, name)
            try:
                yield mount
                mount.end()
            finally:
                mount.abandon()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _mount(self, contender, mountpoint, scratch, name):
        if contender in OURS:
            source = ["rdma=off", "agent=off"]
            if contender == "kelpfs-agent":
                source = ["rdma=off", "agent=require", f"agent_port={self.agent.port}"]
            return mounts.KelpMount(self.cluster.filer, mountpoint, scratch, [*source, *self.options.kelpfs_option],
                                    name)
        if contender == "weed":
            return mounts.WeedMount(self.cluster.filer, mountpoint, scratch, name=name)
        return NullMount(self.trees.values(), mountpoint, scratch, name)

    def server_bytes(self):
        """Bytes that the servers have written, to sockets above all: all answers, with their headers."""
        total = 0
        for process in self.cluster.processes.values():
            counters = Path(f"/proc/{process.pid}/io").read_text()
            total += int(re.search(r"^wchar: (\d+)", counters, re.MULTILINE)[1])
        return total


# --- how it is read


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


def fio(job, whole=False):
    """A workload: the job file of that name; whole: it reads all of its files."""

    def work(bench, mount, scratch):
        tree = bench.trees["seq"]
        directory = mount.path / tree.name / "d00000"
        env = {
            "BENCH_DIR": str(directory),
            "BENCH_RUNTIME_S": str(1 if bench.options.quick else 4),
            "BENCH_QUARTER": str(tree.bytes // 4),
        }
        output, _ = run(f"exec fio --readonly --output-format=json {shlex.quote(str(HERE / job))}.fio", scratch, env)
        result = json.loads(output)["jobs"][0]
        read = result["read"]
        expect("errors", result["error"], 0)
        if whole:
            expect("bytes", read["io_bytes"], tree.bytes * (1 if job == "seq-1" else tree.count))
        return {
            "bytes_per_s": read["bw_bytes"],
            "reads_per_s": read["iops"],
            "read_bytes": read["io_bytes"],
            "latency_p50_us": read["clat_ns"]["percentile"]["50.000000"] / 1000,
            "latency_p99_us": read["clat_ns"]["percentile"]["99.000000"] / 1000,
        }

    return work


def cat_found(bench, mount, scratch):
    tree = bench.trees["small"]
    command = f"find {shlex.quote(str(mount.path / tree.name))} -type f -print0 | xargs -0 -n 50 -P 4 cat"
    return _cat(tree, command, scratch)


def cat_listed(bench, mount, scratch):
    tree = bench.trees["small"]
    names = scratch / "names"
    names.write_text("".join(f"{mount.path}/{path}\n" for path in tree.paths()))
    return _cat(tree, "xargs -a names -n 50 -P 4 cat", scratch)


def _cat(tree, command, scratch):
    output, took_s = run(command, scratch)
    expect("bytes", len(output), tree.count * tree.bytes)
    return {"seconds": took_s, "read_bytes": tree.count * tree.bytes}


def find_size(tree_name):
    def work(bench, mount, scratch):
        tree = bench.trees[tree_name]
        output, took_s = run(f"find {shlex.quote(str(mount.path / tree.name))} -type f -size {tree.bytes}c", scratch)
        expect("files", output.count(b"\n"), tree.count)
        return {"seconds": took_s}

    return work


def ls_recursive(tree_name):
    def work(bench, mount, scratch):
        tree = bench.trees[tree_name]
        output, took_s = run(f"ls -lR {shlex.quote(str(mount.path / tree.name))}", scratch)
        expect("files", output.count(b"\n-"), tree.count)
        return {"seconds": took_s}

    return work


WORKLOADS = {
    "seq-1": fio("seq-1", whole=True),
    "seq-4": fio("seq-4", whole=True),
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


def agent_bytes(mount):
    """Bytes of needles that an agent sent to a mount that has ended. (What it sends is not all counted
    as written by the kernel.)"""
    return int(re.search(r"reads by source: .*\btcp \d+ \((\d+) bytes\)", mount.log_text())[1])


def measure(bench, contender, workload):
    with bench.mounted(contender) as mount:
        time.sleep(SETTLE_S)
        sent_bytes = bench.server_bytes()
        before = Usage.now(bench, mount.pid)
        values = WORKLOADS[workload](bench, mount, mount.process.work_dir)
        after = Usage.now(bench, mount.pid)
        values["cpu_s"] = after.client_s - before.client_s
        values["others_share"] = after.others_share(before)
        values["server_bytes"] = bench.server_bytes() - sent_bytes
        for field_name in ("VmHWM", "VmRSS", "RssAnon", "RssShmem"):
            values[f"{field_name}_bytes"] = mount.status(field_name) * 1024
        if values.get("read_bytes"):
            values["cpu_s_per_gib"] = values["cpu_s"] / (values["read_bytes"] / GIB)
            if contender == "kelpfs-agent":
                mount.unmount()
                values["server_bytes"] = agent_bytes(mount)
            if contender != "null":
                values["amplification"] = values["server_bytes"] / values["read_bytes"]
        return values


# --- what is shown


@dataclass(frozen=True)
class Row:
    """One line of the table: a value of a workload. `better` says how the ratio to weed mount is to
    be read: faster is divided so that more is better, as for rates."""

    workload: str
    title: str
    value: str
    unit: str
    scale: float = 1
    digits: int = 2
    ratio: str = "more"  # more | time (both: speed-up) | cost (less is better)
    target: str = ""  # over HTTP alone
    agent_target: str = ""  # with kelpd over TCP

    def target_of(self, contender):
        return self.agent_target if contender == "kelpfs-agent" else self.target

    def ratio_to_weed(self, ours, weeds):
        if not ours or not weeds:
            return None
        return weeds / ours if self.ratio == "time" else ours / weeds


def rate(workload, title, *targets):
    return Row(workload, title, "bytes_per_s", "GiB/s", GIB, 2, "more", *targets)


def seconds(workload, title, *targets):
    return Row(workload, title, "seconds", "s", 1, 2, "time", *targets)


def rows(data):
    small = f"{data['small'].count:,}"
    result = [
        rate("seq-1", "sequential 1 MiB, 1 file", "≥ 1.8", "≥ 2.2"),
        rate("seq-4", "sequential 1 MiB, 4 readers of 4 files", "≥ 1.5", "≥ 2.0"),
        Row("rand4k-1", "random 4 KiB, depth 1", "reads_per_s", "1/s", 1, 0, "more", "≥ 1.2", "≥ 3.5"),
        Row("rand4k-16", "random 4 KiB, 16 jobs", "reads_per_s", "1/s", 1, 0, "more", "≥ 1.6", "≥ 4.0"),
        rate("rand1m-4", "random 1 MiB, 4 jobs", "≥ 2.0", "≥ 3.0"),
        seconds("cat-found", f"{small} small files, find | xargs -P4 cat", "≥ 2.0", "≥ 3.0"),
        seconds("cat-listed", f"{small} small files, names known"),
        seconds("find", f"find -size, {small} files", "≥ 1.0", "≥ 1.0"),
        seconds("ls", f"ls -lR, {small} files", "≥ 1.0", "≥ 1.0"),
    ]
    if "large" in data:
        large = f"{data['large'].count:,}"
        result += [
            seconds("find-large", f"find -size, {large} files", "≥ 1.0", "≥ 1.0"),
            seconds("ls-large", f"ls -lR, {large} files", "≥ 1.0", "≥ 1.0"),
        ]
    result += [
        Row("seq-1", "client CPU per GiB, sequential, 1 file", "cpu_s_per_gib", "s/GiB", 1, 2, "cost", "≤ 0.5",
            "≤ 0.4"),
        Row("seq-4", "client CPU per GiB, sequential, 4 files", "cpu_s_per_gib", "s/GiB", 1, 2, "cost"),
        Row("seq-4", "client memory, peak, sequential, 4 files", "VmHWM_bytes", "MiB", MIB, 0, "cost"),
    ]
    if "large" in data:
        result.append(Row("find-large", f"client memory, peak, {large} files", "VmHWM_bytes", "MiB", MIB, 0, "cost"))
    for workload, title in (("seq-1", "sequential"), ("rand4k-1", "random 4 KiB"),
                            ("rand4k-16", "random 4 KiB, 16 jobs"), ("rand1m-4", "random 1 MiB")):
        result.append(Row(workload, f"bytes sent by servers per byte read, {title}", "amplification", "", 1, 2, "cost"))
    return result


@dataclass
class Results:
    """values[workload][contender]: a dict for each round that went well."""

    values: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)

    def add(self, workload, contender, values):
        self.values.setdefault(workload, {}).setdefault(contender, []).append(values)

    def of(self, row, contender):
        rounds = self.values.get(row.workload, {}).get(contender, [])
        return [values[row.value] / row.scale for values in rounds if values.get(row.value) is not None]

    def others_share(self):
        """The median over all measurements of what other processes took of the machine."""
        shares = [values["others_share"] for contenders in self.values.values()
                  for rounds in contenders.values() for values in rounds]
        return statistics.median(shares) if shares else 0

    def median(self, row, contender):
        values = self.of(row, contender)
        return statistics.median(values) if values else None


def show_cell(row, values):
    if not values:
        return "–"
    text = f"{statistics.median(values):,.{row.digits}f}"
    if len(values) > 1:
        text += f" ({min(values):,.{row.digits}f}–{max(values):,.{row.digits}f})"
    return text


def meets(target, ratio):
    sign, bound = target.split()
    return round(ratio, 2) >= float(bound) if sign == "≥" else round(ratio, 2) <= float(bound)


def show_ratio(row, contender, results):
    target = row.target_of(contender)
    ratio = row.ratio_to_weed(results.median(row, contender), results.median(row, "weed"))
    if ratio is None:
        return ["–", target]
    mark = "" if not target else "  ok" if meets(target, ratio) else "  not yet"
    return [f"{ratio:.2f}", target + mark]


def print_table(wanted_rows, contenders, results):
    """Columns: what, unit, each contender, and the ratio where there are both that it is of."""
    rated = [c for c in OURS if c in contenders and "weed" in contenders]
    lines = [["", "unit", *(CONTENDERS[c] for c in contenders),
              *(title for c in rated for title in ("ratio" if c == "kelpfs" else "ratio, kelpd", "target"))]]
    for row in wanted_rows:
        lines.append([row.title, row.unit, *(show_cell(row, results.of(row, c)) for c in contenders),
                      *(cell for c in rated for cell in show_ratio(row, c, results))])
    widths = [max(map(len, column)) for column in zip(*lines)]
    for i, line in enumerate(lines):
        cells = [text.ljust(width) if column < 2 or column >= 2 + len(contenders) else text.rjust(width)
                 for column, (text, width) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())
        if i == 0:
            print("  ".join("-" * width for width in widths))
    print("bytes sent by servers: whole answers; at 4 KiB their HTTP headers alone add 0.09; by kelpd: of needles only")
    if rated:
        print("ratio: kelpfs, and kelpfs with kelpd, against weed mount; for rates and times how many times as fast, "
              "else the quotient")


def version(*command):
    result = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return (result.stdout.strip().splitlines() or ["unknown"])[0]


def as_json(options, data, wanted_rows, contenders, results):
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"kernel": platform.release(), "cpus": os.cpu_count(), "arch": platform.machine()},
        "versions": {
            "commit": version("git", "-C", mounts.REPO, "describe", "--always", "--dirty"),
            "weed": version(weed.weed_binary(), "version"),
            "fio": version("fio", "--version"),
        },
        "rounds": options.rounds,
        "chunk_mb": options.chunk_mb,
        "kelpfs_options": options.kelpfs_option,
        "trees": {tree.name: {"files": tree.count, "bytes": tree.bytes} for tree in data.values()},
        "rows": [
            {
                "workload": row.workload,
                "title": row.title,
                "unit": row.unit,
                "target": {c: row.target_of(c) for c in OURS},
                "median": {c: results.median(row, c) for c in contenders},
                "values": {c: results.of(row, c) for c in contenders},
                "ratio": {c: row.ratio_to_weed(results.median(row, c), results.median(row, "weed")) for c in OURS},
            }
            for row in wanted_rows
        ],
        "measurements": results.values,
        "failures": results.failures,
    }


# --- the run


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measures kelpfs beside weed mount and a null file system.")
    parser.add_argument("--rounds", type=int, help="measurements of each figure (default 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small files and one round: about a minute")
    parser.add_argument("--large", action="store_true", help="also directories with 100,000 files")
    parser.add_argument("--only", metavar="PATTERN", help="only workloads that this regular expression matches: "
                        + ", ".join(WORKLOADS))
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="which, by comma (default %(default)s)")
    parser.add_argument("--chunk-mb", type=int, default=4, help="chunk size of the big files (default %(default)s)")
    parser.add_argument("--kelpfs-option", action="append", default=[], metavar="OPT",
                        help="give kelpfs -o OPT; may be given several times")
    parser.add_argument("--json", metavar="FILE", type=Path, default=mounts.REPO / "build/bench/results.json",
                        help="where all figures go (default build/bench/results.json)")
    options = parser.parse_args()
    options.contenders = options.contenders.split(",")
    for contender in options.contenders:
        if contender not in CONTENDERS:
            parser.error(f"no such contender: {contender}")
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def choose_workloads(options):
    names = [name for name in WORKLOADS if options.large or not name.endswith("-large")]
    chosen = [name for name in names if not options.only or re.search(options.only, name)]
    if not chosen:
        sys.exit(f"bench: --only {options.only} matches none of {', '.join(names)}")
    return chosen


def measure_all(bench, workloads, contenders, results):
    for number in range(bench.options.rounds):
        turned = number % len(contenders)
        for workload in workloads:
            for contender in contenders[turned:] + contenders[:turned]:
                bench.progress(f"round {number + 1} of {bench.options.rounds}: {workload}, {CONTENDERS[contender]}")
                try:
                    results.add(workload, contender, measure(bench, contender, workload))
                except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
                    results.failures.append({"workload": workload, "contender": contender, "error": str(error)})


END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_by_signal(number, _frame):
    """Once: a second Ctrl-C must not cut the cleaning up short."""
    for other in END_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def main():
    options = parse_arguments()
    workloads = choose_workloads(options)
    for number in END_SIGNALS:
        signal.signal(number, end_by_signal)
    progress = Progress()
    results = Results()
    with contextlib.ExitStack() as stack:
        work_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(
            prefix="kelpfs-bench-", dir=os.environ.get("KELP_TEST_DIR"), ignore_cleanup_errors=True))).resolve()
        bench = Bench(options, work_dir, progress)
        stack.callback(bench.close)
        stack.callback(progress, "")
        bench.fill()
        if "kelpfs-agent" in options.contenders:
            bench.start_agent()
        measure_all(bench, workloads, options.contenders, results)
    wanted_rows = [row for row in rows(bench.trees) if row.workload in workloads]
    print_table(wanted_rows, options.contenders, results)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(as_json(options, bench.trees, wanted_rows, options.contenders, results), indent=1))
    if results.others_share() > OTHERS_SHARE_MAX:
        print(f"beware: other processes took {results.others_share():.0%} of this machine's CPUs meanwhile")
    for failure in results.failures:
        print("failed: {workload}, {contender}: {error}".format(**failure), file=sys.stderr)
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())

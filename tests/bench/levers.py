"""Every setting on the way into the page cache, against the default, on this kernel.

A lever has two or more settings. In each round each of them gets a fresh mount, one after the other, each round
in another order. Mostly the data is in the slab already, so that the network does not hide what a
setting brings; what belongs to the network is measured cold, over HTTP; and what kelpfs does not do is shown on
the null file system. Prints a table for each lever, in Markdown: medians of the rounds, in parentheses the least
and the greatest.
"""

import argparse
import gzip
import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "integration")]

import mounts  # noqa: E402
import report  # noqa: E402
import session  # noqa: E402
import workloads as how  # noqa: E402

KIB = 1 << 10
BLOCK_BYTES = 4 * KIB  # of a random read
RUNTIME_S = 1  # of each measurement of random reads
STRAY_BYTES = 8 << 20  # what servers may say of other things while all data is in the slab
CLEARLY = 1.03  # what is less is not called better than the default


@dataclass(frozen=True)
class Work:
    title: str
    run: object  # as in workloads.WORKLOADS
    rate: str  # the value that is compared
    rate_unit: str
    rate_scale: float
    rate_digits: int
    cpu_unit: str
    cpu_bytes: int  # for how many bytes the CPU time is given
    cpu_scale: float
    cpu_digits: int


def random_reads(title, job):
    return Work(title, how.WORKLOADS[job], "reads_per_s", "1/s", 1, 0, "µs a read", BLOCK_BYTES, 1e-6, 1)


WORKS = {
    "seq": Work("sequential 1 MiB", how.SEQ_LONG, "bytes_per_s", "GiB/s", report.GIB, 2, "s/GiB", report.GIB, 1, 2),
    "rand": random_reads("4 KiB at random, 1 job", "rand4k-1"),
    "rand16": random_reads("4 KiB, 16 jobs", "rand4k-16"),
}
ALL = tuple(WORKS)


@dataclass(frozen=True)
class Lever:
    """settings: {what it is called: options of kelpfs, or arguments of nullfs}; the default comes first."""

    title: str
    settings: dict
    contender: str = "kelpfs-warm"
    works: tuple = ALL


def values_of(option, *values):
    """The first is the default, and is left to it."""
    return {value: [f"{option}={value}"] if number else [] for number, value in enumerate(values)}


# There have to be as many as hold the slab, and fewer than hold one that is to lie elsewhere.
HUGE_PAGES = how.SLAB_OF_WARM_BYTES >> 21
TOO_LARGE_BYTES = how.SLAB_OF_WARM_BYTES * 3 // 2
RESERVED = "2 MiB"

# The name is what --only looks for.
LEVERS = {
    "splice": Lever("`splice`: by one writev, or by splice from the slab's memfd", {
        "off": ["splice=off"], "on": ["splice=on"]}),
    "direct_io": Lever("`direct_io`: through the page cache, or past it", {"off": [], "on": ["direct_io"]}),
    "readahead_kb": Lever("`readahead_kb`: the kernel's own readahead", values_of(
        "readahead_kb", "1024", "128", "512", "4096")),
    "max_read": Lever("`max_read`: largest request of the kernel", values_of("max_read", "1M", "128K", "256K", "512K")),
    "huge-pages": Lever("the slab's pages: 4 KiB, or reserved huge ones", {
        "4 KiB": [f"slab={TOO_LARGE_BYTES}"], RESERVED: []}),
    "max_background": Lever("`max_background`: readahead requests under way", values_of(
        "max_background", "64", "12", "256"), works=("seq", "rand16")),
    "threads": Lever("`threads`: workers that take requests from the kernel", values_of(
        "threads", "16", "2", "4", "64"), works=("seq", "rand16")),
    "clone_fd": Lever("`clone_fd`: a device descriptor for each worker", {"off": [], "on": ["clone_fd"]}),
    "notify-store": Lever("storing ahead of the reader (notify_store), null file system", {
        "no": [], "1 MiB ahead": ["--store-ahead", "1"], "8 MiB ahead": ["--store-ahead", "8"]}, "null", ("seq",)),
    "hand-over": Lever("who answers what is in memory, null file system", {
        "the worker that took the request": [], "another thread, of 1": ["--hand-over", "1"],
        "another thread, of 4": ["--hand-over", "4"]}, "null"),
    "threads-cold": Lever("`threads`: blocking workers, cold, over HTTP", values_of(
        "threads", "16", "2", "4", "32"), "kelpfs", ("rand16",)),
    "prefetch_threads": Lever("`prefetch_threads`: requests for readahead at once, cold, over HTTP", values_of(
        "prefetch_threads", "8", "1", "2", "4", "16"), "kelpfs", ("seq",)),
    "readahead": Lever("`readahead`: of one sequential reader, cold, over HTTP", values_of(
        "readahead", "16M", "4M", "64M"), "kelpfs", ("seq",)),
}


# --- what is not there -----------------------------------------------------------------------------

def libfuse_version():
    text = subprocess.run([mounts.kelpfs_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"running with (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]))


def kernel_says(config):
    try:
        text = gzip.decompress(Path("/proc/config.gz").read_bytes()).decode()
    except OSError:
        return f"whether the kernel has {config} cannot be seen (no /proc/config.gz)"
    return f"the kernel has it ({config}=y)" if f"{config}=y" in text else f"the kernel is without {config}"


def first_line(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def missing():
    """What this libfuse or this kernel does not have: lines of text."""
    version = libfuse_version()
    shown = ".".join(map(str, version))
    uring = first_line("/sys/module/fuse/parameters/enable_uring")
    pages = first_line("/proc/sys/fs/fuse/max_pages_limit")
    uring_text = {None: "the kernel is without it", "N": "the kernel has it, switched off (fuse.enable_uring=N)",
                  "Y": "the kernel has it, switched on (fuse.enable_uring=Y)"}.get(uring)
    for what, needed, kernel in (("passthrough", (3, 17), kernel_says("CONFIG_FUSE_PASSTHROUGH")),
                                 ("FUSE-over-io_uring", (3, 18), uring_text)):
        reason = (f"libfuse {shown} knows nothing of it ({needed[0]}.{needed[1]} is needed)" if version < needed
                  else "kelpfs does not use it")
        yield f"{what}: not measured: {reason}; {kernel}"
    if not can_be_measured("huge-pages"):
        yield f"reserved huge pages: not measured: there have to be {HUGE_PAGES} or some more (vm.nr_hugepages)"
    if pages:
        yield (f"requests of more than {int(pages) * 4} KiB: not measured: fs.fuse.max_pages_limit={pages}, and "
               "kelpfs takes no longer ones")


def can_be_measured(name):
    pages = int(first_line("/proc/sys/vm/nr_hugepages") or 0)
    return name != "huge-pages" or HUGE_PAGES <= pages < TOO_LARGE_BYTES >> 21


# --- measuring -------------------------------------------------------------------------------------

class Figures:
    """rounds[lever][setting][work]: a dict for each round that went well."""

    def __init__(self):
        self.rounds = {}
        self.failures = []

    def add(self, lever, setting, work, values):
        self.rounds.setdefault(lever, {}).setdefault(setting, {}).setdefault(work, []).append(values)

    def of(self, lever, setting, work):
        return self.rounds.get(lever, {}).get(setting, {}).get(work, [])

    def others_share(self):
        shares = [values["others_share"] for settings in self.rounds.values() for works in settings.values()
                  for rounds in works.values() for values in rounds]
        return statistics.median(shares) if shares else 0


def measure(bench, name, setting, figures):
    """All workloads of a lever on one mount that was made for them."""
    lever = LEVERS[name]
    with bench.mounted(lever.contender, lever.settings[setting]) as mount:
        time.sleep(how.SETTLE_S)
        if lever.contender == "kelpfs-warm":
            how.warm_up(bench, mount, bench.trees["seq"].count)
        elif lever.contender == "kelpfs":
            how.await_slab(mount, how.SLAB_DEFAULT_BYTES)
        if setting == RESERVED and not mount.status("HugetlbPages"):
            raise RuntimeError("there were too few huge pages")
        for work in lever.works:
            if work != lever.works[0]:
                how.forget(bench, mount)
            sent_bytes = bench.server_bytes()
            values = how.run_on(bench, mount, WORKS[work].run)
            values["server_bytes"] = bench.server_bytes() - sent_bytes
            if lever.contender == "kelpfs-warm" and values["server_bytes"] > STRAY_BYTES:
                raise RuntimeError(f"{values['server_bytes']} bytes came from the servers, not from the slab")
            figures.add(name, setting, work, values)


def attempt(bench, name, setting, figures):
    try:
        measure(bench, name, setting, figures)
    except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
        figures.failures.append(f"{name} {setting}: {error}")


def measure_round(bench, number, chosen, figures):
    for name in chosen:
        settings = list(LEVERS[name].settings)
        turned = number % len(settings)
        for setting in settings[turned:] + settings[:turned]:
            bench.progress(f"round {number + 1} of {bench.options.rounds}: {name} {setting}")
            attempt(bench, name, setting, figures)


def measure_all(options, chosen, figures):
    """Returns how many rounds there were time for: the first one always is."""
    started = time.monotonic()
    with session.opened(options, ("seq",)) as bench:
        # Not counted: the first use of much memory is slow, at least in a VM.
        attempt(bench, chosen[0], next(iter(LEVERS[chosen[0]].settings)), Figures())
        for number in range(options.rounds):
            round_started = time.monotonic()
            measure_round(bench, number, chosen, figures)
            took_s = time.monotonic() - round_started
            if time.monotonic() + took_s > started + options.minutes * 60:
                return number + 1
    return options.rounds


# --- showing ---------------------------------------------------------------------------------------

def rates(work, rounds):
    return [values[WORKS[work].rate] / WORKS[work].rate_scale for values in rounds]


def cpu(work, rounds, field):
    w = WORKS[work]
    return statistics.median(values[field] / (values["read_bytes"] / w.cpu_bytes) / w.cpu_scale for values in rounds)


def show_rate(work, values):
    digits = WORKS[work].rate_digits
    text = f"{statistics.median(values):,.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):,.{digits}f}–{max(values):,.{digits}f})"
    return text


def cells(figures, name, setting, work):
    rounds = figures.of(name, setting, work)
    reference = figures.of(name, next(iter(LEVERS[name].settings)), work)
    if not rounds or not reference:
        return ["–"] * 3
    values = rates(work, rounds)
    ratio = statistics.median(values) / statistics.median(rates(work, reference))
    digits = WORKS[work].cpu_digits
    used = " + ".join(f"{cpu(work, rounds, field):.{digits}f}" for field in ("cpu_s", "reader_cpu_s"))
    return [show_rate(work, values), f"{ratio:.2f}", used]


def better(figures, name):
    """Settings whose worst round is better than the default's best one."""
    default, *others = LEVERS[name].settings
    for setting in others:
        for work in LEVERS[name].works:
            ours, reference = figures.of(name, setting, work), figures.of(name, default, work)
            if len(ours) > 1 and reference and min(rates(work, ours)) > CLEARLY * max(rates(work, reference)):
                ratio = statistics.median(rates(work, ours)) / statistics.median(rates(work, reference))
                yield f"{setting}: {WORKS[work].title} ({ratio:.2f})"


def print_markdown(lines):
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    for line in lines:
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |")


def print_lever(figures, name):
    lever = LEVERS[name]
    default = next(iter(lever.settings))
    print(f"\n{lever.title}:\n")
    head = [""]
    for work in lever.works:
        w = WORKS[work]
        head += [f"{w.title}, {w.rate_unit}", "ratio", f"CPU, {w.cpu_unit}"]
    lines = [head]
    for setting in lever.settings:
        title = f"**{setting}**" if setting == default else setting
        lines.append([title, *(cell for work in lever.works for cell in cells(figures, name, setting, work))])
    print_markdown(lines)
    found = list(better(figures, name))
    if found:
        print(f"\nIn every round better than the default: {'; '.join(found)}.")


def print_all(options, figures, chosen, rounds):
    facts = report.facts_of_run()
    print(f"Medians of {rounds} round{'s' if rounds > 1 else ''}, {facts['machine']['cpus']} CPUs, "
          f"Linux {facts['machine']['kernel']}, libfuse "
          + ".".join(map(str, libfuse_version())) + f", kelpfs {facts['versions']['commit']}, {facts['when']}.")
    if rounds < options.rounds:
        print(f"Of {options.rounds} rounds there was time for {rounds} in {options.minutes:g} minutes (`--minutes`).")
    print("Ratio: against the default, which is bold. CPU: of the mount's process + of the reader.")
    for name in chosen:
        print_lever(figures, name)
    print()
    for line in missing():
        print(f"- {line}")
    if figures.others_share() > report.OTHERS_SHARE_MAX:
        print(f"\n{report.beware(figures.others_share())}")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/levers", description="Measures each setting against the default.")
    parser.add_argument("--rounds", type=int, help="measurements of each figure (default 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small files and one round")
    parser.add_argument("--only", metavar="PATTERN", default="", help="only levers that this regular expression "
                        "matches: " + ", ".join(LEVERS))
    parser.add_argument("--minutes", type=float, default=12,
                        help="begin no round that would end later (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, default=mounts.REPO / "build/bench/levers.json",
                        help="where all figures go (default build/bench/levers.json)")
    parser.add_argument("--docs", action="store_true", help="put what is printed into docs/performance.md")
    options = parser.parse_args()
    if options.docs and options.only:
        parser.error("--docs is for a run of all levers")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.runtime_s = RUNTIME_S
    # what a Bench goes by besides
    options.large, options.contenders, options.kelpfs_option, options.chunk_mb = False, [], [], 4
    return options


def main():
    options = parse_arguments()
    chosen = [name for name in LEVERS if re.search(options.only, name) and can_be_measured(name)]
    if not chosen:
        sys.exit(f"levers: --only {options.only} matches none of {', '.join(filter(can_be_measured, LEVERS))}")
    figures = Figures()
    rounds = measure_all(options, chosen, figures)
    text = report.printed_by(print_all, options, figures, chosen, rounds)
    print(text, end="")
    if options.docs:
        report.put_into_docs("scripts/levers", text)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**report.facts_of_run(), "rounds": rounds, "not_measured": list(missing()),
                                        "measurements": figures.rounds, "failures": figures.failures}, indent=1))
    for failure in figures.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())

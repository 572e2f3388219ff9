"""Where the CPU time goes: kelpfs, or the agent, under perf while one workload runs.

Each round is a fresh mount. Writes a flame graph for each case, and prints a table of what took the time
itself, in groups, one column a case. The clock is the software's (cpu-clock), which works without
hardware counters, and the call chains are unwound from copies of the stack, since libraries come without
frame pointers.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "integration")]

import flamegraph  # noqa: E402
import mounts  # noqa: E402
import report  # noqa: E402
import session  # noqa: E402
import workloads as how  # noqa: E402

SAMPLES_A_SECOND = 999  # of each CPU
STACK_BYTES = 40960  # of it, copied with each sample: op_read has more than 28 KiB
FUNCTIONS_SHOWN = 6
SHARE_SHOWN_MIN = 0.005
RUNTIME_S = 4  # of random reads
PERF_END_S = 60
KELPD = "kelpd"


@dataclass(frozen=True)
class Case:
    title: str
    contender: str
    work: object
    of: str = "kelpfs"


RAND4K = how.WORKLOADS["rand4k-1"]
CASES = {
    "seq": Case("sequential, HTTP", "kelpfs", how.SEQ_LONG),
    "seq-kelpd": Case("sequential, kelpd", "kelpfs-agent", how.SEQ_LONG),
    "seq-slab": Case("sequential, in the slab", "kelpfs-warm", how.SEQ_LONG),
    "rand4k": Case("4 KiB, HTTP", "kelpfs", RAND4K),
    "rand4k-kelpd": Case("4 KiB, kelpd", "kelpfs-agent", RAND4K),
    "small": Case("small files, HTTP", "kelpfs", how.cat_found),
    "seq-kelpd-agent": Case("sequential, the agent itself", "kelpfs-agent", how.SEQ_LONG, KELPD),
    "rand4k-kelpd-agent": Case("4 KiB, the agent itself", "kelpfs-agent", RAND4K, KELPD),
}


class Perf:
    """Records a process from here to stop()."""

    def __init__(self, pid, scratch):
        self.data = scratch / "perf.data"
        control, ack = scratch / "perf-control", scratch / "perf-ack"
        os.mkfifo(control)
        os.mkfifo(ack)
        self.process = subprocess.Popen(
            ["perf", "record", "-q", "-F", str(SAMPLES_A_SECOND), "-e", "cpu-clock", "--call-graph",
             f"dwarf,{STACK_BYTES}", "-m", "4096", "-p", str(pid), "-o", str(self.data), "-D", "-1", "--control",
             f"fifo:{control},{ack}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # opened for both, which never waits for the other side
        self.control, self.ack = os.open(control, os.O_RDWR), os.open(ack, os.O_RDWR | os.O_NONBLOCK)
        os.write(self.control, b"enable\n")
        self._await_start()

    def _await_start(self):
        end = time.monotonic() + PERF_END_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if os.read(self.ack, 16):
                    return
            except BlockingIOError:
                time.sleep(0.02)
        self.process.kill()
        raise RuntimeError(f"perf did not start: {self.process.stderr.read().decode(errors='replace')}")

    def stop(self):
        """Returns the stacks, as flamegraph.read_stacks() does."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=PERF_END_S)
        self.close()
        script = subprocess.run(
            ["perf", "script", "-i", str(self.data), "--no-inline", "-F", "comm,ip,sym,dso"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return flamegraph.read_stacks(script.stdout.decode(errors="replace"))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.control, self.ack):
            if fd >= 0:
                os.close(fd)
        self.control = self.ack = -1


def record(bench, case):
    """One round on a fresh mount."""
    with bench.mounted(case.contender) as mount:
        if case.contender == "kelpfs-warm":
            how.warm_up(bench, mount, bench.trees["seq"].count)
        else:
            how.await_slab(mount, how.SLAB_DEFAULT_BYTES)
        perf = Perf(bench.agent.pid if case.of == KELPD else mount.pid, mount.process.work_dir)
        try:
            case.work(bench, mount, mount.process.work_dir)
            return perf.stop()
        finally:
            perf.close()


def profile(bench, name):
    stacks = Counter()
    for number in range(bench.options.rounds):
        bench.progress(f"{name}, round {number + 1} of {bench.options.rounds}")
        stacks += record(bench, CASES[name])
    if not stacks:
        raise RuntimeError("perf saw nothing")
    return stacks


def caption(name, stacks, facts):
    case = CASES[name]
    return f"{case.of}: {case.title}; {stacks.total():,} samples, Linux {facts['machine']['kernel']}"


def print_tables(profiles, facts, rounds):
    """A table of groups, then the functions with the most self time."""
    print(f"{rounds} round{'s' * (rounds > 1)} of each, Linux {facts['machine']['kernel']}, {facts['when']}.\n")
    columns = {name: dict(flamegraph.shares(stacks, flamegraph.group_of)) for name, stacks in profiles.items()}
    groups = sorted({group for column in columns.values() for group in column},
                    key=lambda group: -max(column.get(group, 0) for column in columns.values()))
    print("| share of CPU time | " + " | ".join(CASES[name].title for name in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for group in groups:
        cells = [column.get(group, 0) for column in columns.values()]
        if max(cells) >= SHARE_SHOWN_MIN:
            print(f"| {group} | " + " | ".join(f"{cell:.1%}" if cell else "" for cell in cells) + " |")
    print("| samples | " + " | ".join(f"{stacks.total():,}" for stacks in profiles.values()) + " |\n")
    for name, stacks in profiles.items():
        functions = flamegraph.shares(stacks, lambda stack: stack[-1].name)[:FUNCTIONS_SHOWN]
        print(f"- {CASES[name].title}: " + ", ".join(f"`{function}` {share:.1%}" for function, share in functions))


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/flame", description="Profiles kelpfs or kelpd with perf.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--all", action="store_true", help="all cases")
    parser.add_argument("--of", choices=("kelpfs", KELPD), help="profile the agent instead: of the cases with kelpd")
    parser.add_argument("--rounds", type=int, default=3, help="fresh mounts for each case (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small files")
    parser.add_argument("--into", metavar="DIR", type=Path, default=mounts.REPO / "docs",
                        help="where flame-CASE.svg are written (default docs)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the groups' shares there")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    if options.docs and (not options.all or options.of):
        parser.error("--docs goes with --all")
    if options.all:
        options.cases = [name for name, case in CASES.items() if options.of in (None, case.of)]
    elif options.of == KELPD:
        options.cases = [name if name.endswith("-agent") else f"{name}-agent" for name in options.cases]
    for name in options.cases:
        if name not in CASES:
            parser.error(f"no such case: {name}; there are {', '.join(CASES)}")
    if not options.cases:
        parser.error("name a case, or --all")
    options.runtime_s = 1 if options.quick else RUNTIME_S
    # what a Bench goes by besides
    options.large, options.contenders, options.kelpfs_option, options.chunk_mb = False, [], [], 4
    return options


def main():
    options = parse_arguments()
    facts = report.facts_of_run()
    profiles, failures = {}, []
    with session.opened(options) as bench:
        if any(CASES[name].contender == "kelpfs-agent" for name in options.cases):
            bench.start_agent()
        for name in options.cases:
            try:
                profiles[name] = profile(bench, name)
            except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
                failures.append(f"{name}: {error}")
    for name, stacks in profiles.items():
        (options.into / f"flame-{name}.svg").write_text(flamegraph.draw(stacks, caption(name, stacks, facts)))
    if profiles:
        text = report.printed_by(print_tables, profiles, facts, options.rounds)
        print(text, end="")
        if options.docs:
            report.put_into_docs("scripts/flame --all", text)
    if options.json:
        shares = {name: dict(flamegraph.shares(stacks, flamegraph.group_of)) for name, stacks in profiles.items()}
        options.json.write_text(json.dumps({**facts, "shares": shares}, indent=1))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

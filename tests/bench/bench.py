"""kelpfs over HTTP and through kelpd, weed mount and a null file system side by side, on one cluster,
in one run.

Every figure is taken cold on the client's side: each measurement has a mount of its own, made just
before, with empty caches, while the servers' files are in the page cache. In each round all
contenders do one workload before the next workload begins, each round in another order, so that
what else goes on in the machine meets all of them. Shown are the medians of the rounds.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "integration")]

import chart  # noqa: E402
import contenders as who  # noqa: E402
import data  # noqa: E402
import fill_docs  # noqa: E402
import mounts  # noqa: E402
import report  # noqa: E402
import session  # noqa: E402
import workloads as how  # noqa: E402

ROUNDS = 5
STORING_S = 40  # the cluster, and all files


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measures kelpfs beside weed mount and a null file system.")
    parser.add_argument("--rounds", type=int, help=f"measurements of each figure (default {ROUNDS}; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small files and one round: about a minute")
    parser.add_argument("--large", action="store_true", help="also directories with 100,000 files")
    parser.add_argument("--only", metavar="PATTERN", help="only workloads that this regular expression matches: "
                        + ", ".join(how.WORKLOADS))
    parser.add_argument("--contenders", default=",".join(who.STANDARD), help="which, by comma, or all: "
                        + ", ".join(who.CONTENDERS) + " (default %(default)s); s3fs and rclone are installed if they "
                        "can be")
    parser.add_argument("--chunk-mb", type=int, default=data.CHUNK_MB,
                        help="chunk size of the big files (default %(default)s)")
    parser.add_argument("--kelpfs-option", action="append", default=[], metavar="OPT",
                        help="give kelpfs -o OPT; may be given several times")
    parser.add_argument("--json", metavar="FILE", type=Path, default=mounts.REPO / "build/bench/results.json",
                        help="where all figures go (default build/bench/results.json)")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="draw a chart of the ratios to weed mount")
    parser.add_argument("--docs", action="store_true", help="put the tables into README.md and docs/performance.md")
    options = parser.parse_args()
    options.contenders = list(who.CONTENDERS) if options.contenders == "all" else options.contenders.split(",")
    for contender in options.contenders:
        if contender not in who.CONTENDERS:
            parser.error(f"no such contender: {contender}")
    for contender in [c for c in options.contenders if c in who.S3_COMMANDS and not who.install(c)]:
        print(f"bench: {contender} is not installed and cannot be, so it is left out", file=sys.stderr)
        options.contenders.remove(contender)
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    options.runtime_s = 1 if options.quick else 4
    return options


def choose_workloads(options):
    names = [name for name in how.WORKLOADS if options.large or not name.endswith("-large")]
    chosen = [name for name in names if not options.only or re.search(options.only, name)]
    if not chosen:
        sys.exit(f"bench: --only {options.only} matches none of {', '.join(names)}")
    return chosen


def minutes(seconds):
    return f"{max(1, round(seconds / 60))} min"


def say_how_long(options, workloads):
    wanted = [(c, w) for w in workloads for c in options.contenders if how.can_measure(c, w)]
    whole_s = STORING_S + options.rounds * sum(how.about_s(c, w, options.runtime_s) for c, w in wanted)
    print(f"bench: {options.rounds} round{'s'[:options.rounds > 1]} of {len(wanted)} measurements: about "
          f"{minutes(whole_s)}", file=sys.stderr)


def measurements(rounds, workloads, contenders):
    """(round, workload, contender), in the order in which they are made."""
    for number in range(rounds):
        turned = number % len(contenders)
        for workload in workloads:
            for contender in contenders[turned:] + contenders[:turned]:
                if how.can_measure(contender, workload):
                    yield number + 1, workload, contender


def measure_all(bench, workloads, contenders, results):
    todo = list(measurements(bench.options.rounds, workloads, contenders))
    begun_s = time.monotonic()
    for n, (number, workload, contender) in enumerate(todo):
        each_s = (time.monotonic() - begun_s) / n if number > 1 else 0
        left = f", {minutes(each_s * (len(todo) - n))} left" if each_s else ""
        bench.progress(f"round {number} of {bench.options.rounds}{left}: {workload}, {who.CONTENDERS[contender]}")
        try:
            results.add(workload, contender, how.measure(bench, contender, workload))
        except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
            results.failures.append({"workload": workload, "contender": contender, "error": str(error)})


def main():
    options = parse_arguments()
    workloads = choose_workloads(options)
    say_how_long(options, workloads)
    results = report.Results()
    with session.opened(options) as bench:
        if set(who.WITH_AGENT) & set(options.contenders):
            bench.start_agent()
        if "kelpfs-ssd" in options.contenders:
            bench.fill_ssd()
        measure_all(bench, workloads, options.contenders, results)
    wanted_rows = [row for row in report.rows(bench.trees) if row.workload in workloads]
    report.print_table(wanted_rows, options.contenders, results)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    everything = report.as_json(options, bench.trees, wanted_rows, results)
    options.json.write_text(json.dumps(everything, indent=1))
    if options.svg:
        caption = f"medians of {options.rounds} rounds, client and servers on {os.cpu_count()} cores; more is better"
        options.svg.write_text(chart.draw(wanted_rows, options.contenders, results, who.CONTENDERS, caption))
    if options.docs:
        fill_docs.fill(everything)
    if results.others_share() > report.OTHERS_SHARE_MAX:
        print(report.beware(results.others_share()))
    for failure in results.failures:
        print("failed: {workload}, {contender}: {error}".format(**failure), file=sys.stderr)
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())

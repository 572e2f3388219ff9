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
import shutil
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "integration")]

import chart  # noqa: E402
import contenders as who  # noqa: E402
import mounts  # noqa: E402
import report  # noqa: E402
import session  # noqa: E402
import workloads as how  # noqa: E402


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measures kelpfs beside weed mount and a null file system.")
    parser.add_argument("--rounds", type=int, help="measurements of each figure (default 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small files and one round: about a minute")
    parser.add_argument("--large", action="store_true", help="also directories with 100,000 files")
    parser.add_argument("--only", metavar="PATTERN", help="only workloads that this regular expression matches: "
                        + ", ".join(how.WORKLOADS))
    parser.add_argument("--contenders", default=",".join(who.STANDARD), help="which, by comma, or all: "
                        + ", ".join(who.CONTENDERS) + " (default %(default)s)")
    parser.add_argument("--chunk-mb", type=int, default=4, help="chunk size of the big files (default %(default)s)")
    parser.add_argument("--kelpfs-option", action="append", default=[], metavar="OPT",
                        help="give kelpfs -o OPT; may be given several times")
    parser.add_argument("--json", metavar="FILE", type=Path, default=mounts.REPO / "build/bench/results.json",
                        help="where all figures go (default build/bench/results.json)")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="draw a chart of the ratios to weed mount")
    options = parser.parse_args()
    options.contenders = list(who.CONTENDERS) if options.contenders == "all" else options.contenders.split(",")
    for contender in options.contenders:
        if contender not in who.CONTENDERS:
            parser.error(f"no such contender: {contender}")
    for contender in [c for c in options.contenders if c in who.S3_COMMANDS and not shutil.which(c)]:
        print(f"bench: {contender} is not installed, so it is left out", file=sys.stderr)
        options.contenders.remove(contender)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.runtime_s = 1 if options.quick else 4
    return options


def choose_workloads(options):
    names = [name for name in how.WORKLOADS if options.large or not name.endswith("-large")]
    chosen = [name for name in names if not options.only or re.search(options.only, name)]
    if not chosen:
        sys.exit(f"bench: --only {options.only} matches none of {', '.join(names)}")
    return chosen


def measure_all(bench, workloads, contenders, results):
    for number in range(bench.options.rounds):
        turned = number % len(contenders)
        for workload in workloads:
            for contender in contenders[turned:] + contenders[:turned]:
                if not how.can_measure(contender, workload):
                    continue
                bench.progress(f"round {number + 1} of {bench.options.rounds}: {workload}, {who.CONTENDERS[contender]}")
                try:
                    results.add(workload, contender, how.measure(bench, contender, workload))
                except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
                    results.failures.append({"workload": workload, "contender": contender, "error": str(error)})


def main():
    options = parse_arguments()
    workloads = choose_workloads(options)
    results = report.Results()
    with session.opened(options) as bench:
        if "kelpfs-agent" in options.contenders:
            bench.start_agent()
        if "kelpfs-ssd" in options.contenders:
            bench.fill_ssd()
        measure_all(bench, workloads, options.contenders, results)
    wanted_rows = [row for row in report.rows(bench.trees) if row.workload in workloads]
    report.print_table(wanted_rows, options.contenders, results)
    report.print_warm(results)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    everything = report.as_json(options, bench.trees, wanted_rows, options.contenders, results)
    options.json.write_text(json.dumps(everything, indent=1))
    if options.svg:
        caption = f"medians of {options.rounds} rounds, client and servers on {os.cpu_count()} cores; more is better"
        options.svg.write_text(chart.draw(wanted_rows, options.contenders, results, who.CONTENDERS, caption))
    if results.others_share() > report.OTHERS_SHARE_MAX:
        print(report.beware(results.others_share()))
    for failure in results.failures:
        print("failed: {workload}, {contender}: {error}".format(**failure), file=sys.stderr)
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())

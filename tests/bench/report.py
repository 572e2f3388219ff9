"""What is shown: rows of figures with their targets, as a table, as JSON and as a chart."""

import contextlib
import io
import os
import platform
import shlex
import statistics
import subprocess
import time
from dataclasses import dataclass, field

import mounts
import weed
from contenders import CONTENDERS, OURS, STANDARD, VARIANTS
from data import CHUNK_MB

MIB = 1 << 20
GIB = 1 << 30
OTHERS_SHARE_MAX = 0.1  # of the CPUs; above it the figures come with a warning


def beware(others_share):
    return f"beware: other processes took {others_share:.0%} of this machine's CPUs meanwhile"


@dataclass(frozen=True)
class Row:
    """One line of the table: a value of a workload. The ratio is to `against`; faster is divided so that more
    is better, as for rates. What is against nothing has a target for the value itself."""

    workload: str
    title: str
    value: str
    unit: str
    scale: float = 1
    digits: int = 2
    ratio: str = "more"  # more | time (both: speed-up) | cost (less is better)
    target: str = ""  # over HTTP alone
    agent_target: str = ""  # with kelpd over TCP
    against: str = "weed"  # "": nothing
    columns: dict = None  # who is shown in which column; None: each contender in its own

    def target_of(self, column):
        return self.agent_target if column == "kelpfs-agent" else self.target

    def contender_in(self, column):
        return column if self.columns is None else self.columns.get(column)


def rate(workload, title, *targets, **others):
    return Row(workload, title, "bytes_per_s", "GiB/s", GIB, 2, "more", *targets, **others)


def reads(workload, title, *targets, **others):
    return Row(workload, title, "reads_per_s", "1/s", 1, 0, "more", *targets, **others)


def seconds(workload, title, *targets, **others):
    return Row(workload, title, "seconds", "s", 1, 2, "time", *targets, **others)


def above_slab(workload, title):
    return Row(workload, f"client memory above the slab, peak, {title}", "above_slab_bytes", "MiB", MIB, 0, "cost",
               "≤ 64", "≤ 64", against="")


IN_SLAB = {"against": "null", "columns": {"kelpfs": "kelpfs-warm", "null": "null"}}
BY_EVENTS = {"columns": {"kelpfs": "kelpfs-events", "kelpfs-agent": "kelpfs-agent-events", "weed": "weed"}}


def rows(data):
    small = f"{data['small'].count:,}"
    cat = f"{small} small files, find | xargs -P4 cat"
    result = [
        rate("seq-1", "sequential 1 MiB, 1 file", "≥ 1.8", "≥ 2.2"),
        rate("seq-4", "sequential 1 MiB, 4 readers of 4 files", "≥ 1.5", "≥ 2.0"),
        reads("rand4k-1", "random 4 KiB, depth 1", "≥ 1.2", "≥ 3.5"),
        reads("rand4k-16", "random 4 KiB, 16 jobs", "≥ 1.6", "≥ 4.0"),
        rate("rand1m-4", "random 1 MiB, 4 jobs", "≥ 2.0", "≥ 3.0"),
        seconds("cat-found", cat, "≥ 2.0", "≥ 3.0"),
        seconds("cat-found", f"{cat}, consistency=events", **BY_EVENTS),
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
        rate("seq-1", "in the slab: sequential 1 MiB, 1 file", "≥ 0.9", **IN_SLAB),
        reads("rand4k-1", "in the slab: random 4 KiB, depth 1", "≥ 0.85", **IN_SLAB),
        Row("seq-1", "client CPU per GiB, sequential, 1 file", "cpu_s_per_gib", "s/GiB", 1, 2, "cost", "≤ 0.5",
            "≤ 0.4"),
        Row("seq-4", "client CPU per GiB, sequential, 4 files", "cpu_s_per_gib", "s/GiB", 1, 2, "cost"),
        Row("seq-4", "client memory, peak, sequential, 4 files", "peak_bytes", "MiB", MIB, 0, "cost"),
        above_slab("seq-4", "sequential, 4 files"),
        above_slab("find", f"{small} known files"),
    ]
    if "large" in data:
        result.append(above_slab("find-large", f"{large} known files"))
    for workload, title, *target in (("seq-1", "sequential"), ("rand4k-1", "random 4 KiB", "≤ 1.1", "≤ 1.1"),
                                     ("rand4k-16", "random 4 KiB, 16 jobs", "≤ 1.1", "≤ 1.1"),
                                     ("rand1m-4", "random 1 MiB", "≤ 1.1", "≤ 1.1")):
        result.append(Row(workload, f"bytes asked of servers per byte read, {title}", "asked_per_byte", "", 1, 2,
                          "cost", *target, against=""))
    return result


@dataclass
class Results:
    """values[workload][contender]: a dict for each round that went well."""

    values: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)

    def add(self, workload, contender, values):
        self.values.setdefault(workload, {}).setdefault(contender, []).append(values)

    def of(self, row, column):
        rounds = self.values.get(row.workload, {}).get(row.contender_in(column), [])
        return [values[row.value] / row.scale for values in rounds if values.get(row.value) is not None]

    def others_share(self):
        """The median over all measurements of what other processes took of the machine."""
        shares = [values["others_share"] for contenders in self.values.values()
                  for rounds in contenders.values() for values in rounds]
        return statistics.median(shares) if shares else 0

    def median(self, row, column):
        values = self.of(row, column)
        return statistics.median(values) if values else None

    def ratio(self, row, column):
        ours, others = self.median(row, column), self.median(row, row.against)
        if not ours or not others:
            return None
        return others / ours if row.ratio == "time" else ours / others

    def met(self, row, column):
        """Whether the target is: None where there is none, or nothing to judge by."""
        target = row.target_of(column)
        judged = self.ratio(row, column) if row.against else self.median(row, column)
        return meets(target, judged) if target and judged is not None else None


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


def show_ratio(row, column, results):
    ratio, met = results.ratio(row, column), results.met(row, column)
    mark = "" if met is None else "  ok" if met else "  not yet"
    return ["–" if ratio is None else f"{ratio:.2f}", row.target_of(column) + mark]


NOTES = (
    "bytes asked of servers: by kelpfs, as it counts them itself; by others, all that servers sent, with HTTP headers",
    "ratio: kelpfs, and kelpfs with kelpd, against weed mount, and what is in the slab against null; for rates and times "
    "how many times as fast, else the quotient",
)


def columns_of(contenders):
    return [c for c in contenders if c not in VARIANTS]


def print_table(wanted_rows, contenders, results):
    """Columns: what, unit, each contender, and the ratios of ours."""
    shown = columns_of(contenders)
    rated = [c for c in OURS if c in shown]
    lines = [["", "unit", *(CONTENDERS[c] for c in shown),
              *(title for c in rated for title in ("ratio" if c == "kelpfs" else "ratio, kelpd", "target"))]]
    for row in wanted_rows:
        lines.append([row.title, row.unit, *(show_cell(row, results.of(row, c)) for c in shown),
                      *(cell for c in rated for cell in show_ratio(row, c, results))])
    widths = [max(map(len, column)) for column in zip(*lines)]
    for i, line in enumerate(lines):
        cells = [text.ljust(width) if column < 2 or column >= 2 + len(shown) else text.rjust(width)
                 for column, (text, width) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())
        if i == 0:
            print("  ".join("-" * width for width in widths))
    print("\n".join(NOTES))


def version(*command):
    result = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return (result.stdout.strip().splitlines() or ["unknown"])[0]


def facts_of_run():
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"kernel": platform.release().split("-")[0], "cpus": os.cpu_count(), "arch": platform.machine()},
        "versions": {
            "commit": version("git", "-C", mounts.REPO, "describe", "--always", "--dirty"),
            "weed": version(weed.weed_binary(), "version"),
            "fio": version("fio", "--version"),
        },
    }


def printed_by(function, *arguments):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        function(*arguments)
    return text.getvalue()


def put_into_docs(command, text, page="docs/performance.md"):
    """Puts it where the page has what the command printed the last time."""
    page = mounts.REPO / page
    begin, end = f"<!-- {command}: begin -->\n", f"<!-- {command}: end -->\n"
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{rest.split(end)[1]}")


def command_of(options):
    """As it is given again for the same figures; where they go is left out."""
    words = ["scripts/bench", *(f"--{name}" for name in ("quick", "large") if getattr(options, name))]
    words += ["--rounds", str(options.rounds), *(["--only", options.only] if options.only else [])]
    if options.contenders != list(STANDARD):
        words += ["--contenders", ",".join(options.contenders)]
    if options.chunk_mb != CHUNK_MB:
        words += ["--chunk-mb", str(options.chunk_mb)]
    return shlex.join([*words, *(word for option in options.kelpfs_option for word in ("--kelpfs-option", option))])


def as_json(options, data, wanted_rows, results):
    columns = columns_of(options.contenders)
    return {
        **facts_of_run(),
        "command": command_of(options),
        "rounds": options.rounds,
        "others_share": results.others_share(),
        "chunk_mb": options.chunk_mb,
        "kelpfs_options": options.kelpfs_option,
        "trees": {tree.name: {"files": tree.count, "bytes": tree.bytes} for tree in data.values()},
        "columns": {c: CONTENDERS[c] for c in columns},
        "rows": [
            {
                "workload": row.workload,
                "title": row.title,
                "value": row.value,
                "unit": row.unit,
                "digits": row.digits,
                "against": row.against,
                "median": {c: results.median(row, c) for c in columns},
                "values": {c: results.of(row, c) for c in columns},
                "target": {c: row.target_of(c) for c in OURS},
                "ratio": {c: results.ratio(row, c) for c in OURS},
                "met": {c: results.met(row, c) for c in OURS},
            }
            for row in wanted_rows
        ],
        "measurements": results.values,
        "failures": results.failures,
    }

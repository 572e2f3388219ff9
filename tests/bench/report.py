"""What is shown: rows of figures with their targets, as a table, as JSON and as a chart."""

import contextlib
import io
import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass, field

import mounts
import weed
from contenders import CONTENDERS, OURS

MIB = 1 << 20
GIB = 1 << 30
OTHERS_SHARE_MAX = 0.1  # of the CPUs; above it the figures come with a warning


def beware(others_share):
    return f"beware: other processes took {others_share:.0%} of this machine's CPUs meanwhile"


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


# What is in the slab already, against the file system that does nothing: workload, value, scale, target.
WARM_ROWS = (("seq-1", "sequential 1 MiB, 1 file, in the slab", "bytes_per_s", "≥ 0.9"),
             ("rand4k-1", "random 4 KiB, depth 1, in the slab", "reads_per_s", "≥ 0.85"))


def warm_ratios(results):
    """(title, target, ratio to null) of what was measured of them."""
    for workload, title, value, target in WARM_ROWS:
        row = Row(workload, title, value, "")
        ours, nulls = results.median(row, "kelpfs-warm"), results.median(row, "null")
        if ours and nulls:
            yield title, target, ours / nulls


def print_warm(results):
    for title, target, ratio in warm_ratios(results):
        print(f"{title}: {ratio:.2f} of null, target {target}  {'ok' if meets(target, ratio) else 'not yet'}")


def version(*command):
    result = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return (result.stdout.strip().splitlines() or ["unknown"])[0]


def facts_of_run():
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"kernel": platform.release(), "cpus": os.cpu_count(), "arch": platform.machine()},
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


def put_into_docs(command, text):
    """Puts it where docs/performance.md has what the command printed the last time."""
    page = mounts.REPO / "docs/performance.md"
    begin, end = f"<!-- {command}: begin -->\n", f"<!-- {command}: end -->\n"
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{rest.split(end)[1]}")


def as_json(options, data, wanted_rows, contenders, results):
    return {
        **facts_of_run(),
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
        "warm": [{"title": title, "target": target, "ratio_to_null": ratio}
                 for title, target, ratio in warm_ratios(results)],
        "measurements": results.values,
        "failures": results.failures,
    }

#!/usr/bin/env python3
"""Puts the figures of a run of scripts/bench into README.md and docs/performance.md: each has the marks between
which they go. `scripts/bench --docs` does that at its end; by hand, from what --json wrote:

    tests/bench/fill_docs.py [RESULTS.json]        # default: build/bench/results.json
"""

import json
import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "integration")]

import mounts  # noqa: E402
import report  # noqa: E402

MARK = "scripts/bench"
OURS = {"kelpfs": "over HTTP", "kelpfs-agent": "with kelpd over TCP"}


def table(lines):
    head, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def escaped(title):
    return title.replace("|", "\\|")


def unit(row):
    return {"1/s": "a second"}.get(row["unit"], row["unit"])


def number(row, value):
    return "" if value is None else f"{value:,.{row['digits']}f}"


def ratio_cell(row, column):
    """The ratio and what it should be; of what is against nothing the target alone."""
    ratio, target, met = (row[key][column] for key in ("ratio", "target", "met"))
    words = [] if ratio is None else [f"{ratio:.2f}"]
    if target and met is not None:
        words.append(f"({target})" if met else f"({target}: **missed**)")
    return " ".join(words)


def full_table(results):
    columns = results["columns"]
    ours = [c for c in OURS if c in columns]
    lines = [["what, cold", *columns.values(), *(f"ratio {OURS[c]}" for c in ours)]]
    for row in results["rows"]:
        title = escaped(row["title"]) + (f", {unit(row)}" if row["unit"] else "")
        lines.append([title, *(number(row, row["median"][c]) for c in columns), *(ratio_cell(row, c) for c in ours)])
    return table(lines)


def short_table(results):
    """Ratios to weed mount, and the rates that they are of."""
    ours = [c for c in OURS if c in results["columns"]]
    lines = [["against weed mount", *(OURS[c] for c in ours)]]
    for row in results["rows"]:
        if row["against"] != "weed" or not any(row["ratio"][c] for c in ours):
            continue
        figures = " and ".join(number(row, row["median"][c]) for c in ours if row["median"][c] is not None)
        title = f"{escaped(row['title'])} ({figures} against {number(row, row['median']['weed'])} {unit(row)})"
        lines.append([title, *(f"{row['ratio'][c]:.2f} ×" if row["ratio"][c] else "" for c in ours)])
    return table(lines)


def how_measured(results):
    machine, versions = results["machine"], results["versions"]
    rounds = f"Medians of {results['rounds']} rounds" if results["rounds"] > 1 else "One round"
    weed = re.search(r" (\d+\.\d+)\b", versions["weed"])
    text = (f"{rounds} (`{results['command']}`, {results['when'][:10]}, {versions['commit']}), server and clients on "
            f"{machine['cpus']} cores, Linux {'.'.join(machine['kernel'].split('.')[:2])}, SeaweedFS {weed[1]}.")
    share = results["others_share"]
    return text + (f" But {report.beware(share)}." if share > report.OTHERS_SHARE_MAX else "")


def fill(results):
    notes = "\n".join(f"- {note[0].upper()}{note[1:]}." for note in report.NOTES)
    full = f"{how_measured(results)} In parentheses: targets.\n\n{full_table(results)}\n\n{notes}"
    report.put_into_docs(MARK, full)
    report.put_into_docs(MARK, f"{short_table(results)}\n\n{how_measured(results)}", "README.md")


def main():
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else mounts.REPO / "build/bench/results.json"
    fill(json.loads(file.read_text()))


if __name__ == "__main__":
    main()

"""What tests/bench/fill_docs.py puts into the pages."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

import contenders  # noqa: E402
import data  # noqa: E402
import fill_docs  # noqa: E402
import mounts  # noqa: E402
import report  # noqa: E402

PAGES = ("README.md", "docs/performance.md")


class Options:
    quick = large = False
    rounds = 5
    only = None
    contenders = list(contenders.STANDARD)
    chunk_mb = data.CHUNK_MB
    kelpfs_option = ()


def results(rates):
    """Of sequential reads, {contender: GiB/s}, as scripts/bench writes them."""
    made = report.Results()
    for contender, rate in rates.items():
        made.add("seq-1", contender, {"bytes_per_s": rate * report.GIB, "asked_per_byte": 1.0, "others_share": 0})
    trees = data.trees(Options)
    rows = [row for row in report.rows(trees) if row.workload == "seq-1"]
    return report.as_json(Options, trees, rows, made)


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A copy of the pages."""
    (tmp_path / "docs").mkdir()
    for page in PAGES:
        (tmp_path / page).write_text((mounts.REPO / page).read_text())
    monkeypatch.setattr(mounts, "REPO", tmp_path)
    return tmp_path


@pytest.fixture
def filled(repo):
    """{page: (what is between the marks, what is around)}"""
    fill_docs.fill(results({"kelpfs": 1.5, "kelpfs-agent": 1, "weed": 0.75, "null": 3, "kelpfs-warm": 2.4}))
    pages = {}
    for page in PAGES:
        before, rest = (repo / page).read_text().split("<!-- scripts/bench: begin -->\n")
        inside, after = rest.split("<!-- scripts/bench: end -->\n")
        pages[page] = inside, before + after
    return pages


def lines_of(filled, page, title):
    return [line for line in filled[page][0].splitlines() if line.startswith(f"| {title}")]


def test_the_figures_of_a_run_replace_those_that_were_there(filled):
    line, = lines_of(filled, "docs/performance.md", "sequential 1 MiB, 1 file, GiB/s")
    assert line == ("| sequential 1 MiB, 1 file, GiB/s | 1.50 | 1.00 | 0.75 | 3.00 | 2.00 (≥ 1.8) | "
                    "1.33 (≥ 2.2: **missed**) |")
    line, = lines_of(filled, "README.md", "sequential")
    assert line == "| sequential 1 MiB, 1 file (1.50 and 1.00 against 0.75 GiB/s) | 2.00 × | 1.33 × |"


def test_what_is_in_the_slab_is_compared_with_the_null_file_system(filled):
    line, = lines_of(filled, "docs/performance.md", "in the slab: sequential")
    assert line == "| in the slab: sequential 1 MiB, 1 file, GiB/s | 2.40 |  |  | 3.00 | 0.80 (≥ 0.9: **missed**) |  |"


def test_the_command_of_the_run_is_told(filled):
    assert all("`scripts/bench --rounds 5`" in inside for inside, _ in filled.values())


def test_what_is_around_the_marks_stays(repo, filled):
    around = {page: outside for page, (_, outside) in filled.items()}
    fill_docs.fill(results({"kelpfs": 1, "weed": 1}))
    for page in PAGES:
        before, rest = (repo / page).read_text().split("<!-- scripts/bench: begin -->\n")
        assert before + rest.split("<!-- scripts/bench: end -->\n")[1] == around[page]

"""Many small files: what is fetched ahead on a walk over a directory, and what is asked for how often."""

import contextlib
import os
import re
import signal
import subprocess
import time

import pytest

import corpus as doors
import weed
import wire

FILES = 100
SIZE = 700
TRIES = 20
AHEAD_MAX = 32  # fs/ahead.h
A_FEW = 20  # requests that are no file's: where needles are, and connections


@pytest.fixture(scope="module")
def servers(make_cluster):
    """A cluster of its own: its volume server is stopped."""
    return make_cluster("small")


@pytest.fixture
def http(servers):
    return wire.Http(servers.filer_port)


def data_of(name):
    return doors.noise(SIZE, name)


def make_directory(http, name, files=FILES):
    for i in range(files):
        http.put(f"/{name}/f{i:03}", data_of(f"{name}{i}"))


def read_in_order(directory, count):
    """As find and the like do: lists, then opens what was listed, in that order."""
    names = [entry.name for entry in os.scandir(directory)]
    return [(directory / name).read_bytes() for name in names[:count]]


@contextlib.contextmanager
def stalled(process):
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_a_walk_reads_right(http, servers, mount_kelpfs):
    make_directory(http, "walk")
    mount = mount_kelpfs(servers)
    assert read_in_order(mount.path / "walk", FILES) == [data_of(f"walk{i}") for i in range(FILES)]


def test_four_walks_at_once_read_right(http, servers, mount_kelpfs):
    make_directory(http, "walks")
    mount = mount_kelpfs(servers)
    result = subprocess.run(f"find {mount.path}/walks -type f -print0 | xargs -0 -n 10 -P 4 md5sum", shell=True,
                            capture_output=True, text=True, check=True)
    wanted = subprocess.run(["md5sum", "-c", "--quiet"], input=result.stdout, capture_output=True, text=True)
    assert wanted.returncode == 0 and result.stdout.count("\n") == FILES, wanted.stdout
    assert all((mount.path / f"walks/f{i:03}").read_bytes() == data_of(f"walks{i}") for i in range(FILES))


def test_the_next_files_of_a_walk_are_there_already(http, servers, mount_kelpfs):
    """They are read while the volume server stands still; when is not promised, so several tries."""
    mount = mount_kelpfs(servers, options=["timeout=3", "agent=off"])
    for number in range(TRIES):
        name = f"ahead{number}"
        make_directory(http, name, 10)
        read_in_order(mount.path / name, 3)
        time.sleep(0.2)
        with stalled(servers.processes["volume0"]), contextlib.suppress(OSError):
            if (mount.path / name / "f003").read_bytes() == data_of(f"{name}3"):
                return
    pytest.fail(f"none of {TRIES} files was fetched ahead")


def test_what_was_fetched_ahead_and_then_overwritten_is_read_anew(http, servers, mount_kelpfs):
    make_directory(http, "overwritten")
    mount = mount_kelpfs(servers)
    read_in_order(mount.path / "overwritten", 5)
    time.sleep(0.5)
    for i in range(5, 20):
        http.put(f"/overwritten/f{i:03}", data_of(f"new{i}"))
    for i in range(5, 20):
        assert (mount.path / f"overwritten/f{i:03}").read_bytes() == data_of(f"new{i}")


def needles_read(mount):
    assert mount.unmount() == 0
    return sum(map(int, re.search(r"reads by source: (.*); failed 0", mount.log_text())[1].replace(",", " ").split()[1::4]))


def test_what_is_fetched_ahead_is_bounded(http, servers, mount_kelpfs):
    make_directory(http, "bounded")
    mount = mount_kelpfs(servers)
    read_in_order(mount.path / "bounded", 6)
    time.sleep(1)
    assert needles_read(mount) <= 6 + AHEAD_MAX


def test_files_opened_out_of_order_fetch_nothing_ahead(http, servers, mount_kelpfs):
    make_directory(http, "random")
    mount = mount_kelpfs(servers)
    os.listdir(mount.path / "random")
    for i in (50, 20, 80, 10, 60, 30):
        (mount.path / f"random/f{i:03}").read_bytes()
    time.sleep(1)
    assert needles_read(mount) == 6


def test_without_readahead_nothing_is_fetched_ahead(http, servers, mount_kelpfs):
    make_directory(http, "off")
    mount = mount_kelpfs(servers, options=["readahead=0"])
    read_in_order(mount.path / "off", 6)
    time.sleep(1)
    assert needles_read(mount) == 6


def requests_made(mount):
    """To others than volume servers, and for needles."""
    stats = mount.stats()
    needles = sum(n for source, n in stats["kelpfs_source_reads_total"].items() if source not in ("cache", "ssd"))
    return stats["kelpfs_http_requests_total"], needles


def costs(mount, function):
    before = requests_made(mount)
    function()
    return [now - then for now, then in zip(requests_made(mount), before, strict=True)]


@pytest.mark.parametrize("consistency, asked_at_open", [("open", FILES), ("events", 0)])
def test_a_listed_small_file_costs_one_needle_and_at_most_an_open(http, servers, mount_kelpfs, consistency,
                                                                 asked_at_open):
    name = f"requests-{consistency}"
    make_directory(http, name)
    http.put(f"/{name}-other", b"other")
    lasting = ["entry_timeout=600", "attr_timeout=600"]  # a slow machine takes longer than the default
    mount = mount_kelpfs(servers, options=["agent=off", f"consistency={consistency}", *lasting])
    if consistency == "events":  # they have to come first, and what was just changed is asked for
        other = mount.path / f"{name}-other"
        weed.wait_until(lambda: costs(mount, other.read_bytes)[0] == 0, "events to be trusted")
    names = [entry.name for entry in os.scandir(mount.path / name)]
    asked, needles = costs(mount, lambda: [(mount.path / name / each).read_bytes() for each in names])
    assert asked_at_open <= asked <= asked_at_open + A_FEW
    assert needles == FILES


def test_a_name_that_is_not_there_is_remembered_if_asked_for(http, servers, mount_kelpfs):
    remembers = mount_kelpfs(servers, options=["negative_timeout=300"])
    asks = mount_kelpfs(servers)
    paths = [mount.path / "negative" for mount in (remembers, asks)]
    assert not any(path.exists() for path in paths)
    http.put("/negative", b"here")
    assert [path.exists() for path in paths] == [False, True]

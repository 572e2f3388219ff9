"""kelpfs in one VM reads from a real cluster and kelpd in another (serve.py), over a wire."""

import hashlib
import json
import random

import pytest

import serve
import weed
from rdma import connect, queue_pairs, rdma
from test_mount_agent import read_past_caches, reads_by_source

TIMEOUT_S = 200  # of a request, in two emulated machines that have a busy one to share
START_S = 900  # with a corpus to write, on one emulated processor


@pytest.fixture(scope="session")
def served():
    """What serve.py tells; at the end it is told to stop, and waited for: what it says then counts."""
    weed.wait_until(serve.SERVED.exists, "the server in the other VM", timeout_s=START_S, every_s=0.5)
    yield json.loads(serve.SERVED.read_text())
    serve.DONE.touch()
    weed.wait_until(serve.ENDED.exists, "the server's end")


@pytest.fixture
def mount_door(served, build, mount_kelpfs):
    """mount_door(door, use) -> the mount of its directory, and its files with their digests. Agent and mount are
    of one build."""

    def mount(door, use):
        there = served["doors"][door]
        return mount_kelpfs(there["filer"], there["directory"],
                            options=rdma(served["agent_ports"][build], use, TIMEOUT_S)), there["files"]

    return mount


def check(mount, files):
    for name, digest in files.items():
        assert hashlib.sha256((mount.path / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.timeout(START_S + 300)
@pytest.mark.parametrize("door", serve.DOORS)
def test_everything_reads_back_over_rdma_alone(mount_door, door):
    mount, files = mount_door(door, "require")
    connect([mount.path / name for name in files])
    check(mount, files)
    sources = reads_by_source(mount)
    assert set(sources) == {"rdma"} and sources["rdma"][0] > 0


def test_rdma_is_preferred_where_there_is_all(mount_door):
    mount, files = mount_door("filer_put", "auto")
    largest = max((mount.path / name for name in files), key=lambda path: path.stat().st_size)

    def taken_up():
        """While the first connection is being made, reads do not wait for it."""
        read_past_caches(largest, random.randrange(largest.stat().st_size), 100)
        return queue_pairs(mount.pid)

    weed.wait_until(taken_up, "RDMA is taken up", every_s=0.2)
    check(mount, files)
    sources = reads_by_source(mount)
    # On a busy machine an answer may be given up that comes after a second and a half.
    assert sources["rdma"][1] > sources["tcp"][1] + sources["http"][1]
    assert sources["filer"] == (0, 0)

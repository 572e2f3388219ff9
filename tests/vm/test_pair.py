"""kelpfs in one VM reads from a real cluster and kelpd in another (serve.py), over a wire."""

import hashlib
import json

import pytest

import serve
import weed
from rdma import connect, rdma
from test_mount_agent import reads_by_source

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
                            options=rdma(served["agent_ports"][build], use)), there["files"]

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
    check(mount, files)
    sources = reads_by_source(mount)
    # While the first RDMA connection is being made, reads do not wait for it.
    assert sources["rdma"][1] > sources["tcp"][1]
    assert sources["http"] == sources["filer"] == (0, 0)

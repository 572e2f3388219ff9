"""kelpfs reads from a real cluster through kelpd over RDMA: the bytes are right and came from where they
should, also while there is no agent."""

import os

import pytest

import corpus as doors
import weed
import wire
from rdma import rdma
from test_content import assert_same, ranges
from test_mount_agent import at_once, bytes_sent, read_past_caches, reads_by_source

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture(params=sorted(doors.DOORS))
def only_rdma(request, cluster, corpus, cluster_agent, mount_kelpfs):
    """[(path, bytes)] of one door, in a mount that has only RDMA to read with; afterwards it has to have
    said so, and the volume server has to have sent nothing of them."""
    opened = corpus(request.param)
    mount = mount_kelpfs(opened.filer, opened.directory, options=rdma(cluster_agent, "require"))
    volume = cluster.processes["volume0"]
    before = bytes_sent(volume)
    yield [(mount.path / name, data) for name, data in opened.files.items()]
    sent = bytes_sent(volume) - before
    sources = reads_by_source(mount)
    assert set(sources) == {"rdma"} and sources["rdma"][0] > 0
    if sources["rdma"][1] > MIB:
        assert sent < sources["rdma"][1] / 10


def test_everything_reads_back_over_rdma_alone(only_rdma):
    for path, data in only_rdma:
        assert_same(path.read_bytes(), data, path.name)
        for flags in (os.O_DIRECT, 0):
            fd = os.open(path, os.O_RDONLY | flags)
            try:
                for offset, length in ranges(len(data), 10, path.name):
                    assert_same(os.pread(fd, length, offset), data[offset:offset + length],
                                f"{path.name} [{offset}, +{length})")
            finally:
                os.close(fd)

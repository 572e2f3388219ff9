"""Files that were written through several doors read back the same over RDMA alone, then over a wire that loses
packets, then after the agent has gone."""

import collections
import errno
import functools
import itertools
import json
import os

import pytest

import corpus as doors
import weed
import wire
from rdma import rdma
from test_content import assert_same, ranges
from test_faults import AGENT, BACK_S, CLIENT, disturbed, quiet_netem, rdma_map, run  # noqa: F401 (two are fixtures)
from test_mount_agent import bytes_sent

pytestmark = [pytest.mark.faults,
              pytest.mark.skipif("KELP_VM_PEER_DEV" not in os.environ, reason="needs scripts/vm --net pair")]

DOORS = ("filer_encrypted", "filer_offset_writes", "manifest_nested", "mount_holes", "overlapping_chunks", "s3_put")


@pytest.fixture(scope="module")
def opened(corpus):
    return [corpus(door) for door in DOORS]


def sources(mount):
    """{source: bytes that came from there}"""
    counted = mount.stats()["kelpfs_source_bytes_total"]
    return {source: count for source, count in counted.items() if source != "cache"}


def patiently(read):
    """Where there is nobody else to ask, it is EIO when a busy machine is late with an answer."""

    def attempt():
        try:
            return [read()]
        except OSError as error:
            assert error.errno == errno.EIO
            return None

    return weed.wait_until(attempt, "an answer over RDMA", BACK_S)[0]


def at_once(read):
    return read()


class Everything:
    """What was written through all doors, in a new mount of each filer that knows some of it."""

    def __init__(self, opened, mount_kelpfs, options):
        self.mounts = {o.filer: None for o in opened}
        for filer in self.mounts:
            self.mounts[filer] = mount_kelpfs(filer, options=options)
        self.files = {self.mounts[o.filer].path / o.directory.lstrip("/") / name: data
                      for o in opened for name, data in o.files.items()}
        for filer, mount in self.mounts.items():
            self._await_rdma(mount, wire.Http(int(filer.rsplit(":", 1)[1])))

    @staticmethod
    def _await_rdma(mount, http):
        """By reading files that no cache has."""
        names = (f"states-{mount.path.name}-{i}" for i in itertools.count())

        def came_over_rdma():
            name = next(names)
            http.put(f"/{name}", doors.noise(1000, name))
            patiently((mount.path / name).read_bytes)
            return sources(mount)["rdma"] > 0

        weed.wait_until(came_over_rdma, "reads over RDMA", BACK_S)

    def read(self, how=at_once):
        """Checks all of it, and returns how much came from where meanwhile."""
        before = self._sources()
        for path, data in self.files.items():
            assert_same(how(path.read_bytes), data, path)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
            try:
                for offset, length in ranges(len(data), 3, path.name):
                    got = how(functools.partial(os.pread, fd, length, offset))
                    assert_same(got, data[offset:offset + length], f"{path} [{offset}, +{length})")
            finally:
                os.close(fd)
        return self._sources() - before

    def _sources(self):
        return sum((collections.Counter(sources(mount)) for mount in self.mounts.values()), collections.Counter())


def lost_packets():
    """That netem did not let through."""
    shown = [json.loads(run("tc", "-s", "-j", "qdisc", "show", "dev", netdev, "root").stdout)
             for _, netdev in (CLIENT, AGENT)]
    return sum(qdisc["drops"] for qdiscs in shown for qdisc in qdiscs)


def test_everything_reads_back_over_rdma_then_with_faults_then_without_the_agent(
        cluster, start_agent, rdma_map, opened, mount_kelpfs):  # noqa: F811
    agent = start_agent(cluster)
    over_the_wire = [f"rdma_map={rdma_map(agent.port)}", "slab=64M"]

    everything = Everything(opened, mount_kelpfs, [*rdma(agent, "require"), *over_the_wire])
    sent = bytes_sent(cluster.processes["volume0"])
    came = everything.read(patiently)
    sent = bytes_sent(cluster.processes["volume0"]) - sent
    assert set(came) == {"rdma"} and sent < came["rdma"] / 10

    everything, lost = Everything(opened, mount_kelpfs, [*rdma(agent), *over_the_wire]), lost_packets()
    with disturbed("delay", "10ms", "loss", "1%"):
        bad = everything.read()
    lost = lost_packets() - lost
    assert lost > 0 and bad["rdma"] > 0

    everything = Everything(opened, mount_kelpfs, [*rdma(agent), *over_the_wire])
    agent.kill()
    gone = everything.read()
    assert gone["http"] > 0 and gone["rdma"] == gone["tcp"] == 0
    print(f"{came} over RDMA, {bad} with {lost} packets lost, {gone} without the agent")

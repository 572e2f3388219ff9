"""What is read over RDMA while it is overwritten, deleted, vacuumed and moved, and what has rotten on a disk:
the tests of the integration tests' test_mount_agent.py, on verbs."""

import errno
import itertools
import os
import random
import time

import pytest

import corpus as doors
import weed
import wire
from rdma import connect, queue_pairs, rdma
from test_content import assert_same
from test_mount_agent import (DATA, KIB, MIB, NOTHING_TRUSTED, Beside, Moving, Pair, at_once, put_in_doomed_volume,
                              read_deleted_volume, read_past_caches, read_while_volumes_change, reads_by_source)

pytestmark = [pytest.mark.one_build,
              pytest.mark.skipif("KELP_VM_PEER_DEV" not in os.environ, reason="needs scripts/vm --net pair")]

TIMEOUT_S = 10 * weed.SLOW  # of one request
SHORT_TIMEOUT_S = 10  # where it is waited for
AGENT_HOSTS = os.environ.get("KELP_VM_ADDR"), os.environ.get("KELP_VM_PEER")
TWO_COPIES = "replication=001"
GOOD = doors.noise(6 * MIB, "good")
_numbers = itertools.count()


def assert_rdma_alone(mount, at_least_bytes):
    sources = reads_by_source(mount)
    assert set(sources) == {"rdma"} and sources["rdma"][1] >= at_least_bytes


def test_vacuum_deletes_overwrites_and_appends_while_reading_over_rdma_alone(make_cluster, work_dir, start_agent,
                                                                             mount_kelpfs):
    cluster = make_cluster(f"changing{next(_numbers)}")
    try:
        beside = Beside(cluster, work_dir)
        mount = mount_kelpfs(cluster, options=[*rdma(start_agent(cluster), "require"), "slab=8M", *NOTHING_TRUSTED])
        connect([mount.path / "a/data.bin"])
        read_while_volumes_change(beside, mount, ["filer_compressed_text", "overlapping_chunks"])
        assert_rdma_alone(mount, MIB)
    finally:
        cluster.stop()


def test_overwritten_under_a_reader_over_rdma_is_one_version_or_the_other(cluster, cluster_agent, mount_kelpfs):
    """Large files, of many chunks, one of which is being read when another takes its place."""
    http = wire.Http(cluster.filer_port)
    versions = [doors.noise(5 * MIB, f"overwritten {i}") for i in range(3)]
    http.put("/over/written", versions[0], "maxMB=1")
    mount = mount_kelpfs(cluster, options=[*rdma(cluster_agent, "require"), "slab=8M", *NOTHING_TRUSTED])
    path = mount.path / "over/written"
    connect([path])
    rounds, written = 4, []

    def read(_):
        while len(written) < rounds:
            try:
                with open(path, "rb", buffering=0) as f:
                    got = b"".join(iter(lambda: f.read(MIB), b""))
            except OSError as error:
                assert error.errno in (errno.ESTALE, errno.EIO), error
                continue
            assert got in versions, f"{len(got)} bytes that nobody wrote so"

    def overwrite():
        for i in range(1, rounds + 1):
            http.put("/over/written", versions[i % len(versions)], "maxMB=1")
            written.append(i)

    at_once(2, read, overwrite)
    assert_same(path.read_bytes(), versions[rounds % len(versions)], "the last version")
    assert_rdma_alone(mount, MIB)


class RdmaPair(Pair):
    """The agents listen at the VM's two RDMA addresses; the volume servers are at loopback."""

    def __init__(self, work_dir, name, **options):
        super().__init__(work_dir, name, **options)
        self.work_dir = work_dir
        for agent in self.agents:
            weed.wait_until(lambda agent=agent: "listening for RDMA on" in agent.log_text(), "kelpd listens for RDMA")

    def agent_hosts(self):
        return AGENT_HOSTS

    def options(self, use, hosts=(0, 1), timeout_s=TIMEOUT_S):
        """Of a mount that is told of the agents of those hosts alone."""
        path = self.work_dir / f"map{next(_numbers)}"
        path.write_text("".join(f"{self.volumes[host]} {AGENT_HOSTS[host]}:{self.port}\n" for host in hosts))
        return [*rdma(self, use, timeout_s), f"rdma_map={path}"]

    def connect(self, mount, paths, hosts=(0, 1)):
        """Reads what lies on those hosts until the mount has connections to their agents."""

        def connected():
            for path in paths:
                try:
                    read_past_caches(path, random.randrange(path.stat().st_size), 100)
                except OSError as error:
                    assert error.errno == errno.EIO
            return all(queue_pairs(self.agents[host].pid) for host in hosts)

        weed.wait_until(connected, "connections to the agents", every_s=0.2)


@pytest.fixture(scope="module")
def pair(build, work_dir):
    """One copy of everything that does not ask for more, and volumes on either host."""
    pair = RdmaPair(work_dir, f"rdma-pair{next(_numbers)}")
    master = wire.Http(pair.cluster.master_port)
    for volume in pair.volumes:
        master.get("/vol/grow", f"count=2&dataNode={volume}")
    pair.http.put("/r/good", GOOD, f"maxMB=1&{TWO_COPIES}")
    yield pair
    pair.end()


# Moves


def test_volume_moved_while_it_is_read_over_rdma_alone(pair, mount_kelpfs):
    moving = Moving(pair)
    mount = mount_kelpfs(pair.cluster, options=[*pair.options("require"), "slab=8M"])
    pair.connect(mount, [mount.path / name for name in moving.files])
    moving.read_meanwhile(mount)
    assert_rdma_alone(mount, MIB)


def test_volume_deleted_while_it_is_read_over_rdma_is_eio_and_others_are_served(pair, mount_kelpfs):
    doomed = put_in_doomed_volume(pair)
    mount = mount_kelpfs(pair.cluster, options=pair.options("require", timeout_s=SHORT_TIMEOUT_S))
    pair.connect(mount, [mount.path / "d/doomed", mount.path / "d/kept"])
    read_deleted_volume(pair, mount, doomed, SHORT_TIMEOUT_S * weed.SLOW)
    assert_rdma_alone(mount, len(DATA))


# A byte that has flipped in the volume file


SIZES = [100, 500 * KIB, 3 * MIB]
COPIES = 2  # either replica may be asked first


def put_flipped(pair, hosts):
    """{path: bytes} of files of which those hosts' copies have a flipped byte."""
    files = {}
    for size, copy in itertools.product(SIZES, range(COPIES)):
        name = f"flipped{next(_numbers)}"
        files[f"r/{name}"] = doors.noise(size, name)
        pair.http.put(f"/r/{name}", files[f"r/{name}"], TWO_COPIES)
        for host in hosts:
            pair.flip(host, files[f"r/{name}"], size // 2)
    return files


def test_flipped_byte_on_one_disk_is_replaced_by_the_other_replica_over_rdma(pair, mount_kelpfs):
    files = put_flipped(pair, [1])
    mount = mount_kelpfs(pair.cluster, options=pair.options("require"))
    pair.connect(mount, [mount.path / "r/good"])
    for name, data in files.items():
        assert_same((mount.path / name).read_bytes(), data, name)
    assert_rdma_alone(mount, sum(map(len, files.values())))


def test_flipped_byte_where_the_only_agent_is_is_replaced_over_http(pair, mount_kelpfs):
    files = put_flipped(pair, [1])
    mount = mount_kelpfs(pair.cluster, options=pair.options("auto", hosts=[1]))
    pair.connect(mount, [mount.path / "r/good"], hosts=[1])
    for name, data in files.items():
        assert_same((mount.path / name).read_bytes(), data, name)
    assert_same((mount.path / "r/good").read_bytes(), GOOD, "good")
    sources = reads_by_source(mount)
    assert sources["rdma"][0] > 0 and sources["http"][0] > 0 and sources["tcp"] == (0, 0)


@pytest.mark.parametrize("use", ["require", "auto"])
def test_flipped_byte_on_every_disk_is_eio_over_rdma(pair, mount_kelpfs, use):
    files = put_flipped(pair, [0, 1])
    mount = mount_kelpfs(pair.cluster, options=pair.options(use))
    pair.connect(mount, [mount.path / "r/good"])
    for name in files:
        start = time.monotonic()
        with pytest.raises(OSError) as error:
            (mount.path / name).read_bytes()
        assert error.value.errno == errno.EIO
        assert time.monotonic() - start < TIMEOUT_S * 0.8, "nobody is asked again"
    assert_same((mount.path / "r/good").read_bytes(), GOOD, "the mount works on")
    assert reads_by_source(mount)["rdma"][0] > 0

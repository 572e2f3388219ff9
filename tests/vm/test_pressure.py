"""More than an agent has room for, or usually has to do with, over RDMA: many connections at once, and staging
memory that is exhausted."""

import contextlib
import json
import os
import random
import subprocess

import pytest

import corpus as doors
import mounts
import weed
import wire
from rdma import queue_pairs, rdma, rdma_objects
from test_agent import open_files, resident_bytes
from test_content import assert_same
from test_mount_agent import at_once, read_past_caches

KIB = 1 << 10
MIB = 1 << 20
CROWD = 1000
CROWD_SANITIZED = 200  # what a sanitizer finds it finds with fewer, and sooner
CROWD_S = 600
# 352 KiB of messages, which are registered, and all else (docs/kelpd.md).
CONNECTION_BYTES = 352 * KIB + 100 * KIB
LEFT_BYTES = 4 * KIB  # of a connection that is gone: less than the least that one has
READERS = 16
READS = 4  # of each
# Staging memory is taken in powers of two and a page: two of the latter do not fit into 1 MiB.
LENGTHS = [4 * KIB, 300 * KIB]


def metrics(port):
    return json.loads(wire.Http(port).get("/stats"))


# Many connections


def held(agent):
    """What connections take of the kernel."""
    kinds = {kind: rdma_objects(agent.pid, kind) for kind in ("qp", "cq", "mr", "pd", "cm_id")}
    return dict(kinds, files=open_files(agent))


@contextlib.contextmanager
def crowd(agent, fid, size):
    """That many connections to an agent are there, and there was a read over each."""
    command = [mounts.bin_dir() / "rdma_crowd", os.environ["KELP_VM_ADDR"], str(agent.port), str(size), fid]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env=mounts.command_env()) as process:
        try:
            assert process.stdout.readline() == f"{size} of {size} served\n"
            yield
            process.stdin.close()
            assert process.wait(CROWD_S) == 0
        finally:
            process.kill()


def test_many_connections_at_once_are_served_and_leave_nothing(corpus, cluster, start_agent):
    size = CROWD_SANITIZED if mounts.sanitized() else CROWD
    fid = corpus.needle(doors.noise(100 * KIB, "crowd"))
    status = weed.free_port()
    # On a slow machine some may be made twice, and the first ones end later.
    agent = start_agent(cluster, "--status", str(status), "--max-connections", str(2 * CROWD))
    with crowd(agent, fid, 1):  # some things are there from the first connection on
        without = {kind: n - 1 for kind, n in held(agent).items()}
        before_bytes = resident_bytes(agent)
    weed.wait_until(lambda: queue_pairs(agent.pid) == 0, "the agent lets go of the first connection")
    with crowd(agent, fid, size):
        weed.wait_until(lambda: held(agent) == {kind: n + size for kind, n in without.items()}, "all are there")
        each_bytes = (resident_bytes(agent) - before_bytes) / (size - 1)
        print(f"{size} connections, {each_bytes / KIB:.0f} KiB each")
        assert metrics(status)["kelpd_sessions"] == size
        assert mounts.sanitized() or each_bytes < CONNECTION_BYTES
    weed.wait_until(lambda: held(agent) == without, "the agent lets go of all connections")
    counted = metrics(status)
    assert (counted["kelpd_sessions"], counted["kelpd_staging_bytes"], counted["kelpd_leases"]) == (0, 0, 0)
    if not mounts.sanitized():
        weed.wait_until(lambda: resident_bytes(agent) - before_bytes < size * LEFT_BYTES, "their memory is given back")


# Staging memory


class Pressed:
    """A mount that reads a file through an agent with little staging memory."""

    def __init__(self, mount, agent, status, path, data):
        self.mount, self.agent, self.status = mount, agent, status
        self.path, self.data = mount.path / path, data

    def read(self, length, chance=random):
        offset = chance.randrange(len(self.data) - length)
        assert_same(read_past_caches(self.path, offset, length), self.data[offset:offset + length],
                    f"[{offset}, +{length})")

    def bytes_by_source(self):
        return self.mount.stats()["kelpfs_source_bytes_total"]

    def read_by(self, length):
        """The sources of one read that has the agent for itself."""
        before = self.bytes_by_source()
        self.read(length)
        after = self.bytes_by_source()
        return {source for source in after if after[source] > before[source]}

    def await_rdma(self, length):
        weed.wait_until(lambda: self.read_by(length) == {"rdma"}, f"{length} bytes come over RDMA", every_s=0.2)

    def counters(self):
        return metrics(self.status)


@pytest.fixture
def pressed(cluster, start_agent, mount_kelpfs):
    data = doors.noise(24 * MIB, "pressure")
    wire.Http(cluster.filer_port).put("/pressure/data.bin", data, "maxMB=4")
    status = weed.free_port()
    agent = start_agent(cluster, "--status", str(status), "--staging", "1M")
    return Pressed(mount_kelpfs(cluster, options=[*rdma(agent), "slab=16M"]), agent, status, "pressure/data.bin", data)


def test_reads_for_which_the_agent_has_no_staging_memory_come_from_elsewhere_at_once(pressed):
    """Each could be leased, were there no others. None fails, and when they are over RDMA is used as before."""

    def read_some(number):
        chance = random.Random(number)
        for _ in range(READS):
            pressed.read(chance.choice(LENGTHS), chance)

    def refused():
        # Where a busy machine is too slow for so many readers, connections are given up, and rested.
        pressed.await_rdma(LENGTHS[-1])
        before = pressed.bytes_by_source()
        at_once(READERS, read_some)
        after = pressed.bytes_by_source()
        used = {source for source in after if after[source] > before[source]}
        return pressed.counters()["kelpd_staging_refusals_total"] > 0 and used > {"rdma"}

    weed.wait_until(refused, "more is asked for than there is room")
    counted = pressed.counters()
    assert counted["kelpd_staging_max_bytes"] == MIB
    assert counted["kelpd_reads_total"]["no staging memory now"] > 0
    for length in LENGTHS:
        pressed.await_rdma(length)
    weed.wait_until(lambda: pressed.counters()["kelpd_staging_bytes"] == 0, "no answer waits any more")

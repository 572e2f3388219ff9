"""A kelpd that lies over RDMA (lying_kelpd.c) under a real mount: the bytes are right, since others are
asked; no read takes longer than it may; counters say what happened."""

import os
import random
import time

import pytest

import corpus as doors
import mounts
import weed
import wire
from rdma import RdmaAgent, rdma
from test_mount_agent import at_once, read_past_caches, reads_by_source

pytestmark = pytest.mark.one_build

KIB = 1 << 10
MIB = 1 << 20
BOUND_S = 120  # more than the time limit of one request
DATA = doors.noise(8 * MIB, "lies")
# What is leased is pulled; smaller answers come in the message.
LEASED, IN_MESSAGE = (256 * KIB, MIB), (4 * KIB,)
# Nothing that came with one of these may be used.
LIES = {
    "number": LEASED + IN_MESSAGE, "longer": LEASED + IN_MESSAGE, "shorter": LEASED + IN_MESSAGE,
    "needle's length": LEASED + IN_MESSAGE, "checksum": LEASED + IN_MESSAGE, "no checksum": LEASED + IN_MESSAGE,
    "key": LEASED, "address": LEASED,
}
# These may be borne.
BOASTS = ["lease time", "no room", "endless room", "credits"]


@pytest.fixture(scope="module")
def path(cluster):
    wire.Http(cluster.filer_port).put("/lies/data.bin", DATA, "maxMB=4")
    return "lies/data.bin"


@pytest.fixture
def lying_agent(request, build, cluster, work_dir):
    agent = RdmaAgent(work_dir, cluster, env={"KELPD_LIE": request.param}, program=mounts.bin_dir() / "lying_kelpd")
    yield agent
    agent.end()


class Reads:
    """Checked ranges of the file, of some sizes."""

    def __init__(self, path, sizes, seed=0):
        self.path, self.sizes, self.random = path, sizes, random.Random(seed)

    def read(self):
        length = self.random.choice(self.sizes)
        offset = self.random.randrange(0, len(DATA) - length, 256 * KIB)  # no small piece of it is left over
        begun = time.monotonic()
        assert read_past_caches(self.path, offset, length) == DATA[offset:offset + length], f"[{offset}, +{length})"
        assert time.monotonic() - begun < BOUND_S


def count(mount, name, source="rdma"):
    return mount.stats()[f"kelpfs_source_{name}_total"][source]


@pytest.mark.parametrize("lying_agent, sizes", LIES.items(), ids=LIES, indirect=["lying_agent"])
def test_lies_are_not_believed_and_others_are_asked(cluster, lying_agent, path, sizes, mount_kelpfs):
    mount = mount_kelpfs(cluster, options=[*rdma(lying_agent), "slab=8M"])
    reads = Reads(mount.path / path, sizes)

    def lied_to():
        reads.read()
        return count(mount, "failures") > 0

    weed.wait_until(lied_to, "a lie over RDMA")
    at_once(4, lambda number: [Reads(mount.path / path, sizes, number).read() for _ in range(5)])
    sources = reads_by_source(mount)
    assert sources["rdma"][1] == 0, "what a liar sent was used"
    assert sources["tcp"][1] + sources["http"][1] > MIB


@pytest.mark.parametrize("lying_agent", BOASTS, indirect=True)
def test_boasts_do_no_harm(cluster, lying_agent, path, mount_kelpfs):
    mount = mount_kelpfs(cluster, options=[*rdma(lying_agent), "slab=8M"])
    reads = Reads(mount.path / path, LEASED + IN_MESSAGE)

    def asked():
        reads.read()
        return count(mount, "failures") + count(mount, "reads") > 0

    weed.wait_until(asked, "reads over RDMA")
    at_once(4, lambda number: [Reads(mount.path / path, reads.sizes, number).read() for _ in range(8)])

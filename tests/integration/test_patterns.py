"""What readers of each pattern are given: the right bytes, ahead of them where it can be foretold, and no others."""

import mmap
import os
import random
import subprocess
import time

import pytest

import corpus as doors
import wire
from test_content import assert_same

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="judged by kelpfs's counters")

KIB = 1 << 10
MIB = 1 << 20
FILE_BYTES = 48 * MIB
STEP = 256 * KIB
PIECE = MIB  # a block, with this slab
OPTIONS = ["slab=64M", "agent=off"]  # the file fits, so that nothing is asked for twice for want of memory
AHEAD_SHARE_MIN = 0.5  # of the bytes that were read
ASKED_SHARE_MAX = 1.1
LOOK_AGAIN_S = 0.01


@pytest.fixture(scope="module")
def content(cluster):
    data = doors.noise(FILE_BYTES, "patterns")
    wire.Http(cluster.filer_port).put("/patterns/file", data, "maxMB=4")
    return data


class Reader:
    """Of the file, on one handle, who lets the readahead finish after each step: what comes ahead is then no
    matter of how fast the machine is."""

    def __init__(self, mount, data, flags):
        self.mount = mount
        self.path = mount.path / "patterns/file"
        self.data = data
        self.fd = os.open(self.path, os.O_RDONLY | flags)
        self.buffer = memoryview(mmap.mmap(-1, MIB))  # of whole pages, so that a read is one request
        self.read_bytes = 0
        self.before = self.counted()

    def counted(self):
        stats = self.mount.stats()
        return {"begun": stats["kelpfs_readahead_bytes_total"], "ahead": stats["kelpfs_readahead_used_bytes_total"],
                "asked": stats["kelpfs_source_bytes_total"]["http"]}

    def settle(self, look_again_s):
        last = None
        while (now := self.counted()) != last:
            last = now
            time.sleep(look_again_s)

    def read(self, offset, length):
        into = self.buffer[:length]
        assert os.preadv(self.fd, [into], offset) == length
        assert_same(bytes(into), self.data[offset:offset + length], f"{length} at {offset}")
        self.read_bytes += length

    def step(self, offset, length=STEP, look_again_s=LOOK_AGAIN_S):
        self.read(offset, length)
        self.settle(look_again_s)

    def shares(self):
        """Of the bytes that were read: what came ahead, and what servers were asked for."""
        now = self.counted()
        return [(now[what] - self.before[what]) / self.read_bytes for what in ("ahead", "asked")]

    def assert_came_ahead(self):
        ahead, asked = self.shares()
        assert ahead >= AHEAD_SHARE_MIN and asked <= ASKED_SHARE_MAX


@pytest.fixture
def open_file(cluster, content, mount_kelpfs):
    """Factory: open_file(flags, options of the mount)."""
    made = []

    def make(flags=os.O_DIRECT, options=()):
        made.append(Reader(mount_kelpfs(cluster, options=[*OPTIONS, *options]), content, flags))
        return made[-1]

    yield make
    for reader in made:
        os.close(reader.fd)


def test_bytes_come_ahead_of_who_reads_forward(open_file):
    reader = open_file()
    for offset in range(0, FILE_BYTES, STEP):
        reader.step(offset)
    reader.assert_came_ahead()


def test_bytes_come_ahead_of_who_reads_backward(open_file):
    reader = open_file()
    for offset in reversed(range(0, FILE_BYTES, STEP)):
        reader.step(offset)
    reader.assert_came_ahead()


@pytest.mark.parametrize("stride", [3 * PIECE, -3 * PIECE])
def test_bytes_come_ahead_of_who_reads_in_strides(open_file, stride):
    reader = open_file()
    for offset in range(0, FILE_BYTES, abs(stride))[::1 if stride > 0 else -1]:
        reader.step(offset, PIECE, 10 * LOOK_AGAIN_S)  # no more than the next two come ahead
    reader.assert_came_ahead()


def test_bytes_come_ahead_of_four_streams_on_one_handle(open_file):
    reader = open_file()
    for offset in range(0, FILE_BYTES // 4, STEP):
        for quarter in range(4):
            reader.step(quarter * FILE_BYTES // 4 + offset)
    reader.assert_came_ahead()


def test_bytes_come_ahead_of_requests_that_overtook_each_other(open_file):
    reader = open_file()
    for offset in range(0, FILE_BYTES, 4 * STEP):
        for n in (1, 0, 3, 2):
            reader.read(offset + n * STEP, STEP)
        reader.settle(LOOK_AGAIN_S)
    reader.assert_came_ahead()


def test_bytes_come_ahead_of_the_kernels_own_readahead(open_file):
    """It sends many requests at once, and they arrive in any order."""
    reader = open_file(flags=0, options=["max_read=64K", "readahead_kb=2048"])
    for offset in range(0, FILE_BYTES, MIB):
        reader.step(offset, MIB)
    reader.assert_came_ahead()


def test_bytes_come_ahead_of_four_jobs_of_fio_on_one_file(open_file):
    """As fast as they go; that the bytes are right is seen in the page cache, where fio had them from."""
    reader = open_file(flags=0)
    subprocess.run(["fio", "--name=patterns", "--readonly", "--rw=read", "--bs=128k", "--numjobs=4", "--thread",
                    f"--filename={reader.path}", "--size=25%", "--offset_increment=25%", "--invalidate=1"], check=True,
                   stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    asked = reader.counted()["asked"]
    for offset in range(0, FILE_BYTES, MIB):
        reader.read(offset, MIB)
    assert reader.counted()["asked"] == asked, "it was not in the page cache any more"
    ahead, asked = reader.shares()
    assert ahead > 0 and asked <= ASKED_SHARE_MAX


def test_servers_are_asked_for_no_more_than_a_random_reader_wants(open_file):
    """The file's beginning is left out: who reads there is believed to go on."""
    reader = open_file()
    for offset in random.Random(5).sample(range(4 * KIB, FILE_BYTES, 4 * KIB), 600):
        reader.read(offset, 4 * KIB)
    reader.settle(LOOK_AGAIN_S)
    assert 1 <= reader.shares()[1] <= ASKED_SHARE_MAX

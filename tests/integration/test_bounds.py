"""Under load memory stays bounded, and the cache keeps what is used."""

import contextlib
import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest

import corpus as doors
import mounts
import wire
from test_content import assert_same
from test_mount_agent import bytes_sent

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs's own memory")

KIB = 1 << 10
MIB = 1 << 20
METADATA_MIB = 64  # beside the slab
READERS = 64
SLAB_MIB = 32
STREAM_BYTES = 4 * MIB
OPEN_FILES = 1000


# Memory


@pytest.fixture(scope="module")
def streams(cluster):
    filer = wire.Http(cluster.filer_port)
    data = doors.noise(STREAM_BYTES, "streams")
    for n in range(READERS):
        filer.put(f"/streams/{n}", data, "maxMB=1")
    return data


@pytest.fixture(scope="module")
def thousand(cluster):
    filer = wire.Http(cluster.filer_port)
    data = doors.noise(20_000, "thousand")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: filer.put(f"/thousand/{n}", data), range(OPEN_FILES)))
    return data


def read_streams(mount, data):
    """All at once."""

    def read(n):
        assert_same((mount.path / f"streams/{n}").read_bytes(), data, str(n))

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, range(READERS)))


def stats(mount):
    return json.loads((mount.path / ".kelpfs/stats").read_text())


def assert_bounded(mount):
    assert mount.status("VmHWM") < (SLAB_MIB + METADATA_MIB) * KIB


@pytest.mark.skipif(mounts.sanitized(), reason="a sanitizer's memory is not kelpfs's")
def test_memory_stays_bounded_with_sixty_four_streams(cluster, streams, mount_kelpfs):
    mount = mount_kelpfs(cluster, options=[f"slab={SLAB_MIB}M"])
    read_streams(mount, streams)
    assert_bounded(mount)


@pytest.fixture
def many_descriptors():
    """This program may open more than a thousand files at once."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * OPEN_FILES
    if 0 <= before[0] < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, before[1] if before[1] < 0 else max(before[1], wanted)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def open_at_once(paths):
    """Their descriptors."""
    with contextlib.ExitStack() as stack:
        opened = []
        for path in paths:
            opened.append(os.open(path, os.O_RDONLY))
            stack.callback(os.close, opened[-1])
        yield opened


def read_at_once(opened, data):
    with ThreadPoolExecutor(READERS) as pool:
        for got in pool.map(lambda fd: os.pread(fd, len(data), 0), opened):
            assert got == data


@pytest.mark.skipif(mounts.sanitized(), reason="a sanitizer's memory is not kelpfs's")
@pytest.mark.usefixtures("many_descriptors")
def test_memory_stays_bounded_with_a_thousand_open_files(cluster, thousand, mount_kelpfs):
    mount = mount_kelpfs(cluster, options=[f"slab={SLAB_MIB}M"])
    with open_at_once(mount.path / f"thousand/{n}" for n in range(OPEN_FILES)) as opened:
        read_at_once(opened, thousand)
        assert stats(mount)["kelpfs_open_files"] >= OPEN_FILES
    assert_bounded(mount)


@pytest.mark.skipif(mounts.sanitized(), reason="a sanitizer's memory is not kelpfs's")
@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.timeout(1200)  # the names may have to be stored first
def test_memory_stays_bounded_with_names_open_files_and_streams_at_once(cluster, large, thousand, streams,
                                                                        mount_kelpfs):
    """The kernel knows 100,000 names and has 1,000 files open, and meanwhile 64 streams are read."""
    mount = mount_kelpfs(cluster, options=[f"slab={SLAB_MIB}M", "attr_timeout=3600", "entry_timeout=3600"])
    with os.scandir(mount.path / "large") as entries:
        assert sum(entry.stat().st_size == 0 for entry in entries) == len(large)
    with open_at_once(mount.path / f"thousand/{n}" for n in range(OPEN_FILES)) as opened:
        read_at_once(opened, thousand)
        read_streams(mount, streams)
        read_at_once(opened, thousand)
        counted = stats(mount)
    assert counted["kelpfs_inodes"] > len(large) + OPEN_FILES, "the kernel has forgotten names: this shows nothing"
    assert counted["kelpfs_open_files"] >= OPEN_FILES
    assert counted["kelpfs_cache_evictions_total"] > 0, "the slab was never full: this shows nothing"
    assert_bounded(mount)


# What the cache keeps


@pytest.fixture(scope="module")
def own_cluster(make_cluster):
    """One whose servers' bytes are all this module's."""
    return make_cluster("bounds")


def test_reading_a_huge_file_once_leaves_the_hot_set_in_the_cache(own_cluster, mount_kelpfs):
    http = wire.Http(own_cluster.filer_port)
    hot = doors.noise(SLAB_MIB * MIB // 2, "hot")
    http.put("/hot", hot, "maxMB=4")
    piece = doors.noise(SLAB_MIB * MIB, "cold")
    for n in range(10):
        http.put(f"/cold/{n}", piece, "maxMB=4")
    mount = mount_kelpfs(own_cluster, options=[f"slab={SLAB_MIB}M", "agent=off"])
    volume = own_cluster.processes["volume0"]
    def read_hot():
        before = bytes_sent(volume)
        fd = os.open(mount.path / "hot", os.O_RDONLY | os.O_DIRECT)
        try:
            for offset in range(0, len(hot), MIB):
                assert_same(os.pread(fd, MIB, offset), hot[offset:offset + MIB], f"hot at {offset}")
        finally:
            os.close(fd)
        return bytes_sent(volume) - before
    for _ in range(4):
        read_hot()
    for n in range(10):
        assert len((mount.path / f"cold/{n}").read_bytes()) == len(piece)
    assert read_hot() <= 0.2 * len(hot)

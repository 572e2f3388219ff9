"""Under load memory stays bounded, and the cache keeps what is used."""

import contextlib
import mmap
import os
import resource
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import corpus as doors
import mounts
import wire
from test_content import assert_same

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
def open_at_once(paths, flags=0):
    """Their descriptors."""
    with contextlib.ExitStack() as stack:
        opened = []
        for path in paths:
            opened.append(os.open(path, os.O_RDONLY | flags))
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
        assert mount.stats()["kelpfs_open_files"] >= OPEN_FILES
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
        counted = mount.stats()
    assert counted["kelpfs_inodes"] > len(large) + OPEN_FILES, "the kernel has forgotten names: this shows nothing"
    assert counted["kelpfs_open_files"] >= OPEN_FILES
    assert counted["kelpfs_cache_evictions_total"] > 0, "the slab was never full: this shows nothing"
    assert_bounded(mount)


# Readahead

POOL = 32  # needles, which the deep files share: four times the slab in all
DEEP_BYTES = 4 * MIB
DEEP_APART = 96 * KIB  # where readers of one needle begin
STEP = 128 * KIB
STEPS = 5  # three show that a reader is sequential
UNREAD_SHARE = 2  # of the slab, in cache/blockcache.c


@pytest.fixture(scope="module")
def deep(cluster, work_dir):
    """The needles of OPEN_FILES files, /deep/0 and so on, each of one needle."""
    filer = wire.Http(cluster.filer_port)
    needles = [doors.noise(DEEP_BYTES, f"deep{n}") for n in range(POOL)]
    for n, data in enumerate(needles):
        filer.put(f"/deep-pool/{n}", data, "maxMB=4")
    fids = [filer.entry(f"/deep-pool/{n}")["chunks"][0]["file_id"] for n in range(POOL)]
    entries = [("/", wire.entry("deep", stat.S_IFDIR | 0o755))]
    entries += [("/deep", wire.entry(str(n), stat.S_IFREG | 0o644, DEEP_BYTES,
                                     [wire.chunk(fids[n % POOL], 0, DEEP_BYTES, 1000)])) for n in range(OPEN_FILES)]
    wire.load_entries(cluster, work_dir, entries)
    return needles


class Watch:
    """Looks at a mount's counters over and over while it is entered."""

    def __init__(self, mount):
        self.mount = mount
        self.seen = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look)

    def _look(self):
        while not self.over.is_set():
            self.seen.append(self.mount.stats())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.seen.append(self.mount.stats())


def unread_bytes(counted):
    """Of blocks that are being fetched ahead or were, and wait for their reader."""
    return counted["kelpfs_readahead_bytes_total"] - sum(
        counted[f"kelpfs_readahead_{what}_bytes_total"] for what in ("used", "wasted"))


def read_step(opened, needles, step):
    def read(n):
        offset = n // POOL * DEEP_APART + step * STEP
        assert_same(os.pread(opened[n], STEP, offset), needles[n % POOL][offset:offset + STEP], f"{n} at {offset}")

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, range(len(opened))))


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.timeout(300)
def test_readahead_of_a_thousand_sequential_readers_stays_within_its_share_of_the_slab(cluster, deep, mount_kelpfs):
    mount = mount_kelpfs(cluster, options=[f"slab={SLAB_MIB}M"])
    paths = (mount.path / f"deep/{n}" for n in range(OPEN_FILES))
    with open_at_once(paths, os.O_DIRECT) as opened, Watch(mount) as watch:
        for step in range(STEPS):
            read_step(opened, deep, step)
    last = watch.seen[-1]
    assert last["kelpfs_readahead_bytes_total"] > SLAB_MIB * MIB, "too little was read ahead: this shows nothing"
    assert last["kelpfs_readahead_used_bytes_total"] > 0
    assert max(map(unread_bytes, watch.seen)) <= SLAB_MIB * MIB / UNREAD_SHARE
    assert max(counted["kelpfs_slab_used_bytes"] for counted in watch.seen) <= SLAB_MIB * MIB
    if not mounts.sanitized():
        assert_bounded(mount)


# What the cache keeps


HOT_SLAB_BYTES = 16 * MIB
HUGE_BYTES = 10 * HOT_SLAB_BYTES
HOT_READ_BYTES = MIB
HOT_SHARE_MIN = 0.8


@pytest.fixture(scope="module")
def huge(cluster):
    """A file of ten times the slab, and one of half of it."""
    filer = wire.Http(cluster.filer_port)
    data = {"huge": doors.noise(HUGE_BYTES, "huge"), "hot": doors.noise(HOT_SLAB_BYTES // 2, "hot")}
    for name, content in data.items():
        filer.put(f"/bounds-{name}", content, "maxMB=4")
    return data


def read_past_the_page_cache(path, data):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, HOT_READ_BYTES) as buffer:
            for offset in range(0, len(data), HOT_READ_BYTES):
                assert os.preadv(fd, [buffer], offset) == HOT_READ_BYTES
                assert_same(buffer[:], data[offset:offset + HOT_READ_BYTES], f"{path} at {offset}")
    finally:
        os.close(fd)


def bytes_from(mount):
    """(bytes that reads found in the cache, bytes that came from elsewhere)"""
    counted = mount.stats()["kelpfs_source_bytes_total"]
    return counted["cache"], sum(n for source, n in counted.items() if source != "cache")


def test_reading_a_huge_file_once_leaves_the_hot_set_in_the_cache(cluster, huge, mount_kelpfs):
    mount = mount_kelpfs(cluster, options=[f"slab={HOT_SLAB_BYTES}", "agent=off"])
    for _ in range(4):
        read_past_the_page_cache(mount.path / "bounds-hot", huge["hot"])
    elsewhere = bytes_from(mount)[1]
    read_past_the_page_cache(mount.path / "bounds-huge", huge["huge"])
    assert bytes_from(mount)[1] - elsewhere >= HUGE_BYTES, "the huge file was in the cache: this shows nothing"

    cached, elsewhere = bytes_from(mount)
    read_past_the_page_cache(mount.path / "bounds-hot", huge["hot"])
    now = bytes_from(mount)
    assert now[0] - cached >= HOT_SHARE_MIN * len(huge["hot"])
    assert now[1] - elsewhere <= (1 - HOT_SHARE_MIN) * len(huge["hot"])

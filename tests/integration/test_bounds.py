"""Under load memory stays bounded, the cache keeps what is used, and the bytes stay right."""

import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

import corpus as doors
import mounts
import wire
from test_agent import Agent
from test_content import assert_same
from test_mount_agent import bytes_sent, require

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs's own memory")

KIB = 1 << 10
MIB = 1 << 20
METADATA_MIB = 64  # beside the slab
READERS = 64
DOORS = ("filer_put", "filer_compressed_text", "filer_offset_writes", "s3_multipart", "mount_random_writes", "manifest",
         "overlapping_chunks", "trimmed_chunks")
SETTINGS = {
    "small slab": ["slab=8M"],
    "small slab, splice": ["slab=8M", "splice=on"],
    "small slab, nothing ahead": ["slab=8M", "readahead=0"],
    "small slab, small reads": ["slab=8M", "max_read=131072", "direct_io"],
}


@pytest.fixture(scope="module")
def agent(cluster, work_dir):
    agent = Agent(work_dir, "--dir", cluster.work_dir / "volume0")
    yield agent
    agent.end()


@pytest.fixture(scope="module")
def all_files(cluster, corpus):
    """[(path in the namespace, bytes)] of several doors of the shared cluster: far more than a small slab."""
    opened = [corpus(door) for door in DOORS]
    return [(f"{o.directory}/{name}".lstrip("/"), data) for o in opened if o.filer == cluster.filer
            for name, data in o.files.items()]


def at_random(mount, files, readers=READERS, reads=12):
    """So many readers at once, each of random ranges of random files, half of them past the page cache."""

    def read(number):
        source = random.Random(number)
        for _ in range(reads):
            name, data = source.choice(files)
            fd = os.open(mount.path / name, os.O_RDONLY | source.choice((0, os.O_DIRECT)))
            try:
                offset, length = source.randrange(len(data) + 1), source.choice((100, 4 * KIB, 128 * KIB, MIB))
                assert_same(os.pread(fd, length, offset), data[offset:offset + length], f"{name} [{offset}, +{length})")
            finally:
                os.close(fd)

    with ThreadPoolExecutor(readers) as pool:
        list(pool.map(read, range(readers)))


@pytest.mark.parametrize("way", ["http", "agent"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_sixty_four_readers_at_random_read_right(cluster, all_files, agent, mount_kelpfs, setting, way):
    options = [*SETTINGS[setting], *(require(agent) if way == "agent" else ["agent=off"])]
    at_random(mount_kelpfs(cluster, options=options), all_files)


# Memory

SLAB_MIB = 32
STREAM_BYTES = 4 * MIB


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
        list(pool.map(lambda n: filer.put(f"/thousand/{n}", data), range(1000)))
    return data


def assert_bounded(mount):
    assert mount.status("VmHWM") < (SLAB_MIB + METADATA_MIB) * KIB


@pytest.mark.skipif(mounts.sanitized(), reason="a sanitizer's memory is not kelpfs's")
def test_memory_stays_bounded_with_sixty_four_streams(cluster, streams, mount_kelpfs):
    mount = mount_kelpfs(cluster, options=[f"slab={SLAB_MIB}M"])

    def stream(n):
        assert_same((mount.path / f"streams/{n}").read_bytes(), streams, str(n))

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(stream, range(READERS)))
    assert_bounded(mount)


@pytest.mark.skipif(mounts.sanitized(), reason="a sanitizer's memory is not kelpfs's")
def test_memory_stays_bounded_with_a_thousand_open_files(cluster, thousand, mount_kelpfs):
    """More than this program may open at once, perhaps: then with as many as that."""
    mount = mount_kelpfs(cluster, options=[f"slab={SLAB_MIB}M"])
    opened = []
    try:
        for n in range(900):
            opened.append(os.open(mount.path / f"thousand/{n}", os.O_RDONLY))
        with ThreadPoolExecutor(READERS) as pool:
            for got in pool.map(lambda fd: os.pread(fd, len(thousand), 0), opened):
                assert got == thousand
    finally:
        for fd in opened:
            os.close(fd)
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

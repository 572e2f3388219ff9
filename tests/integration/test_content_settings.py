"""Every byte reads back in every setting of the data path, each shown to be in force by what was counted."""

import fcntl
import itertools
import os
import random
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sidecar
import weed
from test_agent import Agent
from test_content import DOORS, assert_same, ranges
from test_mount_agent import require

pytestmark = [
    pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs's own settings"),
    pytest.mark.sanitized,
    pytest.mark.timeout(1800),  # the first has the whole corpus written, and an SSD tier filled
]

KIB = 1 << 10
MIB = 1 << 20
SLAB_BYTES = 8 * MIB
BLOCK_BYTES = 128 * KIB  # with that slab
SLAB_BLOCKS = SLAB_BYTES // BLOCK_BYTES  # an eighth of them is set aside for reads around the cache
# So that no server is given up, however slow sanitizers and the machine are.
PATIENT = ("timeout=100", "stall_timeout=30")
RESERVED = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
RESERVED_PAGES = 64  # others may take some
READERS = 64  # as many at once as there are blocks
WAYS = ("http", "agent")
SPLICE = ("splice=on", "splice=off")
SETTINGS = list(itertools.product(WAYS, SPLICE, ("no ssd", "cold ssd", "warm ssd")))
# Each of their blocks is asked for once by who reads them from beginning to end in steps of a block.
DOORS_OF_PLAIN_BLOCKS = ("filer_post_form", "filer_put", "filer_small_chunks", "mount_renames", "mount_truncates")


@pytest.fixture(scope="module")
def agent(cluster, work_dir):
    agent = Agent(work_dir, "--dir", cluster.work_dir / "volume0")
    yield agent
    agent.end()


@pytest.fixture(scope="module")
def everything(corpus):
    """{filer: [(path in its namespace, bytes)]} of all doors: far more than the slab."""
    files = {}
    for opened in map(corpus, DOORS):
        files.setdefault(opened.filer, []).extend((f"{opened.directory}/{name}".lstrip("/"), data)
                                                  for name, data in opened.files.items())
    assert sum(len(data) for of_one in files.values() for _, data in of_one) > 10 * SLAB_BYTES
    return files


def below(mounted, everything):
    """[(path, bytes)] of everything in those mounts, one of each filer."""
    return [(mount.path / name, data) for mount, files in zip(mounted, everything.values(), strict=True)
            for name, data in files]


def read_whole(path, data):
    assert_same(path.read_bytes(), data, path.name)


class Counts(Counter):
    """What mounts counted, together: by name without "kelpfs_" and "_total", and label. And what they have
    written: to the kernel, for the most part. What is spliced is not among that."""

    def __init__(self, mounted):
        super().__init__()
        for mount in mounted:
            for name, value in mount.stats().items():
                name = name.removeprefix("kelpfs_").removesuffix("_total")
                for label, number in (value if isinstance(value, dict) else {"": value}).items():
                    if isinstance(number, (int, float)):
                        self[f"{name} {label}".strip()] += number
            self["written"] += mount.bytes_written()

    def assert_way(self, way):
        """All that came from the cluster came that way."""
        for name, which in (("source_bytes http", "http"), ("source_bytes tcp", "agent")):
            assert (self[name] > 0) == (way == which), self
        assert self["source_bytes filer"] == 0, self

    def assert_splice(self, splice):
        """Holes are not spliced, nor what is smaller than two pages, nor what found no room in the slab."""
        if splice == "splice=on":
            assert self["written"] < 0.8 * self["read_bytes"], self
        else:
            assert self["written"] >= self["read_bytes"], self

    def assert_tier(self, tier):
        if tier == "no ssd":
            assert not any(self[name] for name in ("ssd_on", "ssd_hits", "ssd_misses")), self
        elif tier == "cold ssd":
            assert self["ssd_misses"] > 0 and self["ssd_written_bytes"] > 0, self
        else:
            assert self["ssd_hits"] > 0 and self["source_bytes ssd"] > self["read_bytes"] / 2, self
        assert self["ssd_corrupt"] == 0, self


@pytest.fixture(scope="module")
def warm_dir(everything, work_dir, _mount_factory):
    """Of an SSD tier that has all that it ever gets: what a slow disk dropped comes the next time."""
    path = work_dir / "warm-ssd"
    for _ in range(10):
        mounted = [_mount_factory(filer, ["agent=off", f"cache_dir={path}", *PATIENT]) for filer in everything]
        for file, data in below(mounted, everything):
            read_whole(file, data)
        written = Counts(mounted)["ssd_written_bytes"]
        for mount in mounted:
            mount.end()
        if not written:
            break
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=SETTINGS, ids=", ".join)
def files(request, everything, agent, tmp_path, mount_kelpfs):
    """[(path, bytes)] of everything, with a slab of which little stays, in that setting; afterwards the mounts
    have to have counted what only that setting makes."""
    way, splice, tier = request.param
    options = [f"slab={SLAB_BYTES}", "threads=64", splice, *PATIENT, *(require(agent) if way == "agent" else ["agent=off"])]
    if tier != "no ssd":
        cache_dir = request.getfixturevalue("warm_dir") if tier == "warm ssd" else tmp_path / "ssd"
        options.append(f"cache_dir={cache_dir}")
    mounted = [mount_kelpfs(filer, options=options) for filer in everything]
    yield below(mounted, everything)
    counts = Counts(mounted)
    shutil.rmtree(tmp_path / "ssd", ignore_errors=True)
    assert counts["slab_bytes"] == SLAB_BYTES * len(mounted)
    assert counts["cache_evictions"] > SLAB_BLOCKS / 2, counts
    counts.assert_way(way)
    counts.assert_splice(splice)
    counts.assert_tier(tier)


def test_whole_files_read_back_in_every_setting(files):
    for path, data in files:
        read_whole(path, data)


def read_ranges(path, data, flags, wanted):
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        for offset, length in wanted:
            assert_same(os.pread(fd, length, offset), data[offset:offset + length],
                        f"{path.name} [{offset}, +{length})")
    finally:
        os.close(fd)


@pytest.mark.parametrize("flags", [os.O_DIRECT, 0], ids=["direct", "buffered"])
def test_random_ranges_read_back_in_every_setting(files, flags):
    for path, data in files:
        read_ranges(path, data, flags, ranges(len(data), 8, path.name))


def test_sixty_four_readers_at_random_read_right_in_every_setting(files):
    """Half of them past the page cache."""

    def read(number):
        source = random.Random(number)
        for _ in range(12):
            path, data = source.choice(files)
            length = source.choice((100, 4 * KIB, 128 * KIB, MIB))
            read_ranges(path, data, source.choice((0, os.O_DIRECT)), [(source.randrange(len(data) + 1), length)])

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, range(READERS)))


@pytest.fixture
def huge_pages():
    """Reserved. They are the whole machine's, so one test at a time has them."""
    if not os.access(RESERVED, os.W_OK):
        pytest.skip("huge pages cannot be reserved here")
    with open(RESERVED) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = int(RESERVED.read_text())
        try:
            RESERVED.write_text(f"{before + RESERVED_PAGES}")
            if int(RESERVED.read_text()) < before + RESERVED_PAGES // 2:
                pytest.skip("this machine has no huge pages to give")
            yield
        finally:
            RESERVED.write_text(f"{before}")


@pytest.mark.parametrize("splice", SPLICE)
def test_slab_reads_right_where_huge_pages_are_reserved(everything, huge_pages, mount_kelpfs, splice):
    """The kernel cannot splice from them, so they are not used where that is asked for."""
    options = [f"slab={SLAB_BYTES}", "threads=64", "agent=off", splice, *PATIENT]
    mounted = [mount_kelpfs(filer, options=options) for filer in everything]
    for path, data in below(mounted, everything):
        read_ranges(path, data, os.O_DIRECT, ranges(len(data), 8, path.name))
        read_whole(path, data)
    counts = Counts(mounted)
    if splice == "splice=off":
        assert all("slab 8 MiB in pages of 2048 KiB" in mount.log_text() for mount in mounted)
        assert counts["slab_page_bytes"] == 2 * MIB * len(mounted)
    counts.assert_splice(splice)


@pytest.fixture
def reserved_are_the_only_huge_pages(huge_pages):
    mode = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    if mode.exists() and not any(word in mode.read_text() for word in ("[never]", "[deny]")):
        pytest.skip("the kernel gives huge pages unasked here")


def test_reserved_huge_pages_can_be_left_to_others(corpus, reserved_are_the_only_huge_pages, mount_kelpfs):
    opened = corpus("filer_put")
    mount = mount_kelpfs(opened.filer, opened.directory, options=[f"slab={SLAB_BYTES}", "huge_pages=off"])
    for name, data in opened.files.items():
        read_whole(mount.path / name, data)
    assert "slab 8 MiB in pages of 2048 KiB" not in mount.log_text()
    assert Counts([mount])["slab_page_bytes"] < 2 * MIB


@pytest.mark.parametrize("use", ["auto", "off"])
def test_serve_takes_reserved_huge_pages_only_where_it_may(cluster, reserved_are_the_only_huge_pages, work_dir, use):
    serve = sidecar.Serve(work_dir, "--filer", cluster.filer, "--huge-pages", use, "--reads", "8")
    try:
        weed.wait_until(lambda: "serving on" in serve.log_text(), "what is in effect")
        assert ("slab 8 MiB in pages of 2048 KiB" in serve.log_text()) == (use == "auto")
    finally:
        serve.end()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("splice", SPLICE)
def test_readers_read_right_when_every_access_evicts(corpus, agent, mount_kelpfs, splice, way):
    """Nothing is read ahead, each read of the kernel is of one block, which is not there any more: all the
    others were read since. As many are in use at once as there are."""
    opened = [corpus(door) for door in DOORS_OF_PLAIN_BLOCKS]
    mount = mount_kelpfs(opened[0].filer, options=[
        f"slab={SLAB_BYTES}", "threads=64", "readahead=0", "direct_io", f"max_read={BLOCK_BYTES}", splice, *PATIENT,
        *(require(agent) if way == "agent" else ["agent=off"])])
    pieces = [(mount.path / f"{o.directory}/{name}".lstrip("/"), data, start) for o in opened
              for name, data in o.files.items() for start in range(0, len(data), MIB)]

    def read(piece):
        """Only the first block of it may seem to be read at random, and is not kept then."""
        path, data, start = piece
        read_ranges(path, data, 0, ((at, BLOCK_BYTES) for at in range(start, start + MIB, BLOCK_BYTES)))

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, pieces * 4))
    counts = Counts([mount])
    found = counts["cache_hits"] + counts["cache_waits"]
    asked_for = found + counts["cache_misses"]
    assert asked_for > 10 * SLAB_BLOCKS and found < asked_for / 4, counts
    assert counts["cache_evictions"] > asked_for / 2, counts
    counts.assert_way(way)
    counts.assert_splice(splice)

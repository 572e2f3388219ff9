"""The SSD tier: file data survives the mount, and whatever happens to the disk, reads are right."""

import contextlib
import os
import random
import re
import shutil
import subprocess
import threading

import pytest

import corpus as doors
import mounts
import weed
import wire
from test_content import DOORS, assert_same

MIB = 1 << 20
SEGMENT = 16 * MIB  # what the tier takes and gives back at a time
DATA = doors.noise(40 * MIB, "ssd")
SMALL = {f"small{i}": doors.noise(1 + i * 997, f"ssd{i}") for i in range(20)}
pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs alone")


@pytest.fixture(scope="module")
def stored(cluster):
    http = wire.Http(cluster.filer_port)
    http.put("/ssd/big", DATA, "maxMB=4")
    for name, data in SMALL.items():
        http.put(f"/ssd/{name}", data)
    return cluster


@pytest.fixture
def cache_dir(tmp_path):
    path = tmp_path / "cache"
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def mount(stored, cache_dir, mount_kelpfs):
    """Factory: a mount with the tier in cache_dir."""

    def make(*options, directory=None):
        return mount_kelpfs(stored, "/ssd", options=[f"cache_dir={directory or cache_dir}", *options])

    return make


def read_all(path):
    assert_same((path / "big").read_bytes(), DATA, "big")
    for name, data in SMALL.items():
        assert_same((path / name).read_bytes(), data, name)


def sources(mounted):
    """Ends the mount. {source: bytes} that it read from each."""
    mounted.unmount()
    line = mounted.log_text().split("reads by source: ")[-1]
    return {name: int(n) for name, n in re.findall(r"(\w+) \d+ \((\d+) bytes\)", line)}


def only_from_disk(got):
    """Some may have been read twice: by a reader, and by the readahead right behind it."""
    return got["ssd"] > 0 and sum(got.values()) == got["ssd"]


def warm_up(mount, *options):
    """Everything in the cache: what a slow disk dropped comes the next time."""
    for _ in range(10):
        mounted = mount(*options)
        read_all(mounted.path)
        if only_from_disk(sources(mounted)):
            return
    pytest.fail("never all of it in the cache")


def size_on_disk(path):
    return sum(p.stat().st_blocks * 512 for p in path.iterdir())


def turned_off(mounted):
    return mounted.log_text().count("is not used any more")


# --- it is there again


def test_what_was_read_comes_from_the_disk_after_a_remount(mount):
    warm_up(mount)
    mounted = mount()
    read_all(mounted.path)
    got = sources(mounted)
    assert got["ssd"] >= len(DATA) + sum(map(len, SMALL.values()))
    assert only_from_disk(got), got


def test_random_reads_come_from_the_disk_too(mount):
    warm_up(mount)
    mounted = mount("readahead=0")
    source = random.Random(5)
    fd = os.open(mounted.path / "big", os.O_RDONLY | os.O_DIRECT)
    try:
        for _ in range(200):
            offset = source.randrange(len(DATA) // 4096) * 4096
            assert_same(os.pread(fd, 4096, offset), DATA[offset:offset + 4096], f"at {offset}")
    finally:
        os.close(fd)
    got = sources(mounted)
    assert got["ssd"] == 200 * 4096, got
    assert only_from_disk(got), got


def test_small_files_of_a_walk_come_from_the_disk_too(stored, cache_dir, mount_kelpfs):
    http = wire.Http(stored.filer_port)
    files = {f"f{i:03}": doors.noise(3000 + i, f"walk{i}") for i in range(120)}
    for name, data in files.items():
        http.put(f"/ssd-walk/{name}", data)
    for _ in range(5):
        mounted = mount_kelpfs(stored, "/ssd-walk", options=[f"cache_dir={cache_dir}"])
        for name in sorted(os.listdir(mounted.path)):
            assert_same((mounted.path / name).read_bytes(), files[name], name)
        got = sources(mounted)
        if only_from_disk(got):
            break
    assert got["ssd"] >= sum(map(len, files.values()))
    assert only_from_disk(got), got


@pytest.mark.parametrize("door", DOORS)
def test_every_kind_of_file_reads_back_twice(door, corpus, cache_dir, mount_kelpfs):
    opened = corpus(door)
    for _ in range(2):
        mounted = mount_kelpfs(opened.filer, opened.directory, options=[f"cache_dir={cache_dir}", "slab=8M"])
        for name, data in opened.files.items():
            assert_same((mounted.path / name).read_bytes(), data, name)
        mounted.unmount()


def test_compressed_chunks_are_kept_decoded(stored, mount, cache_dir):
    text = doors.prose(3 * MIB, "ssd")
    wire.Http(stored.filer_port).put("/ssd/prose.txt", text, headers={"Content-Type": "text/plain"})
    for _ in range(5):
        mounted = mount()
        assert_same((mounted.path / "prose.txt").read_bytes(), text, "prose.txt")
        got = sources(mounted)
        if only_from_disk(got):
            break
    assert got["ssd"] >= len(text)
    assert only_from_disk(got), got


def test_encrypted_chunks_are_not_on_the_disk(stored, corpus, cache_dir, mount_kelpfs):
    corpus("filer_encrypted")
    http = wire.Http(corpus.other_filer("encrypting", "-encryptVolumeData"))
    secret = b"nobody may find this on a stolen disk" * 4096
    http.put("/ssd-secret", secret)
    for _ in range(2):
        mounted = mount_kelpfs(f"{weed.HOST}:{http.port}", options=[f"cache_dir={cache_dir}"])
        assert_same((mounted.path / "ssd-secret").read_bytes(), secret, "ssd-secret")
        assert sources(mounted)["ssd"] == 0
    for path in cache_dir.iterdir():
        assert b"stolen disk" not in path.read_bytes()


# --- crashes and damage


def test_killed_while_writing(stored, cache_dir, work_dir, _mount_factory, mount):
    for i in range(4):
        mounted = _mount_factory(f"{stored.filer}/ssd", [f"cache_dir={cache_dir}"],
                                 mountpoint=work_dir / "mnt" / f"ssd-killed{i}")
        try:
            before = records(cache_dir)
            reader = threading.Thread(target=_read, args=(mounted.path / "big",))
            reader.start()
            weed.wait_until(lambda: records(cache_dir) > before or not reader.is_alive(), "blocks to be written")
            mounted.process.kill()
            reader.join()
        finally:
            mounted.abandon()
    mounted = mount()
    read_all(mounted.path)
    assert sources(mounted)["ssd"] > 0


def records(cache_dir):
    """How many blocks the index has, while there is one segment only."""
    return max((p.stat().st_size - 4096 - 64 for p in cache_dir.glob("*.index")), default=0) // 64


def _read(path):
    with contextlib.suppress(OSError):
        path.read_bytes()


def damage(path, every):
    """One wrong byte in each so many."""
    source = random.Random(every)
    with open(path, "r+b") as f:
        for start in range(0, path.stat().st_size, every):
            f.seek(start + source.randrange(every))
            byte = f.read(1)
            if byte:
                f.seek(-1, os.SEEK_CUR)
                f.write(bytes([byte[0] ^ 1 << source.randrange(8)]))


@pytest.mark.parametrize("suffix, every", [("data", 4096), ("data", 3 * MIB), ("index", 256), ("index", 5)])
def test_damage_is_found_and_read_from_the_cluster(mount, cache_dir, suffix, every):
    warm_up(mount)
    for path in cache_dir.glob(f"*.{suffix}"):
        damage(path, every)
    mounted = mount()
    read_all(mounted.path)
    assert not turned_off(mounted)
    assert sources(mounted)["http"] > 0


def test_files_cut_under_a_mount(mount, cache_dir):
    warm_up(mount)
    mounted = mount()
    for path in cache_dir.iterdir():
        os.truncate(path, 100)
    read_all(mounted.path)


def test_nonsense_in_place_of_the_files(mount, cache_dir):
    warm_up(mount)
    for path in cache_dir.iterdir():
        path.write_bytes(os.urandom(1 * MIB))
    read_all(mount().path)


def test_directory_removed_under_a_mount(stored, mount, cache_dir):
    wire.Http(stored.filer_port).put("/ssd/more", doors.noise(3 * SEGMENT, "more"), "maxMB=4")
    mounted = mount()
    assert_same((mounted.path / "big").read_bytes(), DATA, "big")
    shutil.rmtree(cache_dir)
    assert_same((mounted.path / "more").read_bytes(), doors.noise(3 * SEGMENT, "more"), "more")
    weed.wait_until(lambda: turned_off(mounted), "the tier to be turned off")
    read_all(mounted.path)
    assert turned_off(mounted) == 1


# --- room


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 96 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    result = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=700", "none", str(path)],
                            capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"no small file system can be mounted here: {result.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_disk_is_never_filled(stored, mount, small_disk):
    http = wire.Http(stored.filer_port)
    files = {f"filler{i}": doors.noise(40 * MIB, i) for i in range(4)}
    for name, data in files.items():
        http.put(f"/ssd/{name}", data, "maxMB=4")
    for _ in range(3):
        mounted = mount("cache_size=1G", directory=small_disk)
        for name, data in files.items():
            assert_same((mounted.path / name).read_bytes(), data, name)
            disk = os.statvfs(small_disk)
            assert disk.f_bavail >= disk.f_blocks // 20
        mounted.unmount()
        assert not turned_off(mounted)
    assert size_on_disk(small_disk) > SEGMENT


def test_disk_that_others_filled(mount, small_disk):
    (small_disk / "other").write_bytes(bytes(92 * MIB))
    mounted = mount("cache_size=1G", directory=small_disk)
    read_all(mounted.path)
    assert not turned_off(mounted)
    read_all(mounted.path)


def test_cache_size_is_obeyed(stored, mount, cache_dir):
    http = wire.Http(stored.filer_port)
    http.put("/ssd/much", doors.noise(100 * MIB, "much"), "maxMB=4")
    for _ in range(3):
        mounted = mount("cache_size=64M")
        assert_same((mounted.path / "much").read_bytes(), doors.noise(100 * MIB, "much"), "much")
        mounted.unmount()
        assert size_on_disk(cache_dir) <= 64 * MIB


# --- the directory


def test_two_mounts_on_one_directory(mount):
    one, two = mount(), mount()
    readers = [threading.Thread(target=read_all, args=(m.path,)) for m in (one, two)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    read_all(one.path)
    read_all(two.path)
    assert not turned_off(one) + turned_off(two)
    one.unmount()
    two.unmount()
    for again in (mount(), mount()):  # both find what they left
        read_all(again.path)
        assert sources(again)["ssd"] > 0


def test_two_clusters_in_one_directory(make_cluster, mount, mount_kelpfs, cache_dir):
    """Both count their file ids from the beginning."""
    other = make_cluster("ssd-other")
    data = doors.noise(len(DATA), "other")
    wire.Http(other.filer_port).put("/ssd/big", data, "maxMB=4")
    warm_up(mount)
    for _ in range(2):
        mounted = mount_kelpfs(other, "/ssd", options=[f"cache_dir={cache_dir}"])
        assert_same((mounted.path / "big").read_bytes(), data, "big")
        mounted.unmount()
    assert len(list(cache_dir.glob("*.data"))) == 2
    read_all(mount().path)


def test_files_are_private(mount, cache_dir):
    mount()
    assert cache_dir.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in cache_dir.iterdir()} == {0o600}


@pytest.mark.parametrize("case, message", [
    ("open to all", "nobody else may write there"),
    ("a link", "symbolic link|Not a directory"),
    ("a file", "Not a directory"),
    ("without parent", "No such file"),
])
def test_directory_that_must_not_be_used(stored, tmp_path, case, message):
    path = tmp_path / "cache"
    if case == "open to all":
        path.mkdir()
        path.chmod(0o777)
    elif case == "a link":
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    elif case == "a file":
        path.touch()
    else:
        path = path / "deeper"
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    result = subprocess.run([mounts.kelpfs_binary(), stored.filer, mountpoint, "-f", "-o", f"cache_dir={path}"],
                            capture_output=True, text=True, timeout=60, env=mounts.command_env())
    assert result.returncode == 1
    assert re.search(f"cache_dir .*({message})", result.stderr), result.stderr
    assert not weed.mounted(mountpoint)

"""Every byte reads back as it was written, whatever wrote it and however it is read."""

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import threading

import pytest

import corpus as doors
import wire

DOORS = sorted(doors.DOORS)


@pytest.fixture(params=DOORS)
def files(request, corpus, mount_kelpfs):
    """[(path, bytes)] of one door, in a mount of its own with cold caches."""
    opened = corpus(request.param)
    mount = mount_kelpfs(opened.filer, opened.directory)
    return [(mount.path / name, data) for name, data in opened.files.items()]


def assert_same(got, wanted, what):
    """Says where the first difference is: the bytes themselves would fill the screen."""
    if len(got) != len(wanted):
        raise AssertionError(f"{what}: {len(got)} bytes instead of {len(wanted)}")
    if got != wanted:
        at = next(i for i, (a, b) in enumerate(zip(got, wanted)) if a != b)
        raise AssertionError(f"{what}: differs from byte {at} on: {got[at:at + 16].hex()} "
                             f"instead of {wanted[at:at + 16].hex()}")


def ranges(size, count, seed):
    """Random ones, those at the edges, and those across the end."""
    source = random.Random(seed)
    yield from ((0, 1), (max(0, size - 1), 1), (max(0, size - 10), 100), (size, 10), (size + 4096, 10))
    for _ in range(count):
        length = source.choice((1, 100, 4096, 65536, 131072, 1 << 20))
        yield source.randrange(size + 1), source.randint(1, length)


def test_whole_files_read_back(files):
    for path, data in files:
        assert_same(path.read_bytes(), data, path.name)


def test_sizes_are_right(files):
    assert {path.name: path.stat().st_size for path, _ in files} == {path.name: len(data) for path, data in files}


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_random_ranges_read_back(files, flags):
    for path, data in files:
        fd = os.open(path, os.O_RDONLY | flags)
        try:
            for offset, length in ranges(len(data), 40, path.name):
                assert_same(os.pread(fd, length, offset), data[offset:offset + length],
                            f"{path.name} [{offset}, +{length})")
        finally:
            os.close(fd)


READ_MAPPED = """
import hashlib, json, mmap, sys
path, ranges = sys.argv[1], json.loads(sys.argv[2])
with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
    print(json.dumps([hashlib.md5(m[offset:offset + length]).hexdigest() for offset, length in ranges]))
"""


def test_mapped_files_read_back(files):
    for path, data in files:
        if not data:
            continue  # nothing can be mapped
        wanted = [*ranges(len(data), 20, path.name), (0, len(data))]
        # A process of its own: a read that fails is a SIGBUS.
        got = subprocess.run([sys.executable, "-c", READ_MAPPED, path, json.dumps(wanted)], check=True,
                             capture_output=True).stdout
        for (offset, length), digest in zip(wanted, json.loads(got), strict=True):
            assert digest == hashlib.md5(data[offset:offset + length]).hexdigest(), f"{path} [{offset}, +{length})"


def test_eight_readers_at_once_all_read_right(files):
    errors = []

    def read(seed):
        try:
            for path, data in files:
                with open(path, "rb", buffering=0) as f:
                    for offset, length in ranges(len(data), 15, seed):
                        assert_same(os.pread(f.fileno(), length, offset), data[offset:offset + length], path.name)
                assert_same(path.read_bytes(), data, path.name)
        except (AssertionError, OSError) as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


SETTINGS = ["splice=on", "splice=off", "slab=8M", "readahead=0", "direct_io", "clone_fd", "max_read=131072",
            "verify=md5", "volume_access=proxy"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_reads_the_same_bytes(corpus, mount_kelpfs, setting):
    for door in ("s3_multipart", "mount_holes", "filer_encrypted"):
        opened = corpus(door)
        mount = mount_kelpfs(opened.filer, opened.directory, options=[setting])
        for name, data in opened.files.items():
            assert_same((mount.path / name).read_bytes(), data, f"{name} with {setting}")


@pytest.mark.parametrize("name", ["sparse.bin"])
def test_seek_finds_data_and_holes(corpus, mount_kelpfs, name):
    opened = corpus("mount_holes")
    fd = os.open(mount_kelpfs(opened.filer, opened.directory).path / name, os.O_RDONLY)
    data = opened.files[name]
    try:
        at, seen_data, seen_hole = 0, 0, 0
        while at < len(data):
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                break
            assert not any(data[at:start]), "data skipped as a hole"
            end = os.lseek(fd, start, os.SEEK_HOLE)
            assert start < end <= len(data)
            seen_hole += start - at
            seen_data += end - start
            at = end
        assert seen_hole > 10 << 20 and seen_data < 8 << 20
    finally:
        os.close(fd)


def test_seek_beyond_the_end_is_enxio(corpus, mount_kelpfs):
    opened = corpus("mount_holes")
    fd = os.open(mount_kelpfs(opened.filer, opened.directory).path / "sparse.bin", os.O_RDONLY)
    try:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with pytest.raises(OSError) as error:
                os.lseek(fd, len(opened.files["sparse.bin"]), whence)
            assert error.value.errno == errno.ENXIO
    finally:
        os.close(fd)


@pytest.fixture
def http(cluster):
    return wire.Http(cluster.filer_port)


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_open_file_keeps_its_version_when_overwritten(http, mnt, flags):
    old, new = doors.noise(6 << 20, "old"), doors.noise(6 << 20, "new")
    path = mnt / f"consistency/kept{flags}"
    http.put(f"/consistency/{path.name}", old)
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        assert os.pread(fd, 1000, 0) == old[:1000]
        http.put(f"/consistency/{path.name}", new)
        assert_same(os.pread(fd, 1000, 3 << 20), old[3 << 20:][:1000], "after the overwrite")
    finally:
        os.close(fd)


def test_new_open_sees_an_overwrite_at_once(http, mnt):
    path = mnt / "consistency/fresh"
    for generation in range(10):
        data = doors.noise(300000 + generation % 2, generation)
        http.put("/consistency/fresh", data)
        assert_same(path.read_bytes(), data, f"generation {generation}")


def test_new_open_sees_same_size_overwrite_while_an_old_handle_is_open(http, mnt):
    path = mnt / "consistency/both"
    old, new = doors.noise(100000, 1), doors.noise(100000, 2)
    http.put("/consistency/both", old)
    with open(path, "rb", buffering=0) as handle:
        assert handle.read(10) == old[:10]
        http.put("/consistency/both", new)
        assert_same(path.read_bytes(), new, "new open")


def test_new_open_sees_an_append(http, mnt):
    path = mnt / "consistency/appended"
    http.put("/consistency/appended", b"a" * 5000)
    assert path.read_bytes() == b"a" * 5000
    http.put("/consistency/appended", b"b" * 10, "op=append")
    assert_same(path.read_bytes(), b"a" * 5000 + b"b" * 10, "after the append")


def test_open_after_delete_is_enoent(http, mnt):
    path = mnt / "consistency/deleted"
    http.put("/consistency/deleted", b"x")
    assert path.read_bytes() == b"x"
    http.delete("/consistency/deleted")
    with pytest.raises(FileNotFoundError):
        path.read_bytes()


def test_unchanged_file_keeps_its_page_cache_across_opens(cluster, http, mount_kelpfs):
    data = doors.noise(8 << 20, "cached")
    http.put("/consistency/cached", data)
    mount = mount_kelpfs(cluster)
    path = mount.path / "consistency/cached"
    assert_same(path.read_bytes(), data, "first")
    before = read_chars(mount.pid)
    assert_same(path.read_bytes(), data, "second")
    assert read_chars(mount.pid) - before < 1 << 20, "kelpfs was asked again"


def read_chars(pid):
    """Bytes that a process has written: to the kernel, for the most part."""
    with open(f"/proc/{pid}/io") as f:
        return int(dict(line.split(": ") for line in f)["wchar"])

"""One short session of each kind of use under valgrind: no leak, no bad access."""

import os
import shutil
import signal
import stat

import pytest

import corpus as doors
import mounts
import wire

DOORS = ["filer_small_chunks", "filer_compressed_text", "mount_holes", "manifest"]
STATUS_OF_ERROR = 98
VALGRIND = ["valgrind", "--quiet", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect,possible",
            f"--error-exitcode={STATUS_OF_ERROR}"]
# valgrind runs one thread at a time, and slowly.
OPTIONS = ["timeout=60", "slab=16M", "threads=4"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed (scripts/setup)"),
    pytest.mark.skipif(mounts.sanitized(), reason="valgrind does not run programs built with a sanitizer"),
    pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs's own memory"),
]


@pytest.fixture
def mount(cluster, work_dir, tmp_path):
    mount = mounts.KelpMount(cluster.filer, tmp_path / "mnt", work_dir, OPTIONS, "valgrind", under=VALGRIND)
    yield mount
    mount.abandon()


def use(mount, opened):
    """Walks, reads whole files and pieces of them, seeks, and fails."""
    path = mount.path / opened.directory.lstrip("/")
    for name, data in opened.files.items():
        assert (path / name).read_bytes() == data
        with open(path / name, "rb", buffering=0) as f:
            assert os.pread(f.fileno(), 100, len(data) // 2) == data[len(data) // 2:][:100]
            if data:
                os.lseek(f.fileno(), 0, os.SEEK_HOLE)
    with pytest.raises(FileNotFoundError):
        os.stat(path / "none")


def assert_clean(mount, status):
    assert status != STATUS_OF_ERROR, mount.process.log_tail(200)
    assert status == 0, mount.process.log_tail()


def test_unmount_leaves_no_memory_behind(mount, corpus):
    for door in DOORS:
        use(mount, corpus(door))
    for directory, names, files in os.walk(mount.path / "corpus"):
        for name in (*names, *files):
            assert stat.S_IFMT(os.lstat(os.path.join(directory, name)).st_mode)
    assert_clean(mount, mount.unmount())


def test_unmount_leaves_no_memory_of_what_was_just_closed(mount, corpus):
    """The kernel does not send these releases any more."""
    opened = corpus("filer_small_chunks")
    path = mount.path / opened.directory.lstrip("/")
    fds = [os.open(path / name, os.O_RDONLY) for name in opened.files for _ in range(20)]
    for fd in fds:
        os.pread(fd, 4096, 0)
    for fd in [*fds, *directories(path)]:
        os.close(fd)
    assert_clean(mount, mount.unmount())


def directories(path):
    """Open ones, of which a part was read."""
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(20)]
    for fd in fds:
        os.listdir(fd)
    return fds


def test_sigterm_leaves_no_memory_behind(mount, corpus):
    use(mount, corpus("filer_small_chunks"))
    assert_clean(mount, mount.process.kill(signal.SIGTERM))


def test_failures_leave_no_memory_behind(mount, corpus):
    """Entries and chunks that cannot be had."""
    corpus.http.mkdir("/valgrind")
    data = doors.noise(100000)
    lost = corpus.needle(data)[:-8] + "00000000"  # a wrong cookie
    corpus.create("/valgrind", wire.entry("lost", doors.REGULAR, len(data), [wire.chunk(lost, 0, len(data), 1000)]))
    corpus.create("/valgrind", wire.entry("no-manifest", doors.REGULAR, len(data),
                                          [wire.chunk(corpus.needle(data), 0, len(data), 1000, manifest=True)]))
    for name in ("lost", "no-manifest"):
        with pytest.raises(OSError):
            (mount.path / "valgrind" / name).read_bytes()
    assert_clean(mount, mount.unmount())

"""Every call that would modify something fails with EROFS."""

import errno
import mmap
import os
import stat
import time

import pytest

import wire

DIRECTORY = "/readonly"


@pytest.fixture
def place(cluster, mnt):
    http = wire.Http(cluster.filer_port)
    http.put(f"{DIRECTORY}/file", b"content")
    http.put(f"{DIRECTORY}/directory/inner", b"x")
    return mnt / DIRECTORY.lstrip("/")


def open_with(flags, name="file"):
    return lambda p: os.open(p / name, flags, 0o644)


MODIFICATIONS = {
    "open for writing": open_with(os.O_WRONLY),
    "open for reading and writing": open_with(os.O_RDWR),
    "open and truncate": open_with(os.O_WRONLY | os.O_TRUNC),
    "open for appending": open_with(os.O_WRONLY | os.O_APPEND),
    "create": open_with(os.O_WRONLY | os.O_CREAT, "new"),
    "create exclusively": open_with(os.O_WRONLY | os.O_CREAT | os.O_EXCL, "new"),
    "temporary file": lambda p: os.open(p, os.O_TMPFILE | os.O_WRONLY, 0o600),
    "truncate": lambda p: os.truncate(p / "file", 3),
    "mkdir": lambda p: os.mkdir(p / "new"),
    "rmdir": lambda p: os.rmdir(p / "directory"),
    "unlink": lambda p: os.unlink(p / "file"),
    "rename": lambda p: os.rename(p / "file", p / "other"),
    "rename over": lambda p: os.rename(p / "file", p / "directory/inner"),
    "link": lambda p: os.link(p / "file", p / "new"),
    "symlink": lambda p: os.symlink("file", p / "new"),
    "mkfifo": lambda p: os.mkfifo(p / "new"),
    "mknod": lambda p: os.mknod(p / "new", 0o600 | stat.S_IFREG),
    "chmod": lambda p: os.chmod(p / "file", 0o600),
    "chmod of a directory": lambda p: os.chmod(p / "directory", 0o700),
    "chown": lambda p: os.chown(p / "file", os.getuid(), os.getgid()),
    "utime": lambda p: os.utime(p / "file", (1, 1)),
    "setxattr": lambda p: os.setxattr(p / "file", "user.new", b"x"),
    "removexattr": lambda p: os.removexattr(p / "file", "user.any"),
}


@pytest.mark.parametrize("name", MODIFICATIONS)
def test_is_refused_with_erofs(place, name):
    with pytest.raises(OSError) as error:
        MODIFICATIONS[name](place)
    assert error.value.errno == errno.EROFS


def test_nothing_changed(place):
    for modify in MODIFICATIONS.values():
        with pytest.raises(OSError):
            modify(place)
    assert sorted(os.listdir(place)) == ["directory", "file"]
    assert (place / "file").read_bytes() == b"content"


def test_access_says_that_writing_is_impossible(place):
    assert os.access(place / "file", os.R_OK)
    assert not os.access(place / "file", os.W_OK)


def test_private_writable_mapping_is_allowed(place):
    with open(place / "file", "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:1] = b"C"
        assert mapped[:] == b"Content"
    assert (place / "file").read_bytes() == b"content"


def test_reading_does_not_change_the_access_time(place, cluster):
    wire.Http(cluster.filer_port).put(f"{DIRECTORY}/read-once", b"content")
    before = os.stat(place / "read-once").st_atime_ns
    time.sleep(0.01)
    (place / "read-once").read_bytes()
    assert os.stat(place / "read-once").st_atime_ns == before


def test_the_mount_is_marked_read_only(place, mnt):
    assert os.statvfs(mnt).f_flag & os.ST_RDONLY


def test_a_remount_for_writing_does_not_make_it_writable(place, cluster, mount_kelpfs):
    mount = mount_kelpfs(cluster, DIRECTORY, options=["rw"])
    with pytest.raises(OSError) as error:
        os.open(mount.path / "file", os.O_WRONLY)
    assert error.value.errno == errno.EROFS

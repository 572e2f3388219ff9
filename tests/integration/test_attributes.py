"""What stat, readlink, listxattr and readdir say: as it was written, and as weed mount says it.

INTENDED_DIFFERENCES are the only places where kelpfs and weed mount may differ; docs/differences.md
lists them with their reasons.
"""

import errno
import os
import stat
import subprocess

import pytest

import corpus as doors
import mounts
import weed
import wire

# name of an entry -> what differs -> why
INTENDED_DIFFERENCES = {
    "inlined-no-size": {"size": "an entry with inlined content and no size has the size of its content; "
                                "weed mount shows an empty file"},
    "suid-of-go": {"mode": "Go's own bits for setuid, setgid and sticky, as weed filer.copy sets them, count too"},
    "char-of-go": {"mode": "a character device in Go's own encoding (two type bits) is a device, not a file",
                   "rdev": "likewise", "xattrs": "devices have no user.* attributes"},
}
# of every entry
DIFFERS_EVERYWHERE = {
    "atime": "weed mount reports the modification time",
    "ino": "each program numbers as it likes; only that hard links share a number is compared",
    "dev": "two mounts",
    "blocks": "weed mount counts the holes too",
    "nlink of directories": "1 means uncounted; find and others then look for themselves",
}

DIRECTORY = "/attributes"
LONG_TARGET = "/".join(["x" * 200] * 20)[:4000]
ODD_NAMES = [
    "with space", " leading", "trailing ", "percent%41", "plus+plus", "hash#", "question?", "amp&;", "back\\slash",
    "new\nline", "tab\t", "\x01", "\x7f", "quotes'\"", "<angle>", "[brackets]*", "\u2028", "caf\u00e9",
    "cafe\u0301", "\U0001f41f", ".hidden", "...", "trailing.", "n" * 255, "\u00e9" * 127, "metadata=true",
]

require_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices and give files away")


def write_ordinary(path):
    """What any user can make through a mount."""
    (path / "file").write_bytes(b"twelve bytes")
    (path / "empty").write_bytes(b"")
    (path / "sparse").write_bytes(b"x")
    os.truncate(path / "sparse", 1 << 33)
    (path / "directory").mkdir()
    for mode in (0o000, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o1777):
        (path / f"mode{mode:04o}").write_bytes(b"")
        (path / f"mode{mode:04o}").chmod(mode)
    for mode in (0o1777, 0o2775, 0o700):
        (path / f"directory{mode:04o}").mkdir()
        (path / f"directory{mode:04o}").chmod(mode)
    for name, target in (("relative", "file"), ("dangling", "nowhere/at all"), ("absolute", "/etc/passwd"),
                         ("odd", "\u00e9 %41 \n"), ("long", LONG_TARGET), ("to-directory", "directory")):
        os.symlink(target, path / f"link-{name}")
    (path / "hard1").write_bytes(b"linked")
    os.link(path / "hard1", path / "hard2")
    os.link(path / "hard1", path / "directory/hard3")
    os.mkfifo(path / "fifo", 0o640)
    for name, ns in (("ns", 1700000000_123456789), ("whole", 1700000000_000000000), ("tenth", 1700000000_900000000),
                     ("epoch", 1), ("before1970", -86400_000000000), ("year2500", 16725225600_000000001)):
        (path / f"time-{name}").write_bytes(b"")
        os.utime(path / f"time-{name}", ns=(ns, ns))
    (path / "xattrs").write_bytes(b"")
    for name, value in (("user.text", b"value"), ("user.empty", b""), ("user.binary", bytes(range(256))),
                        ("user.caf\u00e9", b"1"), ("user.long", b"v" * 5000)):
        os.setxattr(path / "xattrs", name, value)
    os.setxattr(path / "directory", "user.of-directory", b"yes")


def write_as_root(path):
    (path / "owned").write_bytes(b"")
    os.chown(path / "owned", 12345, 4000000000)
    os.mknod(path / "char", 0o620 | stat.S_IFCHR, os.makedev(5, 1))
    os.mknod(path / "block", 0o660 | stat.S_IFBLK, os.makedev(259, 300))
    os.mknod(path / "socket", 0o600 | stat.S_IFSOCK)


def write_by_hand(corpus):
    """What other writers leave, or could."""

    def create(name, mode=stat.S_IFREG | 0o644, **others):
        corpus.create(DIRECTORY, wire.entry(name, mode, mtime=1700000000, **others))

    create("inlined", size=5, content=b"hello")
    create("inlined-no-size", content=b"hello")
    create("no-inode")
    create("inode-above-2-53", inode=(1 << 60) + 1)
    corpus.http.put(f"{DIRECTORY}/filer-written", b"data", "mode=0640")
    corpus.http.put(f"{DIRECTORY}/with-type-in-mode", b"data", "mode=0100755")
    corpus.http.put(f"{DIRECTORY}/headers", b"data", headers={"Seaweed-Color": "blue"})
    attributes = wire.field(2, 1700000000) + wire.field(3, 1 << 23 | 0o755)
    corpus.create(DIRECTORY, wire.field(1, "suid-of-go") + wire.field(4, attributes))
    attributes = wire.field(2, 1700000000) + wire.field(3, 1 << 26 | 1 << 21 | 0o600) + wire.field(16, 0x501)
    corpus.create(DIRECTORY, wire.field(1, "char-of-go") + wire.field(4, attributes))


@pytest.fixture(scope="module")
def theirs(corpus):
    """The entries as weed mount shows them."""
    path = corpus.through_mount(DIRECTORY)
    write_ordinary(path)
    if os.geteuid() == 0:
        write_as_root(path)
    write_by_hand(corpus)
    (path / "names").mkdir()
    for name in ODD_NAMES:
        (path / "names" / name).write_bytes(name.encode())
    return path


@pytest.fixture
def ours(theirs, mnt):
    return mnt / DIRECTORY.lstrip("/")


def walk(top):
    """Every path below top, relative to it."""
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            yield os.path.relpath(os.path.join(directory, name), top)


def attributes(path):
    s = os.lstat(path)
    shown = {"mode": oct(s.st_mode), "uid": s.st_uid, "gid": s.st_gid, "size": s.st_size, "mtime": s.st_mtime_ns,
             "rdev": s.st_rdev}
    if not stat.S_ISDIR(s.st_mode):
        shown["nlink"] = s.st_nlink
    if stat.S_ISLNK(s.st_mode):
        shown["target"] = os.readlink(path)
    if stat.S_ISREG(s.st_mode) or stat.S_ISDIR(s.st_mode):
        shown["xattrs"] = {name: os.getxattr(path, name) for name in sorted(os.listxattr(path))}
    return shown


def test_all_entries_are_those_of_weed_mount(ours, theirs):
    assert sorted(walk(ours)) == sorted(walk(theirs))


def test_attributes_are_those_of_weed_mount(ours, theirs):
    differences = {}
    for name in walk(theirs):
        wanted, got = attributes(theirs / name), attributes(ours / name)
        for key in wanted.keys() | got.keys():
            if wanted.get(key) != got.get(key) and key not in INTENDED_DIFFERENCES.get(name, {}):
                differences[f"{name}: {key}"] = f"{got.get(key)} instead of {wanted.get(key)}"
    assert not differences


@pytest.mark.parametrize("name, field", [(n, f) for n, fields in INTENDED_DIFFERENCES.items() for f in fields])
def test_intended_difference_is_there(ours, theirs, name, field):
    assert attributes(ours / name).get(field) != attributes(theirs / name).get(field)


@pytest.mark.parametrize("name", INTENDED_DIFFERENCES)
def test_intended_difference_is_documented(name):
    assert f"`{name}`" in (mounts.REPO / "docs/differences.md").read_text()


@pytest.mark.parametrize("name, mode", [("mode4755", 0o104755), ("mode2755", 0o102755), ("mode6711", 0o106711),
                                        ("mode1777", 0o101777), ("mode0000", 0o100000), ("directory1777", 0o041777),
                                        ("directory2775", 0o042775), ("fifo", 0o010640), ("suid-of-go", 0o104755),
                                        ("filer-written", 0o100640), ("with-type-in-mode", 0o100755)])
def test_mode(ours, name, mode):
    assert oct(os.lstat(ours / name).st_mode) == oct(mode)


@pytest.mark.parametrize("name, ns", [("ns", 1700000000_123456789), ("whole", 1700000000_000000000),
                                      ("tenth", 1700000000_900000000), ("epoch", 1),
                                      ("before1970", -86400_000000000), ("year2500", 16725225600_000000001)])
def test_time_to_the_nanosecond(ours, name, ns):
    assert os.stat(ours / f"time-{name}").st_mtime_ns == ns


@pytest.mark.parametrize("name", ["filer-written", "file"])
def test_time_that_was_never_set_is_the_modification_time(ours, name):
    s = os.stat(ours / name)
    assert s.st_ctime_ns >= s.st_mtime_ns - 10**9 and s.st_atime_ns >= s.st_mtime_ns - 10**9


@require_root
def test_devices_keep_their_numbers(ours):
    char, block = os.lstat(ours / "char"), os.lstat(ours / "block")
    assert (stat.S_ISCHR(char.st_mode), os.major(char.st_rdev), os.minor(char.st_rdev)) == (True, 5, 1)
    assert (stat.S_ISBLK(block.st_mode), os.major(block.st_rdev), os.minor(block.st_rdev)) == (True, 259, 300)


@require_root
def test_sockets_are_sockets(ours):
    assert stat.S_ISSOCK(os.lstat(ours / "socket").st_mode)


@require_root
def test_owner_and_group(ours):
    s = os.stat(ours / "owned")
    assert (s.st_uid, s.st_gid) == (12345, 4000000000)


def test_uid_map_shows_the_local_owner(ours, cluster, mount_kelpfs):
    me = os.stat(ours / "file").st_uid
    path = mount_kelpfs(cluster, options=[f"map_uid=4242:{me}"]).path / DIRECTORY.lstrip("/")
    assert os.stat(path / "file").st_uid == 4242


@require_root
def test_gid_map_shows_the_local_group_and_leaves_others_alone(ours, cluster, mount_kelpfs):
    path = mount_kelpfs(cluster, options=["map_gid=4343:4000000000", "map_uid=4242:12345"]).path / DIRECTORY.lstrip("/")
    owned, other = os.stat(path / "owned"), os.stat(path / "file")
    assert (owned.st_uid, owned.st_gid) == (4242, 4343)
    assert (other.st_uid, other.st_gid) == (os.stat(ours / "file").st_uid, os.stat(ours / "file").st_gid)


def test_inode_numbers_are_the_filers_to_the_last_bit(ours, corpus):
    """Also those that no double can hold."""
    names = [name for name in os.listdir(ours) if "inode" not in name]
    numbers = {name: corpus.http.entry(f"{DIRECTORY}/{name}")["Inode"] for name in names}
    numbers["inode-above-2-53"] = (1 << 60) + 1
    assert sum(number > 1 << 53 for number in numbers.values()) > 10
    assert {name: os.lstat(ours / name).st_ino for name in numbers} == numbers


def test_hard_links_share_number_and_count(ours):
    stats = [os.stat(ours / name) for name in ("hard1", "hard2", "directory/hard3")]
    assert len({s.st_ino for s in stats}) == 1
    assert [s.st_nlink for s in stats] == [3, 3, 3]


def test_entries_that_are_not_linked_have_numbers_of_their_own(ours):
    numbers = [os.lstat(ours / name).st_ino for name in walk(ours) if "hard" not in name]
    assert 0 not in numbers and len(set(numbers)) == len(numbers)


def test_inode_numbers_survive_a_remount(ours, cluster, mount_kelpfs):
    again = mount_kelpfs(cluster).path / DIRECTORY.lstrip("/")
    names = ["file", "directory", "link-relative", "hard1", "no-inode"]
    assert [os.lstat(again / n).st_ino for n in names] == [os.lstat(ours / n).st_ino for n in names]


def test_readdir_and_stat_agree_on_numbers_and_types(ours):
    with os.scandir(ours) as entries:
        for entry in entries:
            s = os.lstat(entry.path)
            assert entry.inode() == s.st_ino, entry.name
            assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(s.st_mode), entry.name
            assert entry.is_symlink() == stat.S_ISLNK(s.st_mode), entry.name


@pytest.mark.parametrize("name, target", [("relative", "file"), ("dangling", "nowhere/at all"),
                                          ("absolute", "/etc/passwd"), ("odd", "\u00e9 %41 \n"),
                                          ("long", LONG_TARGET)])
def test_symlink_target(ours, name, target):
    path = ours / f"link-{name}"
    assert os.readlink(path) == target
    assert os.lstat(path).st_size == len(target.encode())


def test_symlinks_are_followed(ours):
    assert (ours / "link-relative").read_bytes() == b"twelve bytes"
    assert os.path.isdir(ours / "link-to-directory")


def test_target_longer_than_path_max_is_an_error_and_not_a_crash(corpus, mnt):
    corpus.http.mkdir("/attributes-long")
    corpus.create("/attributes-long", wire.entry("link", stat.S_IFLNK | 0o777, target="t" * 100000))
    with pytest.raises(OSError) as error:
        os.readlink(mnt / "attributes-long/link")
    assert error.value.errno in (errno.ENAMETOOLONG, errno.EIO)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_name(ours, name):
    assert (ours / "names" / name).read_bytes() == name.encode()


def test_odd_names_are_listed_as_they_are(ours):
    assert sorted(os.listdir(ours / "names")) == sorted(ODD_NAMES)


def test_name_that_is_too_long_is_enametoolong(ours):
    with pytest.raises(OSError) as error:
        os.stat(ours / ("x" * 256))
    assert error.value.errno == errno.ENAMETOOLONG


def test_path_below_a_file_is_enotdir(ours):
    with pytest.raises(NotADirectoryError):
        os.stat(ours / "file/below")


def test_name_of_invalid_utf8_that_does_not_exist_is_enoent(ours):
    with pytest.raises(FileNotFoundError):
        os.stat(os.fsencode(ours) + b"/bad\xff\xfename")


def test_xattr_values(ours):
    path = ours / "xattrs"
    assert sorted(os.listxattr(path)) == ["user.binary", "user.caf\u00e9", "user.empty", "user.long", "user.text"]
    assert os.getxattr(path, "user.binary") == bytes(range(256))
    assert os.getxattr(path, "user.empty") == b""


def test_xattr_that_is_not_there_is_enodata(ours):
    with pytest.raises(OSError) as error:
        os.getxattr(ours / "file", "user.none")
    assert error.value.errno == errno.ENODATA


def test_xattrs_through_the_ordinary_tool(ours):
    shown = subprocess.run(["getfattr", "--only-values", "-n", "user.text", ours / "xattrs"], check=True,
                           capture_output=True).stdout
    assert shown == b"value"


def test_inlined_content_without_a_size_is_read(ours):
    assert (ours / "inlined-no-size").read_bytes() == b"hello"


@pytest.mark.parametrize("seconds", [300000000000, -80000000000])
def test_directory_with_a_time_out_of_range_can_still_be_used(corpus, mnt, seconds):
    directory = f"/out-of-range{seconds}"
    corpus.create(directory, wire.entry("odd", stat.S_IFREG | 0o644, mtime=seconds, size=3, content=b"odd"))
    corpus.http.put(f"{directory}/ordinary", b"ordinary")
    path = mnt / directory.lstrip("/")
    assert (path / "ordinary").read_bytes() == b"ordinary"
    assert sorted(os.listdir(path)) == ["odd", "ordinary"]
    assert (path / "odd").read_bytes() == b"odd"


def test_system_entries_are_hidden_as_weed_mount_hides_them(mnt, corpus, weed_mount):
    corpus.http.put("/etc/hidden", b"x")
    corpus.http.put("/topics/hidden", b"x")
    assert "etc" not in os.listdir(mnt) and "topics" not in os.listdir(mnt)


def test_system_entries_are_shown_when_asked_for(cluster, corpus, mount_kelpfs):
    corpus.http.put("/etc/hidden", b"x")
    path = mount_kelpfs(cluster, options=["system_entries"]).path
    assert "etc" in os.listdir(path)
    assert (path / "etc/hidden").read_bytes() == b"x"


def test_entry_whose_time_to_live_is_over_is_gone(corpus, mnt):
    attributes = wire.field(2, 1700000000) + wire.field(3, 0o644) + wire.field(6, 1700000000) + wire.field(10, 60)
    corpus.create("/ttl", wire.field(1, "expired") + wire.field(4, attributes))
    corpus.http.put("/ttl/stays", b"x")
    with pytest.raises(FileNotFoundError):
        os.stat(mnt / "ttl/expired")
    assert os.listdir(mnt / "ttl") == ["stays"]


def test_statfs_is_that_of_weed_mount(mnt, weed_mount):
    ours, theirs = os.statvfs(mnt), os.statvfs(weed_mount.path)
    assert ours.f_namemax == 255
    total_ours, total_theirs = ours.f_blocks * ours.f_frsize, theirs.f_blocks * theirs.f_frsize
    assert abs(total_ours - total_theirs) <= total_theirs // 10


@require_root
@pytest.mark.parametrize("name, allowed", [("mode0644", True), ("mode0400", False), ("mode0000", False),
                                           ("directory0700/below", False)])
def test_permissions_are_enforced_for_other_users(ours, cluster, mount_kelpfs, name, allowed):
    mount = mount_kelpfs(cluster, DIRECTORY, options=["allow_other"])
    top = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY)
    child = os.fork()
    if child == 0:
        status = 2
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.close(os.open(name, os.O_RDONLY, dir_fd=top))
            status = 0
        except PermissionError:
            status = 1
        finally:
            os._exit(status)
    os.close(top)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if allowed else 1)


def test_the_type_is_fuse_kelpfs(mnt):
    assert weed.mounted(mnt) == "fuse.kelpfs"


def test_blocks_do_not_count_holes(corpus, mnt):
    opened = corpus("mount_holes")
    s = os.stat(mnt / opened.directory.lstrip("/") / "sparse.bin")
    assert s.st_size == len(opened.files["sparse.bin"]) and s.st_blocks * 512 < 8 * doors.MIB

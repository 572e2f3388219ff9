"""The command line: what is wrong is said in one clear line, with an exit status that is not 0."""

import errno
import http.server
import os
import re
import shutil
import signal
import subprocess
import threading

import pytest

import mounts
import weed
import wire

SOON_S = 60

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs's own command line")


@pytest.fixture
def mountpoint(tmp_path):
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    mounts.unmount_for_good(path)


@pytest.fixture
def content(cluster):
    wire.Http(cluster.filer_port).put("/commandline/sub/file", b"content")


def kelpfs(*arguments, timeout_s=SOON_S):
    """Runs it to its end; a daemon's parent ends, too."""
    return subprocess.run([mounts.kelpfs_binary(), *map(str, arguments)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout_s, env=mounts.command_env())


def refused(result, *words):
    """One clear line, and an exit status."""
    assert result.returncode not in (0, 99), result
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def process_of(mountpoint):
    """The pid of the kelpfs that serves a mountpoint."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                arguments = f.read().split(b"\0")
        except OSError:
            continue
        if os.fsencode(mountpoint) in arguments and b"kelpfs" in arguments[0]:
            return int(pid)
    return None


def ended(mountpoint):
    """kelpfs is gone and so is its mount."""
    weed.wait_until(lambda: not weed.mounted(mountpoint) and process_of(mountpoint) is None, "kelpfs to end", SOON_S)


def test_no_arguments_shows_the_usage():
    result = kelpfs()
    assert result.returncode != 0 and "usage" in result.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_goes_to_standard_output(flag):
    result = kelpfs(flag)
    assert result.returncode == 0 and not result.stderr
    assert "MOUNTPOINT" in result.stdout and "attr_timeout" in result.stdout


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version_says_what_it_was_built_with(flag):
    result = kelpfs(flag)
    assert result.returncode == 0 and not result.stderr
    assert re.search(r"^kelpfs \d+\.\d+\.\d+", result.stdout)
    assert "fuse" in result.stdout.lower() and "curl" in result.stdout.lower()


def test_unknown_option_is_named(cluster, mountpoint):
    refused(kelpfs(cluster.filer, mountpoint, "-o", "ro,no_such_option=3"), "no_such_option")


def test_unknown_flag_is_named(cluster, mountpoint):
    result = kelpfs(cluster.filer, mountpoint, "--no-such-flag")
    assert result.returncode != 0 and "--no-such-flag" in result.stderr


@pytest.mark.parametrize("option", ["timeout=soon", "slab=-5", "threads=0", "verify=maybe"])
def test_bad_value_is_named(cluster, mountpoint, option):
    refused(kelpfs(cluster.filer, mountpoint, "-o", option), option.split("=")[0])


def test_filer_that_is_not_there_is_named(mountpoint):
    nobody = f"{weed.HOST}:{weed.free_port()}"
    refused(kelpfs(nobody, mountpoint, "-o", "timeout=2"), nobody)


def test_filer_whose_name_is_unknown_is_named(mountpoint):
    refused(kelpfs("no-such-host.invalid:8888", mountpoint, "-o", "timeout=2"), "no-such-host.invalid")


class NotAFiler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "15")
        self.end_headers()
        self.wfile.write(b"<html>hi</html>")

    def log_message(self, *args):
        pass


def test_server_that_is_not_a_filer_is_said_to_be_none(mountpoint):
    server = http.server.ThreadingHTTPServer((weed.HOST, 0), NotAFiler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        refused(kelpfs(f"{weed.HOST}:{server.server_port}", mountpoint), "filer")
    finally:
        server.shutdown()
        server.server_close()


def test_master_is_not_taken_for_a_filer(cluster, mountpoint):
    refused(kelpfs(cluster.master, mountpoint), "filer")


def test_path_that_does_not_exist_is_named(cluster, mountpoint):
    refused(kelpfs(f"{cluster.filer}/no/such/path", mountpoint), "/no/such/path")


def test_path_that_is_a_file_is_refused(cluster, content, mountpoint):
    refused(kelpfs(f"{cluster.filer}/commandline/sub/file", mountpoint), "/commandline/sub/file", "directory")


def test_mountpoint_that_is_missing_is_named(cluster, tmp_path):
    refused(kelpfs(cluster.filer, tmp_path / "none"), str(tmp_path / "none"))


def test_mountpoint_that_is_a_file_is_refused(cluster, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(kelpfs(cluster.filer, tmp_path / "file"), str(tmp_path / "file"))


def test_mountpoint_that_is_not_empty_is_refused(cluster, mountpoint):
    (mountpoint / "something").write_text("x")
    refused(kelpfs(cluster.filer, mountpoint), str(mountpoint), "empty")


def test_mountpoint_that_is_not_empty_is_taken_with_nonempty(cluster, content, mountpoint):
    (mountpoint / "something").write_text("x")
    assert kelpfs(cluster.filer, mountpoint, "-o", "nonempty").returncode == 0
    assert (mountpoint / "commandline/sub/file").read_bytes() == b"content"
    assert mounts.unmount(mountpoint).returncode == 0
    ended(mountpoint)


def test_mountpoint_that_is_mounted_already_is_refused(cluster, mnt):
    refused(kelpfs(cluster.filer, mnt), str(mnt))
    assert os.listdir(mnt)


def test_nothing_is_left_mounted_after_a_failure(mountpoint):
    kelpfs(f"{weed.HOST}:{weed.free_port()}", mountpoint, "-o", "timeout=1")
    assert not weed.mounted(mountpoint) and process_of(mountpoint) is None


def test_daemon_returns_when_the_mount_is_usable(cluster, content, mountpoint):
    result = kelpfs(cluster.filer, mountpoint)
    assert (mountpoint / "commandline/sub/file").read_bytes() == b"content"
    assert result.returncode == 0, result
    assert mounts.unmount(mountpoint).returncode == 0
    ended(mountpoint)


def test_daemon_lets_go_of_its_terminal_and_directory(cluster, mountpoint, tmp_path):
    assert kelpfs(cluster.filer, mountpoint).returncode == 0
    pid = process_of(mountpoint)
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3
    assert mounts.unmount(mountpoint).returncode == 0
    ended(mountpoint)


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def sent(request):
    """Not ignored at first. What is ignored when kelpfs starts, such as SIGHUP under nohup, it goes on ignoring."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_signal_ends_it_cleanly(cluster, mountpoint, work_dir, sent):
    mount = mounts.KelpMount(cluster.filer, mountpoint, work_dir, name=f"signal{sent}")
    os.listdir(mountpoint)
    assert mount.process.kill(sent, SOON_S) == 0
    assert not weed.mounted(mountpoint)
    mount.check_log()


def test_daemon_ends_at_sigterm(cluster, mountpoint):
    assert kelpfs(cluster.filer, mountpoint).returncode == 0
    os.kill(process_of(mountpoint), signal.SIGTERM)
    ended(mountpoint)


def test_sigkill_leaves_nothing_that_a_new_mount_trips_over(cluster, content, mountpoint, work_dir, mount_kelpfs):
    mount = mounts.KelpMount(cluster.filer, mountpoint, work_dir, name="killed")
    mount.process.kill(signal.SIGKILL)
    mounts.unmount(mountpoint)
    again = mount_kelpfs(cluster, mountpoint=mountpoint)
    assert (again.path / "commandline/sub/file").read_bytes() == b"content"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a dead mount away without fusermount3")
def test_new_mount_takes_the_place_of_a_killed_one(cluster, content, mountpoint, work_dir):
    killed = mounts.KelpMount(cluster.filer, mountpoint, work_dir, name="replaced")
    killed.process.kill(signal.SIGKILL)
    with pytest.raises(OSError) as error:
        os.listdir(mountpoint)
    assert error.value.errno == errno.ENOTCONN
    result = kelpfs(cluster.filer, mountpoint)
    assert result.returncode == 0, result
    assert (mountpoint / "commandline/sub/file").read_bytes() == b"content"
    assert mounts.unmount(mountpoint).returncode == 0
    ended(mountpoint)


def test_unmount_while_a_file_is_open_is_refused_as_busy(cluster, content, mount_kelpfs):
    mount = mount_kelpfs(cluster)
    with open(mount.path / "commandline/sub/file", "rb"):
        assert mounts.unmount(mount.path).returncode != 0
        assert weed.mounted(mount.path)


def test_foreground_says_nothing_secret_and_little(cluster, mount_kelpfs):
    mount = mount_kelpfs(cluster)
    os.listdir(mount.path)
    assert len(mount.log_text().splitlines()) < 40


def test_debug_shows_the_capabilities(cluster, mount_kelpfs):
    mount = mount_kelpfs(cluster, arguments=["-d"])
    os.listdir(mount.path)
    assert "capabilit" in mount.log_text().lower()


@pytest.mark.parametrize("spelling", ["{filer}/commandline", "http://{filer}/commandline", "{filer}:/commandline",
                                      "{filer}/commandline/", "{filer},{filer}/commandline"])
def test_spelling_of_a_sub_tree(cluster, content, mount_kelpfs, spelling):
    mount = mount_kelpfs(spelling.format(filer=cluster.filer))
    assert (mount.path / "sub/file").read_bytes() == b"content"


def test_source_is_shown_in_the_mount_table(cluster, content, mount_kelpfs):
    mount = mount_kelpfs(cluster, "/commandline")
    with open("/proc/self/mounts") as f:
        line = next(line for line in f if str(mount.path) in line)
    assert cluster.filer in line.split()[0] and line.split()[2] == "fuse.kelpfs" and "ro" in line.split()[3].split(",")


# mount(8) and /etc/fstab. mount.fuse3 looks for kelpfs in the system's own directories, so that
# these run in a mount namespace in which it is there.


def in_namespace(script, *arguments):
    script = 'mount --bind "$1" /usr/local/bin && shift && ' + script
    command = ["unshare", "--mount", "sh", "-c", script, "sh", mounts.bin_dir(), *arguments]
    return subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=SOON_S, env=mounts.command_env())


def can_unshare():
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


require_mount = pytest.mark.skipif(not can_unshare() or not shutil.which("mount.fuse3"),
                                   reason="mount(8) needs root, mount.fuse3 and a mount namespace")


@require_mount
def test_mount_command(cluster, content, mountpoint):
    result = in_namespace('mount -t fuse.kelpfs "$1" "$2" -o attr_timeout=5 && cat "$2/sub/file" && umount "$2"',
                          f"{cluster.filer}:/commandline", mountpoint)
    assert (result.returncode, result.stdout) == (0, "content"), result
    ended(mountpoint)


@require_mount
def test_mount_command_reports_a_failure(mountpoint):
    nobody = f"{weed.HOST}:{weed.free_port()}"
    result = in_namespace('mount -t fuse.kelpfs "$1" "$2" -o timeout=1', f"{nobody}:/", mountpoint)
    assert result.returncode != 0 and nobody in result.stderr


@require_mount
def test_fstab_line(cluster, content, mountpoint, tmp_path):
    fstab = tmp_path / "fstab"
    fstab.write_text(f"{cluster.filer}:/commandline {mountpoint} fuse.kelpfs "
                     "ro,noauto,nofail,_netdev,x-systemd.automount,allow_other,timeout=5 0 0\n")
    result = in_namespace('mount -T "$1" "$2" && cat "$2/sub/file" && umount "$2"', fstab, mountpoint)
    assert (result.returncode, result.stdout) == (0, "content"), result
    ended(mountpoint)


def test_ten_mounts_and_unmounts_in_a_row(cluster, mountpoint):
    for _ in range(10):
        assert kelpfs(cluster.filer, mountpoint).returncode == 0
        os.listdir(mountpoint)
        assert mounts.unmount(mountpoint).returncode == 0
        ended(mountpoint)


@pytest.mark.parametrize("text, words", [
    ("# fine\n127.0.0.1:8080\n", (":2:", "expected VOLUME_SERVER_HOST:PORT RDMA_ADDRESS[:PORT]")),
    ("127.0.0.1:8080 10.0.0.1\n127.0.0.1:8080 10.0.0.2\n", (":2:", "line 1")),
])
def test_line_of_rdma_map_that_is_not_understood_is_named(cluster, mountpoint, tmp_path, text, words):
    (tmp_path / "map").write_text(text)
    refused(kelpfs(cluster.filer, mountpoint, "-o", f"rdma_map={tmp_path}/map"), f"{tmp_path}/map", *words)


def test_rdma_map_that_is_missing_is_named(cluster, mountpoint):
    refused(kelpfs(cluster.filer, mountpoint, "-o", "rdma_map=/no/such/map"), "/no/such/map", "No such file")


def test_rdma_map_does_no_harm_where_there_is_no_rdma(cluster, content, mountpoint, tmp_path, mount_kelpfs):
    (tmp_path / "map").write_text(f"127.0.0.1:{cluster.volume_ports[0]} 127.0.0.1:1\n")
    mount = mount_kelpfs(cluster, options=[f"rdma_map={tmp_path}/map"])
    assert (mount.path / "commandline/sub/file").read_bytes() == b"content"

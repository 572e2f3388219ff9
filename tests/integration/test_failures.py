"""Servers that die, stall or lose data: reads are routed around them, or fail within the bound."""

import errno
import os
import signal
import socket
import threading
import time

import pytest

import corpus as doors
import weed
import wire

TIMEOUT_S = 10  # kelpfs's default for one request
BUSY_S = 10  # what a busy test machine may add
BOUND_S = TIMEOUT_S + BUSY_S
MIB = 1 << 20
DATA = doors.noise(24 * MIB, "failures")


class Servers:
    """A cluster whose servers tests may stop; all run again afterwards."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.http = wire.Http(cluster.filer_port)
        self.filer = cluster.filer
        self.http.put("/f/data.bin", DATA, "maxMB=1")
        self.http.put("/f/small", b"small")

    def process(self, name):
        return self.cluster.processes[name]

    def stall(self, name):
        os.kill(self.process(name).pid, signal.SIGSTOP)

    def kill(self, name):
        self.cluster.kill(name)

    def start(self, name):
        self.process(name).start()

    def revive(self):
        for process in self.cluster.processes.values():
            if process.running():
                os.kill(process.pid, signal.SIGCONT)
            else:
                process.start()
        self.cluster.wait_ready()
        weed.wait_until(self.reads_through_filer, "the cluster to be whole again")

    def reads_through_filer(self):
        try:
            return wire.Http(self.cluster.filer_port, timeout_s=5).get("/f/data.bin") == DATA
        except (OSError, AssertionError):
            return False


@pytest.fixture(scope="module")
def _replicated(make_cluster):
    return Servers(make_cluster("replicated", volumes=2, replication="001"))


@pytest.fixture(scope="module")
def _single(make_cluster):
    return Servers(make_cluster("single"))


@pytest.fixture
def replicated(_replicated):
    """Two volume servers with a copy of everything each."""
    yield _replicated
    _replicated.revive()


@pytest.fixture
def single(_single):
    """One volume server."""
    yield _single
    _single.revive()


def read_direct(path, on_first_block=lambda: None, block=256 * 1024):
    """The file's bytes, past the page cache, and the longest time that one read took."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    parts, longest_s, offset = [], 0, 0
    try:
        while True:
            start = time.monotonic()
            part = os.pread(fd, block, offset)
            longest_s = max(longest_s, time.monotonic() - start)
            if not part:
                return b"".join(parts), longest_s
            parts.append(part)
            if offset == 0:
                on_first_block()
            offset += len(part)
    finally:
        os.close(fd)


def fails_within(function, bound_s, errors):
    start = time.monotonic()
    with pytest.raises(OSError) as error:
        function()
    took_s = time.monotonic() - start
    assert error.value.errno in errors, error.value
    assert took_s < bound_s, f"{took_s:.1f} s"


NO_READAHEAD = ["readahead=0"]


@pytest.mark.parametrize("victim", ["volume0", "volume1"])
def test_replica_killed_under_a_read_is_not_noticed(replicated, mount_kelpfs, victim):
    path = mount_kelpfs(replicated.cluster, options=NO_READAHEAD).path / "f/data.bin"
    data, longest_s = read_direct(path, lambda: replicated.kill(victim))
    assert data == DATA
    assert longest_s < TIMEOUT_S


@pytest.mark.parametrize("victim", ["volume0", "volume1"])
def test_replica_that_stalls_under_a_read_is_routed_around(replicated, mount_kelpfs, victim):
    path = mount_kelpfs(replicated.cluster, options=NO_READAHEAD).path / "f/data.bin"
    data, longest_s = read_direct(path, lambda: replicated.stall(victim))
    assert data == DATA
    assert longest_s < BOUND_S


def test_later_reads_do_not_pay_for_a_stalled_replica(replicated, mount_kelpfs):
    path = mount_kelpfs(replicated.cluster, options=NO_READAHEAD).path / "f/data.bin"
    replicated.stall("volume0")
    start = time.monotonic()
    assert read_direct(path)[0] == DATA
    assert time.monotonic() - start < 20 + BUSY_S


def test_replica_that_is_down_at_mount_time_is_not_noticed(replicated, mount_kelpfs):
    replicated.kill("volume1")
    path = mount_kelpfs(replicated.cluster).path / "f/data.bin"
    assert path.read_bytes() == DATA


def test_volume_server_restarted_under_a_read_serves_it_again(single, mount_kelpfs):
    path = mount_kelpfs(single.cluster, options=NO_READAHEAD).path / "f/data.bin"

    data, longest_s = read_direct(path, lambda: single.cluster.restart("volume0"))
    assert data == DATA
    assert longest_s < BOUND_S


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_read_without_its_only_volume_server_fails_within_the_bound(single, mount_kelpfs, flags):
    path = mount_kelpfs(single.cluster, options=NO_READAHEAD).path / "f/data.bin"
    single.kill("volume0")
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        fails_within(lambda: os.pread(fd, 4096, 0), BOUND_S, [errno.EIO, errno.ETIMEDOUT])
    finally:
        os.close(fd)


def test_read_of_a_stalled_only_volume_server_fails_within_the_bound(single, mount_kelpfs):
    path = mount_kelpfs(single.cluster, options=[*NO_READAHEAD, "timeout=4"]).path / "f/data.bin"
    single.stall("volume0")
    fails_within(lambda: read_direct(path), 4 + BUSY_S, [errno.EIO, errno.ETIMEDOUT])


def test_mount_works_again_when_the_volume_server_is_back(single, mount_kelpfs):
    path = mount_kelpfs(single.cluster, options=[*NO_READAHEAD, "timeout=2"]).path / "f/data.bin"
    single.kill("volume0")
    fails_within(lambda: read_direct(path), 2 + BUSY_S, [errno.EIO, errno.ETIMEDOUT])
    single.revive()
    weed.wait_until(lambda: reads_right(path), "the mount to read again")


def reads_right(path):
    try:
        return path.read_bytes() == DATA
    except OSError:
        return False


def test_listing_works_while_reads_wait_for_a_stalled_volume_server(single, mount_kelpfs):
    mount = mount_kelpfs(single.cluster, options=[*NO_READAHEAD, "timeout=8"])
    single.stall("volume0")
    results = []

    def read():
        try:
            (mount.path / "f/data.bin").read_bytes()
        except OSError as error:
            results.append(error.errno)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    start = time.monotonic()
    assert sorted(os.listdir(mount.path / "f")) == ["data.bin", "small"]
    assert time.monotonic() - start < 7
    for reader in readers:
        reader.join()
    assert len(results) == 4


def test_open_file_is_read_on_when_the_filer_dies(single, mount_kelpfs):
    """Also when the kernel's attributes are too old."""
    path = mount_kelpfs(single.cluster, options=[*NO_READAHEAD, "attr_timeout=0"]).path / "f/data.bin"
    assert path.read_bytes() == DATA  # every volume is known now
    data, longest_s = read_direct(path, lambda: single.kill("filer"))
    assert data == DATA
    assert longest_s < TIMEOUT_S * 0.8


def test_operations_without_a_filer_fail_within_the_bound(single, mount_kelpfs):
    mount = mount_kelpfs(single.cluster)
    single.kill("filer")
    fails_within(lambda: os.stat(mount.path / "f/none"), BOUND_S, [errno.EIO, errno.ETIMEDOUT])
    fails_within(lambda: os.listdir(mount.path / "f"), BOUND_S, [errno.EIO, errno.ETIMEDOUT])


def test_operations_on_a_stalled_filer_fail_within_the_bound(single, mount_kelpfs):
    mount = mount_kelpfs(single.cluster, options=["timeout=3"])
    single.stall("filer")
    fails_within(lambda: os.stat(mount.path / "f/small"), 3 + BUSY_S, [errno.EIO, errno.ETIMEDOUT])


def test_mount_works_again_when_the_filer_is_back(single, mount_kelpfs):
    mount = mount_kelpfs(single.cluster, options=["timeout=2"])
    single.kill("filer")
    fails_within(lambda: os.stat(mount.path / "f/small"), 2 + BUSY_S, [errno.EIO, errno.ETIMEDOUT])
    single.revive()

    def works():
        try:
            return (mount.path / "f/small").read_bytes() == b"small"
        except OSError:
            return False

    weed.wait_until(works, "the mount to work again")


def test_filer_restarted_under_a_listing_and_read_is_waited_for(single, mount_kelpfs):
    """Idle connections died with it."""
    mount = mount_kelpfs(single.cluster)
    assert (mount.path / "f/small").read_bytes() == b"small"
    single.cluster.restart("filer")
    single.cluster.wait_ready()
    assert (mount.path / "f/small").read_bytes() == b"small"
    assert sorted(os.listdir(mount.path / "f")) == ["data.bin", "small"]


def test_kept_connections_that_the_filer_closed_are_not_noticed(single, mount_kelpfs):
    """The filer closes idle ones after ten seconds."""
    mount = mount_kelpfs(single.cluster, options=["attr_timeout=0", "entry_timeout=0"])
    os.stat(mount.path / "f/small")
    time.sleep(11)
    assert (mount.path / "f/small").read_bytes() == b"small"


def test_next_filer_is_used_when_the_first_is_not_there(single, mount_kelpfs):
    nobody = f"{weed.HOST}:{weed.free_port()}"
    mount = mount_kelpfs(f"{nobody},{single.filer}")
    assert (mount.path / "f/small").read_bytes() == b"small"


def test_filer_that_dies_under_the_mount_is_replaced_by_the_next(make_cluster, mount_kelpfs):
    """Two filers that keep each other's entries; both need not be there."""
    cluster = make_cluster("two-filers")
    second = f"{weed.HOST}:{cluster.add_filer('filer2', group='')}"
    wire.Http(cluster.filer_port).put("/both/old", b"old")
    other = wire.Http(int(second.rsplit(":", 1)[1]))
    weed.wait_until(lambda: other.request("GET", "/both/old", expect=(200, 404)).status == 200, "the filers to agree")
    path = mount_kelpfs(f"{cluster.filer},{second}").path / "both"
    assert (path / "old").read_bytes() == b"old"
    cluster.kill("filer")
    other.put("/both/new", b"new")
    start = time.monotonic()
    assert (path / "new").read_bytes() == b"new"
    assert sorted(os.listdir(path)) == ["new", "old"]
    assert time.monotonic() - start < TIMEOUT_S * 0.8


@pytest.fixture(scope="module")
def _narrow(make_cluster):
    return Servers(make_cluster("narrow", volume_options=["-concurrentDownloadLimitMB=1",
                                                          "-inflightDownloadDataTimeout=100ms"]))


@pytest.fixture
def busy(_narrow):
    """A volume server that answers 429 to everyone, because of a client that asked for much and takes
    nothing, until that client is closed."""
    _narrow.http.put("/busy/large", doors.noise(16 * MIB, "large"), "maxMB=32")
    _narrow.http.put("/busy/small", DATA[:100000])
    large, small = chunk_ids(_narrow.http, "/busy/large")[0], chunk_ids(_narrow.http, "/busy/small")[0]
    volume = wire.Http(_narrow.cluster.volume_ports[0])
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((weed.HOST, _narrow.cluster.volume_ports[0]))
        client.sendall(f"GET /{large} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        weed.wait_until(lambda: volume.request("GET", "/" + small, expect=(200, 429)).status == 429,
                        "the volume server to be busy")
        yield _narrow, client


def test_read_waits_for_a_volume_server_that_is_too_busy(busy, mount_kelpfs):
    servers, client = busy
    path = mount_kelpfs(servers.cluster).path / "busy/small"
    timer = threading.Timer(2, client.close)
    start = time.monotonic()
    timer.start()
    try:
        assert path.read_bytes() == DATA[:100000]
    finally:
        timer.join()
    assert 1.5 < time.monotonic() - start


def test_read_of_a_volume_server_that_stays_too_busy_fails_within_the_bound(busy, mount_kelpfs):
    servers, _ = busy
    path = mount_kelpfs(servers.cluster, options=["timeout=3"]).path / "busy/small"
    fails_within(path.read_bytes, 3 + BUSY_S, [errno.EIO, errno.ETIMEDOUT])


def test_filer_proxy_serves_when_volume_servers_must_not_be_asked(single, mount_kelpfs):
    path = mount_kelpfs(single.cluster, options=["volume_access=proxy"]).path / "f/data.bin"
    assert path.read_bytes() == DATA


def test_filer_proxy_serves_when_the_master_is_not_there(single, mount_kelpfs):
    nobody = f"{weed.HOST}:{weed.free_port()}"
    path = mount_kelpfs(single.cluster, options=[f"master={nobody}"]).path / "f/data.bin"
    assert path.read_bytes() == DATA


def chunk_ids(http, path):
    return [chunk["file_id"] for chunk in sorted(http.entry(path)["chunks"], key=lambda c: c.get("offset", 0))]


def delete_needle(single, fid):
    wire.Http(single.cluster.volume_ports[0]).delete("/" + fid)


def vacuum(single):
    wire.Http(single.cluster.master_port).get("/vol/vacuum", "garbageThreshold=0.00001")


@pytest.fixture
def lossy(single):
    """The path of a file of three chunks, the second of which is gone for good."""
    single.http.put("/lossy/file", DATA[:3 * MIB], "maxMB=1")
    gone = chunk_ids(single.http, "/lossy/file")[1]
    delete_needle(single, gone)
    vacuum(single)
    volume = wire.Http(single.cluster.volume_ports[0])
    weed.wait_until(lambda: volume.request("GET", "/" + gone, query="readDeleted=true", expect=(200, 404)).status ==
                    404, "the needle to vanish")
    return "lossy/file"


def test_deleted_chunk_is_read_while_it_lasts(single, mount_kelpfs):
    single.http.put("/deleted/file", DATA[:2 * MIB], "maxMB=1")
    delete_needle(single, chunk_ids(single.http, "/deleted/file")[1])
    assert (mount_kelpfs(single.cluster).path / "deleted/file").read_bytes() == DATA[:2 * MIB]


def test_lost_chunk_is_eio_within_the_bound(single, lossy, mount_kelpfs):
    path = mount_kelpfs(single.cluster).path / lossy
    fails_within(path.read_bytes, BOUND_S, [errno.EIO])


def test_file_is_read_around_a_lost_chunk(single, lossy, mount_kelpfs):
    path = mount_kelpfs(single.cluster).path / lossy
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        fails_within(lambda: os.pread(fd, 4096, MIB + 100), BOUND_S, [errno.EIO])
        assert os.pread(fd, 4096, 0) == DATA[:4096]
        assert os.pread(fd, 4096, 2 * MIB) == DATA[2 * MIB:][:4096]
    finally:
        os.close(fd)


def test_mount_stays_usable_after_a_lost_chunk(single, lossy, mount_kelpfs):
    mount = mount_kelpfs(single.cluster)
    with pytest.raises(OSError):
        (mount.path / lossy).read_bytes()
    start = time.monotonic()
    assert (mount.path / "f/data.bin").read_bytes() == DATA
    assert os.listdir(mount.path / "lossy") == ["file"]
    assert time.monotonic() - start < 5 + BUSY_S


def test_overwritten_file_whose_chunks_are_gone_is_estale_for_old_handles(single, mount_kelpfs):
    single.http.put("/stale/file", DATA[:3 * MIB], "maxMB=1")
    old = chunk_ids(single.http, "/stale/file")
    path = mount_kelpfs(single.cluster, options=NO_READAHEAD).path / "stale/file"
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        assert os.pread(fd, 100, 0) == DATA[:100]
        single.http.put("/stale/file", DATA[MIB:4 * MIB], "maxMB=1")
        volume = wire.Http(single.cluster.volume_ports[0])

        def gone():
            vacuum(single)
            return volume.request("GET", "/" + old[2], query="readDeleted=true", expect=(200, 404)).status == 404

        weed.wait_until(gone, "the old chunks to vanish", every_s=0.5)
        fails_within(lambda: os.pread(fd, 100, 2 * MIB), BOUND_S, [errno.ESTALE])
    finally:
        os.close(fd)
    assert path.read_bytes() == DATA[MIB:4 * MIB]

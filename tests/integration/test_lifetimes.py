"""Files that end while they are in use: renamed, deleted, vacuumed, or over their time to live."""

import errno
import os
import time

import pytest

import corpus as doors
import weed
import wire

MIB = 1 << 20
DATA = doors.noise(3 * MIB, "lifetimes")
BOUND_S = 20  # of which ten seconds are for a busy test machine
OPTIONS = ["readahead=0", "entry_timeout=0", "attr_timeout=0"]


@pytest.fixture(scope="module")
def servers(make_cluster):
    """A cluster of its own: vacuuming is for all volumes."""
    return make_cluster("lifetimes")


@pytest.fixture
def http(servers):
    return wire.Http(servers.filer_port)


@pytest.fixture
def mount(servers, mount_kelpfs):
    return mount_kelpfs(servers, options=OPTIONS)


@pytest.fixture
def opened(request, http, mount):
    """A handle of a file of three chunks, of which nothing was read yet, and its path."""
    path = f"/lifetimes/{request.node.name}"
    http.put(path, DATA, "maxMB=1")
    fd = os.open(mount.path / path.lstrip("/"), os.O_RDONLY | os.O_DIRECT)
    yield fd, path
    os.close(fd)


def chunk_ids(http, path):
    return [chunk["file_id"] for chunk in http.entry(path)["chunks"]]


def wait_until_vacuumed(servers, fids, timeout_s=60):
    volume = wire.Http(servers.volume_ports[0])

    def gone():
        wire.Http(servers.master_port).get("/vol/vacuum", "garbageThreshold=0.00001")
        return all(volume.request("GET", "/" + fid, query="readDeleted=true", expect=(200, 404)).status == 404
                   for fid in fids)

    weed.wait_until(gone, "the needles to vanish", timeout_s, every_s=0.5)


def read_fails(fd, offset, errors):
    start = time.monotonic()
    with pytest.raises(OSError) as error:
        os.pread(fd, 4096, offset)
    assert error.value.errno in errors, error.value
    assert time.monotonic() - start < BOUND_S


def reads_right_or_fails(fd, offset, wanted):
    """The volume server may serve a needle a while longer, and the kernel has what was read before: a
    read that fails behind that is short."""
    start = time.monotonic()
    try:
        got = os.pread(fd, len(wanted), offset)
        assert got and wanted.startswith(got), f"{len(got)} bytes, of which some are wrong"
    except OSError as error:
        assert error.errno in (errno.EIO, errno.ESTALE)
    assert time.monotonic() - start < BOUND_S


def test_file_renamed_under_an_open_handle_is_read_on(http, mount, opened):
    fd, path = opened
    http.request("POST", path + ".new", query=f"mv.from={wire.quote(path)}")
    assert os.pread(fd, 3 * MIB, 0) == DATA
    assert os.fstat(fd).st_size == len(DATA)
    assert (mount.path / (path.lstrip("/") + ".new")).read_bytes() == DATA
    assert not (mount.path / path.lstrip("/")).exists()


def test_file_replaced_by_a_rename_keeps_its_bytes_for_open_handles(http, mount, opened):
    fd, path = opened
    http.put(path + ".other", DATA[::-1], "maxMB=1")
    http.request("POST", path, query=f"mv.from={wire.quote(path + '.other')}")
    assert os.pread(fd, 3 * MIB, 0) == DATA
    assert (mount.path / path.lstrip("/")).read_bytes() == DATA[::-1]


def test_deleted_file_is_read_on_until_it_is_vacuumed_and_then_estale(servers, http, mount, opened):
    fd, path = opened
    chunks = chunk_ids(http, path)
    http.delete(path)
    assert os.pread(fd, MIB, 0) == DATA[:MIB]
    assert not (mount.path / path.lstrip("/")).exists()
    wait_until_vacuumed(servers, chunks)
    read_fails(fd, 2 * MIB, [errno.ESTALE])
    assert os.listdir(mount.path / "lifetimes") is not None


def wait_until_over(start, ttl_s=60):
    time.sleep(max(0, start + ttl_s + 2 - time.monotonic()))


@pytest.mark.slow
def test_file_with_a_time_to_live_reads_right_while_it_lives_and_is_gone_after(http, mount):
    http.put("/lifetimes/ttl", DATA, "maxMB=1&ttl=1m")
    start = time.monotonic()
    path = mount.path / "lifetimes/ttl"
    assert path.read_bytes() == DATA
    with open(path, "rb", buffering=0) as handle:
        wait_until_over(start)
        assert not path.exists()
        assert "ttl" not in os.listdir(mount.path / "lifetimes")
        reads_right_or_fails(handle.fileno(), 2 * MIB, DATA[2 * MIB:])


@pytest.mark.slow
def test_needle_over_its_time_to_live_is_never_wrong_bytes(servers, mount):
    """The entry stays: it has no time to live of its own."""
    answer = wire.Http(servers.master_port).get("/dir/assign", "ttl=1m").decode()
    fid = answer.split('"fid":"')[1].split('"')[0]
    wire.Http(servers.volume_ports[0]).put("/" + fid, DATA[:MIB], "ttl=1m")
    start = time.monotonic()
    wire.create_entry(servers.filer_port, "/lifetimes", wire.entry(
        "old-needle", doors.REGULAR, MIB, [wire.chunk(fid, 0, MIB, 1000)]))
    fd = os.open(mount.path / "lifetimes/old-needle", os.O_RDONLY | os.O_DIRECT)
    try:
        assert os.pread(fd, 4096, 0) == DATA[:4096]
        wait_until_over(start)
        reads_right_or_fails(fd, MIB // 2, DATA[MIB // 2:MIB])
    finally:
        os.close(fd)


def test_remote_file_that_the_filer_cannot_fetch_is_eio_in_time(servers, http, mount):
    """An entry whose bytes lie in remote storage, which is not configured."""
    remote = wire.field(1, "nowhere") + wire.field(3, "etag") + wire.field(4, int(time.time())) + wire.field(5, 12345)
    wire.create_entry(servers.filer_port, "/lifetimes",
                      wire.entry("remote", doors.REGULAR, 12345) + wire.field(10, remote))
    path = mount.path / "lifetimes/remote"
    assert path.stat().st_size == 12345
    fd = os.open(path, os.O_RDONLY)
    try:
        read_fails(fd, 0, [errno.EIO])
    finally:
        os.close(fd)
    assert "read /lifetimes/remote: " in mount.log_text()
    http.put("/lifetimes/after", b"usable")
    assert (mount.path / "lifetimes/after").read_bytes() == b"usable"

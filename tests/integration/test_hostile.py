"""A filer that lies: clear errors in bounded time and memory, and the mount stays usable.

The double is a small HTTP server that answers for one entry, or one directory, what the test says,
and decently for the rest.
"""

import base64
import errno
import http.server
import json
import os
import socket
import threading
import time
import urllib.parse

import pytest

import mounts
import weed
import wire

TIMEOUT_S = 3
BOUND_S = TIMEOUT_S + 10  # with what a busy test machine adds
MIB_KIB = 1024
MEMORY_KIB = 768 * MIB_KIB  # for an answer of any length: an entry may have a million chunks
LISTING_MEMORY_KIB = 128 * MIB_KIB  # which is parsed as it arrives

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="weed mount speaks gRPC")


def entry(path, **others):
    """An entry as the filer shows it."""
    shown = {"FullPath": path, "Mtime": "2026-01-01T00:00:00Z", "Crtime": "2026-01-01T00:00:00Z",
             "Ctime": "0001-01-01T00:00:00Z", "Atime": "0001-01-01T00:00:00Z", "Mode": 0o644, "Uid": 0, "Gid": 0,
             "Mime": "", "TtlSec": 0, "UserName": "", "GroupNames": None, "SymlinkTarget": "", "Md5": None,
             "FileSize": 0, "Rdev": 0, "Inode": 42, "Extended": None, "HardLinkId": None, "HardLinkCounter": 0,
             "Content": None, "Remote": None, "Quota": 0, "WORMEnforcedAtTsNs": 0}
    shown.update(others)
    return shown


def directory(path):
    return entry(path, Mode=(1 << 31) | 0o755)


def listing(path, entries):
    names = [e["FullPath"].rsplit("/", 1)[1] for e in entries]
    return {"Version": "x", "Path": path, "Entries": entries or None, "Limit": 1000, "EmptyFolder": not entries,
            "LastFileName": names[-1] if names else "", "ShouldDisplayLoadMore": False}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        wants_metadata = "metadata=true" in url.query
        wants_list = not wants_metadata and self.headers.get("Accept") == "application/json"
        lie = self.server.lies.get((("entry" if wants_metadata else "list" if wants_list else "data"),
                                    path.rstrip("/") or "/"))
        if lie:
            self.server.seen += 1
            lie(self)
        elif wants_metadata and path in ("/", "/dir", "/dir/"):
            self.answer(json.dumps(directory(path)).encode())
        elif wants_metadata and path == "/dir/good":
            self.answer(json.dumps(entry(path, FileSize=4, Content=base64.b64encode(b"good").decode())).encode())
        elif wants_list:
            self.answer(json.dumps(listing(path, [])).encode())
        else:
            self.answer(b"", 404)

    def answer(self, body, status=200, content_type="application/json", length=None):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass
        if length is not None:
            self.close_connection = True

    def log_message(self, *args):
        pass


class LyingFiler(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        # The gRPC port (10,000 above) must be one where nobody listens.
        super().__init__((weed.HOST, weed.free_port()), Handler)
        self.lies = {}
        self.seen = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # a client that goes away is part of the game

    @property
    def filer(self):
        return f"{weed.HOST}:{self.server_port}"

    def lie(self, kind, path, function):
        self.lies[kind, path] = function


@pytest.fixture
def liar():
    server = LyingFiler()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def mount(liar, mount_kelpfs):
    """The slab, whose pages come in the background, is too small to matter where memory is measured."""
    return mount_kelpfs(liar.filer, options=[f"timeout={TIMEOUT_S}", "attr_timeout=0", "entry_timeout=0", "slab=8M"])


def fails(function, errors):
    start = time.monotonic()
    with pytest.raises(OSError) as error:
        function()
    assert error.value.errno in errors, error.value
    assert time.monotonic() - start < BOUND_S


def usable(mount):
    assert (mount.path / "dir/good").read_bytes() == b"good"


def body(data, **others):
    return lambda handler: handler.answer(data, **others)


def stall(handler):
    time.sleep(30)


def reset(handler):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.close_connection = True


def trickle(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(30):
            handler.wfile.write(b" ")
            time.sleep(1)
    except OSError:
        pass


def endless(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.close_connection = True
    try:
        while True:
            handler.wfile.write(b'{"x":"' + b"y" * (1 << 20))
    except OSError:
        pass


GOOD = json.dumps(entry("/dir/bad")).encode()
LIES = {
    "empty": body(b""),
    "truncated JSON": body(GOOD[:len(GOOD) // 2]),
    "truncated body": body(GOOD[:100], length=len(GOOD)),
    "not JSON": body(b"<html>", content_type="text/html"),
    "deeply nested": body(b"[" * 10000 + b"]" * 10000),
    "deeply nested inside": body(b'{"FullPath":' + b'{"a":' * 10000 + b"1" + b"}" * 10000 + b"}"),
    "an array": body(b"[]"),
    "wrong types": body(b'{"FullPath":1,"Mode":"x","FileSize":[],"chunks":7,"Mtime":{},"Inode":null}'),
    "error 500": body(b"{}", status=500),
    "stall": stall,
    "reset": reset,
    "trickle": trickle,
    "endless": endless,
}
ANY_FAILURE = (errno.EIO, errno.ETIMEDOUT, errno.ENOENT, errno.EPROTO)


@pytest.mark.parametrize("name", LIES)
def test_bad_entry_is_an_error_and_the_mount_stays_usable(liar, mount, name):
    liar.lie("entry", "/dir/bad", LIES[name])
    before = mount.status("VmHWM")
    fails(lambda: os.stat(mount.path / "dir/bad"), ANY_FAILURE)
    assert liar.seen
    usable(mount)
    assert mounts.sanitized() or mount.status("VmHWM") - before < MEMORY_KIB


@pytest.mark.parametrize("name", [n for n in LIES if n != "wrong types"])
def test_bad_listing_is_an_error_and_the_mount_stays_usable(liar, mount, name):
    liar.lie("list", "/dir", LIES[name])
    before = mount.status("VmHWM")
    fails(lambda: os.listdir(mount.path / "dir"), ANY_FAILURE)
    assert liar.seen
    usable(mount)
    assert mounts.sanitized() or mount.status("VmHWM") - before < LISTING_MEMORY_KIB


def chunk(**others):
    return dict({"file_id": "1,01637037d6", "size": 4096, "modified_ts_ns": 1}, **others)


def manifest_of_itself():
    fid = "1,01637037d6"
    return wire.field(1, wire.chunk(fid, 0, 4096, 1, manifest=True))


CHUNKS = {
    "offset 2^63": [chunk(offset=1 << 63)],
    "offset 2^63-1": [chunk(offset=(1 << 63) - 1)],
    "negative offset": [chunk(offset=-4096)],
    "negative size": [chunk(size=-4096)],
    "size 2^64": [chunk(size=1 << 64)],
    "no file id": [{"offset": 0, "size": 4096, "modified_ts_ns": 1}],
    "bad file id": [chunk(file_id="x,y")],
    "chunks that are numbers": [1, 2, 3],
    "unknown volume": [chunk()],
}


@pytest.mark.parametrize("name", CHUNKS)
def test_absurd_chunks_are_an_error_in_time(liar, mount, name):
    shown = entry("/dir/bad", FileSize=4096, chunks=CHUNKS[name])
    liar.lie("entry", "/dir/bad", body(json.dumps(shown).encode()))
    fails(lambda: read(mount.path / "dir/bad"), (*ANY_FAILURE, errno.EOVERFLOW, errno.EFBIG, errno.EINVAL))
    usable(mount)


def read(path):
    """Reads the start, whatever size is claimed."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, 4096, 0)
    finally:
        os.close(fd)


def test_manifest_that_names_itself_is_an_error_in_time(liar, mount):
    shown = entry("/dir/bad", FileSize=4096, chunks=[chunk(is_chunk_manifest=True)])
    liar.lie("entry", "/dir/bad", body(json.dumps(shown).encode()))
    liar.lie("data", "/", body(manifest_of_itself(), content_type="application/octet-stream"))
    fails(lambda: read(mount.path / "dir/bad"), (errno.EIO, errno.ELOOP, errno.ETIMEDOUT))
    assert liar.seen > 1
    usable(mount)


def test_a_million_extents_are_read_or_refused_in_bounded_memory(liar, mount):
    chunks = [chunk(offset=i * 10, size=10, modified_ts_ns=i + 1) for i in range(1_000_000)]
    data = json.dumps(entry("/dir/bad", FileSize=10_000_000, chunks=chunks)).encode()
    liar.lie("entry", "/dir/bad", body(data))
    try:
        os.close(os.open(mount.path / "dir/bad", os.O_RDONLY))
    except OSError as error:
        assert error.errno in (errno.EFBIG, errno.EIO, errno.ETIMEDOUT, errno.ENOMEM)
    usable(mount)
    assert mounts.sanitized() or mount.status("VmHWM") < 2 * MEMORY_KIB


def test_symlink_target_of_100_kib_is_refused(liar, mount):
    shown = entry("/dir/link", Mode=(1 << 27) | 0o777, SymlinkTarget="t" * 100_000)
    liar.lie("entry", "/dir/link", body(json.dumps(shown).encode()))
    fails(lambda: os.readlink(mount.path / "dir/link"), (errno.ENAMETOOLONG, errno.EIO))
    usable(mount)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "x" * 300, "nul\0byte"])
def test_listed_name_that_cannot_be_one_is_left_out_or_refused(liar, mount, name):
    entries = [entry("/dir/" + name), entry("/dir/ordinary")]
    shown = listing("/dir", entries)
    liar.lie("list", "/dir", body(json.dumps(shown).encode()))
    try:
        names = os.listdir(mount.path / "dir")
    except OSError as error:
        assert error.errno in ANY_FAILURE
    else:
        assert set(names) <= {"ordinary", "b"}
    usable(mount)


def test_listing_that_never_ends_is_given_up(liar, mount):
    """Every page says that there is more, and is the same."""
    shown = listing("/dir", [entry("/dir/same")])
    shown["ShouldDisplayLoadMore"] = True
    liar.lie("list", "/dir", body(json.dumps(shown).encode()))
    start = time.monotonic()
    try:
        assert os.listdir(mount.path / "dir") == ["same"]
    except OSError as error:
        assert error.errno in ANY_FAILURE
    assert time.monotonic() - start < BOUND_S
    usable(mount)

"""What the doors of SeaweedFS need on the wire: HTTP to the filer and S3, and hand-made entries.

Entries are encoded by hand (facts of filer.proto), so that tests can make what no writer makes
today: nested manifests, times out of range, absurd chunk maps.
"""

import base64
import hashlib
import hmac
import http.client
import json
import stat
import struct
import subprocess
import threading
import time
import urllib.parse
import uuid

import weed

# Go's os.FileMode bits for the type; the low twelve bits are those of Unix.
GO_TYPE = {
    stat.S_IFREG: 0,
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 21,
}


def quote(path):
    return urllib.parse.quote(path if isinstance(path, bytes) else path.encode())


class Http:
    """Requests over one kept connection a thread."""

    def __init__(self, port, timeout_s=60):
        self.port = port
        self.timeout_s = timeout_s
        self.local = threading.local()

    def request(self, method, path, body=None, headers=None, query="", expect=(200, 201, 202, 204, 206)):
        url = quote(path) + ("?" + query if query else "")
        for attempt in (1, 2):
            connection = getattr(self.local, "connection", None)
            fresh = connection is None
            if fresh:
                connection = self.local.connection = http.client.HTTPConnection(
                    weed.HOST, self.port, timeout=self.timeout_s)
            try:
                connection.request(method, url, body=body, headers=headers or {})
                response = connection.getresponse()
                data = response.read()
                break
            except (OSError, http.client.HTTPException):
                self.local.connection = None
                if fresh or attempt == 2:
                    raise
        assert response.status in expect, f"{method} {url}: {response.status} {data[:300]!r}"
        response.data = data
        return response

    def put(self, path, body=b"", query="", headers=None):
        return self.request("PUT", path, body, headers, query)

    def get(self, path, query=""):
        return self.request("GET", path, query=query).data

    def delete(self, path, query=""):
        return self.request("DELETE", path, query=query)

    def entry(self, path):
        return json.loads(self.get(path, "metadata=true"))

    def post_form(self, path, body, filename="file", content_type="application/octet-stream", query=""):
        """POST as a browser's form does it."""
        boundary = uuid.uuid4().hex
        head = (f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
                f"Content-Type: {content_type}\r\n\r\n")
        data = head.encode() + body + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self.request("POST", path, data, headers, query)

    def mkdir(self, path, mode=0o755):
        return self.request("POST", path.rstrip("/") + "/", query=f"mode={mode:04o}", expect=(201, 409))


class S3(Http):
    """The S3 gateway, without credentials."""

    def multipart(self, path, parts):
        upload = self.request("POST", path, query="uploads").data.decode()
        upload_id = upload.split("<UploadId>")[1].split("</UploadId>")[0]
        done = []
        for number, part in enumerate(parts, 1):
            answer = self.put(path, part, f"partNumber={number}&uploadId={upload_id}")
            done.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{answer.headers['ETag']}</ETag></Part>")
        body = f"<CompleteMultipartUpload>{''.join(done)}</CompleteMultipartUpload>"
        self.request("POST", path, body.encode(), query=f"uploadId={upload_id}")


def jwt(key, claims=None, lifetime_s=600):
    """A token as the servers check it (HS256)."""

    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    payload = dict(claims or {}, exp=int(time.time()) + lifetime_s)
    head = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(payload).encode())
    return (head + b"." + part(hmac.new(key.encode(), head, hashlib.sha256).digest())).decode()


# Protobuf


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value):
    """One field: int, bool, str, bytes or a list of those; None and 0 are left out."""
    if value is None or value is False or value == 0:
        return b""
    if isinstance(value, list):
        return b"".join(field(number, v) for v in value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fixed32(number, value):
    return varint(number << 3 | 5) + struct.pack("<I", value)


def file_id(fid):
    """The message FileId of "3,01637037d6"."""
    volume, rest = fid.split(",")
    return field(1, int(volume)) + field(2, int(rest[:-8], 16)) + fixed32(3, int(rest[-8:], 16))


def chunk(fid, offset, size, ts_ns, manifest=False):
    """The message FileChunk."""
    return (field(2, offset) + field(3, size) + field(4, ts_ns) + field(7, file_id(fid)) +
            field(11, manifest))


def entry(name, mode, size=0, chunks=(), mtime=None, mtime_ns=0, uid=0, gid=0, rdev=0, target=None, content=None,
          extended=None, hard_link=None, n_links=0, inode=0):
    """The message Entry. mode is a Unix one, type included."""
    mtime = int(time.time()) if mtime is None else mtime
    go_mode = GO_TYPE[stat.S_IFMT(mode)] | (mode & 0o7777)
    attributes = (field(1, size) + field(2, mtime) + field(3, go_mode) + field(4, uid) + field(5, gid) +
                  field(11, mtime) + field(13, target) + field(16, rdev) + field(17, inode) +
                  field(19, mtime_ns))
    pairs = [field(1, key) + field(2, value) for key, value in (extended or {}).items()]
    return (field(1, name) + field(2, stat.S_ISDIR(mode)) + field(3, list(chunks)) + field(4, attributes) +
            field(5, pairs) + field(7, hard_link) + field(8, n_links) + field(9, content))


def create_entry(filer_port, directory, message):
    """Stores an entry through the filer's gRPC port (CreateEntry)."""
    request = field(1, directory) + field(2, message)
    frame = b"\0" + struct.pack(">I", len(request)) + request
    url = f"http://{weed.HOST}:{filer_port + weed.GRPC_OFFSET}/filer_pb.SeaweedFiler/CreateEntry"
    result = subprocess.run(
        ["curl", "-sS", "--max-time", "30", "--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H",
         "te: trailers", "--data-binary", "@-", "-D", "/dev/stderr", "-o", "-", url],
        input=frame, capture_output=True)
    head = result.stderr.decode(errors="replace")
    assert result.returncode == 0 and "grpc-status: 0" in head.lower(), head
    # CreateEntryResponse.error = 1
    assert len(result.stdout) < 7 or result.stdout[5] != 0x0A, result.stdout


def load_entries(cluster, work_dir, entries, concurrency=8):
    """Stores many entries at once ((directory, message) pairs, parents first), by weed shell's
    fs.meta.load. It ends without waiting for the last ones, so that some of no importance follow."""
    path = work_dir / f"{uuid.uuid4().hex}.meta"
    padding = [("/.loaded", entry(f"padding{i}", stat.S_IFREG)) for i in range(100)]
    with open(path, "wb") as f:
        for directory, message in [*entries, *padding]:
            full = field(1, directory) + field(2, message)
            f.write(struct.pack(">I", len(full)) + full)
    shell = subprocess.run(
        [weed.weed_binary(), "shell", f"-master={cluster.master}", f"-filer={weed.HOST}:{cluster.filer_port}"],
        input=f"fs.meta.load -v=false -concurrency={concurrency} {path}\n", text=True, capture_output=True,
        cwd=work_dir, timeout=300)
    path.unlink()
    output = shell.stdout + shell.stderr
    assert "is loaded" in output, output
    http_client = Http(cluster.filer_port)
    for directory, message in entries[-20:]:
        length = message[1]  # of the name: the first field, always shorter than 128 here
        http_client.entry(f"{directory}/{message[2:2 + length].decode()}")

"""A client of kelpd's protocol, written from docs/protocol.md alone: it shares no code with kelpfs."""

import socket
import struct

MAGIC = 0x504C454B
VERSION = 1

HELLO, HELLO_REPLY, READ, READ_REPLY, COMPLETE, PING, PONG, CREDIT, GOODBYE = range(1, 10)

(OK, NOT_FOUND, NOT_SERVED, RANGE, DENIED, BUSY, IO, MALFORMED, VERSION_REFUSED, EXHAUSTED, SHUTDOWN,
 IDLE, CORRUPT) = range(13)

CAP_INLINE, CAP_LEASE, CAP_STREAM = 1, 2, 4
WHOLE, READ_DELETED = 1, 2
GZIP, CRC_WHOLE, CRC_RANGE, LEASE = 1, 2, 4, 8

MESSAGE_BYTES_MAX = 16384
EXTENTS_MAX = 16

HEADER = struct.Struct("<IBBHIIQ")
HELLO_HEAD = struct.Struct("<BBHII")
HELLO_REPLY_HEAD = struct.Struct("<BBBBIIIIIQQQI64s48s64s256s")
ADDRESS = struct.Struct("<64sH")
READ_HEAD = struct.Struct("<BB6x")
EXTENT = struct.Struct("<IIQQQIHH")
REPLY_HEAD = struct.Struct("<B7x")
RESULT = struct.Struct("<B3xIIIQQQQII")
GOODBYE_BODY = struct.Struct("<B256s")


def parse_fid(fid):
    """"3,01637037d6" as (volume, key, cookie)."""
    volume, rest = fid.split(",")
    rest, _, delta = rest.partition("_")
    return int(volume), int(rest[:-8], 16) + int(delta or 0), int(rest[-8:], 16)


def message(kind, payload=b"", xid=0, credits=0, version=VERSION, magic=MAGIC, reserved=0, length=None):
    return HEADER.pack(magic, version, kind, credits, len(payload) if length is None else length, reserved,
                       xid) + payload


def hello(token=b"", version_min=VERSION, version_max=VERSION, capabilities=CAP_STREAM, inline_bytes_max=0):
    return HELLO_HEAD.pack(version_min, version_max, len(token), capabilities, inline_bytes_max) + token


def extent(fid, offset=0, length=0, flags=None, token=b""):
    """length 0: the whole needle."""
    return parse_fid(fid), offset, length, (WHOLE if length == 0 else 0) if flags is None else flags, token


def read(extents, completes=()):
    out = READ_HEAD.pack(len(extents), len(completes))
    for (volume, key, cookie), offset, length, flags, token in extents:
        out += EXTENT.pack(volume, cookie, key, offset, length, flags, len(token), 0)
    out += struct.pack(f"<{len(completes)}Q", *completes)
    return out + b"".join(e[4] for e in extents)


def text(field):
    return field.split(b"\0", 1)[0].decode("ascii")


class Goodbye(Exception):
    """The agent ends the connection."""

    def __init__(self, reason, why):
        super().__init__(f"{reason}: {why}")
        self.reason, self.why = reason, why


class HelloReply:
    def __init__(self, payload):
        (self.status, self.version, flags, n, self.capabilities, self.inline_bytes_max, self.lease_ms,
         self.sessions_max, self.sessions_active, self.transfer_bytes_max, self.staging_bytes_max, self.vendor_id,
         self.port_lid, device, gid, software, why) = HELLO_REPLY_HEAD.unpack_from(payload)
        self.token_needed = bool(flags & 1)
        self.device, self.port_gid, self.software, self.text = map(text, (device, gid, software, why))
        at = HELLO_REPLY_HEAD.size
        self.addresses = []
        for _ in range(n):
            host, port = ADDRESS.unpack_from(payload, at)
            self.addresses.append((text(host), port))
            at += ADDRESS.size
        assert at == len(payload)


class Result:
    def __init__(self, payload, at):
        (self.status, self.flags, self.crc32c, self.rkey, self.length, self.needle_length, self.lease_id,
         self.remote_addr, self.lease_ms, _) = RESULT.unpack_from(payload, at)
        self.data = b""


class Client:
    """One connection. Reads may be pipelined: send_read(), then next_reply()."""

    def __init__(self, port, host="127.0.0.1", token=b"", timeout_s=20, receive_buffer=None, say_hello=True):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout_s)
        self.socket.connect((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.credits = 0
        self.xid = 0
        self.reply = None
        if say_hello:
            self.reply = self.hello(token)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def receive(self, n):
        parts = bytearray()
        while len(parts) < n:
            part = self.socket.recv(min(n - len(parts), 1 << 20))
            if not part:
                raise ConnectionResetError(f"closed after {len(parts)} of {n} bytes")
            parts += part
        return bytes(parts)

    def next_message(self):
        """(type, xid, payload) of the next message; a goodbye is an exception."""
        magic, version, kind, credits, length, reserved, xid = HEADER.unpack(self.receive(HEADER.size))
        assert magic == MAGIC and version == VERSION and reserved == 0
        assert length <= MESSAGE_BYTES_MAX - HEADER.size
        payload = self.receive(length)
        self.credits += credits
        if kind == GOODBYE:
            reason, why = GOODBYE_BODY.unpack(payload)
            raise Goodbye(reason, text(why))
        return kind, xid, payload

    def hello(self, token=b"", **options):
        self.socket.sendall(message(HELLO, hello(token, **options), xid=77))
        kind, xid, payload = self.next_message()
        assert (kind, xid) == (HELLO_REPLY, 77)
        return HelloReply(payload)

    def send(self, kind, payload=b"", **header):
        self.socket.sendall(message(kind, payload, **header))

    def send_read(self, *extents, completes=()):
        self.xid += 1
        self.credits -= 1
        self.send(READ, read(extents, completes), xid=self.xid)
        return self.xid

    def next_reply(self):
        """(xid, results with their data) of the next answer."""
        kind, xid, payload = self.next_message()
        assert kind == READ_REPLY
        n, = REPLY_HEAD.unpack_from(payload)
        results = [Result(payload, REPLY_HEAD.size + i * RESULT.size) for i in range(n)]
        assert len(payload) == REPLY_HEAD.size + n * RESULT.size
        for result in results:
            if result.status == OK:
                result.data = self.receive(result.length)
            else:
                assert payload and result.length == result.flags == result.crc32c == 0
        return xid, results

    def read(self, *extents):
        xid = self.send_read(*extents)
        got, results = self.next_reply()
        assert got == xid and len(results) == len(extents)
        return results

    def read_one(self, fid, offset=0, length=0, **options):
        return self.read(extent(fid, offset, length, **options))[0]

    def ping(self):
        self.send(PING, xid=99)
        assert self.next_message() == (PONG, 99, b"")

    def goodbye(self):
        """What the agent says last."""
        try:
            while True:
                kind, _, payload = self.next_message()
                if kind == READ_REPLY:
                    n, = REPLY_HEAD.unpack_from(payload)
                    for i in range(n):
                        self.receive(Result(payload, REPLY_HEAD.size + i * RESULT.size).length)
        except Goodbye as goodbye:
            assert self.socket.recv(1) == b"", "more after the goodbye"
            return goodbye


_crc_table = []


def crc32c(data):
    """Castagnoli, of the bytes as they are stored."""
    if not _crc_table:
        for i in range(256):
            for _ in range(8):
                i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
            _crc_table.append(i)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _crc_table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF

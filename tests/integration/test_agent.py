"""kelpd beside a real volume server, driven by a client that was written from the protocol's page."""

import gzip
import itertools
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

import agent_client as ac
import corpus as doors
import mounts
import weed
import wire

READ_KEY = "volume-read-key"


def kelpd_binary():
    return mounts.bin_dir() / "kelpd"


class Volumes:
    """Needles written to a cluster's volume server over HTTP."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.master = wire.Http(cluster.master_port)
        self.server = wire.Http(cluster.volume_ports[0])
        self.dir = cluster.work_dir / "volume0"

    def assign(self, query=""):
        return json.loads(self.master.get("/dir/assign", query))["fid"]

    def put(self, data, fid=None, query="", content_type="application/octet-stream", filename="file"):
        fid = fid or self.assign(query)
        self.server.post_form("/" + fid, data, filename=filename, content_type=content_type, query=query)
        return fid

    def delete(self, fid):
        self.server.delete("/" + fid)

    def drop_from_page_cache(self):
        for path in self.dir.glob("*.dat"):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def vacuum(self):
        self.master.get("/vol/vacuum", "garbageThreshold=0.0001")


class Agent(weed.Process):
    _numbers = itertools.count()

    def __init__(self, work_dir, *arguments, env=None, host=weed.HOST, port=None, listen_host=None, under=(),
                 program=None):
        """listen_host: where it listens, if not just at the address where it is looked for. under: a program
        that runs it, with its arguments. program: that is run in its place."""
        self.host, self.port = host, port or weed.free_port()
        listen = f"{self.host if listen_host is None else listen_host}:{self.port}"
        command = [*under, program or kelpd_binary(), "-f", "--listen", listen, *arguments]
        super().__init__(f"kelpd{next(self._numbers)}", command, work_dir, dict(mounts.command_env(), **(env or {})))
        self.wait_ready()

    def wait_ready(self):
        def listens():
            assert self.running(), self.log_tail()
            return weed.listens(self.host, self.port)

        weed.wait_until(listens, "kelpd listens")

    def client(self, **options):
        return ac.Client(self.port, host=self.host, **options)

    def end(self):
        """Ends it as an operator would; it has to do so cleanly."""
        if self.running():
            assert self.kill(signal.SIGTERM, timeout_s=15 * weed.SLOW) == 0, self.log_tail()
        assert not mounts.SANITIZER_REPORT.search(self.log_text()), self.log_tail()


@pytest.fixture(scope="module")
def volumes(make_cluster):
    return Volumes(make_cluster("agent"))


@pytest.fixture
def start_agent(volumes, work_dir):
    """Factory: start_agent("--max-connections", "3"); ended, and looked at, after the test."""
    agents = []

    def start(*arguments, dirs=None, **options):
        for path in [volumes.dir] if dirs is None else dirs:
            arguments = ("--dir", path, *arguments)
        agents.append(Agent(work_dir, *arguments, **options))
        return agents[-1]

    yield start
    for agent in agents:
        agent.end()


@pytest.fixture
def agent(start_agent):
    return start_agent()


@pytest.fixture
def client(agent):
    with agent.client() as client:
        yield client


def statuses(client, *extents):
    return [result.status for result in client.read(*extents)]


# Reads


@pytest.mark.parametrize("size", [1, 4096, 65535, 65536, 65537, 1 << 20, 9 << 20])
def test_whole_needles_and_ranges_are_right(volumes, client, size):
    data = doors.noise(size, f"agent {size}")
    fid = volumes.put(data)
    result = client.read_one(fid)
    assert result.status == ac.OK and result.data == data and result.needle_length == size
    assert result.flags == ac.CRC_WHOLE
    if size <= 65536:
        assert result.crc32c == ac.crc32c(data)
    chance = random.Random(size)
    for _ in range(20):
        offset = chance.randrange(size)
        length = chance.randrange(1, size - offset + 1)
        result = client.read_one(fid, offset, length)
        assert result.status == ac.OK and result.data == data[offset:offset + length]
        if result.flags & ac.CRC_RANGE and length < 5000:
            assert result.crc32c == ac.crc32c(result.data)


def test_needle_is_there_as_soon_as_it_is_written(volumes, client):
    for i in range(100):
        data = b"%d" % i
        assert client.read_one(volumes.put(data)).data == data


def test_compressed_needle_comes_as_it_is_stored(volumes, client):
    text = b"The same again. " * 5000
    result = client.read_one(volumes.put(text, content_type="text/plain", filename="file.txt"))
    assert result.flags & ac.GZIP and len(result.data) < len(text)
    assert gzip.decompress(result.data) == text


def test_fields_behind_the_data_may_be_long(volumes, client):
    data = doors.noise(200000, "long fields")
    fid = volumes.put(data, filename="n" * 250, content_type="application/x-" + "m" * 200)
    assert client.read_one(fid).data == data
    assert client.read_one(fid, 1000, 10).data == data[1000:1010]


def test_what_is_not_in_the_page_cache_is_read_from_disk(volumes, client):
    blobs = [doors.noise(n, f"cold {n}") for n in (100, 5000, 60000, 3 << 20, 10 << 20)]
    fids = [volumes.put(blob) for blob in blobs]
    for _ in range(3):
        volumes.drop_from_page_cache()
        assert [r.data for r in client.read(*(ac.extent(fid) for fid in fids))] == blobs
        volumes.drop_from_page_cache()
        for blob, fid in zip(blobs, fids):
            client.send_read(ac.extent(fid, len(blob) // 3, len(blob) // 2))
        got = dict(client.next_reply() for _ in fids)
        for xid, blob in zip(sorted(got), blobs):
            assert got[xid][0].data == blob[len(blob) // 3:len(blob) // 3 + len(blob) // 2]


def test_sixteen_extents_in_one_message(volumes, client):
    blobs = [doors.noise(n, f"extent {n}") for n in range(1000, 160000, 10000)]
    fids = [volumes.put(blob) for blob in blobs]
    results = client.read(*(ac.extent(fid) for fid in fids))
    assert [r.data for r in results] == blobs


def test_extents_fail_one_by_one(volumes, client):
    fid = volumes.put(b"0123456789")
    wrong_cookie = fid[:-8] + "%08x" % (int(fid[-8:], 16) ^ 1)
    unknown = fid.split(",")[0] + ",ffffffff12345678"
    assert statuses(client, ac.extent(fid), ac.extent(wrong_cookie), ac.extent(fid, 5, 6), ac.extent(unknown),
                    ac.extent("4000,0112345678"), ac.extent(fid, 0, 10)) == [
                        ac.OK, ac.NOT_FOUND, ac.RANGE, ac.NOT_FOUND, ac.NOT_SERVED, ac.OK]


def test_answers_to_pipelined_reads_carry_their_ids(volumes, client):
    blobs = [doors.noise(n, "pipeline") for n in (10, 300000, 4096, 70000)]
    fids = [volumes.put(blob) for blob in blobs]
    expected = {}
    for i in range(ac.EXTENTS_MAX):
        expected[client.send_read(ac.extent(fids[i % 4]))] = blobs[i % 4]
    for _ in range(ac.EXTENTS_MAX):
        xid, results = client.next_reply()
        assert results[0].data == expected.pop(xid)
    assert not expected and client.credits == 16


def test_deleted_needle_can_be_read_only_on_request(volumes, client):
    fid = volumes.put(b"deleted")
    assert client.read_one(fid).data == b"deleted"
    volumes.delete(fid)

    def gone():
        return client.read_one(fid).status == ac.NOT_FOUND

    weed.wait_until(gone, "the deletion is seen")
    assert client.read_one(fid, flags=ac.WHOLE | ac.READ_DELETED).data == b"deleted"


def test_overwritten_needle_is_new_or_old_and_never_mixed(volumes, client):
    old, new = doors.noise(300000, "old"), doors.noise(300000, "new")
    fid = volumes.put(old)
    assert client.read_one(fid).data == old
    volumes.put(new, fid=fid)
    weed.wait_until(lambda: client.read_one(fid).data == new, "the new content is seen")


def test_needle_with_a_ttl_expires(volumes, client):
    fid = volumes.put(b"for a minute", query="ttl=1m")
    assert client.read_one(fid).data == b"for a minute"


# Start


def test_directories_are_asked_of_the_volume_server(volumes, start_agent):
    agent = start_agent("--volume-server", f"{weed.HOST}:{volumes.cluster.volume_ports[0]}", dirs=[])
    assert f"data directory {volumes.dir}, says http://{weed.HOST}:{volumes.cluster.volume_ports[0]}" in agent.log_text()
    fid = volumes.put(b"asked")
    with agent.client() as client:
        assert client.read_one(fid).data == b"asked"


def run_kelpd(*arguments):
    return subprocess.run([kelpd_binary(), *arguments], capture_output=True, text=True, timeout=30,
                          stdin=subprocess.DEVNULL)


def test_volume_server_that_does_not_answer_is_named():
    result = run_kelpd("--volume-server", f"{weed.HOST}:{weed.free_port()}", "-f")
    assert result.returncode == 1 and "--dir" in result.stderr.splitlines()[-1]


def test_port_that_is_taken_is_named(agent, volumes):
    result = run_kelpd("--dir", volumes.dir, "--listen", f"{weed.HOST}:{agent.port}", "-f")
    assert result.returncode == 1 and str(agent.port) in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--dir"], [], ["--dir=/", "--max-connections=0"],
                                       ["--dir=/", "--listen", "a:b"], ["stray"]])
def test_wrong_command_line_is_refused(arguments):
    result = run_kelpd(*arguments)
    assert result.returncode == 1 and result.stderr.startswith("kelpd: ")


def test_help_and_version():
    text = run_kelpd("--help").stdout
    for option in ("--dir", "--idx-dir", "--listen", "--volume-server", "--security", "--max-connections",
                   "--idle-timeout", "--staging", "-f", "-d", "-h", "-V"):
        assert option in text
    assert "io_uring" in run_kelpd("-V").stdout


def test_daemon_returns_once_it_listens(volumes, tmp_path):
    port = weed.free_port()
    result = run_kelpd("--dir", volumes.dir, "--listen", f"{weed.HOST}:{port}")
    assert result.returncode == 0, result.stderr
    found = [p for p in Path("/proc").glob("[0-9]*/cmdline") if f":{port}".encode() in _bytes(p)]
    try:
        with ac.Client(port) as client:
            client.ping()
    finally:
        for path in found:
            os.kill(int(path.parent.name), signal.SIGTERM)


def _bytes(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_service_manager_is_told(volumes, start_agent, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        agent = start_agent(env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(100) == b"READY=1"
        agent.process.send_signal(signal.SIGHUP)
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(100) == b"READY=1"
        agent.end()
        assert manager.recv(100) == b"STOPPING=1"


def file_limit(process):
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    return int(re.search(r"^Max open files\s+(\d+)", limits, re.MULTILINE)[1])


def test_soft_limit_of_open_files_is_raised_to_the_hard_one(start_agent):
    agent = start_agent(under=["prlimit", "--nofile=40:3000"])
    assert file_limit(agent) == 3000 and "open files" not in agent.log_text()
    clients = [agent.client() for _ in range(100)]
    for client in clients:
        client.ping()
        client.close()


def test_hard_limit_of_open_files_that_may_not_do_is_said(start_agent):
    agent = start_agent("--max-connections", "5000", under=["prlimit", "--nofile=40:3000"])

    def said():
        return re.search(r"(\d+) open files are permitted; (\d+) may be needed", agent.log_text())

    permitted, needed = weed.wait_until(said, "the warning").groups()
    assert int(permitted) == 3000 and 5000 < int(needed) < 6000


# Tokens


@pytest.fixture
def guarded(start_agent, tmp_path):
    path = tmp_path / "security.toml"
    path.write_text(f'[jwt.signing.read]\nkey = "{READ_KEY}"\n')
    return start_agent("--security", path), path


def token(fid, key=READ_KEY, **claims):
    return wire.jwt(key, {"fid": fid, **claims}).encode()


def test_reads_need_a_token_for_their_needle(volumes, guarded):
    agent, _ = guarded
    fid, other = volumes.put(b"guarded"), volumes.put(b"other")
    with agent.client() as client:
        assert client.reply.token_needed
        assert client.read_one(fid).status == ac.DENIED
        assert client.read_one(fid, token=token(fid)).data == b"guarded"
        assert client.read_one(fid, token=token(other)).status == ac.DENIED
        assert client.read_one(fid, token=token(fid, key="another")).status == ac.DENIED
        assert client.read_one(fid, token=token(fid)[:-1]).status == ac.DENIED
        assert client.read_one(fid, token=b"\0" * 1024).status == ac.DENIED


def test_one_token_can_be_good_for_the_connection(volumes, guarded):
    agent, _ = guarded
    fid = volumes.put(b"guarded")
    with agent.client(token=wire.jwt(READ_KEY, {"kelp": "agent"}).encode()) as client:
        assert client.reply.status == ac.OK and client.read_one(fid).data == b"guarded"


@pytest.mark.parametrize("claims", [{"kelp": "mount"}, {}, {"fid": "3,0112345678"}])
def test_other_tokens_are_not_good_for_the_connection(guarded, claims):
    agent, _ = guarded
    with agent.client(token=wire.jwt(READ_KEY, claims).encode()) as client:
        assert client.reply.status == ac.DENIED
        assert client.goodbye().reason == ac.DENIED


def test_keys_are_read_again_on_sighup(volumes, guarded):
    agent, path = guarded
    fid = volumes.put(b"guarded")
    with agent.client() as client:
        path.write_text("[jwt.signing.read\n")
        agent.process.send_signal(signal.SIGHUP)
        weed.wait_until(lambda: "the old keys stay" in agent.log_text(), "the file is refused")
        assert client.read_one(fid, token=token(fid)).data == b"guarded"
        path.write_text('[jwt.signing.read]\nkey = "new-key"\n')
        agent.process.send_signal(signal.SIGHUP)
        weed.wait_until(lambda: "keys read again" in agent.log_text(), "the keys are read")
        assert client.read_one(fid, token=token(fid)).status == ac.DENIED
        assert client.read_one(fid, token=token(fid, key="new-key")).data == b"guarded"
    assert READ_KEY not in agent.log_text() and "new-key" not in agent.log_text()


# Bad clients


def raw(agent, *messages):
    client = agent.client(say_hello=False)
    client.socket.sendall(b"".join(messages))
    return client


def test_other_version_is_refused(agent):
    with raw(agent, ac.message(ac.HELLO, ac.hello(version_min=2, version_max=9), xid=1)) as client:
        _, _, payload = client.next_message()
        assert ac.HelloReply(payload).status == ac.VERSION_REFUSED
        assert client.goodbye().reason == ac.VERSION_REFUSED
    with raw(agent, ac.message(ac.HELLO, b"quite different", version=9, xid=1)) as client:
        _, _, payload = client.next_message()
        assert ac.HelloReply(payload).status == ac.VERSION_REFUSED


HELLO = ac.message(ac.HELLO, ac.hello())
ONE = ac.extent("3,0112345678")
MALFORMED = {
    "no hello": ac.message(ac.PING),
    "magic": ac.message(ac.HELLO, ac.hello(), magic=0x12345678),
    "reserved": ac.message(ac.HELLO, ac.hello(), reserved=1),
    "type 0": ac.message(0),
    "type 99": HELLO + ac.message(99),
    "too long": ac.message(ac.HELLO, length=1 << 20),
    "huge": ac.message(ac.HELLO, length=0xFFFFFFFF),
    "short hello": ac.message(ac.HELLO, b"\1"),
    "token beyond": ac.message(ac.HELLO, ac.HELLO_HEAD.pack(1, 1, 100, 4, 0)),
    "hello twice": HELLO + HELLO,
    "reply": HELLO + ac.message(ac.READ_REPLY),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no extents": HELLO + ac.message(ac.READ, ac.READ_HEAD.pack(0, 0)),
    "extents missing": HELLO + ac.message(ac.READ, ac.READ_HEAD.pack(5, 0) + ac.read([ONE])[8:]),
    "too many": HELLO + ac.message(ac.READ, ac.READ_HEAD.pack(17, 0) + ac.read([ONE] * 17)[8:]),
    "left over": HELLO + ac.message(ac.READ, ac.read([ONE]) + b"x"),
    "wrapping range": HELLO + ac.message(ac.READ, ac.read([ac.extent("3,0112345678", (1 << 64) - 1, 2)])),
    "flags": HELLO + ac.message(ac.READ, ac.read([ac.extent("3,0112345678", flags=0x80)])),
    "ping with payload": HELLO + ac.message(ac.PING, b"x"),
    "version changes": HELLO + ac.message(ac.PING, version=2),
    "empty completion": HELLO + ac.message(ac.COMPLETE, b"\0" * 8),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_messages_end_the_connection_with_a_reason(agent, name):
    with raw(agent, MALFORMED[name]) as client:
        if MALFORMED[name].startswith(HELLO):
            client.next_message()
        assert client.goodbye().reason == ac.MALFORMED
    with agent.client() as client:
        client.ping()


def test_random_bytes_harm_nobody(agent, volumes):
    chance = random.Random(5)
    fid = volumes.put(b"still here")
    for i in range(200):
        start = b"" if i % 2 else HELLO
        noise = chance.randbytes(chance.randrange(1, 3000))
        if i % 3 == 0:
            noise = ac.message(chance.randrange(1, 10), noise[:chance.randrange(200)])
        with raw(agent, start + noise):
            pass
    with agent.client() as client:
        assert client.read_one(fid).data == b"still here"


def test_more_reads_than_credits_end_the_connection(agent, volumes):
    fid = volumes.put(doors.noise(4 << 20, "credits"))
    with agent.client(receive_buffer=4096) as client:
        reads = b"".join(ac.message(ac.READ, ac.read([ac.extent(fid)]), xid=i) for i in range(17 + 8))
        client.socket.sendall(reads)
        assert client.goodbye().reason == ac.MALFORMED


def test_messages_may_come_in_pieces(agent, volumes):
    fid = volumes.put(b"piecewise")
    with agent.client() as client:
        for byte in ac.message(ac.READ, ac.read([ac.extent(fid)]), xid=3):
            client.socket.sendall(bytes([byte]))
        assert client.next_reply()[1][0].data == b"piecewise"


def test_connection_limit_is_said(start_agent, volumes):
    agent = start_agent("--max-connections", "3")
    clients = [agent.client() for _ in range(3)]
    with agent.client() as refused:
        assert refused.reply.status == ac.EXHAUSTED and "limit" in refused.reply.text
        assert refused.goodbye().reason == ac.EXHAUSTED
    clients.pop().close()

    def admitted():
        with agent.client() as client:
            return client.reply.status == ac.OK

    weed.wait_until(admitted, "the place is free again")
    for client in clients:
        client.ping()
        client.close()


def test_idle_connection_is_closed_with_a_reason(start_agent):
    agent = start_agent("--idle-timeout", "1")
    with agent.client() as client:
        assert client.goodbye().reason == ac.IDLE


def test_slow_reader_is_paused_and_others_are_not(agent, volumes):
    fid = volumes.put(doors.noise(8 << 20, "slow"))
    small = volumes.put(b"quick")
    slow = [agent.client(receive_buffer=4096) for _ in range(20)]
    for client in slow:
        for _ in range(8):
            client.send_read(*[ac.extent(fid)] * 4)
    before = resident_bytes(agent)
    with agent.client() as client:
        for _ in range(200):
            start = time.monotonic()
            assert client.read_one(small).data == b"quick"
            assert time.monotonic() - start < 15
    if not mounts.sanitized():
        assert resident_bytes(agent) - before < 32 << 20
    for client in slow:
        client.close()


def test_slow_readers_of_small_answers_cost_bounded_memory(start_agent, volumes):
    agent = start_agent("--staging", "1M")
    data = doors.noise(60000, "small answers")
    fid = volumes.put(data)
    slow = [agent.client(receive_buffer=4096) for _ in range(30)]
    for client in slow:
        for _ in range(16):
            client.send_read(*[ac.extent(fid)] * 16)
    with agent.client() as client:
        assert client.read_one(fid).data == data  # from the page cache where there is no memory
    # Not all of them: who takes nothing for half a minute is cut off.
    for client in slow[:3]:
        for _ in range(16):
            for result in client.next_reply()[1]:
                assert result.data == data
    for client in slow:
        client.close()


def resident_bytes(process):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) << 10


def open_files(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def test_a_hundred_closed_connections_leave_nothing(agent, volumes):
    fid = volumes.put(doors.noise(1 << 20, "closed"))
    with agent.client() as client:
        client.read_one(fid)
        before = open_files(agent)
        clients = [agent.client() for _ in range(100)]
        for i, other in enumerate(clients):
            if i % 3 == 0:
                other.read_one(fid)
            if i % 3 == 1:
                other.send_read(ac.extent(fid))
        for other in clients:
            other.close()
        weed.wait_until(lambda: open_files(agent) <= before, "descriptors are closed")
        weed.wait_until(lambda: active_connections(agent) == 2, "connections are forgotten")


def active_connections(agent):
    with agent.client() as client:
        return client.reply.sessions_active


# Change and the end


def read_all(client, needles):
    """Every needle through the agent; those that it says are not there are counted."""
    missing = 0
    for fid, data in needles:
        result = client.read_one(fid)
        if result.status == ac.OK:
            assert result.data == data, fid
        else:
            assert result.status in (ac.NOT_FOUND, ac.NOT_SERVED), (fid, result.status)
            missing += 1
    return missing


def test_vacuum_deletion_and_appends_while_reading(volumes, agent):
    needles = [(volumes.put(data), data) for data in (doors.noise(n * 997 + 1, f"vacuum {n}") for n in range(80))]
    kept, deleted = needles[::2], needles[1::2]
    stop = threading.Event()
    failures = []

    def read():
        try:
            with agent.client() as client:
                while not stop.is_set():
                    read_all(client, needles)
        except BaseException as error:  # noqa: B902
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for i, (fid, _) in enumerate(deleted):
            volumes.delete(fid)
            if i % 20 == 0:
                volumes.vacuum()
            appended = doors.noise(1000, f"appended {i}")
            kept.append((volumes.put(appended), appended))
        volumes.vacuum()
        with agent.client() as client:
            weed.wait_until(lambda: read_all(client, kept) == 0 and read_all(client, deleted) == len(deleted),
                            "all is seen")
    finally:
        stop.set()
        for reader in readers:
            reader.join(60)
    assert not failures, failures


def test_agent_serves_while_the_volume_server_is_down(volumes, start_agent):
    data = doors.noise(100000, "down")
    fid = volumes.put(data)
    volumes.cluster.kill("volume0")
    try:
        agent = start_agent()
        with agent.client() as client:
            assert client.read_one(fid).data == data
    finally:
        volumes.cluster.restart("volume0")
        weed.wait_until(lambda: can_write(volumes), "the volume server is back")
    with agent.client() as client:
        assert client.read_one(volumes.put(b"afterwards")).data == b"afterwards"


def can_write(volumes):
    try:
        return volumes.put(b"x")
    except Exception:  # of any kind: it is starting
        return False


def test_agent_that_was_killed_can_be_started_again(volumes, agent):
    fid = volumes.put(doors.noise(4 << 20, "killed"))
    with agent.client(receive_buffer=4096) as client:
        client.send_read(ac.extent(fid))
        agent.kill()
        with pytest.raises(OSError):
            client.next_reply()
    agent.start()
    agent.wait_ready()
    with agent.client() as client:
        assert client.read_one(fid).status == ac.OK


def wait_readable(client):
    """Until the agent has begun to answer."""
    assert select.select([client.socket], [], [], 60)[0]


def test_stop_finishes_answers_and_says_goodbye(volumes, agent):
    data = doors.noise(8 << 20, "stopped")
    fid = volumes.put(data)
    with agent.client(receive_buffer=65536) as client, agent.client() as idle:
        client.send_read(ac.extent(fid))
        wait_readable(client)
        agent.process.send_signal(signal.SIGTERM)
        assert idle.goodbye().reason == ac.SHUTDOWN
        assert client.next_reply()[1][0].data == data
        assert client.goodbye().reason == ac.SHUTDOWN
    assert agent.process.wait(60) == 0


def test_stop_does_not_wait_for_ever(volumes, agent):
    fid = volumes.put(doors.noise(8 << 20, "stuck"))
    with agent.client(receive_buffer=4096) as client:
        client.send_read(*[ac.extent(fid)] * 4)
        wait_readable(client)
        start = time.monotonic()
        assert agent.kill(signal.SIGTERM, timeout_s=60) == 0
        assert 4 < time.monotonic() - start

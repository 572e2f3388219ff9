"""kelpfs reads through kelpd over TCP: the bytes are right and come from where they should, whatever
happens to the agent, to the volumes and to the data."""

import contextlib
import errno
import itertools
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time
from pathlib import Path

import pytest

import agent_client as ac
import corpus as doors
import weed
import wire
from test_agent import Agent, active_connections
from test_content import assert_same, ranges
from test_failures import chunk_ids, read_direct
from test_security import KEYS, toml
from test_security import write_headers as filer_write_headers

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs's own sources")

KIB = 1 << 10
MIB = 1 << 20
TIMEOUT_S = 10  # kelpfs's default for one request
BOUND_S = TIMEOUT_S + 10  # with what a busy test machine adds
SHORT_BOUND_S = 9  # where the option says 3: less than the default, with much room for noise
FULL_S = 5  # after which an agent that took no more connections is asked again
SLOW = 8  # as much longer a busy machine, or a sanitizer, may take
NOTHING_TRUSTED = ["attr_timeout=0", "entry_timeout=0"]
DATA = doors.noise(24 * MIB, "mount agent")


def reads_by_source(mount):
    """Ends the mount, and returns what it then says: {source: (reads, bytes)}."""
    assert mount.unmount() == 0
    line = re.search(r"reads by source: (.*); failed \d+", mount.log_text())[1]
    return {name: (int(reads), int(n)) for name, reads, n in re.findall(r"(\w+) (\d+) \((\d+) bytes\)", line)}


def auto(agent):
    """Options for reading through an agent, or what is at its port, over TCP where it serves."""
    return ["rdma=off", f"agent_port={getattr(agent, 'port', agent)}"]


def require(agent):
    return ["agent=require", *auto(agent)]


def bytes_sent(process):
    """By a server, to sockets for the most part."""
    return int(re.search(r"^wchar: (\d+)", Path(f"/proc/{process.pid}/io").read_text(), re.MULTILINE)[1])


def read_past_caches(path, offset, length):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def at_once(readers, function, meanwhile=lambda: None):
    """function(number) on so many threads, and meanwhile() on this one, whose children live as long as
    it does; the first failure is raised."""
    failures = []

    def run(number):
        try:
            function(number)
        except (AssertionError, OSError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(readers)]
    for thread in threads:
        thread.start()
    try:
        meanwhile()
    finally:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def weed_shell(cluster, *commands):
    result = subprocess.run([weed.weed_binary(), "shell", f"-master={cluster.master}", f"-filer={cluster.filer}"],
                            input="\n".join(("lock", *commands, "unlock", "")), text=True, capture_output=True,
                            cwd=cluster.work_dir, timeout=60 * weed.SLOW)
    output = result.stdout + result.stderr
    assert "error" not in output.lower(), output


@contextlib.contextmanager
def reading_only(source, mount, volume):
    """What is read meanwhile has to come from that source: afterwards the mount is ended and has to say so,
    and the volume server has to have sent next to nothing."""
    before = bytes_sent(volume)
    yield
    sent = bytes_sent(volume) - before
    sources = reads_by_source(mount)
    assert set(sources) == {source} and sources[source][0] > 0
    if sources[source][1] > MIB:
        assert sent < sources[source][1] / 10


# Everything reads back through the agent alone


@pytest.fixture(scope="module")
def corpus_agent(cluster, work_dir):
    agent = Agent(work_dir, "--dir", cluster.work_dir / "volume0")
    yield agent
    agent.end()


@pytest.fixture(params=sorted(doors.DOORS))
def only_agent(request, cluster, corpus, corpus_agent, mount_kelpfs):
    """[(path, bytes)] of one door, in a mount that has only the agent to read from; afterwards it has to
    have said so, and the volume server has to have sent nothing of them."""
    opened = corpus(request.param)
    mount = mount_kelpfs(opened.filer, opened.directory, options=require(corpus_agent))
    with reading_only("tcp", mount, cluster.processes["volume0"]):
        yield [(mount.path / name, data) for name, data in opened.files.items()]


def test_whole_files_read_back_through_the_agent_alone(only_agent):
    for path, data in only_agent:
        assert_same(path.read_bytes(), data, path.name)


def test_random_ranges_read_back_through_the_agent_alone(only_agent):
    for path, data in only_agent:
        for flags in (os.O_DIRECT, 0):
            fd = os.open(path, os.O_RDONLY | flags)
            try:
                for offset, length in ranges(len(data), 25, path.name):
                    assert_same(os.pread(fd, length, offset), data[offset:offset + length],
                                f"{path.name} [{offset}, +{length})")
            finally:
                os.close(fd)


def test_eight_readers_at_once_read_right_through_the_agent_alone(only_agent):
    def read(number):
        for path, data in only_agent:
            with open(path, "rb", buffering=0) as f:
                for offset, length in ranges(len(data), 8, number):
                    assert_same(os.pread(f.fileno(), length, offset), data[offset:offset + length], path.name)
            assert_same(path.read_bytes(), data, path.name)

    at_once(8, read)


def test_inlined_content_needs_no_agent(corpus, mount_kelpfs):
    opened = corpus("filer_inlined")
    mount = mount_kelpfs(opened.filer, opened.directory, options=require(weed.free_port()))
    for name in ("empty", "one", "inlined.txt", "inlined.bin"):
        assert (mount.path / name).read_bytes() == opened.files[name]
    assert reads_by_source(mount) == {"tcp": (0, 0)}


def test_agent_is_preferred_where_there_is_one(corpus, corpus_agent, mount_kelpfs):
    """A read waits for the first connection, but not for ever: a busy machine may be too slow for it once."""
    opened = corpus("s3_multipart")

    def is_preferred():
        mount = mount_kelpfs(opened.filer, opened.directory, options=auto(corpus_agent))
        for name, data in opened.files.items():
            assert_same((mount.path / name).read_bytes(), data, name)
        sources = reads_by_source(mount)
        assert sources["filer"] == (0, 0)
        return sources["tcp"][1] > sources["http"][1]

    assert any(is_preferred() for _ in range(3))


@pytest.mark.parametrize("option", ["require", "auto"])
def test_needle_that_the_volume_server_compressed_unasked_reads_right(cluster, corpus, corpus_agent, mount_kelpfs,
                                                                      option):
    """Its entry does not say so, but the needle does: all of it is read, also for a part."""
    text = doors.prose(300 * KIB)
    http = wire.Http(cluster.filer_port)
    fid = corpus.needle(b"to have an id")
    wire.Http(cluster.volume_ports[0]).post_form("/" + fid, text, filename="t.txt", content_type="text/plain")
    http.mkdir("/agent")
    name = f"unasked-{option}.txt"
    wire.create_entry(cluster.filer_port, "/agent",
                      wire.entry(name, doors.REGULAR, len(text), [wire.chunk(fid, 0, len(text), 1000)]))
    with corpus_agent.client() as client:
        stored = client.read_one(fid).length
    assert stored < len(text) - 10000
    mount = mount_kelpfs(cluster, options=[f"agent={option}", *auto(corpus_agent)])
    for offset in (100, stored - 2000, len(text) - 5000):
        assert_same(read_past_caches(mount.path / "agent" / name, offset, 5000), text[offset:offset + 5000],
                    f"[{offset}, +5000)")
    assert_same((mount.path / "agent" / name).read_bytes(), text, "whole")
    assert reads_by_source(mount)["tcp"][1] > 0


# An agent that comes and goes


class Beside:
    """A cluster with one volume server, and agents beside it."""

    def __init__(self, cluster, work_dir):
        self.cluster = cluster
        self.work_dir = work_dir
        self.http = wire.Http(cluster.filer_port)
        self.volume = cluster.processes["volume0"]
        self.dir = cluster.work_dir / "volume0"
        self.numbers = itertools.count()
        self.http.put("/a/data.bin", DATA, "maxMB=1")

    def start(self, *arguments, **options):
        return Agent(self.work_dir, "--dir", self.dir, *arguments, **options)

    def small_files(self, count, size=4 * KIB):
        """A new directory of small files: those that nobody has read yet."""
        directory = f"/a/small{next(self.numbers)}"
        data = doors.noise(size, directory)
        for i in range(count):
            self.http.put(f"{directory}/{i:05}", data)
        return directory.lstrip("/"), data

    def vacuum(self):
        wire.Http(self.cluster.master_port).get("/vol/vacuum", "garbageThreshold=0.0001")


@pytest.fixture(scope="module")
def beside(make_cluster, work_dir):
    return Beside(make_cluster("beside"), work_dir)


@pytest.fixture
def start_agent(beside):
    with contextlib.ExitStack() as stack:
        def start(*arguments, **options):
            agent = beside.start(*arguments, **options)
            stack.callback(agent.end)
            return agent

        yield start


def read_all_small(mount, directory, count, data):
    start = time.monotonic()
    for i in range(count):
        assert (mount.path / directory / f"{i:05}").read_bytes() == data
    return time.monotonic() - start


@contextlib.contextmanager
def listener(serve=lambda connection: None):
    """A port where connections are taken and handed to serve(); yields (port, connections taken)."""
    taken = []
    with socket.create_server((weed.HOST, weed.free_port()), backlog=100) as server:
        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    taken.append(connection)
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1], taken
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


def pass_on(source, sink):
    """All that comes, and the end."""
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def passed_on_late(port, delay_s):
    """A listener's serve(): what comes is passed on to that port, and back, after so long."""

    def serve(near):
        time.sleep(delay_s)
        with contextlib.suppress(OSError), socket.create_connection((weed.HOST, port)) as far:
            back = threading.Thread(target=pass_on, args=(far, near), daemon=True)
            back.start()
            pass_on(near, far)
            back.join()

    return serve


def test_first_connection_to_the_only_agent_is_waited_for(beside, start_agent, mount_kelpfs):
    agent = start_agent()
    with listener(passed_on_late(agent.port, delay_s=2)) as (port, _):
        mount = mount_kelpfs(beside.cluster, options=[*require(port), f"timeout={6 * TIMEOUT_S}"])
        assert_same(read_past_caches(mount.path / "a/data.bin", 0, MIB), DATA[:MIB], "the first read")
        assert set(reads_by_source(mount)) == {"tcp"}


def test_agent_that_is_not_there_costs_nothing(beside, mount_kelpfs):
    """Two mounts take turns, so that whatever else the machine does meets both."""
    directory, data = beside.small_files(1000)
    paths = [mount_kelpfs(beside.cluster, options=options).path / directory
             for options in (["agent=off"], auto(weed.free_port()))]
    took_s = ([], [])
    for i in range(1000):
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.monotonic()
            assert (paths[which] / f"{i:05}").read_bytes() == data
            took_s[which].append(time.monotonic() - start)
    without, with_none_there = map(statistics.median, took_s)
    assert with_none_there < 2 * without, (without, with_none_there)
    assert took_s[1][0] < SLOW, "nor the first"


def test_agent_that_does_not_answer_costs_one_wait(beside, mount_kelpfs):
    directory, data = beside.small_files(300)
    with listener() as (port, taken):
        mount = mount_kelpfs(beside.cluster, options=auto(port))
        start = time.monotonic()
        assert (mount.path / directory / "00000").read_bytes() == data
        assert time.monotonic() - start < SLOW
        assert read_all_small(mount, directory, 300, data) < 3 * SLOW
        assert 1 <= len(taken) <= 8, "it is left alone for ever longer"
        sources = reads_by_source(mount)
    assert sources["tcp"] == (0, 0) and sources["http"][0] >= 300


def taken_up(beside, mount, agent, timeout_s=60):
    """Reads what is in no cache until the mount has connected to the agent."""
    directory, data = beside.small_files(200, size=100)
    unread = iter(range(200))

    def connected():
        assert (mount.path / directory / f"{next(unread):05}").read_bytes() == data
        return active_connections(agent) > 1

    weed.wait_until(connected, "the agent is taken up again", timeout_s=timeout_s, every_s=timeout_s / 190)


def test_agent_killed_under_a_read_is_not_noticed_and_taken_up_again(beside, start_agent, mount_kelpfs):
    agent = start_agent()
    mount = mount_kelpfs(beside.cluster, options=auto(agent))
    got, longest_s = read_direct(mount.path / "a/data.bin", agent.kill)
    assert_same(got, DATA, "killed under the read")
    assert longest_s < SLOW
    agent.start()
    agent.wait_ready()
    taken_up(beside, mount, agent)
    fresh = doors.noise(20 * MIB, "fresh")
    beside.http.put("/a/fresh.bin", fresh, "maxMB=1")
    assert_same((mount.path / "a/fresh.bin").read_bytes(), fresh, "after the restart")
    sources = reads_by_source(mount)
    assert sources["http"][1] > 0, "the killed agent's part"
    assert sources["tcp"][1] >= len(fresh) // 2, "the restarted agent's part"


def test_agent_killed_again_and_again_under_eight_readers(beside, start_agent, mount_kelpfs):
    agent = start_agent()
    mount = mount_kelpfs(beside.cluster, options=[*auto(agent), "slab=8M"])
    end = time.monotonic() + 6

    def kill_and_start():
        while time.monotonic() < end:
            time.sleep(0.3)
            agent.kill()
            time.sleep(0.1)
            agent.start()

    def read(number):
        while time.monotonic() < end:
            for offset, length in ranges(len(DATA), 20, f"{number} {time.monotonic()}"):
                start = time.monotonic()
                assert_same(read_past_caches(mount.path / "a/data.bin", offset, length), DATA[offset:offset + length],
                            f"[{offset}, +{length})")
                assert time.monotonic() - start < 3 * SLOW

    at_once(8, read, kill_and_start)
    agent.wait_ready()
    taken_up(beside, mount, agent, timeout_s=90)
    assert reads_by_source(mount)["tcp"][1] > 0


def test_only_agent_that_is_restarted_under_a_read_is_waited_for(beside, start_agent, mount_kelpfs):
    agent = start_agent()
    mount = mount_kelpfs(beside.cluster, options=require(agent))

    begun = threading.Event()

    def restart():
        assert begun.wait(60)
        agent.kill()
        time.sleep(1)
        agent.start()

    def read(_):
        got, longest_s = read_direct(mount.path / "a/data.bin", begun.set)
        assert_same(got, DATA, "restarted under the read")
        assert longest_s < BOUND_S

    at_once(1, read, restart)
    assert set(reads_by_source(mount)) == {"tcp"}


def test_read_without_its_only_agent_fails_within_the_bound(beside, mount_kelpfs):
    mount = mount_kelpfs(beside.cluster, options=[*require(weed.free_port()), "timeout=3"])
    start = time.monotonic()
    with pytest.raises(OSError) as error:
        (mount.path / "a/data.bin").read_bytes()
    assert error.value.errno in (errno.EIO, errno.ETIMEDOUT)
    assert time.monotonic() - start < SHORT_BOUND_S


def test_http_takes_over_from_an_agent_that_is_gone_for_good(beside, start_agent, mount_kelpfs):
    agent = start_agent()
    mount = mount_kelpfs(beside.cluster, options=auto(agent))
    taken_up(beside, mount, agent)
    assert_same(read_past_caches(mount.path / "a/data.bin", 0, MIB), DATA[:MIB], "with the agent")
    agent.kill()
    longest_s = 0
    for at in range(MIB, len(DATA), MIB):
        start = time.monotonic()
        assert_same(read_past_caches(mount.path / "a/data.bin", at, MIB), DATA[at:at + MIB], "without it")
        longest_s = max(longest_s, time.monotonic() - start)
    assert longest_s < SLOW
    sources = reads_by_source(mount)
    assert sources["tcp"][1] >= MIB and sources["filer"] == (0, 0)
    assert sources["tcp"][1] + sources["http"][1] >= len(DATA) and sources["http"][1] >= 10 * MIB


def test_stalled_agent_is_routed_around(beside, start_agent, mount_kelpfs):
    agent = start_agent()
    mount = mount_kelpfs(beside.cluster, options=auto(agent))
    try:
        got, longest_s = read_direct(mount.path / "a/data.bin", lambda: os.kill(agent.pid, signal.SIGSTOP))
        assert_same(got, DATA, "stalled under the read")
        assert longest_s < BOUND_S
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    taken_up(beside, mount, agent)
    assert reads_by_source(mount)["http"][1] > 0


# Agents that do not want us, or that we do not understand


def scripted_hello(status, version=ac.VERSION, text=b""):
    """A server that answers the hello so."""
    reply = ac.HELLO_REPLY_HEAD.pack(status, version, 0, 0, ac.CAP_STREAM, 0, 0, 10, 1, 1 << 28, 0, 0, 0, b"", b"",
                                     b"scripted", text)

    def serve(connection):
        with contextlib.suppress(OSError):
            header = connection.recv(ac.HEADER.size, socket.MSG_WAITALL)
            _, _, _, _, length, _, xid = ac.HEADER.unpack(header)
            connection.recv(length, socket.MSG_WAITALL)
            connection.sendall(ac.message(ac.HELLO_REPLY, reply, xid=xid, version=version))
            if status:
                connection.sendall(ac.message(ac.GOODBYE, ac.GOODBYE_BODY.pack(status, text), version=version))
                connection.shutdown(socket.SHUT_WR)

    return serve


OTHERS = {
    "refuses our version": scripted_hello(ac.VERSION_REFUSED, text=b"version 7 to 9"),
    "speaks another version": scripted_hello(ac.OK, version=9),
    "denies us": scripted_hello(ac.DENIED),
    "is not an agent": lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 100),
    "hangs up": lambda connection: connection.shutdown(socket.SHUT_RDWR),
}


@pytest.mark.parametrize("name", OTHERS)
def test_http_serves_where_the_agent(beside, mount_kelpfs, name):
    directory, data = beside.small_files(100)
    with listener(OTHERS[name]) as (port, taken):
        mount = mount_kelpfs(beside.cluster, options=auto(port))
        assert read_all_small(mount, directory, 100, data) < 3 * SLOW
        assert_same((mount.path / "a/data.bin").read_bytes(), DATA, "data.bin")
        assert 1 <= len(taken) <= 8, "it is not asked for every read"
        sources = reads_by_source(mount)
    assert sources["tcp"] == (0, 0) and sources["http"][1] >= len(DATA)


def test_key_of_another_cluster_is_refused_and_http_serves(beside, start_agent, mount_kelpfs, tmp_path):
    ours, theirs = tmp_path / "ours.toml", tmp_path / "theirs.toml"
    ours.write_text(toml({"jwt.signing.read": "one key"}))
    theirs.write_text(toml({"jwt.signing.read": "another key"}))
    agent = start_agent("--security", theirs)
    mount = mount_kelpfs(beside.cluster, options=[*auto(agent), f"security={ours}"])
    assert_same((mount.path / "a/data.bin").read_bytes(), DATA, "data.bin")
    sources = reads_by_source(mount)
    assert sources["tcp"] == (0, 0) and sources["http"][1] >= len(DATA)


def test_http_takes_over_where_the_agent_takes_no_more_connections(beside, start_agent, mount_kelpfs):
    agent = start_agent("--max-connections", "2")
    occupants = [agent.client() for _ in range(2)]
    mount = mount_kelpfs(beside.cluster, options=auto(agent))
    start = time.monotonic()
    assert_same((mount.path / "a/data.bin").read_bytes(), DATA, "data.bin")
    assert time.monotonic() - start < 5 * SLOW
    occupants.pop().close()
    fresh = doors.noise(10 * MIB, "after the limit")
    beside.http.put("/a/limit.bin", fresh, "maxMB=1")
    directory, data = beside.small_files(200, size=100)
    end = time.monotonic() + 2 * FULL_S + 20
    unread = iter(range(200))

    def in_use():
        assert (mount.path / directory / f"{next(unread):05}").read_bytes() == data
        occupied = occupants[-1]
        with agent.client() as probe:
            return probe.reply.status == ac.EXHAUSTED and occupied.ping() is None

    weed.wait_until(in_use, "the agent is taken up", timeout_s=end - time.monotonic(), every_s=0.2)
    assert_same((mount.path / "a/limit.bin").read_bytes(), fresh, "limit.bin")
    sources = reads_by_source(mount)
    assert sources["http"][1] >= len(DATA), "while it was full"
    assert sources["tcp"][1] >= len(fresh) // 2, "afterwards"
    occupants[-1].close()


def test_eight_readers_share_the_two_connections_that_the_agent_takes(beside, start_agent, mount_kelpfs):
    agent = start_agent("--max-connections", "2")
    mount = mount_kelpfs(beside.cluster, options=[*auto(agent), "slab=8M"])

    def read(number):
        for offset, length in ranges(len(DATA), 40, number):
            assert_same(read_past_caches(mount.path / "a/data.bin", offset, length), DATA[offset:offset + length],
                        f"[{offset}, +{length})")

    at_once(8, read)
    sources = reads_by_source(mount)
    assert sources["tcp"][1] > sources.get("http", (0, 0))[1]


# Tokens


@pytest.fixture(scope="module")
def guarded(make_cluster, work_dir):
    """A cluster where all keys are set, with an agent that has them."""
    cluster = make_cluster("guarded-agent", security=toml(KEYS), write_headers=filer_write_headers)
    for name, data in (("data.bin", DATA), ("small", b"small")):
        wire.Http(cluster.filer_port).request("PUT", f"/secret/{name}", data, headers=filer_write_headers(),
                                              query="maxMB=1")
    agent = Agent(work_dir, "--dir", cluster.work_dir / "volume0", "--security", cluster.work_dir / "security.toml")
    yield cluster, agent
    agent.end()


@pytest.mark.parametrize("sections", [["jwt.filer_signing.read", "jwt.signing.read"], ["jwt.filer_signing.read"]],
                         ids=["volume key at hand", "tokens from the master"])
def test_agent_that_wants_tokens_serves_who_may_read(guarded, mount_kelpfs, tmp_path, sections):
    cluster, agent = guarded
    path = tmp_path / "security.toml"
    path.write_text(toml({section: KEYS[section] for section in sections}))
    mount = mount_kelpfs(cluster, options=[*require(agent), f"security={path}"])
    assert (mount.path / "secret/small").read_bytes() == b"small"
    assert_same((mount.path / "secret/data.bin").read_bytes(), DATA, "data.bin")
    sources = reads_by_source(mount)
    assert set(sources) == {"tcp"} and sources["tcp"][1] >= len(DATA)
    said = mount.log_text() + agent.log_text()
    assert not any(key in said for key in KEYS.values())


def test_agent_with_an_outdated_key_is_passed_by(guarded, mount_kelpfs, work_dir, tmp_path):
    cluster, _ = guarded
    old, path = tmp_path / "old.toml", tmp_path / "security.toml"
    old.write_text(toml({"jwt.signing.read": "the key before"}))
    path.write_text(toml({"jwt.filer_signing.read": KEYS["jwt.filer_signing.read"]}))
    agent = Agent(work_dir, "--dir", cluster.work_dir / "volume0", "--security", old)
    try:
        mount = mount_kelpfs(cluster, options=[*auto(agent), f"security={path}"])
        assert_same((mount.path / "secret/data.bin").read_bytes(), DATA, "data.bin")
        sources = reads_by_source(mount)
        assert sources["tcp"][1] == 0 and sources["http"][1] >= len(DATA)
    finally:
        agent.end()


# Change while reading


CHANGES_S = 8
DOORS_OF_STEADY_FILES = ("filer_compressed_text", "s3_multipart", "manifest_nested", "overlapping_chunks")


def read_while_volumes_change(beside, mount, steady_doors=DOORS_OF_STEADY_FILES):
    """With vacuum, deletes, overwrites and appends going on, what does not change is always right; what does is
    one of its versions, or says that it is gone."""
    small = {f"a/steady{i}": doors.noise(150 * KIB + i, f"steady {i}") for i in range(12)}
    for name, data in small.items():
        beside.http.put("/" + name, data, "maxMB=1")
    corpus = doors.Corpus(beside.cluster, "/nowhere", beside.work_dir)
    steady = dict(small)
    for opened in map(corpus, steady_doors):
        steady.update((f"{opened.directory}/{name}".lstrip("/"), data) for name, data in opened.files.items())
    versions = [doors.noise(200 * KIB, f"version {i}") for i in range(5)]
    doomed = [doors.noise(100 * KIB, f"doomed {i}") for i in range(7)]
    line = doors.noise(10 * KIB, "line")
    beside.http.put("/a/changing", versions[0])
    beside.http.put("/a/growing", line)
    inodes = {path: path.stat().st_ino for path in beside.dir.glob("*.dat")}
    begun = time.monotonic()
    seen = set()

    def vacuumed():
        return any(path.stat().st_ino != inode for path, inode in inodes.items())

    def is_over():
        took_s = time.monotonic() - begun
        return took_s > 60 * weed.SLOW or took_s > CHANGES_S and {"changing", "growing", "vacuum"} <= seen

    def write():
        for i in itertools.count(1):
            if is_over():
                return
            beside.http.put("/a/changing", versions[i % len(versions)])
            beside.http.put(f"/a/doomed{i % 3}", doomed[i % len(doomed)])
            beside.http.put("/a/growing", line, "op=append")
            beside.http.delete(f"/a/doomed{i % 3}")
            if i % 20 == 0:
                beside.vacuum()
                seen.update(["vacuum"] if vacuumed() else [])

    def read_changing(name, is_right):
        try:
            data = (mount.path / "a" / name).read_bytes()
        except OSError as error:
            assert error.errno in (errno.ENOENT, errno.ESTALE, errno.EIO), error
            return
        assert is_right(data), f"{name}: {len(data)} bytes that nobody wrote so"
        seen.add(name)

    def read(number):
        chance = random.Random(number)
        while not is_over():
            name, data = chance.choice(sorted(steady.items()))
            offset = chance.randrange(len(data) or 1)
            assert_same(read_past_caches(mount.path / name, offset, 30000), data[offset:offset + 30000], name)
            name, data = chance.choice(sorted(small.items()))
            assert_same((mount.path / name).read_bytes(), data, name)
            read_changing("changing", lambda data: data in versions)
            read_changing("doomed1", lambda data: data in doomed)
            read_changing("growing", lambda data: data and data == line * (len(data) // len(line)))

    at_once(4, read, write)
    assert {"changing", "growing", "vacuum"} <= seen
    for name, data in steady.items():
        assert_same((mount.path / name).read_bytes(), data, name)
    assert (mount.path / "a/growing").read_bytes() == beside.http.get("/a/growing")


@pytest.mark.sanitized
def test_vacuum_deletes_overwrites_and_appends_while_reading_through_the_agent_alone(make_cluster, work_dir,
                                                                                     mount_kelpfs):
    beside = Beside(make_cluster("changing", s3=True), work_dir)
    agent = beside.start()
    try:
        mount = mount_kelpfs(beside.cluster, options=[*require(agent), "slab=8M", *NOTHING_TRUSTED])
        read_while_volumes_change(beside, mount)
        assert set(reads_by_source(mount)) == {"tcp"}
    finally:
        agent.end()


# What the agent leaves to the volume server


def refused_at_once(agent, fid, statuses):
    with agent.client() as client:
        start = time.monotonic()
        for _ in range(50):
            for extent in (ac.extent(fid), ac.extent(fid, 5, 100), ac.extent(fid, 0, 900 * KIB)):
                assert client.read(extent)[0].status in statuses
        assert time.monotonic() - start < 2 * SLOW


def test_erasure_coded_volume_is_read_over_http(beside, start_agent, mount_kelpfs):
    wire.Http(beside.cluster.master_port).get("/vol/grow", "collection=coded&count=1")
    data = doors.noise(6 * MIB, "erasure coding")
    beside.http.put("/a/coded", data, "maxMB=1&collection=coded")
    fid = chunk_ids(beside.http, "/a/coded")[0]
    agent = start_agent()
    mount = mount_kelpfs(beside.cluster, options=auto(agent))
    taken_up(beside, mount, agent)
    path = mount.path / "a/coded"
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        assert_same(os.pread(fd, MIB, 0), data[:MIB], "before")
        weed_shell(beside.cluster, f"ec.encode -volumeId={fid.split(',')[0]} -force")

        def refused():
            with agent.client() as client:
                return client.read_one(fid).status == ac.NOT_SERVED

        weed.wait_until(refused, "the volume is encoded")
        refused_at_once(agent, fid, [ac.NOT_SERVED])
        assert_same(os.pread(fd, 2 * MIB, 4 * MIB), data[4 * MIB:], "the handle that was open")
    finally:
        os.close(fd)
    later = mount_kelpfs(beside.cluster, options=auto(agent))
    start = time.monotonic()
    assert_same((later.path / "a/coded").read_bytes(), data, "coded")
    assert time.monotonic() - start < 5 * SLOW
    sources = reads_by_source(later)
    assert sources["tcp"][1] == 0 and sources["http"][1] >= len(data)
    assert reads_by_source(mount)["tcp"][1] >= MIB


@pytest.mark.slow
def test_needles_with_a_time_to_live_expire_for_the_agent_too(beside, start_agent, mount_kelpfs):
    """One with an entry that has the same, and one whose entry stays."""
    data = doors.noise(2 * MIB, "time to live")
    answer = wire.Http(beside.cluster.master_port).get("/dir/assign", "ttl=1m").decode()
    fid = answer.split('"fid":"')[1].split('"')[0]
    wire.Http(beside.cluster.volume_ports[0]).post_form("/" + fid, data, filename="ttl", query="ttl=1m",
                                                        content_type="application/octet-stream")
    wire.create_entry(beside.cluster.filer_port, "/a",
                      wire.entry("stays", doors.REGULAR, len(data), [wire.chunk(fid, 0, len(data), 1000)]))
    beside.http.put("/a/fleeting", data, "maxMB=1&ttl=1m")
    over = time.monotonic() + 62
    agent = start_agent()
    only = mount_kelpfs(beside.cluster, options=[*require(agent), "timeout=3"])
    both = mount_kelpfs(beside.cluster, options=[*auto(agent), "timeout=3"])
    for mount in (only, both):
        assert_same(read_past_caches(mount.path / "a/stays", 4096, 8192), data[4096:12288], "a part")
        assert_same((mount.path / "a/fleeting").read_bytes(), data, "fleeting")
    with agent.client() as client:
        assert client.read_one(fid, 0, MIB).data == data[:MIB]
    time.sleep(max(0, over - time.monotonic()))
    # NOT_SERVED: the server has deleted the volume, of which nothing lives any more.
    refused_at_once(agent, fid, [ac.NOT_FOUND, ac.NOT_SERVED])
    for mount in (only, both):
        assert not (mount.path / "a/fleeting").exists()
        start = time.monotonic()
        with pytest.raises(OSError) as error:
            read_past_caches(mount.path / "a/stays", MIB, 8192)
        assert error.value.errno in (errno.EIO, errno.ESTALE, errno.ENOENT)
        assert time.monotonic() - start < SHORT_BOUND_S
    assert set(reads_by_source(only)) == {"tcp"}


# Two volume servers with an agent each


SECOND_HOST = "127.0.0.2"


class TwoHosts(weed.Cluster):
    """The second volume server has an address of its own, as agents have one port on every host."""

    def _add(self, name, *args):
        if name == "volume1":
            args = (*args, f"-ip={SECOND_HOST}", f"-ip.bind={SECOND_HOST}")
        super()._add(name, *args)


class Pair:
    """Two volume servers on hosts of their own, and an agent beside each."""

    def __init__(self, work_dir, name, **options):
        self.cluster = TwoHosts(work_dir / name, volumes=2, **options)
        self.http = wire.Http(self.cluster.filer_port)
        self.dirs = [self.cluster.work_dir / f"volume{i}" for i in range(2)]
        self.volumes = [f"{host}:{port}" for host, port in zip((weed.HOST, SECOND_HOST), self.cluster.volume_ports)]
        self.port = weed.free_port()
        self.agents = [Agent(work_dir, "--dir", d, host=host, port=self.port)
                       for d, host in zip(self.dirs, self.agent_hosts())]

    def agent_hosts(self):
        return weed.HOST, SECOND_HOST

    def revive(self):
        for agent in self.agents:
            if not agent.running():
                agent.start()
                agent.wait_ready()

    def end(self):
        for agent in self.agents:
            agent.end()
        self.cluster.stop()

    def flip(self, host, data, at):
        """Flips the byte of a stored needle on one host's disk; the position in its file."""
        for path in self.dirs[host].glob("*.dat"):
            content = path.read_bytes()
            start = content.find(data[:1000])
            if start >= 0:
                with open(path, "r+b") as f:
                    f.seek(start + at)
                    f.write(bytes([content[start + at] ^ 0xFF]))
                return
        raise AssertionError("the needle is not there")


@pytest.fixture(scope="module")
def _replicated(work_dir):
    pair = Pair(work_dir, "replicated-agents", replication="001")
    pair.http.put("/r/data.bin", DATA, "maxMB=1")
    yield pair
    pair.end()


@pytest.fixture
def replicated(_replicated):
    yield _replicated
    _replicated.revive()


@pytest.mark.parametrize("victim", [0, 1])
def test_agent_of_a_replica_killed_under_a_read_is_replaced_by_the_other(replicated, mount_kelpfs, victim):
    mount = mount_kelpfs(replicated.cluster, options=require(replicated.port))
    got, longest_s = read_direct(mount.path / "r/data.bin", replicated.agents[victim].kill)
    assert_same(got, DATA, "killed under the read")
    assert longest_s < SLOW
    assert set(reads_by_source(mount)) == {"tcp"}


def test_reads_go_to_the_agents_of_both_replicas(replicated, mount_kelpfs):
    mount = mount_kelpfs(replicated.cluster, options=require(replicated.port))
    assert_same((mount.path / "r/data.bin").read_bytes(), DATA, "data.bin")
    for agent in replicated.agents:
        assert active_connections(agent) > 1
    assert set(reads_by_source(mount)) == {"tcp"}


@pytest.mark.parametrize("size", [100, 40 * KIB, 500 * KIB, 3 * MIB])
@pytest.mark.parametrize("option", ["require", "auto"])
def test_flipped_byte_on_one_disk_is_detected_and_the_other_replica_serves(replicated, mount_kelpfs, size, option):
    copies = 8  # every one would have to be read from the good replica by chance
    files = [doors.noise(size, f"flipped {option} {i}") for i in range(copies)]
    for i, data in enumerate(files):
        replicated.http.put(f"/flipped-{option}/{size}-{i}", data)
        replicated.flip(1, data, size // 2)
    mount = mount_kelpfs(replicated.cluster, options=[f"agent={option}", *auto(replicated.port)])
    for i, data in enumerate(files):
        assert_same((mount.path / f"flipped-{option}/{size}-{i}").read_bytes(), data, f"{size}-{i}")


@pytest.mark.parametrize("size", [100, 40 * KIB, 500 * KIB, 3 * MIB])
@pytest.mark.parametrize("option", ["require", "auto"])
def test_flipped_byte_on_every_disk_is_eio(replicated, mount_kelpfs, size, option):
    data = doors.noise(size, f"flipped everywhere {option}")
    replicated.http.put(f"/everywhere-{option}/{size}", data)
    for host in (0, 1):
        replicated.flip(host, data, size // 2)
    mount = mount_kelpfs(replicated.cluster, options=[f"agent={option}", *auto(replicated.port)])
    start = time.monotonic()
    with pytest.raises(OSError) as error:
        (mount.path / f"everywhere-{option}/{size}").read_bytes()
    assert error.value.errno == errno.EIO
    assert time.monotonic() - start < TIMEOUT_S * 0.8, "nobody is asked again"
    assert_same(read_past_caches(mount.path / "r/data.bin", 0, MIB), DATA[:MIB], "the mount works on")


@pytest.fixture(scope="module")
def movable(work_dir):
    """One copy of everything."""
    pair = Pair(work_dir, "movable-agents")
    yield pair
    pair.end()


def volume_hosts(pair, volume):
    return [i for i in range(2) if (pair.dirs[i] / f"{volume}.dat").exists()]


def move_volume(pair, volume, source):
    """As volume.move does it, which refuses to copy from a loopback address."""
    node = f"-volumeId {volume} -node"
    weed_shell(pair.cluster, f"volume.mark {node} {pair.volumes[source]} -readonly")
    for end in ("dat", "vif", "idx"):
        shutil.copy(pair.dirs[source] / f"{volume}.{end}", pair.dirs[1 - source])
    weed_shell(pair.cluster, f"volume.mount {node} {pair.volumes[1 - source]}",
               f"volume.delete {node} {pair.volumes[source]}")


class Moving:
    """Files, and the volume of a pair that has most of their chunks."""

    def __init__(self, pair):
        self.pair = pair
        self.files = {f"m/{i}": doors.noise(2 * MIB, f"moved {i}") for i in range(10)}
        for name, data in self.files.items():
            pair.http.put("/" + name, data, "maxMB=1")
        volumes = [fid.split(",")[0] for name in self.files for fid in chunk_ids(pair.http, "/" + name)]
        self.volume = max(volumes, key=volumes.count)

    def read_meanwhile(self, mount):
        """Right before, while and after the volume is moved to the other host."""
        source, = volume_hosts(self.pair, self.volume)
        moved = threading.Event()

        def move():
            try:
                move_volume(self.pair, self.volume, source)
            finally:
                moved.set()

        def read(number):
            passes_after = 0
            while passes_after < 2:
                passes_after += moved.is_set()
                for name, data in self.files.items():
                    offset = random.Random(name).randrange(MIB)
                    assert_same(read_past_caches(mount.path / name, offset, MIB), data[offset:offset + MIB], name)

        at_once(3, read, move)
        assert volume_hosts(self.pair, self.volume) == [1 - source]


@pytest.mark.sanitized
def test_volume_moved_while_it_is_read(movable, mount_kelpfs):
    moving = Moving(movable)
    mount = mount_kelpfs(movable.cluster, options=[*require(movable.port), "slab=8M"])
    moving.read_meanwhile(mount)
    assert set(reads_by_source(mount)) == {"tcp"}


def put_in_doomed_volume(pair):
    wire.Http(pair.cluster.master_port).get("/vol/grow", "collection=doomed&count=1")
    doomed = doors.noise(8 * MIB, "doomed volume")
    pair.http.put("/d/doomed", doomed, "maxMB=1&collection=doomed")
    pair.http.put("/d/kept", DATA, "maxMB=1")
    return doomed


def read_deleted_volume(pair, mount, doomed, bound_s):
    assert_same(read_past_caches(mount.path / "d/doomed", 0, 100), doomed[:100], "before")
    weed_shell(pair.cluster, "collection.delete -collection doomed -force")
    start = time.monotonic()
    with pytest.raises(OSError) as error:
        read_past_caches(mount.path / "d/doomed", 6 * MIB, MIB)
    assert error.value.errno in (errno.EIO, errno.ESTALE)
    assert time.monotonic() - start < bound_s
    assert_same((mount.path / "d/kept").read_bytes(), DATA, "kept")


@pytest.mark.sanitized
def test_volume_deleted_while_it_is_read_is_eio_and_others_are_served(movable, mount_kelpfs):
    doomed = put_in_doomed_volume(movable)
    mount = mount_kelpfs(movable.cluster, options=[*require(movable.port), "timeout=3"])
    read_deleted_volume(movable, mount, doomed, SHORT_BOUND_S)
    assert set(reads_by_source(mount)) == {"tcp"}

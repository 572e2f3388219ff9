"""Reads over RDMA while devices, the wire and peers fail: every byte is right, no read takes longer than
kelpfs's time limit, and RDMA is used again where soft-RoCE lets it.

The mount's device is rxe0, the agent's rxe1; every packet between them crosses a wire (scripts/vm --net
pair). TCP goes over loopback, so that it is there to fall back on."""

import contextlib
import itertools
import os
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest

import corpus as doors
import mounts
import weed
import wire
from test_agent import Agent
from test_mount_agent import reads_by_source

KIB = 1 << 10
MIB = 1 << 20

pytestmark = [pytest.mark.faults,
              pytest.mark.skipif("KELP_VM_PEER_DEV" not in os.environ, reason="needs scripts/vm --net pair")]

CLIENT = ("rxe0", "rdma0")
AGENT = ("rxe1", "rdma1")
AGENT_ADDRESS = os.environ.get("KELP_VM_PEER")
TIMEOUT_S = 10  # kelpfs's default for one request
BOUND_S = TIMEOUT_S + 5  # with what an emulated machine adds
DELETE_S = 20  # within which a device has to be let go of
BACK_S = 200  # the longest rest before RDMA is tried again is 60 s, jittered; and the machine may be busy
NETEM_PACKETS = "10000"  # held back at most; without it a change goes back to 1000
PACKETS_OF_MIB = 200  # at least, of 4 KiB each
STREAM_DELAY_S = 0.05  # each way; a request and its answer, then a READ and its data
STREAM_STEP = 256 * KIB  # without readahead one request at a time
STREAM_AT_ONCE = 2  # requests under way, on average, at least; on a quiet machine 4
DATA = doors.noise(24 * MIB, "rdma faults")
STREAM = DATA[:16 * MIB]


def run(*command, timeout_s=DELETE_S):
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result


def packets(device):
    """Received; a device that was made anew starts at 0, one that is gone has none."""
    try:
        return int(Path(f"/sys/class/infiniband/{device}/ports/1/hw_counters/rcvd_pkts").read_text())
    except OSError:
        return 0


def delete(device):
    """Returns once nobody uses it any more."""
    run("rdma", "link", "delete", device)


def add(device, netdev):
    run("rdma", "link", "add", device, "type", "rxe", "netdev", netdev)
    gid = Path(f"/sys/class/infiniband/{device}/ports/1/gids/1")
    weed.wait_until(lambda: gid.exists() and gid.read_text().strip("0:\n"), f"an address of {device}")


@contextlib.contextmanager
def rule(*match):
    """Packets on their way in that match are dropped meanwhile."""
    run("iptables", "-I", "INPUT", *match, "-j", "DROP")
    try:
        yield
    finally:
        run("iptables", "-D", "INPUT", *match, "-j", "DROP")


def netem(netdev, *how, verb="change"):
    """To be changed only: one that comes or goes kills soft-RoCE's queue pairs."""
    run("tc", "qdisc", verb, "dev", netdev, "root", "netem", "limit", NETEM_PACKETS, *how)


@contextlib.contextmanager
def disturbed(*how):
    for _, netdev in (CLIENT, AGENT):
        netem(netdev, *how)
    try:
        yield
    finally:
        for _, netdev in (CLIENT, AGENT):
            netem(netdev)


@pytest.fixture(autouse=True, scope="module")
def quiet_netem():
    for _, netdev in (CLIENT, AGENT):
        netem(netdev, verb="replace")


@pytest.fixture(autouse=True, scope="module")
def leaks_of_removed_devices():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSAN_OPTIONS", f"suppressions={Path(__file__).with_name('lsan.supp')}")
        yield


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster("faults")


@pytest.fixture(scope="module")
def file(cluster):
    wire.Http(cluster.filer_port).put("/faults/data.bin", DATA, "maxMB=4")
    return "faults/data.bin"


class Place:
    """An agent, a mount that reads from it over RDMA, and a file there."""

    def __init__(self, mount, agent, path):
        self.mount, self.agent = mount, agent
        self.fd = os.open(mount.path / path, os.O_RDONLY | os.O_DIRECT)
        self.random = random.Random(7)

    def read(self, length=None):
        """A range that no cache has. Returns how long it took."""
        length = length or self.random.choice([4 * KIB, 60 * KIB, 300 * KIB, MIB])
        offset = self.random.randrange(len(DATA) - length)
        begun = time.monotonic()
        got = os.pread(self.fd, length, offset)
        took = time.monotonic() - begun
        assert got == DATA[offset:offset + length], f"[{offset}, +{length})"
        return took

    def came_over_rdma(self, device=CLIENT[0]):
        before = packets(device)
        self.read(MIB)
        return packets(device) - before > PACKETS_OF_MIB

    def await_rdma(self, within_s=BACK_S):
        weed.wait_until(self.came_over_rdma, "reads over RDMA", within_s, every_s=0.2)

    @contextlib.contextmanager
    def reading(self):
        """Meanwhile another thread reads and checks; at the end no read may have failed or taken too long.
        Gives a function that waits for so many reads more."""
        done, longest, failures = itertools.count(), [0.0], []
        counts, stop = [0], threading.Event()

        def read_on():
            try:
                while not stop.is_set():
                    longest[0] = max(longest[0], self.read())
                    counts[0] = next(done) + 1
            except (AssertionError, OSError) as failure:
                failures.append(failure)

        def go_on(reads=10):
            wanted = counts[0] + reads
            weed.wait_until(lambda: failures or counts[0] >= wanted, f"{reads} more reads", reads * BOUND_S)
            assert not failures, failures[0]

        thread = threading.Thread(target=read_on)
        thread.start()
        try:
            go_on(3)
            yield go_on
        finally:
            stop.set()
            thread.join()
        assert not failures, failures[0]
        assert longest[0] < BOUND_S, f"a read took {longest[0]} s"

    def close(self):
        os.close(self.fd)


@pytest.fixture
def rdma_map(cluster, tmp_path):
    """rdma_map(port): a file that says where the agent is, over RDMA."""

    def make(port):
        path = tmp_path / f"map-{port}"
        path.write_text(f"{weed.HOST}:{cluster.volume_ports[0]} {AGENT_ADDRESS}:{port}\n")
        return path

    return make


@pytest.fixture
def open_place(cluster, file, rdma_map, mount_kelpfs):
    """Factory: a mount's view of an agent; other mount options may be given."""
    places = []

    def make(agent, *options, port=None):
        port = port or agent.port
        mount = mount_kelpfs(cluster, options=["rdma=auto", f"agent_port={port}", f"rdma_map={rdma_map(port)}",
                                               "slab=16M", *options])
        places.append(Place(mount, agent, file))
        return places[-1]

    yield make
    for place in places:
        place.close()


@pytest.fixture
def place(cluster, start_agent, open_place):
    """Reads go over RDMA when the test begins."""
    place = open_place(start_agent(cluster))
    place.await_rdma()
    return place


# Peers


def test_agent_that_is_not_there_is_done_without(open_place):
    place = open_place(None, port=weed.free_port())
    assert max(place.read() for _ in range(5)) < BOUND_S
    place.close()
    place.fd = os.open("/", os.O_RDONLY)
    sources = reads_by_source(place.mount)
    assert sources["http"][0] > 0 and sources["rdma"] == sources["tcp"] == (0, 0)


def test_agent_that_is_killed_and_started_again_is_used_again(place):
    with place.reading() as go_on:
        place.agent.kill()
        go_on()
        place.agent.start()
        place.agent.wait_ready()
        go_on()
    place.await_rdma()


def test_agent_with_another_key_is_not_read_from(cluster, start_agent, open_place, tmp_path):
    for name in ("agents", "ours"):
        (tmp_path / name).write_text(f'[jwt.signing.read]\nkey = "the key of {name}"\n')
    agent = start_agent(cluster, "--security", tmp_path / "agents")
    for options in ([f"security={tmp_path}/ours"], []):
        place = open_place(agent, *options)
        assert max(place.read(MIB) for _ in range(5)) < BOUND_S
        assert not place.came_over_rdma()


def test_connection_limit_is_told_and_others_take_over(cluster, start_agent, open_place):
    agent = start_agent(cluster, "--max-connections", "1")
    command = [mounts.bin_dir() / "kelpctl", "ping", f"{AGENT_ADDRESS}:{agent.port}", "--via", "rdma"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout.readline()
            place = open_place(agent)
            assert max(place.read() for _ in range(5)) < BOUND_S
            assert not place.came_over_rdma()
            second = subprocess.run([*command, "-c", "1"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                    timeout=60)
            assert second.returncode != 0 and "limit" in second.stderr, second
        finally:
            first.kill()
    place.close()
    place.fd = os.open("/", os.O_RDONLY)
    sources = reads_by_source(place.mount)
    assert sources["http"][0] > 0 and sources["rdma"] == sources["tcp"] == (0, 0)


# The wire


@pytest.mark.parametrize("how", [("loss", "1%"), ("delay", "100ms")], ids=" ".join)
def test_bad_wire_slows_reads_and_no_more(place, how):
    with place.reading() as go_on:
        with disturbed(*how):
            go_on(15)
        go_on()
    place.await_rdma()


def test_wire_that_drops_all_for_half_a_minute_is_used_again(place):
    """On the way in, which soft-RoCE comes back from."""
    with place.reading() as go_on:
        with rule("-p", "udp", "--dport", "4791"):
            time.sleep(30)
            go_on()
            assert not place.came_over_rdma()
        go_on()
    place.await_rdma()


def rdma_requests(mount):
    """How many were answered, and how long they took together."""
    seconds = mount.stats()["kelpfs_source_seconds"]["rdma"]
    return seconds["count"], seconds["sum"]


def test_stream_is_not_bound_by_round_trips(place, cluster):
    """Several of the requests that a sequential reader causes are under way at any time: together they take much
    longer than all of it. How long that is depends on the machine, and does not matter."""
    names = (f"faults/stream{i}" for i in itertools.count())

    def requests_at_once():
        """On average. A machine that is too busy to wait for an answer reads from elsewhere, which counts as none."""
        name = next(names)
        wire.Http(cluster.filer_port).put(f"/{name}", STREAM, "maxMB=1")
        place.await_rdma()
        fd = os.open(place.mount.path / name, os.O_RDONLY | os.O_DIRECT)
        requests, together_s = rdma_requests(place.mount)
        begun = time.monotonic()
        try:
            for offset in range(0, len(STREAM), STREAM_STEP):
                assert os.pread(fd, STREAM_STEP, offset) == STREAM[offset:offset + STREAM_STEP], offset
        finally:
            os.close(fd)
        took_s = time.monotonic() - begun
        requests, together_s = (now - before for now, before in zip(rdma_requests(place.mount),
                                                                    (requests, together_s), strict=True))
        print(f"{requests} requests took {together_s:.2f} s, all of it {took_s:.2f} s")
        assert together_s >= requests * 2 * STREAM_DELAY_S
        return together_s / took_s

    with disturbed("delay", f"{STREAM_DELAY_S}s"):
        weed.wait_until(lambda: requests_at_once() >= STREAM_AT_ONCE, "several requests at once", BACK_S)


@contextlib.contextmanager
def slow_answers(rate):
    """What the agent sends takes its time; what it is asked does not."""
    netem(AGENT[1], "rate", rate)
    try:
        yield
    finally:
        netem(AGENT[1], "rate", "0")  # which is not gone by itself, as other disturbances are


def test_data_that_comes_after_its_read_was_given_up_does_no_harm(place):
    """Its memory is used for other reads meanwhile, which are right."""

    def given_up():
        return place.mount.stats()["kelpfs_rdma_abandoned_reads_total"]

    def read_and_look():
        assert place.read(MIB) < BOUND_S
        return given_up()

    assert given_up() == 0
    with slow_answers("2mbit"):  # a MiB takes 4 s, for which nobody waits
        weed.wait_until(read_and_look, "a read is given up under way", BACK_S)
        assert max(place.read() for _ in range(40)) < BOUND_S
    place.await_rdma()


def test_link_that_goes_down_is_done_without(place):
    """Soft-RoCE's own queue pair for making connections may not come back from that; the device, made
    anew, does."""
    with place.reading() as go_on:
        run("ip", "link", "set", CLIENT[1], "down")
        go_on()
        run("ip", "link", "set", CLIENT[1], "up")
        go_on()
        for device in (CLIENT, AGENT):
            delete(device[0])
            add(*device)
    place.await_rdma()


# Devices


@pytest.mark.parametrize("which", [CLIENT, AGENT], ids=["ours", "the agents"])
def test_device_that_is_removed_is_let_go_of_and_used_again(place, which):
    with place.reading() as go_on:
        delete(which[0])
        go_on()
        add(*which)
        go_on()
    place.await_rdma()


def test_idle_device_is_let_go_of(place):
    time.sleep(0.5)
    delete(CLIENT[0])
    assert place.read() < BOUND_S
    add(*CLIENT)
    place.await_rdma()


@pytest.fixture
def no_devices():
    for device, _ in (CLIENT, AGENT):
        delete(device)
    yield
    for device in (CLIENT, AGENT):
        add(*device)


def test_without_devices_reads_go_over_tcp(cluster, no_devices, work_dir, open_place):
    agent = Agent(work_dir, "--dir", cluster.work_dir / "volume0", listen_host="")
    try:
        assert "no RDMA device" in agent.log_text()
        place = open_place(agent)
        assert max(place.read() for _ in range(5)) < BOUND_S
        place.close()
        place.fd = os.open("/", os.O_RDONLY)
        sources = reads_by_source(place.mount)
        assert sources["tcp"][0] > 0 and sources["rdma"] == (0, 0)
    finally:
        agent.end()


# Memory


# What is locked at most for connections to 16 agents: 10 to each, 24 messages of 16 KiB and 16 of 4 KiB for each,
# 8 bytes before each message, in whole pages; 64 KiB for queues.
LINKS_KIB = 16 * 10 * (113 * 4 + 64)


def locked_kib(slab_mib):
    """What a mount has to be permitted."""
    states = (state.read_text() for state in Path("/sys/class/infiniband").glob("*/ports/*/state"))
    return sum("ACTIVE" in state for state in states) * slab_mib * 1024 + LINKS_KIB


def permitted(kib):
    return ["prlimit", f"--memlock={kib * 1024}:{kib * 1024}", "setpriv", "--bounding-set=-ipc_lock",
            "--inh-caps=-ipc_lock"]


@pytest.fixture
def complaints_of_memory(cluster, start_agent, rdma_map, file, work_dir):
    """What the log says if so many KiB may be locked, and reads come over RDMA then, or do not."""
    agent = start_agent(cluster)
    # a slab that is rounded up
    options = ["rdma=auto", f"agent_port={agent.port}", f"rdma_map={rdma_map(agent.port)}", "slab=17M"]

    def read(kib, over_rdma):
        mount = mounts.KelpMount(cluster.filer, work_dir / "mnt" / f"memory-{kib}", work_dir, options,
                                 f"kelpfs-memory-{kib}", under=permitted(kib))
        place = Place(mount, agent, file)
        try:
            assert place.read() < BOUND_S
            if over_rdma:
                place.await_rdma()
            else:
                assert not place.came_over_rdma()
        finally:
            place.close()
            mount.end()
        return [line for line in mount.log_text().splitlines() if "locked memory" in line]

    return read


def test_too_little_memory_may_be_locked(complaints_of_memory):
    """One line says the number, and TCP carries on."""
    lines = complaints_of_memory(1024, over_rdma=False)
    assert len(lines) == 1 and f"ulimit -l {locked_kib(20)}," in lines[0] and "LimitMEMLOCK" in lines[0], lines


def test_memory_that_is_said_to_be_needed_is_enough(complaints_of_memory):
    assert not complaints_of_memory(locked_kib(20), over_rdma=True)


def test_memory_for_the_slab_alone_is_not_enough(complaints_of_memory):
    assert len(complaints_of_memory(20 * 1024, over_rdma=False)) == 1


def test_memory_for_a_few_connections_is_used_with_a_warning(complaints_of_memory):
    lines = complaints_of_memory(26 * 1024, over_rdma=True)
    assert len(lines) == 1 and f"ulimit -l {locked_kib(20)}," in lines[0], lines


def test_mount_that_requires_rdma_says_how_much_memory_must_be_locked(cluster, tmp_path):
    result = subprocess.run([*permitted(1024), mounts.kelpfs_binary(), cluster.filer, tmp_path, "-o", "rdma=require"],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "locked memory" in result.stderr, result
    assert f"ulimit -l {locked_kib(256)}," in result.stderr, result


FLIPS = 2
# What it prints is of no interest, but the symbols that it needs are read before the agent goes on.
GDB_SCRIPT = f"""
set pagination off
set confirm off
break *verbs_expose
print *(unsigned char *)$rsp
echo attached\\n
{'''continue
set var *(unsigned char *)$rdx = *(unsigned char *)$rdx ^ 1
''' * FLIPS}
delete
detach
quit
"""


def test_byte_that_flips_in_staging_memory_is_never_delivered(place, tmp_path):
    """The debugger flips a bit in what the agent leases, after its checksum was made."""
    (tmp_path / "script").write_text(GDB_SCRIPT)
    log = tmp_path / "log"
    with open(log, "wb") as out:
        gdb = subprocess.Popen(["gdb", "-nx", "-batch", "-p", str(place.agent.pid), "-x", tmp_path / "script"],
                               stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        weed.wait_until(lambda: "attached" in log.read_text(), "the debugger")
        with place.reading() as go_on:
            while gdb.poll() is None:
                go_on(1)
    finally:
        gdb.kill()
        gdb.wait()
        print(log.read_text())
    assert gdb.returncode == 0
    place.await_rdma()
    place.close()
    place.fd = os.open("/", os.O_RDONLY)
    sources = reads_by_source(place.mount)
    assert sum(sources[name][0] for name in ("tcp", "http")) >= FLIPS

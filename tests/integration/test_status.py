"""What a mount and an agent say of themselves: over HTTP, in the mount's hidden directory, and through kelpctl."""

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import threading

import pytest

import corpus as doors
import mounts
import weed
import wire
from test_agent import Agent

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="weed mount has no status")

KIB = 1 << 10
MIB = 1 << 20
DATA = doors.noise(8 * MIB, "status")
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=mounts.REPO / ".venv/bin")
HEALTH_S = 30 * weed.SLOW
# Reads of the kernel reach kelpfs as applications make them, and come from where they are stored.
UNCACHED = ["direct_io", "readahead=0", "agent=off"]


@pytest.fixture(scope="module")
def source(cluster):
    wire.Http(cluster.filer_port).put("/status/data.bin", DATA, "maxMB=4")
    return cluster


class Status:
    """The HTTP status of a mount or an agent."""

    def __init__(self, port):
        self.port = port

    def ask(self, path, method="GET"):
        """(status, headers, body)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def json(self, path):
        return json.loads(self.ask(path)[2])

    def metrics(self):
        status, headers, body = self.ask("/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parse(body.decode())

    def is_up(self):
        return self.ask("/health")[0] == 200


SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)+)\})? ([0-9.e+-]+|\+Inf)')


def parse(text):
    """{(name, label values...): value}; fails on what is not the text format."""
    values, described, current = {}, set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split()[2]
            assert current not in described, f"{current} comes twice"
            described.add(current)
            continue
        if line.startswith("# TYPE "):
            assert line.split()[2] == current
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert re.sub("_(bucket|sum|count)$", "", match[1]) == current or match[1] == current, line
        labels = re.findall(r'="((?:[^"\\]|\\.)*)"', match[2] or "")
        assert (match[1], *labels) not in values, line
        values[(match[1], *labels)] = float(match[3])
    return values


@pytest.fixture
def status_of(mount_kelpfs, source):
    """Factory: (mount, its status)."""

    def make(options=(), cluster=source, **others):
        port = weed.free_port()
        mount = mount_kelpfs(cluster, options=[f"status={port}", *options], **others)
        return mount, Status(port)

    return make


def read_all(path, size=128 * KIB):
    done = 0
    with open(path, "rb", buffering=0) as f:
        while piece := f.read(size):
            done += len(piece)
    return done


# Metrics


def test_counters_agree_with_what_was_read_to_the_byte(status_of):
    mount, status = status_of(UNCACHED)
    fd = os.open(mount.path / "status/data.bin", os.O_RDONLY)
    for page in random.Random(1).sample(range(1, len(DATA) // (64 * KIB)), 100):
        assert len(os.pread(fd, 4 * KIB, page * 64 * KIB)) == 4 * KIB
    assert len(os.pread(fd, 1000, 4 * MIB + 5 * KIB + 5)) == 1000
    os.close(fd)
    values = status.metrics()
    assert values[("kelpfs_read_bytes_total",)] == 100 * 4 * KIB + 1000
    assert values[("kelpfs_reads_total",)] == 101
    assert values[("kelpfs_source_bytes_total", "http")] == 100 * 4 * KIB + 1000
    assert values[("kelpfs_source_reads_total", "http")] == 101
    assert values[("kelpfs_source_seconds_count", "http")] == 101
    assert values[("kelpfs_read_seconds_bucket", "+Inf")] == 101
    assert values[("kelpfs_read_errors_total",)] == 0


def test_counters_agree_under_load(status_of):
    mount, status = status_of(["direct_io", "agent=off"])
    path = mount.path / "status/data.bin"
    done, scrapes = [], []
    threads = [threading.Thread(target=lambda: done.append(read_all(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        scrapes.append(status.metrics())
    values = status.metrics()
    scrapes.append(values)
    assert done == [len(DATA)] * 8
    assert values[("kelpfs_read_bytes_total",)] == sum(done)
    assert values[("kelpfs_readahead_bytes_total",)] > 0
    assert values[("kelpfs_readahead_used_bytes_total",)] <= values[("kelpfs_readahead_bytes_total",)]
    for name in ("kelpfs_read_bytes_total", "kelpfs_reads_total", "kelpfs_cache_hits_total"):
        series = [scrape[(name,)] for scrape in scrapes]
        assert series == sorted(series)


def test_what_the_cache_has_is_counted_as_from_the_cache(status_of):
    mount, status = status_of(["direct_io", "agent=off"])
    read_all(mount.path / "status/data.bin")
    weed.wait_until(lambda: status.metrics()[("kelpfs_cache_bytes",)] >= len(DATA), "the cache to have it all")
    before = status.metrics()
    assert read_all(mount.path / "status/data.bin") == len(DATA)
    after = status.metrics()
    assert after[("kelpfs_source_bytes_total", "cache")] - before[("kelpfs_source_bytes_total", "cache")] == len(DATA)
    assert after[("kelpfs_source_bytes_total", "http")] == before[("kelpfs_source_bytes_total", "http")]
    assert after[("kelpfs_cache_hits_total",)] > before[("kelpfs_cache_hits_total",)]


def test_reads_through_an_agent_are_counted_as_tcp(status_of, source, work_dir):
    agent = Agent(work_dir, "--dir", source.work_dir / "volume0")
    try:
        mount, status = status_of(["direct_io", "readahead=0", "rdma=off", "agent=require", f"agent_port={agent.port}"])
        fd = os.open(mount.path / "status/data.bin", os.O_RDONLY)
        os.pread(fd, 4 * KIB, MIB)
        os.close(fd)
        values = status.metrics()
        assert values[("kelpfs_source_bytes_total", "tcp")] == 4 * KIB
        assert values[("kelpfs_agents_up", "tcp")] == 1
        assert values[("kelpfs_agent_connections", "tcp")] >= 1
    finally:
        agent.end()


def test_open_files_and_limits_are_told(status_of):
    mount, status = status_of(["max_background=48", "slab=64M"])
    with open(mount.path / "status/data.bin", "rb"):
        values = status.metrics()
        assert values[("kelpfs_open_files",)] == 1
        assert values[("kelpfs_inodes",)] >= 3
    assert values[("kelpfs_fuse_max_background",)] == 48
    assert values[("kelpfs_slab_bytes",)] == 64 * MIB
    assert values[("kelpfs_fuse_readahead_bytes",)] > 0
    assert [key for key in values if key[0] == "kelpfs_build_info"]


def test_failed_reads_are_counted(status_of, make_cluster):
    lost = make_cluster("status-lost")
    wire.Http(lost.filer_port).put("/data.bin", DATA, "maxMB=4")
    mount, status = status_of([*UNCACHED, "timeout=3"], cluster=lost)
    fd = os.open(mount.path / "data.bin", os.O_RDONLY)
    os.pread(fd, 4 * KIB, 0)
    lost.kill("volume0")
    with pytest.raises(OSError):
        os.pread(fd, 4 * KIB, 3 * MIB)
    os.close(fd)
    values = status.metrics()
    assert values[("kelpfs_read_errors_total",)] >= 1
    assert values[("kelpfs_source_failures_total", "http")] >= 1
    lost.stop()


def promtool_check(text):
    return subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True)


@pytest.mark.skipif(not PROMTOOL, reason="no promtool: scripts/setup gets it")
def test_promtool_accepts_the_metrics(status_of):
    mount, status = status_of()
    read_all(mount.path / "status/data.bin")
    result = promtool_check(status.ask("/metrics")[2])
    assert result.returncode == 0 and result.stderr == b"", result.stderr.decode()


def test_json_says_the_same_as_prometheus(status_of):
    mount, status = status_of(UNCACHED)
    read_all(mount.path / "status/data.bin")
    stats, values = status.json("/stats"), status.metrics()
    assert {key[0] for key in values if not key[0].endswith(("_bucket", "_sum", "_count"))} <= set(stats)
    assert stats["kelpfs_read_bytes_total"] == values[("kelpfs_read_bytes_total",)]
    assert stats["kelpfs_source_bytes_total"]["http"] == values[("kelpfs_source_bytes_total", "http")]
    latency = stats["kelpfs_read_seconds"]
    assert latency["count"] == values[("kelpfs_read_seconds_count",)]
    assert [n for _, n in latency["buckets"]] == sorted(n for _, n in latency["buckets"])


# The hidden directory


def test_hidden_files_are_there_by_name_and_in_no_listing(mount_kelpfs, source):
    mount = mount_kelpfs(source)
    assert ".kelpfs" not in os.listdir(mount.path)
    assert sorted(os.listdir(mount.path / ".kelpfs")) == ["config", "metrics", "stats"]
    assert stat.S_ISDIR((mount.path / ".kelpfs").stat().st_mode)
    assert "kelpfs_reads_total" in json.loads((mount.path / ".kelpfs/stats").read_text())
    assert ("kelpfs_reads_total",) in parse((mount.path / ".kelpfs/metrics").read_text())


def test_hidden_files_can_be_read_as_files_are(mount_kelpfs, source):
    mount = mount_kelpfs(source)
    path = mount.path / ".kelpfs/config"
    whole = subprocess.run(["cat", path], stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
    assert json.loads(whole)
    with open(path, "rb", buffering=0) as f:
        f.seek(10)
        assert f.read(20) == whole[10:30]
        f.seek(len(whole) + 5)
        assert f.read(1) == b""
    assert os.listxattr(path) == []
    for attempt in (lambda: open(path, "w"), lambda: os.unlink(path), lambda: os.mkdir(mount.path / ".kelpfs/x"),
                    lambda: os.stat(mount.path / ".kelpfs/none"), lambda: os.getxattr(path, "user.x")):
        with pytest.raises(OSError):
            attempt()
    assert json.loads(path.read_text())


def test_config_says_where_each_value_came_from(mount_kelpfs, source):
    mount = mount_kelpfs(source, options=["slab=64M,timeout=10", "master=127.0.0.1:1"])
    config = json.loads((mount.path / ".kelpfs/config").read_text())
    assert config["slab"] == {"value": str(64 * MIB), "origin": "command line"}
    assert config["timeout"] == {"value": "10", "origin": "command line"}
    assert config["readahead"] == {"value": str(16 * MIB), "origin": "default"}
    assert config["master"]["value"] == "http://127.0.0.1:1"
    assert config["control"] == {"value": "on", "origin": "default"}


def test_every_option_is_in_the_config(mount_kelpfs, source):
    mount = mount_kelpfs(source)
    text = subprocess.run([mounts.kelpfs_binary(), "--help"], capture_output=True, text=True).stdout
    options = re.findall(r"^  ([a-z_]+)[= ]", text.split("options:\n")[1], re.MULTILINE)
    assert len(options) > 30
    assert list(json.loads((mount.path / ".kelpfs/config").read_text())) == options


def test_control_off_takes_the_hidden_directory_away(mount_kelpfs, source):
    mount = mount_kelpfs(source, options=["control=off"])
    assert not (mount.path / ".kelpfs").exists()


def test_an_entry_of_that_name_in_the_namespace_is_not_shadowed(mount_kelpfs, source):
    filer = wire.Http(source.filer_port)
    filer.put("/own/.kelpfs/stats", b"mine")
    mount = mount_kelpfs(source, "/own")
    assert (mount.path / ".kelpfs/stats").read_bytes() == b"mine"
    assert os.listdir(mount.path) == [".kelpfs"]
    assert "/own/.kelpfs is an entry of the namespace" in mount.log_text()


def test_the_name_is_only_special_at_the_root(mount_kelpfs, source):
    mount = mount_kelpfs(source)
    assert not (mount.path / "status/.kelpfs").exists()


def test_status_is_there_while_no_filer_answers(status_of, make_cluster):
    alone = make_cluster("status-no-filer")
    _, status = status_of(cluster=alone)
    alone.kill("filer")
    assert status.json("/stats")["kelpfs_reads_total"] == 0
    alone.stop()


# Health and HTTP


def test_health_fails_without_filer_and_recovers(status_of, make_cluster):
    alone = make_cluster("status-filer")
    _, status = status_of(cluster=alone)
    code, _, body = status.ask("/health")
    assert code == 200 and json.loads(body)["status"] == "ok"
    alone.kill("filer")
    weed.wait_until(lambda: not status.is_up(), "the health to fail", HEALTH_S)
    health = status.json("/health")
    assert health["status"] == "failing" and health["filer"]["up"] is False and health["filer"]["error"]
    alone.restart("filer")
    alone.wait_ready()
    weed.wait_until(status.is_up, "the health to recover", HEALTH_S)
    alone.stop()


def test_health_fails_without_volume_server_and_recovers(status_of, make_cluster):
    alone = make_cluster("status-volume")
    wire.Http(alone.filer_port).put("/data.bin", DATA, "maxMB=4")
    mount, status = status_of([*UNCACHED, "timeout=3"], cluster=alone)
    fd = os.open(mount.path / "data.bin", os.O_RDONLY)
    os.pread(fd, 4 * KIB, 0)
    assert status.json("/health")["servers"][0]["up"] is True
    alone.kill("volume0")

    def fails():
        with contextlib.suppress(OSError):
            os.pread(fd, 4 * KIB, MIB)
        return not status.is_up()

    weed.wait_until(fails, "the health to fail", HEALTH_S)
    server, = status.json("/health")["servers"]
    assert server["up"] is False and server["breakers"]["http"] != "closed"
    states = [value for key, value in status.metrics().items() if key[0] == "kelpfs_breaker_state"]
    assert any(states)
    # Without a single read: nobody reads from what is said to be down.
    alone.restart("volume0")
    weed.wait_until(status.is_up, "the health to recover", HEALTH_S)
    os.close(fd)
    alone.stop()


def test_only_get_and_head_are_taken(status_of):
    _, status = status_of()
    for path in ("/health", "/stats", "/metrics", "/config"):
        code, headers, body = status.ask(path, "HEAD")
        assert code == 200 and body == b"" and int(headers["Content-Length"]) > 0
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            code, headers, body = status.ask(path, method)
            assert code == 405 and headers["Allow"] == "GET, HEAD" and json.loads(body)["error"]
    code, _, body = status.ask("/nothing")
    assert code == 404 and json.loads(body)["error"]


def test_it_listens_on_loopback_alone_unless_told_otherwise(mount_kelpfs, source):
    port, other = weed.free_port(), weed.free_port()
    first = mount_kelpfs(source, options=[f"status={port}"])
    second = mount_kelpfs(source, options=[f"status=*:{other}"])
    assert listens_on(first.pid, port) == {"127.0.0.1"}
    assert listens_on(second.pid, other) & {"0.0.0.0", "*", "[::]"}


def listens_on(pid, port):
    text = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True).stdout
    lines = [line.split() for line in text.splitlines() if f"pid={pid}," in line]
    return {fields[3].rsplit(":", 1)[0] for fields in lines if fields[3].endswith(f":{port}")}


def test_port_in_use_is_reported_before_the_mount_goes_into_the_background(source, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run([mounts.kelpfs_binary(), source.filer, tmp_path, "-o", f"status={port}"],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert f"127.0.0.1, port {port}: Address already in use" in result.stderr
    assert not weed.mounted(tmp_path)


@pytest.mark.parametrize("value", ["", "x", "70000", "host", "http://127.0.0.1:1", ":", "[::1]"])
def test_wrong_address_is_refused(value, tmp_path):
    result = subprocess.run([mounts.kelpfs_binary(), "filer", tmp_path, "-o", f"status={value}"],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert "expected status=[ADDR:]PORT" in result.stderr


def test_slow_and_broken_clients_do_no_harm(status_of):
    mount, status = status_of(UNCACHED)
    clients = []

    def client(data):
        with contextlib.suppress(OSError):
            s = socket.create_connection(("127.0.0.1", status.port), timeout=30)
            clients.append(s)
            s.sendall(data)

    for _ in range(40):
        client(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        client(b"")
        client(b"\x00\xff\x16\x03 garbage\r\n\r\n" * 20)
        client(b"GET /" + b"a" * 100000)
        client(b"GET /stats HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(200)))
        client(b"POST /stats HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        client(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
    # All places may be taken by them, but not for ever; and the mount does not mind.
    assert read_all(mount.path / "status/data.bin") == len(DATA)
    weed.wait_until(lambda: answers(status), "the slow clients to be cut off", HEALTH_S)
    for s in clients:
        s.close()
    assert status.metrics()[("kelpfs_read_bytes_total",)] == len(DATA)


def answers(status):
    with contextlib.suppress(OSError, http.client.HTTPException):
        return status.ask("/metrics")[0] == 200
    return False


def test_scrapes_do_not_leak(status_of):
    mount, status = status_of()
    for _ in range(50):
        status.metrics()
    weed.wait_until(lambda: len(os.listdir(f"/proc/{mount.pid}/task")) < 60, "its threads to end", HEALTH_S)
    before = len(os.listdir(f"/proc/{mount.pid}/fd"))
    for _ in range(300):
        status.metrics()
    weed.wait_until(lambda: len(os.listdir(f"/proc/{mount.pid}/fd")) <= before + 2, "its sockets to close", HEALTH_S)


# The agent


@pytest.fixture
def agent_status(source, work_dir):
    port = weed.free_port()
    agent = Agent(work_dir, "--dir", source.work_dir / "volume0", "--status", port)
    weed.wait_until(lambda: answers(Status(port)), "the agent's status")  # which comes after its own port
    yield agent, Status(port)
    agent.end()


def test_agent_counts_what_it_sent_to_the_byte(agent_status, mount_kelpfs, source):
    agent, status = agent_status
    mount = mount_kelpfs(source, options=["direct_io", "readahead=0", "rdma=off", "agent=require",
                                          f"agent_port={agent.port}"])
    before = status.metrics()
    fd = os.open(mount.path / "status/data.bin", os.O_RDONLY)
    for page in random.Random(2).sample(range(1, len(DATA) // (64 * KIB)), 20):
        os.pread(fd, 4 * KIB, page * 64 * KIB)
    os.close(fd)
    values = status.metrics()
    sent = sum(values[("kelpd_sent_bytes_total", way)] - before[("kelpd_sent_bytes_total", way)]
               for way in ("memory", "page_cache"))
    assert sent == 20 * 4 * KIB
    assert values[("kelpd_reads_total", "no error")] - before[("kelpd_reads_total", "no error")] == 20
    assert values[("kelpd_sessions",)] >= 1
    assert values[("kelpd_volumes",)] > 0 and values[("kelpd_needles",)] > 0
    assert values[("kelpd_staging_max_bytes",)] == 64 * MIB
    assert status.json("/stats")["kelpd_reads_total"]["no error"] == values[("kelpd_reads_total", "no error")]


@pytest.mark.skipif(not PROMTOOL, reason="no promtool: scripts/setup gets it")
def test_promtool_accepts_the_agent_metrics(agent_status):
    result = promtool_check(agent_status[1].ask("/metrics")[2])
    assert result.returncode == 0 and result.stderr == b"", result.stderr.decode()


def test_agent_health_fails_without_its_directory_and_recovers(make_cluster, work_dir):
    alone = make_cluster("status-agent")
    directory = alone.work_dir / "volume0"
    port = weed.free_port()
    agent = Agent(work_dir, "--dir", directory, "--status", port)
    status = Status(port)
    try:
        weed.wait_until(lambda: answers(status), "the agent's status")
        code, _, body = status.ask("/health")
        assert code == 200 and json.loads(body)["directories"] == [{"path": str(directory), "up": True}]
        directory.rename(directory.with_name("away"))
        code, _, body = status.ask("/health")
        assert code == 503 and json.loads(body)["directories"][0]["error"]
        directory.with_name("away").rename(directory)
        assert status.is_up()
    finally:
        agent.end()
        alone.stop()


def test_agent_names_a_status_port_in_use(source):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run([mounts.bin_dir() / "kelpd", "--dir", source.work_dir / "volume0", "--listen",
                                 f"127.0.0.1:{weed.free_port()}", "--status", str(port)],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert f"127.0.0.1, port {port}: Address already in use" in result.stderr


# The page in docs/


@pytest.mark.parametrize("program", ["kelpfs", "kelpd", "kelpctl"])
def test_the_docs_list_every_metric(program):
    table = subprocess.run([mounts.bin_dir() / program, "--dump-metrics"], capture_output=True, text=True).stdout
    assert len(table.splitlines()) > 20
    assert table in (mounts.REPO / "docs/metrics.md").read_text(), f"put `{program} --dump-metrics` into docs/metrics.md"


# kelpctl stats


def kelpctl_stats(*arguments):
    return subprocess.run([mounts.bin_dir() / "kelpctl", "stats", *map(str, arguments)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60)


def test_kelpctl_shows_a_mount_line_by_line_in_a_pipe(mount_kelpfs, source):
    mount = mount_kelpfs(source, options=UNCACHED)
    reader = threading.Thread(target=read_all, args=(mount.path / "status/data.bin",))
    reader.start()
    result = kelpctl_stats(mount.path, "--count", 3, "--interval", 0.2)
    reader.join()
    heading, *lines = result.stdout.splitlines()
    assert result.returncode == 0 and result.stderr == ""
    assert heading.split() == ["reads/s", "bytes/s", "p50", "p99", "hits", "errors", "|", "cache", "http", "filer"]
    assert len(lines) == 3 and all(len(line.split()) == 10 for line in lines)
    assert "\x1b" not in result.stdout


def test_kelpctl_shows_all_since_the_start_once(mount_kelpfs, source):
    mount = mount_kelpfs(source, options=UNCACHED)
    read_all(mount.path / "status/data.bin")
    heading, line = kelpctl_stats(mount.path, "--once").stdout.splitlines()
    shown = dict(zip(heading.split(), line.split()))
    assert re.fullmatch(r"\d+(\.\d)?[KM]", shown["bytes/s"])
    assert re.fullmatch(r"[\d.]+(us|ms|s)", shown["p50"]) and re.fullmatch(r"[\d.]+(us|ms|s)", shown["p99"])
    assert shown["errors"] == "0"


def test_kelpctl_prints_the_numbers_as_json(mount_kelpfs, source):
    mount = mount_kelpfs(source, options=UNCACHED)
    read_all(mount.path / "status/data.bin")
    assert json.loads(kelpctl_stats(mount.path, "--json").stdout)["kelpfs_read_bytes_total"] == len(DATA)


def test_kelpctl_asks_over_http_too(status_of, agent_status):
    mount, status = status_of(UNCACHED)
    read_all(mount.path / "status/data.bin")
    for where in (status.port, f"127.0.0.1:{status.port}"):
        assert json.loads(kelpctl_stats(where, "--json").stdout)["kelpfs_read_bytes_total"] == len(DATA)
    agent_port = agent_status[1].port
    assert "kelpd_volumes" in json.loads(kelpctl_stats(agent_port, "--json").stdout)
    result = kelpctl_stats(agent_port)
    assert result.returncode == 1 and "not the statistics of a mount" in result.stderr


def test_kelpctl_repeats_the_heading_in_a_terminal(mount_kelpfs, source):
    mount = mount_kelpfs(source)
    master, slave = os.openpty()
    process = subprocess.Popen([mounts.bin_dir() / "kelpctl", "stats", mount.path, "-c", "45", "-i", "0.01"],
                               stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while piece := os.read(master, 65536):
            shown += piece
    assert process.wait(60) == 0, process.stderr.read()
    os.close(master)
    assert shown.count(b"reads/s") == 3


@pytest.mark.parametrize("where, says", [("/nowhere", "no mount of kelpfs"), ("127.0.0.1:1", "Connection refused"),
                                         ("/", "no mount of kelpfs")])
def test_kelpctl_says_what_is_wrong_with_the_place(where, says):
    result = kelpctl_stats(where)
    assert result.returncode == 1
    assert says in result.stderr and result.stdout == ""


@pytest.mark.sanitized
def test_session_ends_well_with_a_file_of_the_hidden_directory_open(source, mount_kelpfs):
    """Whether memory is left a sanitizer tells."""
    mount = mount_kelpfs(source)
    with open(mount.path / ".kelpfs/stats", "rb"):
        assert mount.process.kill(signal.SIGTERM) == 0, mount.log_text()
    mount.check_log()

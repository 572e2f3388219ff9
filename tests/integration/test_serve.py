"""kelpctl serve: its HTTP API, with a real cluster and real agents behind it."""

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest

import mounts
import sidecar
import weed
import wire
from corpus import noise, prose
from test_agent import READ_KEY, Agent, Volumes
from test_status import PROMTOOL, promtool_check

MIB = 1 << 20
NO_NEEDLE = "ffffff12345678"
SOON_S = 60

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs's own tool")


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster("serve")


@pytest.fixture(scope="module")
def volumes(cluster):
    return Volumes(cluster)


@pytest.fixture(scope="module")
def needle(volumes):
    data = noise(300_000, seed="serve")
    return volumes.put(data), data


@pytest.fixture(scope="module")
def large(volumes):
    """Too large to be read at once."""
    data = noise(20 * MIB + 4321, seed="serve")
    return volumes.put(data), data


@pytest.fixture(scope="module")
def compressed(volumes):
    data = prose(3_000_000)
    return volumes.put(data, content_type="text/plain", filename="prose.txt"), data


@pytest.fixture(scope="module")
def agent(volumes, work_dir):
    agent = Agent(work_dir, "--dir", volumes.dir)
    yield agent
    agent.end()


@pytest.fixture
def start(work_dir):
    """Factory: start("--filer", address, ...); ended, and looked at, after the test."""
    made = []

    def start(*arguments, **options):
        made.append(sidecar.Serve(work_dir, *arguments, **options))
        return made[-1]

    yield start
    for process in made:
        process.end()


def ways(way, cluster, agent):
    return {
        "agent": ("--filer", cluster.filer, "--agent-port", agent.port, "--via", "tcp"),
        "http": ("--filer", cluster.filer, "--via", "http"),
        "master": ("--master", cluster.master, "--via", "http"),
        "server": ("--server", server_of(cluster), "--via", "http"),
        "server-agent": ("--server", server_of(cluster), "--agent-port", agent.port, "--via", "tcp"),
        "proxy": ("--filer", cluster.filer, "--via", "proxy"),
    }[way]


WAYS = ["agent", "http", "master", "server", "server-agent", "proxy"]


@pytest.fixture(scope="module", params=WAYS)
def each_way(request, cluster, agent, work_dir):
    """One server for each way to the bytes."""
    process = sidecar.Serve(work_dir, *ways(request.param, cluster, agent))
    process.source = "tcp" if "agent" in request.param else "http"
    yield process
    process.end()


@pytest.fixture(scope="module")
def serve(cluster, agent, work_dir):
    process = sidecar.Serve(work_dir, "--filer", cluster.filer, "--agent-port", agent.port)
    yield process
    process.end()


def server_of(cluster):
    return f"{weed.HOST}:{cluster.volume_ports[0]}"


def parts(fid):
    volume, rest = fid.split(",")
    return int(volume), int(rest[:-8], 16), int(rest[-8:], 16)


def refused(answer, status, *words):
    """A status, and JSON that says why."""
    assert answer.status == status, (answer.status, answer.data)
    assert answer.headers["Content-Type"] == "application/json"
    error = json.loads(answer.data)["error"]
    for word in words:
        assert word in error, error


# what /read gives


def test_read_gives_a_whole_needle(each_way, needle):
    fid, data = needle
    answer = each_way.read(fid)
    assert (answer.status, answer.data) == (200, data)
    assert answer.headers["Content-Length"] == str(len(data))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert (answer.headers["X-Source"], answer.headers["X-RDMA-Used"]) == (each_way.source, "false")
    assert int(answer.headers["X-Transfer-Time-Us"]) > 0


def test_read_gives_ranges(each_way, needle):
    fid, data = needle
    for offset, size in ((0, 1), (1000, 4096), (len(data) - 1, 1), (0, len(data))):
        assert each_way.read(fid, f"&offset={offset}&size={size}").data == data[offset:offset + size]


def test_size_0_is_all_that_follows(each_way, needle):
    fid, data = needle
    assert each_way.read(fid, "&offset=123456&size=0").data == data[123456:]
    assert each_way.read(fid, "&size=0&offset=").data == data


def test_read_gives_plain_bytes_of_what_is_stored_compressed(each_way, compressed):
    fid, data = compressed
    assert each_way.read(fid).data == data
    for offset, size in ((0, 10), (2_900_000, 100_000), (100, 2 * MIB)):
        assert each_way.read(fid, f"&offset={offset}&size={size}").data == data[offset:offset + size]
    assert each_way.read(fid, "&offset=2999999").data == data[2_999_999:]


def test_read_streams_a_large_needle(each_way, large):
    fid, data = large
    assert each_way.read(fid).data == data
    assert each_way.read(fid, f"&offset=7&size={9 * MIB}").data == data[7:7 + 9 * MIB]


def test_a_range_behind_the_end_is_416(each_way, needle, compressed, large):
    for fid, data in (needle, compressed, large):
        for query in (f"&offset={len(data)}&size=1", f"&offset={len(data)}", f"&offset=1&size={len(data)}",
                      f"&offset={1 << 62}&size=1", f"&offset={(1 << 64) - 1}", f"&size={(1 << 64) - 1}",
                      f"&offset={len(data) - 1}&size={4 * MIB}"):
            refused(each_way.read(fid, query), 416, "ends before")


def test_an_unknown_needle_is_404(each_way, needle):
    volume = needle[0].split(",")[0]
    refused(each_way.read(f"{volume},{NO_NEEDLE}"), 404, "no such needle")
    refused(each_way.read(f"{volume},{NO_NEEDLE}", "&size=10"), 404)
    refused(each_way.read(needle[0][:-8] + "00000000"), 404)  # the cookie is wrong


def test_an_unknown_volume_is_404_at_once(start, cluster):
    serve = start("--filer", cluster.filer, "--timeout", 60)
    refused(serve.read(f"987654,{NO_NEEDLE}", timeout_s=20), 404)


def test_an_empty_needle_is_an_empty_answer_or_none(serve, volumes):
    answer = serve.read(volumes.put(b""))
    assert (answer.status, answer.data) == (200, b"") or answer.status == 404


def test_volume_needle_and_cookie_name_a_needle_in_decimal_and_in_hexadecimal(serve, needle):
    fid, data = needle
    volume, key, cookie = parts(fid)
    for query in (f"volume={volume}&needle={key}&cookie={cookie}", f"volume={volume}&needle={key}&cookie={cookie:#x}",
                  f"volume={volume:#x}&needle={key:#X}&cookie={cookie:#X}"):
        answer = serve.get(f"/read?{query}&size=100")
        assert (answer.status, answer.data) == (200, data[:100]), query


def test_file_id_wins_over_the_other_parameters(serve, needle):
    fid, data = needle
    assert serve.read(fid, "&volume=x&needle=y&cookie=z&size=10").data == data[:10]


@pytest.mark.parametrize("query, word", [
    ("", "volume"),
    ("volume=1", "needle"),
    ("volume=1&needle=1", "cookie"),
    ("volume=0&needle=1&cookie=1", "volume"),
    ("volume=1&needle=0&cookie=1", "needle"),
    ("volume=4294967296&needle=1&cookie=1", "volume"),
    ("volume=1&needle=18446744073709551616&cookie=1", "needle"),
    ("volume=1&needle=1&cookie=0x100000000", "cookie"),
    ("volume=1&needle=1&cookie=12ab", "cookie"),
    ("volume=1&needle=1&cookie=0x", "cookie"),
    ("volume=-1&needle=1&cookie=1", "volume"),
    ("volume=%2B1&needle=1&cookie=1", "volume"),
    ("file_id=3", "file_id"),
    ("file_id=3,01637037d6/../x", "file_id"),
    ("file_id=3,zz637037d6", "file_id"),
    ("file_id=3,01637037d6&offset=-1", "offset"),
    ("file_id=3,01637037d6&offset=1x", "offset"),
    ("file_id=3,01637037d6&size=1K", "size"),
    ("file_id=3,01637037d6&size=99999999999999999999", "size"),
    ("file_id=3,01637037d6&volume_server=http://", "volume_server"),
    ("file_id=3,01637037d6&volume_server=host:port", "volume_server"),
    ("file_id=3,01637037d6&volume_server=http://host:8080/path", "volume_server"),
])
def test_what_cannot_be_understood_is_400_and_names_the_parameter(serve, query, word):
    refused(serve.get("/read?" + query), 400, word)


# volume_server


def test_a_volume_server_that_has_the_volume_is_taken(serve, cluster, needle):
    fid, data = needle
    for url in (f"http://{server_of(cluster)}", server_of(cluster), f"http://{server_of(cluster)}/"):
        assert serve.read(fid, f"&volume_server={url}").data == data


def test_a_volume_server_that_has_not_is_400_and_is_not_connected_to(serve, needle):
    with socket.create_server((weed.HOST, 0)) as other:
        other.settimeout(0.5)
        refused(serve.read(needle[0], "&volume_server=http://%s:%d" % other.getsockname()), 400, "volume_server")
        with pytest.raises(TimeoutError):
            other.accept()


def test_with_any_server_the_request_says_where_to_read(start, cluster, agent, needle):
    fid, data = needle
    serve = start("--any-server", "--agent-port", agent.port)
    answer = serve.read(fid, f"&volume_server=http://{server_of(cluster)}")
    assert (answer.data, answer.headers["X-Source"]) == (data, "tcp")
    serve = start("--any-server", "--via", "http", "--timeout", 1)
    refused(serve.read(fid, f"&volume_server=http://{weed.HOST}:{weed.free_port()}"), 502)


# methods and paths


def test_head_has_the_header_of_get_and_no_body(serve, needle, large):
    for fid, data in (needle, large):
        answer = serve.request("HEAD", f"/read?file_id={fid}")
        assert (answer.status, answer.headers["Content-Length"], answer.data) == (200, str(len(data)), b"")
    assert serve.request("HEAD", f"/read?file_id={needle[0]}&offset={1 << 40}").status == 416
    assert serve.request("HEAD", "/health").status == 200


@pytest.mark.parametrize("method, path, allow", [
    ("POST", "/read?file_id=1,0112345678", "GET, HEAD"), ("PUT", "/health", "GET, HEAD"),
    ("DELETE", "/stats", "GET, HEAD"), ("GET", "/cleanup?temp_file=x", "DELETE"), ("OPTIONS", "/read", "GET, HEAD"),
])
def test_other_methods_are_405_and_say_which_are_allowed(serve, method, path, allow):
    answer = serve.request(method, path, body=b"x" if method in ("POST", "PUT") else None)
    refused(answer, 405)
    assert answer.headers["Allow"] == allow


def test_other_paths_are_404(serve):
    for path in ("/", "/reads", "/read/", "/benchmark", "/write", "/%00"):
        assert serve.get(path).status == 404, path


def test_one_connection_takes_many_requests(serve, needle):
    fid, data = needle
    http = wire.Http(serve.port)
    for i in range(20):
        assert http.get("/read", f"file_id={fid}&offset={i}&size=1000") == data[i:i + 1000]
    first = http.local.connection.sock
    assert http.get("/read", f"file_id={fid}") == data and http.local.connection.sock is first


def curl(*arguments):
    return subprocess.run(["curl", "-sS", "--max-time", "30", *arguments], capture_output=True, check=True,
                          stdin=subprocess.DEVNULL).stdout


def test_the_same_with_curl(serve, cluster, needle):
    fid, data = needle
    volume, key, cookie = parts(fid)
    base = f"http://{serve.address}"
    url = f"{base}/read?file_id={fid}&offset=10&size=5000&volume_server=http://{server_of(cluster)}"
    assert curl(url) == data[10:5010]
    assert curl(f"{base}/read?volume={volume}&needle={key}&cookie={cookie:#x}") == data
    head = curl("-D", "-", "-o", "/dev/null", url).decode()
    assert head.startswith("HTTP/1.1 200 ") and "X-Source: tcp\r\n" in head and "X-RDMA-Used: false\r\n" in head
    assert b"healthy" in curl(f"{base}/health")
    assert curl("-o", "/dev/null", "-w", "%{http_code}", f"{base}/read?volume=1") == b"400"


# /health and /stats


def test_health_has_what_the_old_mount_wants(serve, needle):
    serve.read(needle[0])
    answer = serve.get("/health")
    health = json.loads(answer.data)
    assert (answer.status, health["status"]) == (200, "healthy")
    has_device = "RDMA where" in serve.log_text()
    assert health["rdma"] == {"enabled": has_device, "connected": health["rdma"]["connected"], "type": "kelpd"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", health["timestamp"])


def test_health_is_503_while_every_volume_server_is_away(start, cluster, needle):
    nowhere = f"{weed.HOST}:{weed.free_port()}"
    serve = start("--server", nowhere, "--via", "http", "--timeout", "1")
    refused(serve.read(needle[0]), 502)
    answer = serve.get("/health")
    assert (answer.status, json.loads(answer.data)["status"]) == (503, "unhealthy")


def test_health_is_well_again_without_a_read_once_a_server_answers(start, needle):
    port = weed.free_port()
    serve = start("--server", f"{weed.HOST}:{port}", "--via", "http", "--timeout", "1")
    refused(serve.read(needle[0]), 502)
    assert serve.get("/health").status == 503
    back = http.server.HTTPServer((weed.HOST, port), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=back.serve_forever, daemon=True).start()
    try:
        assert serve.get("/health").status == 200
    finally:
        back.shutdown()
        back.server_close()


def test_stats_count_every_answer_and_every_byte(start, cluster, agent, needle, large):
    serve = start("--filer", cluster.filer, "--agent-port", agent.port)
    assert serve.answers() == {} and serve.stats()["enabled"] is ("RDMA where" in serve.log_text())
    serve.read(needle[0])
    serve.read(large[0])
    serve.read(needle[0], "&size=10")
    serve.read("x")
    serve.request("HEAD", f"/read?file_id={needle[0]}")
    weed.wait_until(lambda: serve.active() == 0, "all reads to be over")  # shortly after their last byte
    stats = serve.stats()
    assert stats["kelpctl_answers_total"] == {"200": 4, "400": 1}
    assert stats["kelpctl_answer_reads_total"] == {"rdma": 0, "tcp": 4, "http": 0}
    sent = len(needle[1]) + len(large[1]) + 10
    assert stats["kelpctl_answer_bytes_total"] == {"rdma": 0, "tcp": sent, "http": 0}
    assert stats["kelpctl_answer_seconds"]["tcp"]["count"] == 4
    assert (stats["kelpctl_reads_active"], stats["kelpctl_reads_limit"]) == (0, 64)
    assert stats["kelpctl_memory_bytes"] == stats["kelpctl_memory_free_bytes"] == 256 * MIB
    assert stats["kelpctl_source_bytes_total"]["tcp"] >= sent
    assert list(stats["kelpctl_server_bytes_total"]) == [f"http://{server_of(cluster)}"]


@pytest.mark.skipif(not PROMTOOL, reason="no promtool: scripts/setup gets it")
def test_metrics_are_those_of_stats_and_promtool_accepts_them(serve, needle):
    serve.read(needle[0])
    answer = serve.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    result = promtool_check(answer.data)
    assert result.returncode == 0 and not result.stderr, result.stderr.decode()
    names = set(re.findall(r"^# TYPE (\S+)", answer.data.decode(), re.M))
    assert names == {name for name in serve.stats() if name.startswith("kelpctl_")}
    assert f'kelpctl_answers_total{{status="200"}} {serve.answers()["200"]}' in answer.data.decode()


def test_a_range_of_a_large_needle_is_not_read_whole(start, cluster, agent, large):
    fid, data = large
    serve = start("--filer", cluster.filer, "--agent-port", agent.port)
    serve.read(fid, "&offset=1000000&size=5000")
    serve.read(fid, f"&offset={len(data) - 3 * MIB}")
    fetched = sum(serve.stats()["kelpctl_source_bytes_total"].values())
    assert fetched <= 5000 + 3 * MIB + 10


# when the cluster fails


def test_a_silent_volume_server_is_504(start, needle):
    with socket.create_server((weed.HOST, 0)) as silent:
        address = "%s:%d" % silent.getsockname()
        serve = start("--server", address, "--via", "http", "--timeout", "1")
        refused(serve.read(needle[0]), 504, "in time")


def answering(text):
    """A server that gives every connection's first request that answer; returns it and its address."""
    listener = socket.create_server((weed.HOST, 0))

    def run():
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                with contextlib.suppress(OSError), connection:
                    connection.recv(4096)
                    connection.sendall(text)

    threading.Thread(target=run, daemon=True).start()
    return listener, "%s:%d" % listener.getsockname()


def test_a_server_that_talks_nonsense_is_502(start, needle):
    listener, address = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc")
    with listener:
        serve = start("--server", address, "--via", "http", "--timeout", "2")
        refused(serve.read(needle[0], "&offset=5&size=100"), 502)


def test_a_cluster_that_wants_a_token_that_is_not_there_is_502(start, needle):
    listener, address = answering(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    with listener:
        serve = start("--server", address, "--via", "http", "--timeout", "2")
        refused(serve.read(needle[0], "&size=100"), 502, "token")


def test_reads_go_on_over_http_when_the_agent_dies(start, cluster, volumes, work_dir, needle, large):
    agent = Agent(work_dir, "--dir", volumes.dir)
    serve = start("--filer", cluster.filer, "--agent-port", agent.port)
    assert serve.read(needle[0]).headers["X-Source"] == "tcp"
    agent.kill()
    answer = serve.read(large[0])
    assert (answer.data, answer.headers["X-Source"]) == (large[1], "http")


def test_what_is_too_large_to_be_decoded_is_413(start, cluster, compressed):
    fid, data = compressed
    serve = start("--filer", cluster.filer, "--decode", "2M", "--via", "http")
    assert serve.read(fid, "&offset=5&size=1000").data == data[5:1005]
    agent_less = serve.read(fid)
    assert agent_less.status in (200, 413)  # over HTTP ranges of it can be had


def test_what_only_an_agent_has_compressed_and_is_too_large_is_413(start, cluster, agent, compressed):
    fid, data = compressed
    serve = start("--filer", cluster.filer, "--agent-port", agent.port, "--via", "tcp", "--decode", "2M")
    refused(serve.read(fid), 413, "compressed")
    assert serve.read(fid, "&offset=2000000&size=1000").data == data[2_000_000:2_001_000]


# tokens


def token_for(fid, key=READ_KEY, **options):
    return wire.jwt(key, {"fid": fid}, **options)


@pytest.fixture
def keyed(start, cluster, agent):
    return start("--filer", cluster.filer, "--agent-port", agent.port, env={"WEED_JWT_SIGNING_READ_KEY": READ_KEY})


def test_with_a_key_a_read_needs_a_token_for_its_needle(keyed, needle):
    fid, data = needle
    refused(keyed.read(fid), 401, "token")
    for token in (token_for(fid, "another-key"), token_for(fid, lifetime_s=-100), token_for("1,0112345678"), "x.y.z"):
        refused(keyed.read(fid, headers={"Authorization": f"Bearer {token}"}), 401)
    good = token_for(fid)
    assert keyed.read(fid, headers={"Authorization": f"BEARER {good}"}).data == data
    assert keyed.read(fid, f"&jwt={good}").data == data
    assert keyed.get("/health").status == 200
    assert good not in keyed.log_text() and READ_KEY not in keyed.log_text()


def test_no_token_takes_reads_without(start, cluster, needle):
    serve = start("--filer", cluster.filer, "--no-token", env={"WEED_JWT_SIGNING_READ_KEY": READ_KEY})
    assert serve.read(needle[0]).data == needle[1]


# many clients, and bad ones


def test_64_readers_with_a_limit_of_16_get_right_bytes_or_429(start, cluster, agent, large):
    fid, data = large
    serve = start("--filer", cluster.filer, "--agent-port", agent.port, "--reads", 16)
    barrier = threading.Barrier(64)

    def read(i):
        offset = i * 1000
        barrier.wait()
        refusals = 0
        while True:
            answer = serve.read(fid, f"&offset={offset}&size={2 * MIB}", timeout_s=120)
            if answer.status == 200:
                assert answer.data == data[offset:offset + 2 * MIB]
                return refusals
            refused(answer, 429)
            refusals += 1
            time.sleep(0.05)

    with hold_reads(serve, fid, 16) as release, ThreadPoolExecutor(64) as pool:
        results = [pool.submit(read, i) for i in range(64)]
        weed.wait_until(lambda: serve.answers().get("429", 0) >= 48, "refusals")
        release()
        refusals = sum(result.result(timeout=180) for result in results)
    assert serve.answers() == {"200": 64 + 16, "429": refusals} and refusals >= 48
    weed.wait_until(lambda: serve.active() == 0, "all reads to be over")


@contextlib.contextmanager
def hold_reads(serve, fid, n):
    """n clients that ask for a large needle and take nothing of it; yields what ends them."""
    held = []

    def release():
        while held:
            held.pop().close()

    try:
        for _ in range(n):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((weed.HOST, serve.port))
            client.sendall(f"GET /read?file_id={fid} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            held.append(client)
        weed.wait_until(lambda: serve.active() >= n, f"{n} reads under way")
        yield release
    finally:
        release()


def test_a_client_that_takes_nothing_loses_its_place_in_time(start, cluster, large):
    serve = start("--filer", cluster.filer, "--reads", 1, "--client-timeout", 5, "--timeout", 5)
    with hold_reads(serve, large[0], 1):
        refused(serve.read(large[0], "&size=1"), 429)
        weed.wait_until(lambda: serve.active() == 0, "the slow client to be cut off")
        assert serve.read(large[0], "&size=10").data == large[1][:10]


def test_a_client_that_goes_away_gives_its_place_back(start, cluster, large):
    serve = start("--filer", cluster.filer, "--reads", 1, "--client-timeout", 300)
    with hold_reads(serve, large[0], 1) as release:
        release()
        weed.wait_until(lambda: serve.active() == 0, "the place to be free")


def send_slowly(port, data, every_s=0.1):
    """Sends byte by byte until the other side has had enough; returns after how long that was."""
    began = time.monotonic()
    with socket.create_connection((weed.HOST, port)) as client:
        client.settimeout(every_s)
        for byte in data:
            try:
                client.sendall(bytes([byte]))
                if client.recv(1000) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            return None
    return time.monotonic() - began


def test_a_header_that_comes_too_slowly_is_cut_off(start, cluster):
    serve = start("--filer", cluster.filer, "--client-timeout", 1)
    assert send_slowly(serve.port, b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 100) is not None
    assert serve.get("/health").status == 200


@pytest.mark.parametrize("request_bytes", [
    b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n", b"GET /read HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 100_000,
    b"GET /health HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 20_000,
    b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"GET /read?file_id=%ZZ%&%00=1 HTTP/1.1\r\nHost: x\r\n\r\n",
], ids=range(8))
def test_broken_requests_are_refused_and_hurt_nobody(serve, needle, request_bytes):
    with socket.create_connection((weed.HOST, serve.port), timeout=15) as client:
        with contextlib.suppress(OSError):
            client.sendall(request_bytes)
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                answer += piece
    assert answer == b"" or re.match(rb"HTTP/1.[01] [45]\d\d ", answer), answer[:200]
    assert serve.read(needle[0], "&size=10").data == needle[1][:10]


def test_memory_stays_bounded_while_many_read_large_needles(start, cluster, agent, large):
    if mounts.sanitized():
        pytest.skip("the sanitizer's memory")
    serve = start("--filer", cluster.filer, "--agent-port", agent.port, "--memory", "16M", "--decode", "16M")
    with ThreadPoolExecutor(12) as pool:
        for answer in pool.map(lambda _: serve.read(large[0], timeout_s=120), range(24)):
            assert answer.data == large[1]
    with open(f"/proc/{serve.pid}/status") as status:
        peak_kib = int(re.search(r"^VmHWM:\s+(\d+)", status.read(), re.M)[1])
    assert peak_kib < 100 * 1024


# temporary files


@pytest.fixture
def temp_dir(tmp_path):
    return tmp_path / "handed over"


def temp_stats(serve):
    stats = serve.stats()
    return {what: stats[f"kelpctl_temp_files_{what}_total"] for what in ("added", "removed", "expired")}


def files_in(folder):
    return sorted(folder.iterdir()) if folder.exists() else []


def test_without_the_option_there_are_no_files(serve, needle):
    assert "X-Temp-File" not in serve.read(needle[0]).headers
    refused(serve.request("DELETE", "/cleanup?temp_file=/etc/passwd"), 404)


def test_a_file_with_the_same_bytes_is_offered_and_removed_when_told(start, cluster, needle, temp_dir):
    fid, data = needle
    serve = start("--filer", cluster.filer, "--temp-dir", temp_dir)
    answer = serve.read(fid, "&offset=100&size=200000")
    path = answer.headers["X-Temp-File"]
    assert answer.data == data[100:200_100] and answer.headers["X-Use-Temp-File"] == "true"
    assert [str(file) for file in files_in(temp_dir)] == [path]
    with open(path, "rb") as file:
        assert file.read() == data[100:200_100]
    assert oct(temp_dir.stat().st_mode & 0o777) == "0o700" and os.stat(path).st_mode & 0o777 == 0o600
    assert re.fullmatch(r"needle-[0-9a-f]{32}", os.path.basename(path))
    quoted = urllib.parse.quote(path, safe="")
    assert serve.request("DELETE", f"/cleanup?temp_file={quoted}").status == 200
    assert files_in(temp_dir) == []
    refused(serve.request("DELETE", f"/cleanup?temp_file={quoted}"), 404)
    assert temp_stats(serve) == {"added": 1, "removed": 1, "expired": 0}


def test_small_answers_head_and_streams_come_without_a_file(start, cluster, needle, large, temp_dir):
    serve = start("--filer", cluster.filer, "--temp-dir", temp_dir)
    assert "X-Temp-File" not in serve.read(needle[0], "&size=1000").headers
    assert "X-Temp-File" not in serve.read(large[0]).headers
    assert "X-Temp-File" not in serve.request("HEAD", f"/read?file_id={needle[0]}").headers
    assert files_in(temp_dir) == []


def test_cleanup_removes_nothing_else(start, cluster, needle, temp_dir, tmp_path):
    serve = start("--filer", cluster.filer, "--temp-dir", temp_dir)
    kept = serve.read(needle[0]).headers["X-Temp-File"]
    precious = tmp_path / "precious"
    precious.write_text("x")
    (temp_dir / "mine").write_text("x")
    name = os.path.basename(kept)
    for path in (precious, temp_dir / "mine", f"{temp_dir}/../precious", f"{temp_dir}//{name}", name, "",
                 f"{temp_dir}/needle-{'0' * 32}", temp_dir):
        query = urllib.parse.quote(str(path), safe="")
        assert serve.request("DELETE", f"/cleanup?temp_file={query}").status in (400, 404), path
    refused(serve.request("DELETE", "/cleanup"), 400, "temp_file")
    assert precious.exists() and (temp_dir / "mine").exists() and os.path.exists(kept)


def test_files_go_away_with_age_at_the_end_and_after_a_kill(start, cluster, needle, temp_dir):
    serve = start("--filer", cluster.filer, "--temp-dir", temp_dir, "--temp-age", 1)
    serve.read(needle[0])
    weed.wait_until(lambda: not files_in(temp_dir), "the file to be removed", 15)
    assert temp_stats(serve)["expired"] == 1
    serve.end()
    serve = start("--filer", cluster.filer, "--temp-dir", temp_dir)
    serve.read(needle[0])
    assert len(files_in(temp_dir)) == 1
    serve.end()
    assert files_in(temp_dir) == []
    serve = start("--filer", cluster.filer, "--temp-dir", temp_dir)
    serve.read(needle[0])
    serve.kill()
    assert len(files_in(temp_dir)) == 1
    start("--filer", cluster.filer, "--temp-dir", temp_dir)
    assert files_in(temp_dir) == []


def cannot_start(*arguments):
    """Ends by itself with one line that says why."""
    result = subprocess.run([mounts.bin_dir() / "kelpctl", "serve", *map(str, arguments)], capture_output=True,
                            text=True, stdin=subprocess.DEVNULL, timeout=SOON_S, env=mounts.command_env())
    assert result.returncode in (1, 2) and len(result.stderr.splitlines()) == 1, result
    return result.stderr


def test_a_folder_that_is_not_private_is_refused(cluster, temp_dir, tmp_path, start):
    where = ("--filer", cluster.filer, "--listen", weed.free_port(), "--temp-dir")
    temp_dir.mkdir()
    temp_dir.chmod(0o755)
    assert "chmod 700" in cannot_start(*where, temp_dir)
    temp_dir.chmod(0o700)
    (tmp_path / "link").symlink_to(temp_dir)
    assert "link" in cannot_start(*where, tmp_path / "link")
    assert "No such file" in cannot_start(*where, tmp_path / "no/folder")
    start("--filer", cluster.filer, "--temp-dir", temp_dir)
    assert "in use" in cannot_start(*where, temp_dir)


# starting and stopping


def test_a_port_in_use_is_told(serve, cluster):
    error = cannot_start("--filer", cluster.filer, "--listen", serve.address)
    assert "cannot listen" in error and str(serve.port) in error and "in use" in error


def test_it_says_what_is_missing():
    assert "where?" in cannot_start()
    assert "--memory" in cannot_start("--server", "x", "--memory", "16M", "--decode", "32M")
    assert "--listen" in cannot_start("--server", "x", "--listen", "nonsense:")


def test_it_listens_on_loopback_only_unless_told(start, cluster):
    serve = start("--filer", cluster.filer)
    listening = subprocess.run(["ss", "-Htln", f"sport = {serve.port}"], capture_output=True, text=True).stdout
    assert [line.split()[3] for line in listening.splitlines()] == [f"{weed.HOST}:{serve.port}"]


def test_sigterm_lets_reads_under_way_come_to_their_end(start, cluster, large):
    fid, data = large
    serve = start("--filer", cluster.filer)
    got = []

    def take():
        with socket.create_connection((weed.HOST, serve.port), timeout=30) as client:
            client.sendall(f"GET /read?file_id={fid} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            got.append(client.recv(1000))
            begun.set()
            go_on.wait()
            while piece := client.recv(1 << 20):
                got.append(piece)

    begun, go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=take)
    thread.start()
    begun.wait(SOON_S)
    serve.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    go_on.set()
    thread.join(SOON_S)
    assert serve.process.wait(SOON_S) == 0
    assert b"".join(got).split(b"\r\n\r\n", 1)[1] == data


def test_sigterm_does_not_wait_for_clients_that_take_nothing(start, cluster, large):
    serve = start("--filer", cluster.filer, "--timeout", 1)
    with hold_reads(serve, large[0], 4), socket.create_connection((weed.HOST, serve.port)):
        serve.end()


# weed mount 4.44


@pytest.fixture(scope="module")
def files(cluster):
    """Files of one chunk, which is all that the old mount reads right through a sidecar."""
    filer = wire.Http(cluster.filer_port)
    files = {"small": noise(3000), "medium": noise(700_000), "chunk": noise(4 * MIB - 10), "words": prose(900_000)}
    for name, data in files.items():
        filer.put(f"/old/{name}", data)
        assert len(filer.entry(f"/old/{name}")["chunks"]) == 1
    return files


@pytest.mark.parametrize("with_files", [False, True], ids=["body", "temp-file"])
def test_weed_mount_4_44_reads_files_of_one_chunk_through_it(
        start, cluster, agent, files, tmp_path, temp_dir, with_files):
    sidecar.old_weed()
    options = ("--temp-dir", temp_dir) if with_files else ()
    serve = start("--filer", cluster.filer, "--agent-port", agent.port, "--claim-rdma", *options)
    filer = f"{weed.HOST}:{cluster.filer_port}"
    mount = sidecar.OldMount(filer, serve.address, tmp_path / "mnt", tmp_path, "/old")
    try:
        for name, data in files.items():
            assert (mount.path / name).read_bytes() == data, name
        if with_files:
            # Not all of them: it tries once, with a time limit.
            weed.wait_until(lambda: temp_stats(serve)["removed"], "the mount to give files back", 30)
    finally:
        mount.end()
    assert serve.answers().keys() == {"200"}
    if with_files:
        # It takes nothing of a body whose file it has read. "words" is stored in fewer bytes.
        fetched = sum(serve.stats()["kelpctl_source_bytes_total"].values())
        assert fetched >= sum(map(len, files.values())) - len(files["words"])
        assert temp_stats(serve)["added"] >= temp_stats(serve)["removed"] > 0
    else:
        assert serve.sent("tcp") + serve.sent("http") >= sum(map(len, files.values()))


def test_weed_mount_4_44_reads_by_itself_what_came_without_rdma(start, cluster, agent, files, tmp_path):
    """Without --claim-rdma the answer is honest, and the mount throws it away: /health tells it so."""
    sidecar.old_weed()
    serve = start("--filer", cluster.filer, "--agent-port", agent.port, "--via", "tcp,http")
    filer = f"{weed.HOST}:{cluster.filer_port}"
    mount = sidecar.OldMount(filer, serve.address, tmp_path / "mnt", tmp_path, "/old")
    try:
        assert (mount.path / "medium").read_bytes() == files["medium"]
    finally:
        mount.end()
    assert serve.answers() == {}


def test_weed_mount_4_44_reads_overwritten_and_sparse_files_wrong(start, cluster, tmp_path):
    """docs/predecessor.md says so of this mount; the sidecar gives what it is asked for."""
    sidecar.old_weed()
    filer = wire.Http(cluster.filer_port)
    filer.put("/faults/patched", noise(MIB))
    filer.put("/faults/patched", noise(1000), "offset=1000")
    filer.put("/faults/sparse", noise(1000))
    filer.put("/faults/sparse", noise(1000), f"offset={MIB}")
    serve = start("--filer", cluster.filer, "--claim-rdma")
    mount = sidecar.OldMount(f"{weed.HOST}:{cluster.filer_port}", serve.address, tmp_path / "mnt", tmp_path, "/faults")
    try:
        assert (mount.path / "patched").read_bytes() != filer.get("/faults/patched")
        assert (mount.path / "sparse").read_bytes() == noise(1000)
        assert len(filer.get("/faults/sparse")) == MIB + 1000
    finally:
        mount.end()
    assert serve.answers().keys() == {"200"}

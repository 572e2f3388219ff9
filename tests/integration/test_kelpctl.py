"""kelpctl beside a real cluster and a real kelpd."""

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

import agent_client as ac
import mounts
import weed
import wire
from corpus import noise, prose
from test_agent import READ_KEY, Agent, Volumes

SOON_S = 60
MIB = 1 << 20

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs's own tool")


def kelpctl_command(*arguments):
    return [str(mounts.bin_dir() / "kelpctl"), *map(str, arguments)]


def kelpctl(*arguments, env=None, timeout_s=SOON_S, **options):
    options.setdefault("stdout", subprocess.PIPE)
    result = subprocess.run(kelpctl_command(*arguments), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            timeout=timeout_s, env=dict(mounts.command_env(), **(env or {})), **options)
    result.error = result.stderr.decode()
    assert not mounts.SANITIZER_REPORT.search(result.error) and result.returncode in (0, 1, 2), result.error
    return result


def output(*arguments, **options):
    """What it printed; it has to succeed."""
    result = kelpctl(*arguments, **options)
    assert result.returncode == 0, result.error
    return result.stdout


def refused(result, *words, status=1):
    """One clear line, nothing else, and an exit status."""
    assert result.returncode == status, result
    assert result.stdout == b"" and len(result.error.splitlines()) == 1, result
    for word in ("kelpctl: ", *words):
        assert str(word) in result.error, result.error


@pytest.fixture(scope="module")
def cluster(make_cluster):
    """One whose volume files the tests spoil."""
    return make_cluster("kelpctl")


@pytest.fixture(scope="module")
def volumes(cluster):
    return Volumes(cluster)


@pytest.fixture(scope="module")
def filer(cluster):
    return wire.Http(cluster.filer_port)


@pytest.fixture
def start_agent(volumes, work_dir):
    agents = []

    def start(*arguments, **options):
        agents.append(Agent(work_dir, "--dir", volumes.dir, *arguments, **options))
        return agents[-1]

    yield start
    for agent in agents:
        agent.end()


@pytest.fixture
def agent(start_agent):
    return start_agent()


@pytest.fixture
def nothing():
    """An address at which nothing listens."""
    return f"{weed.HOST}:{weed.free_port()}"


def address(agent):
    return f"{weed.HOST}:{agent.port}"


def server_of(cluster):
    return f"{weed.HOST}:{cluster.volume_ports[0]}"


# ping


def test_ping_counts_round_trips(agent):
    lines = output("ping", address(agent), "-c", 3, "-i", "0.05").decode().splitlines()
    assert lines[0].startswith(f"PING {address(agent)} (tcp): kelpd ")
    assert [line.split("seq=")[1].split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert "3 sent, 3 answered, 0% lost" in lines[5]
    assert re.search(r"min/avg/max/mdev = [\d.]+/", lines[6])


def test_ping_says_the_same_as_json(agent):
    answer = json.loads(output("ping", address(agent), "--count=4", "--interval=0.01", "--json"))
    assert (answer["agent"], answer["sent"], answer["answered"]) == (address(agent), 4, 4)
    times = answer["round_trip_ms"]
    assert 0 < times["min"] <= times["avg"] <= times["max"]


def test_ping_pauses_between_pings(agent):
    start = time.monotonic()
    output("ping", address(agent), "-c", 3, "-i", "0.2")
    assert time.monotonic() - start >= 0.4


def test_ping_ends_with_its_summary_when_interrupted(agent):
    ping = subprocess.Popen(kelpctl_command("ping", address(agent), "-i", "0.05"), stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, text=True, env=mounts.command_env(),
                            preexec_fn=weed.die_with_parent)
    for _ in range(3):
        ping.stdout.readline()
    ping.send_signal(signal.SIGINT)
    rest = ping.communicate(timeout=SOON_S)[0]
    assert "0% lost" in rest and "mdev" in rest
    assert ping.returncode == 0


def test_ping_says_that_nothing_listens(nothing):
    result = kelpctl("ping", nothing, "-c", 2, "-i", "0.01")
    assert result.returncode == 1
    assert "2 sent, 0 answered, 100% lost" in result.stdout.decode()
    assert nothing in result.error and "is kelpd running" in result.error


def test_ping_survives_a_restart_of_the_agent(agent):
    ping = subprocess.Popen(kelpctl_command("ping", address(agent), "-i", "0.05"), stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, text=True, env=mounts.command_env(),
                            preexec_fn=weed.die_with_parent)

    def wait_for(text):
        while text not in (line := ping.stdout.readline()):
            assert line, "kelpctl ended"

    wait_for("answer from")
    agent.kill()
    wait_for("no answer")
    agent.start()
    wait_for("answer from")
    ping.send_signal(signal.SIGINT)
    ping.communicate(timeout=SOON_S)
    assert ping.returncode == 0


# caps


def test_caps_has_everything_that_the_agent_says_of_itself(agent):
    with agent.client() as client:
        caps = json.loads(output("caps", address(agent), "--json"))
        said = client.reply
    assert caps == {
        "agent": address(agent), "software": said.software, "version": said.version,
        "real_rdma": bool(said.addresses), "device": said.device, "vendor_id": said.vendor_id,
        "port_gid": said.port_gid, "port_lid": said.port_lid,
        "rdma_addresses": [f"{host} port {port}" for host, port in said.addresses], "capabilities": ["stream"],
        "max_sessions": said.sessions_max, "active_sessions": 2, "max_transfer_bytes": said.transfer_bytes_max,
        "max_inline_bytes": said.inline_bytes_max, "max_staging_bytes": said.staging_bytes_max,
        "lease_ms": said.lease_ms, "token_needed": False,
    }


def test_caps_as_text_has_the_same_members(agent):
    text = output("caps", address(agent)).decode()
    members = dict(line.split(None, 1) for line in text.splitlines())
    assert list(members) == list(json.loads(output("caps", address(agent), "--json")))
    assert members["max_sessions"] == "1024" and members["token_needed"] == "no"


def test_caps_says_why_the_agent_refuses(start_agent):
    agent = start_agent("--max-connections", "1")
    with agent.client():
        refused(kelpctl("caps", address(agent)), address(agent), "refuses", "--max-connections")


def test_caps_says_that_the_token_is_wrong(start_agent):
    agent = start_agent(env={"WEED_JWT_SIGNING_READ_KEY": READ_KEY})
    wrong = {"WEED_JWT_SIGNING_READ_KEY": "another-key"}
    refused(kelpctl("caps", address(agent), env=wrong), "refuses", "--security")
    right = json.loads(output("caps", address(agent), "--json", env={"WEED_JWT_SIGNING_READ_KEY": READ_KEY}))
    assert right["software"].startswith("kelpd ")


def serve_once(answer):
    """A listener that answers the first connection's first bytes; returns its address."""
    listener = socket.create_server((weed.HOST, 0))

    def serve():
        with listener, listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(answer)
            connection.recv(4096)

    threading.Thread(target=serve, daemon=True).start()
    return "%s:%d" % listener.getsockname()


def test_caps_says_that_the_agent_speaks_another_version():
    reply = ac.HELLO_REPLY_HEAD.pack(ac.VERSION_REFUSED, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"", b"", b"kelpd 9",
                                     b"versions 9 to 9 here")
    there = serve_once(ac.message(ac.HELLO_REPLY, reply, xid=1))
    refused(kelpctl("caps", there), "refuses", "versions 9 to 9 here")


def test_caps_says_that_it_is_no_agent():
    refused(kelpctl("caps", serve_once(b"SSH-2.0-OpenSSH_9.2p1 Debian and so on\r\n")), "not kelpd")


def test_caps_ends_in_time_where_nobody_answers():
    with socket.create_server((weed.HOST, 0)) as silent:
        start = time.monotonic()
        refused(kelpctl("caps", "%s:%d" % silent.getsockname(), "--timeout", "0.3"), "no answer in time")
        assert time.monotonic() - start < 8  # and not the ten seconds that it is otherwise


# devices


def test_devices_lists_what_the_kernel_has():
    names = sorted(os.listdir("/sys/class/infiniband")) if os.path.isdir("/sys/class/infiniband") else []
    result = kelpctl("devices", "--json")
    if "built without RDMA" in result.error:
        pytest.skip("built without RDMA")
    assert sorted({port["device"] for port in json.loads(result.stdout)}) == names
    text = output("devices").decode()
    if not names:
        assert text == "this machine has no RDMA device\n"
    for name in names:
        assert f"{name} port 1: " in text


@pytest.mark.skipif(os.path.isdir("/sys/class/infiniband"), reason="this kernel knows RDMA")
def test_without_a_device_rdma_is_refused_and_left_out_of_the_ways(cluster, agent, needle):
    fid = needle[0]
    refused(kelpctl("caps", address(agent), "--via", "rdma"), "no RDMA device")
    refused(kelpctl("read", fid, "--agent", address(agent), "--via", "rdma"), "(rdma)", "no agent could be reached")
    refused(kelpctl("bench", fid, "--agent", address(agent), "--via", "rdma"), "(rdma)", "no agent could be reached")
    assert "rdma" not in kelpctl("read", "1,ffffff12345678", "--server", server_of(cluster)).error


# locate


def located(cluster, path, *arguments):
    return json.loads(output("locate", f"{cluster.filer}{path}", "--json", *arguments))


def test_locate_shows_every_chunk_of_a_file_and_its_server(cluster, filer):
    filer.put("/locate/three", noise(2 * MIB + 100), "maxMB=1")
    entry = filer.entry("/locate/three")
    answer = located(cluster, "/locate/three")
    assert (answer["path"], answer["type"], answer["size"], answer["chunks"]) == (
        "/locate/three", "file", 2 * MIB + 100, 3)
    assert [x["fid"] for x in answer["extents"]] == [c["file_id"] for c in entry["chunks"]]
    assert [(x["offset"], x["length"], x["chunk_offset"]) for x in answer["extents"]] == [
        (0, MIB, 0), (MIB, MIB, 0), (2 * MIB, 100, 0)]
    assert all(x["servers"] == [server_of(cluster)] and x["flags"] == [] for x in answer["extents"])
    assert [x["modified_ns"] for x in answer["extents"]] == [c["modified_ts_ns"] for c in entry["chunks"]]


def test_locate_as_text_has_a_row_for_each_extent(cluster, filer):
    filer.put("/locate/two", noise(MIB + 1), "maxMB=1")
    lines = output("locate", f"{cluster.filer}/locate/two").decode().splitlines()
    assert lines[0].startswith("/locate/two: file, 1048577 bytes, mode 0")
    assert [line.split()[3] for line in lines[2:]] == [c["file_id"] for c in filer.entry("/locate/two")["chunks"]]
    assert lines[3].split() == ["1048576", "1", "1", lines[3].split()[3], "0", "1", "-", server_of(cluster)]


def test_locate_shows_only_what_is_visible_and_the_holes(cluster, filer):
    filer.put("/locate/patched", noise(MIB))
    filer.put("/locate/patched", noise(1000), "offset=1000")
    filer.put("/locate/patched", noise(10), f"offset={2 * MIB}")
    extents = located(cluster, "/locate/patched")["extents"]
    assert [(x["offset"], x["length"], x.get("chunk_offset")) for x in extents] == [
        (0, 1000, 0), (1000, 1000, 0), (2000, MIB - 2000, 2000), (MIB, MIB, None), (2 * MIB, 10, 0)]
    assert [x.get("hole", False) for x in extents] == [False] * 3 + [True, False]
    assert "hole" in output("locate", f"{cluster.filer}/locate/patched").decode()


def test_locate_marks_compressed_chunks(cluster, filer):
    filer.put("/locate/prose.txt", prose(100_000))
    assert [x["flags"] for x in located(cluster, "/locate/prose.txt")["extents"]] == [["gzip"]]


def test_locate_knows_a_directory(cluster, filer):
    filer.mkdir("/locate/directory")
    answer = located(cluster, "/locate/directory")
    assert (answer["type"], answer["extents"]) == ("directory", [])


def test_locate_says_that_there_is_no_such_path(cluster):
    refused(kelpctl("locate", f"{cluster.filer}/nowhere"), "/nowhere", cluster.filer, "no such path")


def test_locate_says_that_there_is_no_filer(nothing):
    refused(kelpctl("locate", f"{nothing}/x", "--timeout", 1), nothing, "cannot be asked")


def test_locate_says_that_no_master_has_the_volume(cluster, filer, nothing):
    filer.put("/locate/lost", noise(10_000))
    extent, = located(cluster, "/locate/lost", "--master", nothing, "--timeout", 1)["extents"]
    assert extent["servers"] == [] and extent["problem"]


# read


@pytest.fixture(scope="module")
def needle(volumes):
    data = noise(300_000, seed=7)
    return volumes.put(data), data


@pytest.fixture(scope="module")
def compressed(volumes):
    data = prose(200_000)
    return volumes.put(data, content_type="text/plain", filename="prose.txt"), data


WAYS = ["agent", "server", "filer", "master", "proxy"]


def way_arguments(way, cluster, agent):
    return {
        "agent": ("--agent", address(agent)),
        "server": ("--server", server_of(cluster), "--via", "http"),
        "filer": ("--filer", cluster.filer, "--via", "http"),
        "master": ("--master", cluster.master, "--via", "http"),
        "proxy": ("--filer", cluster.filer, "--via", "proxy"),
    }[way]


@pytest.mark.parametrize("way", WAYS)
def test_read_gives_a_whole_needle(way, cluster, agent, needle):
    fid, data = needle
    assert output("read", fid, *way_arguments(way, cluster, agent)) == data


@pytest.mark.parametrize("way", WAYS)
def test_read_gives_ranges(way, cluster, agent, needle):
    fid, data = needle
    where = way_arguments(way, cluster, agent)
    assert output("read", fid, "--offset", 1000, "--size", "4K", *where) == data[1000:1000 + 4096]
    assert output("read", fid, "--offset", len(data) - 1, *where) == data[-1:]
    assert output("read", fid, "--size", len(data), *where) == data


@pytest.mark.parametrize("way", WAYS)
def test_read_gives_plain_bytes_of_what_is_stored_compressed(way, cluster, agent, compressed):
    fid, data = compressed
    where = way_arguments(way, cluster, agent)
    assert output("read", fid, *where) == data
    assert output("read", fid, "--offset", 150_000, "--size", 10, *where) == data[150_000:150_010]


@pytest.mark.parametrize("way", WAYS)
def test_read_raw_gives_the_stored_bytes(way, cluster, agent, compressed):
    fid, data = compressed
    stored = output("read", fid, "--raw", *way_arguments(way, cluster, agent))
    assert stored[:2] == b"\x1f\x8b" and len(stored) < len(data)


def test_read_says_where_the_bytes_came_from(cluster, agent, needle):
    fid, data = needle
    result = kelpctl("read", fid, "-v", "--filer", cluster.filer, "--agent", address(agent))
    assert result.stdout == data
    place, crc = f"{address(agent)} (tcp)", f"0x{ac.crc32c(data):08x}"
    answer, end = result.error.splitlines()
    assert answer.startswith(f"kelpctl: {place}: no lease, length {len(data)} of {len(data)}, CRC32C {crc}")
    assert re.fullmatch(re.escape(f"kelpctl: success: {len(data)} bytes from {place}, CRC32C {crc}, ") + r"\d+\.\d{3} ms",
                        end), end


def test_read_says_how_it_failed(agent, needle):
    fid = needle[0].split(",")[0] + ",ffffff12345678"
    result = kelpctl("read", fid, "-v", "--agent", address(agent))
    assert result.returncode == 1 and result.stdout == b""
    assert re.fullmatch(r"kelpctl: failure: 0 bytes, \d+\.\d{3} ms", result.error.splitlines()[0])


def test_read_falls_back_to_http_without_an_agent(cluster, needle, nothing):
    fid, data = needle
    result = kelpctl("read", fid, "-v", "--filer", cluster.filer, "--agent", nothing)
    assert result.stdout == data and f"{server_of(cluster)} (http)" in result.error


def test_read_writes_a_file(tmp_path, cluster, needle):
    fid, data = needle
    assert output("read", fid, "--master", cluster.master, "-o", tmp_path / "needle") == b""
    assert (tmp_path / "needle").read_bytes() == data


def test_a_failed_read_leaves_the_file_as_it_was(tmp_path, cluster, needle):
    path = tmp_path / "needle"
    path.write_text("precious")
    refused(kelpctl("read", "1,ffffff12345678", "--server", server_of(cluster), "--via", "http", "-o", path))
    assert path.read_text() == "precious"


def test_read_says_that_it_cannot_write(cluster, needle):
    with open("/dev/full", "wb") as full:
        result = kelpctl("read", needle[0], "--server", server_of(cluster), stdout=full)
    assert result.returncode == 1 and result.error == "kelpctl: standard output: No space left on device\n"


@pytest.mark.parametrize("way", ["agent", "server"])
def test_read_says_that_there_is_no_such_needle(way, cluster, agent, needle):
    fid = needle[0].split(",")[0] + ",ffffff12345678"
    refused(kelpctl("read", fid, *way_arguments(way, cluster, agent)), fid, "no such needle")


@pytest.mark.parametrize("way", WAYS)
def test_read_says_that_the_range_ends_behind_the_needle(way, cluster, agent, needle):
    fid, data = needle
    refused(kelpctl("read", fid, "--offset", len(data) - 5, "--size", 6, *way_arguments(way, cluster, agent)),
            "ends before that range")


def test_read_says_that_the_master_does_not_know_the_volume(cluster):
    refused(kelpctl("read", "4000000,01637037d6", "--master", cluster.master), "volume 4000000", "no server")


def test_read_says_that_no_agent_answers(needle, nothing):
    refused(kelpctl("read", needle[0], "--agent", nothing), nothing, "no agent could be reached")


def test_read_needs_the_key_of_a_secured_agent(tmp_path, start_agent, needle):
    fid, data = needle
    agent = start_agent(env={"WEED_JWT_SIGNING_READ_KEY": READ_KEY})
    security = tmp_path / "security.toml"
    security.write_text(f'[jwt.signing.read]\nkey = "{READ_KEY}"\n')
    assert output("read", fid, "--agent", address(agent), "--security", security) == data
    refused(kelpctl("read", fid, "--agent", address(agent)), fid)


def test_read_never_prints_bytes_that_do_not_match_their_checksum(volumes, cluster, agent):
    data = noise(50_000, seed=99)
    fid = volumes.put(data)
    path = next(p for p in volumes.dir.glob("*.dat") if data[:64] in p.read_bytes())
    at = path.read_bytes().index(data[:64]) + 25_000
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(bytes([data[25_000] ^ 1]))
    for where in (("--agent", address(agent)), ("--server", server_of(cluster), "--via", "http")):
        refused(kelpctl("read", fid, *where), fid)


# bench


@pytest.fixture(scope="module")
def big(filer):
    filer.put("/bench/big", noise(4 * MIB), "maxMB=1")
    return "/bench/big"


def points(text):
    answer = json.loads(text)
    for p in answer["points"]:
        latency = p["latency_us"]
        assert p["reads"] > 0 and p["bytes"] == p["reads"] * p["size"]
        assert p["reads_per_s"] == pytest.approx(p["reads"] / p["seconds"], rel=0.01)
        assert p["mib_per_s"] == pytest.approx(p["bytes"] / p["seconds"] / MIB, rel=0.01)
        assert latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"]
        assert latency["p99.9"] <= latency["max"] and latency["min"] <= latency["mean"] <= latency["max"]
    return answer["points"]


def test_bench_measures_every_way_size_and_depth(tmp_path, cluster, agent, big):
    path = tmp_path / "results.json"
    text = output("bench", cluster.filer + big, "--agent", address(agent), "--via", "tcp,http,proxy", "--sizes",
                  "4K,1M", "--depths", "1,4", "--seconds", "0.2", "--json", path).decode()
    measured = points(path.read_text())
    wanted = [(via, size, depth) for via in ("tcp", "http", "proxy") for size in (4096, MIB) for depth in (1, 4)]
    assert [(p["via"], p["size"], p["depth"]) for p in measured] == wanted
    assert all(p["errors"] == 0 and p["seconds"] >= 0.2 for p in measured)
    rows = [line.split() for line in text.splitlines()]
    assert rows[0][:6] == ["WAY", "SIZE", "DEPTH", "READS/S", "MIB/S", "ERRORS"] and len(rows) == 1 + len(wanted)
    assert rows[2][:3] == ["tcp", "4K", "4"]


def on_terminal(*arguments):
    """What a command says on standard error when that is a terminal; and its standard output, which is none."""
    near, far = pty.openpty()
    shown = bytearray()
    try:
        with subprocess.Popen(kelpctl_command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=far,
                              env=mounts.command_env()) as process:
            os.close(far)
            with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                while piece := os.read(near, 65536):
                    shown += piece
            printed = process.stdout.read()
            assert process.wait(timeout=SOON_S) == 0, shown
    finally:
        os.close(near)
    return shown.decode(), printed.decode()


def test_bench_shows_its_progress_on_a_terminal(agent, volumes):
    fid = volumes.put(noise(100_000))
    shown, printed = on_terminal("bench", fid, "--agent", address(agent), "--sizes", "4K,64K", "--depths", "1",
                                 "--seconds", "0.5")
    lines = shown.split("\r\x1b[K")
    assert lines[0] == "" and lines[-1] == "", "each line replaces the one before, and nothing is left behind"
    progress = [re.fullmatch(r"\[(\d)/2\] tcp, size (\w+), depth 1: \d+\.\d of 0\.5 s", line)
                for line in lines if line]
    assert all(progress), shown
    assert [("1", "4K"), ("2", "64K")] == sorted({match.groups() for match in progress})
    assert len(printed.splitlines()) == 3 and "\r" not in printed and "\x1b" not in printed


def test_bench_prints_nothing_but_the_result_without_a_terminal(agent, volumes):
    fid = volumes.put(noise(100_000))
    result = kelpctl("bench", fid, "--agent", address(agent), "--sizes", "4K", "--depths", "1", "--seconds", "0.5")
    assert result.returncode == 0 and result.error == ""
    assert len(result.stdout.splitlines()) == 2 and b"\x1b" not in result.stdout


def test_bench_reads_needles_by_their_ids(agent, volumes):
    fids = [volumes.put(noise(100_000, seed=i)) for i in range(3)]
    answer = output("bench", *fids, "--agent", address(agent), "--sizes", "64K", "--depths", 2, "--seconds", "0.2",
                    "--json", "-")
    assert json.loads(answer)["needles"] == 3
    assert [(p["via"], p["size"], p["depth"]) for p in points(answer)] == [("tcp", 65536, 2)]


def test_bench_reads_from_the_agent(agent, volumes):
    fid = volumes.put(noise(100_000))
    answer = points(output("bench", fid, "--agent", address(agent), "--sizes", "4K", "--depths", "1,3", "--seconds",
                           "0.2", "--json", "-"))
    agent.end()
    counted = agent.log_text().split("reads ")[-1].split()[0]
    # Each thread also reads once before it is timed, and the needle is measured first.
    assert int(counted) == sum(p["reads"] for p in answer) + 1 + 3 + 1


def test_bench_keeps_to_the_connections_it_may_make(agent, volumes):
    fid = volumes.put(noise(100_000))
    output("bench", fid, "--agent", address(agent), "--sizes", "4K", "--depths", 16, "--seconds", "0.3",
           "--connections", 2)
    agent.end()
    assert int(agent.log_text().split("connections ")[-1].split()[0]) == 2


def test_bench_says_that_no_agent_answers(cluster, big, nothing):
    result = kelpctl("bench", cluster.filer + big, "--agent", nothing, "--seconds", "0.2")
    assert result.returncode == 1 and "no agent could be reached" in result.error
    assert nothing in result.error


def reads_of(agent):
    agent.process.send_signal(signal.SIGUSR1)
    return max(map(int, re.findall(r"reads (\d+)", agent.log_text())), default=0)


def test_bench_fails_when_reads_failed_but_shows_the_rest(cluster, agent, big):
    bench = subprocess.Popen(kelpctl_command("bench", cluster.filer + big, "--agent", address(agent), "--sizes",
                                             "4K", "--depths", "2", "--seconds", "10", "--json", "-"),
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=mounts.command_env(), preexec_fn=weed.die_with_parent)
    weed.wait_until(lambda: reads_of(agent) > 50, "reads under way")
    agent.kill()
    out, error = bench.communicate(timeout=SOON_S)
    point, = points(out)
    assert bench.returncode == 1 and point["errors"] > 0
    assert f"{point['errors']} reads failed" in error and address(agent) in error


def test_bench_says_that_a_size_is_too_large(cluster, agent, big):
    refused(kelpctl("bench", cluster.filer + big, "--agent", address(agent), "--sizes", "4K,2M"), "2M", "1048576")


def test_bench_says_that_compressed_needles_have_no_ranges(cluster, agent, filer, compressed):
    filer.put("/bench/prose.txt", prose(100_000))
    refused(kelpctl("bench", f"{cluster.filer}/bench/prose.txt", "--agent", address(agent)), "no chunks")
    refused(kelpctl("bench", compressed[0], "--agent", address(agent)), compressed[0], "compressed")


# the command line


@pytest.mark.parametrize("arguments, words", [
    ((), "a command is needed"),
    (("frobnicate",), "frobnicate"),
    (("ping",), "too few"),
    (("ping", "a", "b"), "too many"),
    (("ping", "a b c:x"), "a b c:x"),
    (("ping", "http://h"), "http://h"),
    (("ping", "h", "--depths", "1"), "--depths"),
    (("ping", "h", "-c", "0"), "out of range"),
    (("ping", "h", "-c"), "--count N"),
    (("caps", "h", "--json=x"), "takes no value"),
    (("caps", "h", "--via", "http"), "rdma|tcp"),
    (("caps", "h", "--via", "rdma,tcp"), "rdma|tcp"),
    (("locate", "h:x/p"), "h:x/p"),
    (("read", "3"), "not a file id"),
    (("read", "3,01637037d6"), "where?"),
    (("read", "3,01637037d6", "--agent", "a", "--via", "http"), "--via http"),
    (("read", "3,01637037d6", "--server", "a", "--via", "proxy"), "--via proxy"),
    (("read", "3,01637037d6", "--server", "a", "--via", "pigeon"), "pigeon"),
    (("read", "3,01637037d6", "--filer", "f/path"), "--filer"),
    (("bench", "3,01637037d6", "--agent", "a", "--sizes", "4K,,1M"), "4K,,1M"),
    (("bench", "3,01637037d6", "--agent", "a", "--depths", "1,9999"), "out of range"),
    (("bench", "f/p", "--filer", "g"), "--filer"),
])
def test_a_wrong_command_line_is_refused_in_one_line(arguments, words):
    refused(kelpctl(*arguments), words, status=2)


def test_unreadable_keys_are_named(tmp_path):
    refused(kelpctl("caps", "h", "--security", tmp_path / "none.toml"), "none.toml", "No such file")


def test_help_lists_the_commands_and_each_command_its_options():
    text = output("--help").decode()
    for command in ("ping", "caps", "devices", "locate", "read", "bench"):
        assert f"  {command} " in text
        assert "--timeout" in output(command, "--help").decode()
    assert "--offset" in output("read", "-h").decode() and "--offset" not in output("bench", "-h").decode()


def test_the_man_page_has_every_option_of_the_help():
    page = output("--dump-options=man").decode().replace("\\-", "-")
    for command in ("ping", "caps", "devices", "locate", "read", "bench"):
        section = page.split(f".SS {command} ")[1].split(".SS ")[0] + page.split(".SH OPTIONS OF EVERY")[1]
        for line in output(command, "--help").decode().split("options:\n")[1].splitlines():
            option = line.split("--")[1].split()[0]
            assert f"--{option}" in section, (command, option)


def test_version():
    assert output("--version").startswith(b"kelpctl ")

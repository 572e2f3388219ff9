"""kelpctl asks a real kelpd over RDMA, by the address at which the agent listens for TCP."""

import json
import os
import re

import pytest

import agent_client as ac
import weed
from corpus import noise, prose
from test_agent import Agent, Volumes
from test_kelpctl import address, kelpctl, output, points, refused

LIMIT_S = 60  # for one run of it
MIB = 1 << 20


def over_rdma(*arguments):
    return output(*arguments, "--via", "rdma", timeout_s=LIMIT_S)


@pytest.fixture(scope="module")
def volumes(cluster):
    return Volumes(cluster)


@pytest.fixture(scope="module")
def needle(volumes):
    data = noise(3 * MIB + 17, seed="kelpctl")
    return volumes.put(data), data


@pytest.fixture(scope="module")
def compressed(volumes):
    data = prose(200_000)
    return volumes.put(data, content_type="text/plain", filename="prose.txt"), data


def test_ping_counts_round_trips_over_rdma(cluster_agent):
    lines = over_rdma("ping", address(cluster_agent), "-c", 3, "-i", "0.05").decode().splitlines()
    assert lines[0].startswith(f"PING {address(cluster_agent)} (rdma): kelpd ")
    assert "3 sent, 3 answered, 0% lost" in lines[5]


@pytest.mark.parametrize("via", ["rdma", "tcp"])
def test_caps_tells_of_the_device_and_where_it_listens(cluster_agent, via):
    caps = json.loads(output("caps", address(cluster_agent), "--via", via, "--json", timeout_s=LIMIT_S))
    assert (caps["real_rdma"], caps["device"]) == (True, os.environ["KELP_VM_DEV"])
    assert f"{os.environ['KELP_VM_ADDR']} port {cluster_agent.port}" in caps["rdma_addresses"]
    assert caps["port_gid"] == f"::ffff:{os.environ['KELP_VM_ADDR']}"
    assert ("lease" in caps["capabilities"], "inline" in caps["capabilities"]) == (via == "rdma", via == "rdma")


def test_devices_lists_the_port_and_marks_its_gid():
    ports = json.loads(output("devices", "--json"))
    assert sorted(port["device"] for port in ports) == sorted(os.listdir("/sys/class/infiniband"))
    assert os.environ["KELP_VM_ADDR"] in output("devices").decode()


def test_read_gives_a_whole_needle_and_says_how_it_was_leased(cluster_agent, needle):
    fid, data = needle
    result = kelpctl("read", fid, "-v", "--agent", address(cluster_agent), "--via", "rdma", timeout_s=LIMIT_S)
    assert result.stdout == data
    place, crc = re.escape(f"{address(cluster_agent)} (rdma)"), f"0x{ac.crc32c(data):08x}"
    lease, end = result.error.splitlines()
    assert re.fullmatch(f"kelpctl: {place}: lease 0x[0-9a-f]+, address 0x[0-9a-f]+, rkey 0x[0-9a-f]+, length {len(data)} "
                        rf"of {len(data)}, CRC32C {crc}( \(of the whole needle\))?, expires in [1-9]\d* ms", lease), lease
    assert re.fullmatch(rf"kelpctl: success: {len(data)} bytes from {place}, CRC32C {crc}, \d+\.\d{{3}} ms", end), end


@pytest.mark.parametrize("offset, size", [(0, 1), (1000, 4096), (100_000, 2 * MIB), (3 * MIB + 16, 1)])
def test_read_gives_ranges_over_rdma(cluster_agent, needle, offset, size):
    fid, data = needle
    where = ("--agent", address(cluster_agent), "--offset", offset, "--size", size)
    assert over_rdma("read", fid, *where) == data[offset:offset + size]


def test_read_gives_compressed_needles_plain_or_as_they_are_stored(cluster_agent, compressed):
    fid, data = compressed
    assert over_rdma("read", fid, "--agent", address(cluster_agent)) == data
    stored = over_rdma("read", fid, "--agent", address(cluster_agent), "--raw")
    assert stored[:2] == b"\x1f\x8b" and len(stored) < len(data)


def test_read_prefers_rdma(cluster, cluster_agent, needle):
    fid, data = needle
    result = kelpctl("read", fid, "-v", "--filer", cluster.filer, "--agent", address(cluster_agent),
                     timeout_s=LIMIT_S)
    assert result.stdout == data and "(rdma)" in result.error


def test_read_finds_the_agent_beside_the_volume_server(cluster, start_agent, needle):
    start_agent(cluster, port=18515)
    fid, data = needle
    assert over_rdma("read", fid, "--filer", cluster.filer) == data


def test_bench_measures_all_ways(cluster, cluster_agent, needle):
    answer = points(output("bench", needle[0], "--filer", cluster.filer, "--agent", address(cluster_agent), "--via",
                           "rdma,tcp,http", "--sizes", "4K,1M", "--depths", "1,4", "--seconds", "0.5", "--json", "-",
                           timeout_s=LIMIT_S))
    assert [(p["via"], p["size"], p["depth"]) for p in answer] == [
        (via, size, depth) for via in ("rdma", "tcp", "http") for size in (4096, MIB) for depth in (1, 4)]
    assert all(p["errors"] == 0 and p["reads"] > 0 for p in answer)


def test_agent_without_rdma_is_refused(cluster, work_dir, needle):
    agent = Agent(work_dir, "--dir", cluster.work_dir / "volume0")  # at loopback only
    try:
        refused(kelpctl("caps", address(agent), "--via", "rdma"), address(agent), "no RDMA device")
        refused(kelpctl("read", needle[0], "--agent", address(agent), "--via", "rdma"), "(rdma)")
        assert output("read", needle[0], "--agent", address(agent)) == needle[1]
    finally:
        agent.end()


def test_caps_over_rdma_says_that_nothing_listens():
    nothing = f"{weed.HOST}:{weed.free_port()}"
    refused(kelpctl("caps", nothing, "--via", "rdma"), nothing, "nothing listens there")


def occupy(agent):
    """A connection, or None."""
    client = agent.client()
    if client.reply.status == ac.OK:
        return client
    client.close()
    return None


def test_caps_over_rdma_says_that_the_agent_is_full(cluster, start_agent):
    agent = start_agent(cluster, "--max-connections", "1")
    with weed.wait_until(lambda: occupy(agent), "the connection that saw it listen is gone"):
        refused(kelpctl("caps", address(agent), "--via", "rdma"), address(agent), "refuses", "--max-connections")

"""kelpctl serve over RDMA, alone and as the sidecar of weed mount 4.44."""

import json

import pytest

import corpus as doors
import sidecar
import weed
import wire

MIB = 1 << 20


@pytest.fixture(scope="module")
def files(cluster):
    """Files of one chunk, which is all that the old mount reads right through a sidecar."""
    http = wire.Http(cluster.filer_port)
    files = {"small": doors.noise(3000, "rdma"), "chunk": doors.noise(3 * MIB + 5, "rdma"), "words": doors.prose(400_000)}
    fids = {}
    for name, data in files.items():
        http.put(f"/sidecar/{name}", data)
        chunk, = http.entry(f"/sidecar/{name}")["chunks"]
        fids[name] = chunk["file_id"]
    return files, fids


@pytest.fixture
def serve(cluster, cluster_agent, work_dir, files):
    """It has RDMA alone to read with, and claims nothing. It is connected: a read waits for that for half a second,
    which may be too little here. What it did for that is in `before`."""
    process = sidecar.Serve(work_dir, "--filer", cluster.filer, "--agent-port", cluster_agent.port, "--via", "rdma",
                            "--timeout", 60)
    weed.wait_until(lambda: process.read(files[1]["small"]).status == 200, "a connection over RDMA")
    process.before = process.stats()
    yield process
    process.end()


def test_read_gives_bytes_over_rdma_and_says_so(serve, files):
    for name, data in files[0].items():
        fid = files[1][name]
        for query, wanted in (("", data), ("&offset=100&size=2000", data[100:2100])):
            answer = serve.read(fid, query)
            assert (answer.status, answer.data) == (200, wanted)
            assert (answer.headers["X-Source"], answer.headers["X-RDMA-Used"]) == ("rdma", "true")
    sent = serve.sent("rdma") - serve.before["kelpctl_answer_bytes_total"]["rdma"]
    assert sent == sum(len(data) + 2000 for data in files[0].values())
    # What needs more than one block or is decoded goes through its slab, too.
    assert serve.stats()["kelpctl_rdma_registrations_total"] == 0
    health = json.loads(serve.get("/health").data)
    assert health["status"] == "healthy" and health["rdma"]["enabled"] and health["rdma"]["connected"]


def test_weed_mount_4_44_reads_files_of_one_chunk_over_rdma(serve, cluster, files, tmp_path):
    mount = sidecar.OldMount(f"{weed.HOST}:{cluster.filer_port}", serve.address, tmp_path / "mnt", tmp_path, "/sidecar",
                             ["-rdma.timeoutMs=60000"])
    try:
        for name, data in files[0].items():
            assert (mount.path / name).read_bytes() == data, name
    finally:
        mount.end()
    assert serve.sent("rdma") - serve.before["kelpctl_answer_bytes_total"]["rdma"] >= sum(map(len, files[0].values()))
    before = serve.before["kelpctl_answers_total"]
    assert {status for status, n in serve.answers().items() if n > before.get(status, 0)} == {"200"}

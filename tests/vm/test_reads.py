"""kelpfs reads from a real cluster through kelpd over RDMA: the bytes are right and came from where they
should, also while there is no agent."""

import itertools
import json
import os

import pytest

import corpus as doors
import weed
import wire
from rdma import connect, queue_pairs, rdma
from test_content import assert_same, ranges
from test_content_settings import Counts
from test_mount_agent import at_once, listener, passed_on_late, read_past_caches, reading_only, reads_by_source

MIB = 1 << 20


@pytest.fixture(params=sorted(doors.DOORS))
def only_rdma(request, cluster, corpus, cluster_agent, mount_kelpfs):
    """[(path, bytes)] of one door, in a mount that has only RDMA to read with; afterwards it has to have
    said so, the volume server has to have sent nothing of them, and no memory but the slab, once, has to have
    been registered for them: neither for ranges nor for what was decoded."""
    opened = corpus(request.param)
    mount = mount_kelpfs(opened.filer, opened.directory, options=rdma(cluster_agent, "require"))
    with reading_only("rdma", mount, cluster.processes["volume0"]):
        files = [(mount.path / name, data) for name, data in opened.files.items()]
        connect([path for path, _ in files])
        yield files
        assert mount.stats()["kelpfs_rdma_registrations_total"] == 0


def test_everything_reads_back_over_rdma_alone(only_rdma):
    for path, data in only_rdma:
        assert_same(path.read_bytes(), data, path.name)
        for flags in (os.O_DIRECT, 0):
            fd = os.open(path, os.O_RDONLY | flags)
            try:
                for offset, length in ranges(len(data), 10, path.name):
                    assert_same(os.pread(fd, length, offset), data[offset:offset + length],
                                f"{path.name} [{offset}, +{length})")
            finally:
                os.close(fd)


@pytest.mark.parametrize("splice", ["splice=on", "splice=off"])
def test_what_is_spliced_is_what_was_pulled_over_rdma(corpus, cluster_agent, mount_kelpfs, splice):
    """From the slab that the device writes to, without another copy."""
    opened = corpus("filer_put")
    mount = mount_kelpfs(opened.filer, opened.directory, options=[*rdma(cluster_agent, "require"), splice])
    connect([mount.path / name for name in opened.files])
    for name, data in opened.files.items():
        assert_same((mount.path / name).read_bytes(), data, name)
    Counts([mount]).assert_splice(splice)
    sources = reads_by_source(mount)
    assert set(sources) == {"rdma"} and sources["rdma"][0] > 0


def test_first_connection_over_rdma_is_waited_for_where_nothing_else_is_allowed(corpus, cluster_agent, mount_kelpfs):
    """Where the agent is asked for its RDMA addresses, it takes 2 s until it answers."""
    opened = corpus("filer_put")
    with listener(passed_on_late(cluster_agent.port, delay_s=2)) as (port, taken):
        mount = mount_kelpfs(opened.filer, opened.directory, options=rdma(port, "require"))
        for name, data in opened.files.items():
            assert_same((mount.path / name).read_bytes(), data, name)
        assert taken
        assert set(reads_by_source(mount)) == {"rdma"}


@pytest.mark.parametrize("door", ["filer_put", "filer_compressed_text", "filer_encrypted", "many_chunks"])
def test_everything_reads_back_without_an_agent(corpus, mount_kelpfs, door):
    opened = corpus(door)
    mount = mount_kelpfs(opened.filer, opened.directory, options=rdma(weed.free_port()))
    for name, data in opened.files.items():
        assert_same((mount.path / name).read_bytes(), data, name)
    sources = reads_by_source(mount)
    assert sources["rdma"] == sources["tcp"] == (0, 0)
    assert sources["http"][0] > 0


def test_device_and_type_of_service_can_be_chosen_and_are_shown(corpus, cluster_agent, mount_kelpfs):
    opened = corpus("filer_put")
    chosen = {"rdma_device": os.environ["KELP_VM_DEV"], "rdma_tos": "104"}
    mount = mount_kelpfs(opened.filer, opened.directory, options=[
        *rdma(cluster_agent, "require"), *(f"{name}={value}" for name, value in chosen.items())])
    connect([mount.path / name for name in opened.files])
    for name, data in opened.files.items():
        assert_same((mount.path / name).read_bytes(), data, name)
    config = json.loads((mount.path / ".kelpfs/config").read_text())
    assert {name: config[name]["value"] for name in chosen} == chosen
    assert set(reads_by_source(mount)) == {"rdma"}


def test_no_other_device_stands_in_for_the_chosen_one(corpus, cluster_agent, mount_kelpfs):
    opened = corpus("filer_put")
    mount = mount_kelpfs(opened.filer, opened.directory, options=[*rdma(cluster_agent), "rdma_device=nosuch0"])
    for name, data in opened.files.items():
        assert_same((mount.path / name).read_bytes(), data, name)
    sources = reads_by_source(mount)
    assert sources["rdma"] == (0, 0) and sources["tcp"][0] > 0


def test_eight_readers_at_once_read_right_over_rdma(corpus, cluster_agent, mount_kelpfs):
    opened = corpus("filer_small_chunks")
    mount = mount_kelpfs(opened.filer, opened.directory, options=[*rdma(cluster_agent, "require"), "slab=8M"])
    (name, data), = opened.files.items()
    connect([mount.path / name])

    def read(number):
        for offset, length in ranges(len(data), 15, number):
            assert_same(read_past_caches(mount.path / name, offset, length), data[offset:offset + length],
                        f"[{offset}, +{length})")

    at_once(8, read)
    assert set(reads_by_source(mount)) == {"rdma"}


def test_agent_that_goes_is_replaced_by_http_and_taken_up_again_over_rdma(cluster, start_agent, mount_kelpfs):
    """The bytes are new each time: nothing of them is in a cache."""
    http = wire.Http(cluster.filer_port)
    names = (f"/gone/{i}" for i in itertools.count())
    agent = start_agent(cluster)
    mount = mount_kelpfs(cluster, options=rdma(agent))

    def read_new(size):
        name = next(names)
        http.put(name, doors.noise(size, name), "maxMB=1")
        assert_same((mount.path / name.lstrip("/")).read_bytes(), doors.noise(size, name), name)

    def taken_up():
        read_new(100)
        return queue_pairs(mount.pid)

    weed.wait_until(taken_up, "RDMA is taken up", every_s=0.5)
    read_new(5 * MIB)
    agent.kill()
    read_new(6 * MIB)
    agent.start()
    agent.wait_ready()
    # The pauses between two tries grow to a minute.
    weed.wait_until(taken_up, "RDMA is taken up again", every_s=0.5)
    read_new(7 * MIB)
    sources = reads_by_source(mount)
    assert sources["rdma"][1] > 6 * MIB
    assert sources["http"][1] >= 6 * MIB

"""A slab in huge pages that were set aside: it is registered with the device, and what a control group does not
give is done without. In a VM, as they are the whole machine's."""

import contextlib
import subprocess
from pathlib import Path

import pytest

import corpus as doors
import mounts
import weed
import wire
from rdma import connect, rdma
from test_content import assert_same
from test_mount_agent import read_past_caches, reading_only

MIB = 1 << 20
SLAB_MIB = 32
RESERVED = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
FILE = doors.noise(3 * SLAB_MIB * MIB // 2 + 5, "huge")


@pytest.fixture
def huge_pages():
    """As many as the slab has."""
    before = RESERVED.read_text()
    RESERVED.write_text(f"{SLAB_MIB // 2}")
    try:
        if int(RESERVED.read_text()) < SLAB_MIB // 2:
            pytest.skip("the VM's memory has no huge pages to spare")
        yield
    finally:
        RESERVED.write_text(before)


@pytest.fixture(scope="module")
def file(cluster):
    wire.Http(cluster.filer_port).put("/huge/data.bin", FILE, "maxMB=4")
    return "huge/data.bin"


def pages_kib(mount):
    """As the last mount of that log says."""
    line = [line for line in mount.log_text().splitlines() if f"slab {SLAB_MIB} MiB in pages of " in line][-1]
    return int(line.split(" in pages of ")[1].split()[0])


def test_devices_read_into_reserved_huge_pages(huge_pages, cluster, cluster_agent, file, mount_kelpfs):
    mount = mount_kelpfs(cluster, options=[*rdma(cluster_agent, "require"), f"slab={SLAB_MIB}M"])
    with reading_only("rdma", mount, cluster.processes["volume0"]):
        connect([mount.path / file])
        assert_same(read_past_caches(mount.path / file, 0, len(FILE)), FILE, file)
    assert pages_kib(mount) == 2048


@contextlib.contextmanager
def control_group(name, limits):
    """Gives the command that starts another in it."""
    root = Path("/run/kelp-cgroup")
    root.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "cgroup2", "none", root], check=True)
    group = root / name
    try:
        if "hugetlb" not in (root / "cgroup.controllers").read_text().split():
            pytest.skip("the kernel has no control groups for huge pages")
        (root / "cgroup.subtree_control").write_text("+hugetlb")
        group.mkdir()
        for key, value in limits.items():
            (group / key).write_text(f"{value}")
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"']
    finally:
        if group.exists():
            weed.wait_until(lambda: not (group / "cgroup.procs").read_text(), "the control group's end")
            group.rmdir()
        subprocess.run(["umount", root], check=True)


def test_huge_pages_that_a_control_group_refuses_are_done_without(huge_pages, cluster, file, work_dir):
    with control_group("little", {"hugetlb.2MB.max": 4 * MIB}) as under:
        mount = mounts.KelpMount(cluster.filer, work_dir / "mnt" / "little", work_dir, [f"slab={SLAB_MIB}M"],
                                 "kelpfs-little", under=under)
        try:
            assert_same(read_past_caches(mount.path / file, 0, len(FILE)), FILE, file)
            assert pages_kib(mount) == 4
        finally:
            mount.end()

"""Fixtures: a real SeaweedFS cluster, its variants, and mounts of it. Those of tests/vm use them, too.

Environment:
  KELP_BIN_DIR   where kelpfs is (default build/release/bin), e.g. build/asan/bin
  KELP_WEED      the weed binary (default: the one of the virtual environment)
  KELP_TEST_MOUNT=weed: run the tests on weed mount instead, to judge the tests themselves
  KELP_TEST_HOST the address of all servers (default 127.0.0.1)
  KELP_TEST_DIR  work directory (default: a new one in the directory for temporary files)
"""

import itertools
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

import corpus as corpus_module
import mounts
import weed
import wire

_running = []  # processes whose log is shown when a test fails
_log_sizes = {}  # when the test began
LOG_LINES = 40
LARGE_COUNT = 100_000


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    _log_sizes.clear()
    _log_sizes.update((process, len(process.log_text())) for process in _running)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for process in _running:
            said = process.log_text()[_log_sizes.get(process, 0):].splitlines()[-LOG_LINES:]
            if said:
                report.sections.append((f"{process.name} said", "\n".join(said)))


@pytest.fixture(scope="session")
def work_dir():
    parent = os.environ.get("KELP_TEST_DIR")
    path = Path(tempfile.mkdtemp(prefix="kelpfs-test-", dir=parent)).resolve()
    yield path
    _unmount_below(path)
    shutil.rmtree(path, ignore_errors=True)


def _unmount_below(path):
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for mountpoint in (line.split()[4] for line in lines):
        if mountpoint.startswith(f"{path}/"):
            mounts.unmount_for_good(mountpoint.replace("\\040", " "))


@pytest.fixture(scope="session")
def make_cluster(work_dir):
    """Factory: make_cluster(name, **options of weed.Cluster); all end with the session."""
    clusters = []

    def make(name, **options):
        cluster = weed.Cluster(work_dir / name, **options)
        clusters.append(cluster)
        _running.extend(cluster.processes.values())
        return cluster

    yield make
    for cluster in clusters:
        cluster.stop()


@pytest.fixture(scope="session")
def cluster(make_cluster):
    """The cluster that most tests share. They do not stop its servers."""
    return make_cluster("cluster", s3=True)


@pytest.fixture(scope="session")
def _mount_factory(work_dir):
    numbers = itertools.count()

    def make(source, options=(), arguments=(), env=None, mountpoint=None):
        name = f"kelpfs{next(numbers)}"
        mountpoint = mountpoint or work_dir / "mnt" / name
        if os.environ.get("KELP_TEST_MOUNT") == "weed":
            filer, slash, path = source.partition("/")
            mount = mounts.WeedMount(filer, mountpoint, work_dir, slash + path or "/", ["-readOnly"], name)
        else:
            mount = mounts.KelpMount(source, mountpoint, work_dir, options, name, arguments, env)
        _running.append(mount.process)
        return mount

    return make


@pytest.fixture
def mount_kelpfs(_mount_factory):
    """Factory: mount_kelpfs(cluster, path="/", options=["attr_timeout=0"]). Each mount is ended, and
    its exit status and log are checked, after the test."""
    made = []

    def make(cluster, path="/", options=(), **others):
        filer = cluster if isinstance(cluster, str) else cluster.filer
        mount = _mount_factory(filer + (path if path != "/" else ""), options, **others)
        made.append(mount)
        return mount

    yield make
    _end_all(made)


@pytest.fixture(scope="session")
def kelpfs(cluster, _mount_factory):
    """The shared cluster's whole namespace, mounted for the session with default options."""
    mount = _mount_factory(cluster.filer)
    yield mount
    _end_all([mount])


@pytest.fixture
def mnt(kelpfs):
    """Where the shared cluster is mounted."""
    assert kelpfs.process.running(), "kelpfs has ended"
    return kelpfs.path


@pytest.fixture(scope="session")
def weed_mount(cluster, work_dir):
    """The shared cluster's whole namespace, mounted with weed mount: to write, and to compare with."""
    mount = mounts.WeedMount(f"{weed.HOST}:{cluster.filer_port}", work_dir / "mnt" / "weed", work_dir)
    _running.append(mount.process)
    yield mount
    mount.end()


@pytest.fixture(scope="session")
def corpus(cluster, weed_mount, work_dir):
    """corpus(door): the files that were written through that door (see corpus.py)."""
    return corpus_module.Corpus(cluster, weed_mount.path, work_dir)


@pytest.fixture(scope="session")
def large(cluster, work_dir):
    """The names in /large, a directory of 100,000 files; each is a second younger than the one before."""
    names = [f"file{i:06d}" for i in range(LARGE_COUNT)]
    entries = [("/", wire.entry("large", stat.S_IFDIR | 0o755))]
    entries += [("/large", wire.entry(name, stat.S_IFREG | 0o644, mtime=1700000000 + i))
                for i, name in enumerate(names)]
    wire.load_entries(cluster, work_dir, entries)
    return names


def _end_all(made):
    failures = []
    for mount in reversed(made):
        try:
            mount.end()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            failures.append(str(error))
        finally:
            _running.remove(mount.process)
    assert not failures, "\n".join(failures)

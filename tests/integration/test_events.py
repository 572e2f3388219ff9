"""consistency=events: opens go by the filer's change events. What is trusted is opened without the filer;
what was changed is seen all the same."""

import os
import signal
import stat
import time
from pathlib import Path

import pytest

import weed
import wire

OPTIONS = ["consistency=events", "timeout=1", "agent=off"]
SEEN_S = 30


class Trusting:
    """A mount, and a cluster whose filer the tests may stop."""

    def __init__(self, cluster, mount):
        self.cluster = cluster
        self.path = mount.path
        self.http = wire.Http(cluster.filer_port)

    @property
    def filer(self):
        return self.cluster.processes["filer"]

    def read(self, path):
        """None where it cannot be opened or read."""
        try:
            return (self.path / path.lstrip("/")).read_bytes()
        except OSError:
            return None

    def without_filer(self, function):
        os.kill(self.filer.pid, signal.SIGSTOP)
        try:
            weed.wait_until(self._filer_stands_still, "the filer to stand still")
            return function()
        finally:
            os.kill(self.filer.pid, signal.SIGCONT)

    def _filer_stands_still(self):
        """All of its threads: one that still runs may answer."""
        tasks = Path(f"/proc/{self.filer.pid}/task").glob("*/stat")
        return all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    def read_at_last(self, path):
        """What the first read gives that is not too slow for the mount's short time limit."""
        return weed.wait_until(lambda: self.read(path), f"{path} to be read", SEEN_S)

    def is_trusted(self, path):
        wanted = self.read(path)
        return wanted is not None and self.without_filer(lambda: self.read(path)) == wanted

    def wait_trusted(self, path):
        """Until events come, and the last change of the path is long enough ago."""
        weed.wait_until(lambda: self.is_trusted(path), f"{path} to be opened without the filer", SEEN_S)

    def wait_reads(self, path, wanted):
        weed.wait_until(lambda: self.read(path) == wanted, f"the new state of {path}", SEEN_S)


@pytest.fixture(scope="module")
def servers(make_cluster):
    """A cluster of its own: its filer is stopped."""
    return make_cluster("events")


@pytest.fixture
def mounted(servers, mount_kelpfs):
    trusting = Trusting(servers, mount_kelpfs(servers, options=OPTIONS))
    yield trusting
    if not trusting.filer.running():
        trusting.filer.start()
        servers.wait_ready()


@pytest.fixture
def known(request, mounted):
    """A file in a directory of its own that is opened without the filer."""
    path = f"/{request.node.name}/file"
    mounted.http.put(path, b"old")
    mounted.wait_trusted(path)
    return path


def test_a_file_without_news_is_opened_without_the_filer(mounted, known):
    mounted.wait_trusted(known)


def test_each_open_asks_the_filer_by_default(servers, mount_kelpfs):
    mounted = Trusting(servers, mount_kelpfs(servers, options=["timeout=1", "agent=off"]))
    mounted.http.put("/asking/file", b"old")
    assert mounted.read_at_last("/asking/file") == b"old"
    assert mounted.without_filer(lambda: mounted.read("/asking/file")) is None


def test_listed_files_are_opened_without_the_filer(mounted, known):
    directory = os.path.dirname(known)
    for i in range(5):
        mounted.http.put(f"{directory}/listed{i}", b"listed")

    def listed_are_trusted():
        os.listdir(mounted.path / directory.lstrip("/"))
        return mounted.without_filer(
            lambda: all(mounted.read(f"{directory}/listed{i}") == b"listed" for i in range(5)))

    weed.wait_until(listed_are_trusted, "listed files to be opened without the filer", SEEN_S)


def test_an_overwritten_file_is_seen(mounted, known):
    mounted.http.put(known, b"something new")
    mounted.wait_reads(known, b"something new")
    mounted.wait_trusted(known)


def test_a_deleted_file_is_gone(mounted, known):
    mounted.http.delete(known)
    weed.wait_until(lambda: not (mounted.path / known.lstrip("/")).exists(), "the file to go", SEEN_S)


def test_a_file_that_is_renamed_over_another_is_seen(mounted, known):
    mounted.http.put(f"{known}.new", b"renamed")
    mounted.http.request("POST", known, query=f"mv.from={wire.quote(known)}.new")
    mounted.wait_reads(known, b"renamed")


def test_a_file_in_a_renamed_directory_has_its_new_name_only(mounted, known):
    directory = os.path.dirname(known)
    mounted.http.request("POST", f"{directory}.moved", query=f"mv.from={wire.quote(directory)}")
    mounted.wait_reads(f"{directory}.moved/file", b"old")
    weed.wait_until(lambda: mounted.read(known) is None, "the old name to go", SEEN_S)


def test_a_file_in_a_deleted_directory_is_gone(mounted, known):
    mounted.http.delete(os.path.dirname(known), "recursive=true")
    weed.wait_until(lambda: mounted.read(known) is None, "the file to go", SEEN_S)


def test_an_open_file_keeps_its_version(mounted, known):
    with open(mounted.path / known.lstrip("/"), "rb", buffering=0) as old:
        mounted.http.put(known, b"something new")
        mounted.wait_reads(known, b"something new")
        assert old.read() == b"old"


def test_changes_while_no_events_come_are_seen(mounted, known):
    mounted.filer.kill()
    mounted.filer.start()
    mounted.cluster.wait_ready()
    mounted.http.put(known, b"something new")
    mounted.wait_reads(known, b"something new")
    mounted.wait_trusted(known)


def test_a_filer_that_says_nothing_is_not_trusted_for_long(mounted, known):
    mounted.without_filer(
        lambda: weed.wait_until(lambda: mounted.read(known) is None, "the end of trust", SEEN_S))
    mounted.wait_trusted(known)


def test_what_changes_without_events_is_asked_for(mounted, known):
    """A file that expires, and one that can be changed through another name."""
    directory = os.path.dirname(known)
    mounted.http.put(f"{directory}/expires", b"expires", "ttl=1h")
    wire.create_entry(mounted.cluster.filer_port, directory,
                      wire.entry("linked", stat.S_IFREG | 0o644, 6, content=b"linked", hard_link=b"h" * 17,
                                 n_links=2))
    paths = [f"{directory}/{name}" for name in ("expires", "linked")]

    def opened():
        return mounted.without_filer(lambda: [mounted.read(path) for path in (known, *paths)])

    for path in paths:
        mounted.read_at_last(path)
    time.sleep(1.5)  # until a file like any other would be trusted
    for path in paths:
        mounted.read_at_last(path)
    mounted.wait_trusted(known)
    known_read, *others = weed.wait_until(lambda: (got := opened())[0] and got, f"{known} to be opened again", SEEN_S)
    assert (known_read, others) == (b"old", [None, None])


def test_without_events_each_open_asks_the_filer(servers, mount_kelpfs):
    """No gRPC port."""
    source = f"{weed.HOST}:{servers.filer_port}.1"
    mounted = Trusting(servers, mount_kelpfs(source, options=[*OPTIONS, f"master={servers.master}"]))
    mounted.http.put("/strict/file", b"old")
    assert mounted.read_at_last("/strict/file") == b"old"
    assert mounted.without_filer(lambda: mounted.read("/strict/file")) is None
    mounted.http.put("/strict/file", b"something new")
    assert mounted.read_at_last("/strict/file") == b"something new"

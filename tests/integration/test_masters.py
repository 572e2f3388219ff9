"""Masters that the filer names only later: its gRPC port is closed when kelpfs starts, and opens while it runs."""

import contextlib
import os
import socket
import threading

import pytest

import corpus as doors
import sidecar
import weed
import wire
from test_agent import Volumes
from test_mount_agent import pass_on, read_past_caches, reads_by_source

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs's own sources")

MIB = 1 << 20
DATA = doors.noise(2 * MIB, "masters")
FOUND = "the filer names its masters now"
NO_AGENT = ["agent=off", "readahead=0"]


class Relay:
    """The filer's gRPC port at another port, which is closed until open() is called."""

    def __init__(self, target_port):
        self.target = (weed.HOST, target_port)
        self.port = weed.free_port()
        self.listener = None
        self.connections = 0

    def open(self):
        self.listener = socket.create_server((weed.HOST, self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        if self.listener:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                self.connections += 1
                far = socket.create_connection(self.target)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pass_on, args=ends, daemon=True).start()


@pytest.fixture
def relay(cluster):
    relay = Relay(cluster.filer_port + weed.GRPC_OFFSET)
    yield relay
    relay.close()


@pytest.fixture
def filer(cluster, relay):
    """The filer's address, with the relay as its gRPC port."""
    return f"{cluster.filer}.{relay.port}"


def test_a_mount_older_than_the_filers_grpc_port_reads_from_volume_servers_later(cluster, filer, relay, mount_kelpfs):
    wire.Http(cluster.filer_port).put("/masters/data.bin", DATA, "maxMB=1")
    mount = mount_kelpfs(filer, "/masters", options=NO_AGENT)
    assert read_past_caches(mount.path / "data.bin", 0, MIB) == DATA[:MIB]
    assert "no master is known" in mount.log_text() and FOUND not in mount.log_text()
    relay.open()
    weed.wait_until(lambda: FOUND in mount.log_text(), "the masters to be found", timeout_s=180)
    asked = relay.connections
    assert read_past_caches(mount.path / "data.bin", MIB, MIB) == DATA[MIB:]
    sources = reads_by_source(mount)
    assert sources["filer"][1] == MIB and sources["http"][1] == MIB
    assert mount.log_text().count(FOUND) == 1
    assert relay.connections == asked, "it is not asked again when it has answered"


def test_serve_learns_which_servers_a_volume_has(cluster, filer, relay, work_dir):
    data = doors.noise(10_000, "masters and serve")
    needle = Volumes(cluster).put(data)
    serve = sidecar.Serve(work_dir, "--filer", filer)

    def read():
        return serve.read(needle, f"&volume_server={weed.HOST}:{cluster.volume_ports[0]}")

    try:
        assert read().status == 400
        relay.open()
        weed.wait_until(lambda: read().status == 200, "the volume server to be known", timeout_s=180)
        assert read().data == data
    finally:
        serve.end()

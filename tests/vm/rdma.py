"""kelpd and mounts over RDMA, for the tests inside a VM."""

import errno
import json
import subprocess
from pathlib import Path

import weed
from test_agent import Agent


class RdmaAgent(Agent):
    """Listens on all addresses, so also on those of the RDMA devices; clients find those by asking at
    loopback, where its volume server is."""

    def __init__(self, work_dir, cluster, *arguments, **options):
        super().__init__(work_dir, "--dir", cluster.work_dir / "volume0", *arguments, listen_host="", **options)
        weed.wait_until(lambda: "listening for RDMA on" in self.log_text(), "kelpd listens for RDMA")


def rdma(agent, use="auto", timeout_s=60):
    """Options of a mount that reads through an agent, or what is at its port, over RDMA where it can."""
    return [f"rdma={use}", f"agent_port={getattr(agent, 'port', agent)}", f"timeout={timeout_s}"]


def connect(paths):
    """Reads a byte of one of the files until that succeeds: on a busy machine the
    first connection may take longer than a read waits for it, and with rdma=require nobody else is asked."""
    path = max(paths, key=lambda path: path.stat().st_size)

    def connected():
        try:
            with open(path, "rb", buffering=0) as f:
                f.read(1)
        except OSError as error:
            assert error.errno == errno.EIO
            return False
        return True

    weed.wait_until(connected, "a connection over RDMA")


def rdma_objects(pid, kind):
    """How many of "qp", "cq", "mr", "pd" or "cm_id" a process has. The kernel names the thread that made them."""
    shown = subprocess.run(["rdma", "-j", "resource", "show", kind], stdin=subprocess.DEVNULL, capture_output=True,
                           check=True).stdout
    return sum(Path(f"/proc/{pid}/task/{each['pid']}").exists() for each in json.loads(shown) if "pid" in each)


def queue_pairs(pid):
    return rdma_objects(pid, "qp")

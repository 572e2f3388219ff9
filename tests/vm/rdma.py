"""kelpd and mounts over RDMA, for the tests inside a VM."""

import weed
from test_agent import Agent


class RdmaAgent(Agent):
    """Listens on all addresses, so also on those of the RDMA devices; clients find those by asking at
    loopback, where its volume server is."""

    def __init__(self, work_dir, cluster, *arguments, **options):
        super().__init__(work_dir, "--dir", cluster.work_dir / "volume0", *arguments, listen_host="", **options)
        weed.wait_until(lambda: "listening for RDMA on" in self.log_text(), "kelpd listens for RDMA")


def rdma(agent, use="auto"):
    """Options of a mount that reads through an agent, or what is at its port, over RDMA where it can."""
    return [f"rdma={use}", f"agent_port={getattr(agent, 'port', agent)}"]

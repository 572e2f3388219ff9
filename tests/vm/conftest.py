"""Fixtures of the tests that run inside a VM with RDMA: those of the integration tests, and agents that
listen for RDMA connections.

Outside, test_runner.py alone is collected; in the second VM of a pair, test_pair.py alone; in a VM by
itself, all others.

Environment: KELP_BUILDS: the builds that every test is run with, one after the other (default: release); those
that are marked one_build with the last of them alone
"""

import contextlib
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

pytest_plugins = ["cluster_fixtures"]
IN_VM = "KELP_VM" in os.environ
IN_PAIR = "KELP_VM_PEER" in os.environ and "KELP_VM_PEER_DEV" not in os.environ
ELSEWHERE = {"test_runner.py": not IN_VM, "test_pair.py": IN_PAIR}
collect_ignore = [path.name for path in HERE.glob("test_*.py")
                  if not ELSEWHERE.get(path.name, IN_VM and not IN_PAIR)]
BUILDS = os.environ.get("KELP_BUILDS", "release").split()
HANG_S = 300 if IN_PAIR else 600  # a test that takes so long, without its fixtures, is ended and looked at


def pytest_collection_modifyitems(config, items):
    """What takes long is run with the last build alone, where there are several."""
    others = [item for item in items if item.get_closest_marker("one_build")
              and item.callspec.params["build"] != BUILDS[-1]]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """What hangs is ended, and looked at."""
    import cluster_fixtures
    import serve
    from watchdog import Watchdog

    def ours():
        return [process for process in cluster_fixtures._running if process.name.startswith("kelp")]

    with Watchdog(HANG_S, ours, lambda process: process.name.startswith("kelpfs"),
                  serve.ask if IN_PAIR else str) as watchdog:
        yield
    if watchdog.said:
        item.add_report_section("call", "watchdog", watchdog.said)


@pytest.fixture(scope="session", autouse=True, params=BUILDS if IN_VM else [None])
def build(request):
    """Its name. Both sides are of one build: what a test starts is what it finds in KELP_BIN_DIR."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setenv("KELP_BIN_DIR", f"build/{request.param}/bin")
        yield request.param


@contextlib.contextmanager
def _agents(work_dir):
    import cluster_fixtures
    from rdma import RdmaAgent

    with contextlib.ExitStack() as stack:
        def start(cluster, *arguments, **options):
            agent = RdmaAgent(work_dir, cluster, *arguments, **options)
            stack.callback(agent.end)
            cluster_fixtures._running.append(agent)
            stack.callback(cluster_fixtures._running.remove, agent)
            return agent

        yield start


@pytest.fixture
def start_agent(build, work_dir):
    """Factory: start_agent(cluster, "--max-connections", "3"): kelpd beside a cluster's first volume server,
    over RDMA and TCP; ended, and looked at, after the test."""
    with _agents(work_dir) as start:
        yield start


@pytest.fixture(scope="session")
def cluster_agent(build, cluster, work_dir):
    """The agent of the cluster that most tests share. They do not stop it."""
    with _agents(work_dir) as start:
        yield start(cluster)

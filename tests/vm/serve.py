"""The server's side of test_pair.py, in the first of two VMs: a real cluster and kelpd at the VM's own
address, and files on it that were written through several doors.

Tells the other VM of them by a file in the folder that they share, tells what the agents are doing when it is asked,
and ends when the other one says so.

Environment: KELP_BUILDS: those of which an agent is run
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

SHARED = Path("/run/pair")
SERVED, DONE, ENDED = SHARED / "served.json", SHARED / "done", SHARED / "ended"
ASKED, TOLD = SHARED / "asked", SHARED / "told"
LIMIT_S = 1800
TELL_S = 400  # to look at the agents
# Those that need no mount to write through.
DOORS = ("filer_put", "filer_compressed_text", "filer_encrypted", "s3_multipart", "manifest_nested",
         "overlapping_chunks")


def write(path, text):
    """Whole or not at all."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def ask():
    """By the other VM: what the agents are doing."""
    ASKED.touch()
    end = time.monotonic() + TELL_S
    while not TOLD.exists() and time.monotonic() < end:
        time.sleep(0.5)
    if not TOLD.exists():
        return "the other VM does not answer"
    ASKED.unlink()
    told = TOLD.read_text()
    TOLD.unlink()
    return f"=== in the other VM:\n{told}"


def done(agents):
    """Whether the other VM is done; answers what it asks."""
    if ASKED.exists() and not TOLD.exists():
        write(TOLD, watchdog.diagnosis(agents))
    return DONE.exists()


def start_agent(work_dir, cluster, build):
    os.environ["KELP_BIN_DIR"] = f"build/{build}/bin"
    return rdma.RdmaAgent(work_dir, cluster)


def main():
    work_dir = Path(tempfile.mkdtemp(prefix="kelpfs-serve-"))
    cluster = weed.Cluster(work_dir / "cluster", s3=True)
    files = corpus.Corpus(cluster, "/nowhere", work_dir)
    opened = [files(door) for door in DOORS]
    agents = {build: start_agent(work_dir, cluster, build) for build in os.environ["KELP_BUILDS"].split()}
    told = {
        "agent_ports": {build: agent.port for build, agent in agents.items()},
        "doors": {door: {"filer": o.filer, "directory": o.directory,
                         "files": {name: hashlib.sha256(data).hexdigest() for name, data in o.files.items()}}
                  for door, o in zip(DOORS, opened)},
    }
    write(SERVED, json.dumps(told))
    weed.wait_until(lambda: done(agents.values()), "the other VM's end", timeout_s=LIMIT_S, every_s=0.5)
    try:
        for agent in agents.values():
            agent.end()
    finally:
        cluster.stop()
        ENDED.touch()


if __name__ == "__main__":
    os.environ["KELP_TEST_HOST"] = os.environ["KELP_VM_ADDR"]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
    import corpus
    import rdma
    import watchdog
    import weed

    main()

"""The server's side of test_pair.py, in the first of two VMs: a real cluster and kelpd at the VM's own
address, and files on it that were written through several doors.

Tells the other VM of them by a file in the folder that they share, and ends when the other one says so.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

SHARED = Path("/run/pair")
SERVED, DONE = SHARED / "served.json", SHARED / "done"
LIMIT_S = 1800
# Those that need no mount to write through.
DOORS = ("filer_put", "filer_compressed_text", "filer_encrypted", "s3_multipart", "manifest_nested",
         "overlapping_chunks")


def main():
    work_dir = Path(tempfile.mkdtemp(prefix="kelpfs-serve-"))
    cluster = weed.Cluster(work_dir / "cluster", s3=True)
    files = corpus.Corpus(cluster, "/nowhere", work_dir)
    opened = [files(door) for door in DOORS]
    agent = rdma.RdmaAgent(work_dir, cluster)
    told = {
        "agent_port": agent.port,
        "doors": {door: {"filer": o.filer, "directory": o.directory,
                         "files": {name: hashlib.sha256(data).hexdigest() for name, data in o.files.items()}}
                  for door, o in zip(DOORS, opened)},
    }
    SERVED.with_suffix(".new").write_text(json.dumps(told))
    SERVED.with_suffix(".new").rename(SERVED)
    weed.wait_until(DONE.exists, "the other VM's end", timeout_s=LIMIT_S, every_s=0.5)
    agent.end()
    cluster.stop()


if __name__ == "__main__":
    os.environ["KELP_TEST_HOST"] = os.environ["KELP_VM_ADDR"]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
    import corpus
    import rdma
    import weed

    main()

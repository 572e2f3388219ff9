"""What scripts/demo shows, once everything is built. Ends clean at Ctrl-C and SIGTERM."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.dont_write_bytecode = True
sys.path.insert(0, str(REPO / "tests/integration"))

import mounts  # noqa: E402 (found through the line above)
import weed  # noqa: E402
import wire  # noqa: E402

MIB = 1 << 20
BENCH_MIB = 256
RANDOM_S = 4
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def step(text):
    print(f"\n{BOLD}== {text}{PLAIN}", flush=True)


def show(command, cwd):
    """Runs a shell command as a person would, and shows it."""
    print(f"$ {command}", flush=True)
    subprocess.run(command, shell=True, cwd=cwd, check=True, stdin=subprocess.DEVNULL)


def fill(cluster, work):
    """Files through several doors; returns the SHA-256 of each."""
    http, s3 = wire.Http(cluster.filer_port), wire.S3(cluster.s3_port)
    source = random.Random(1)
    digests = {}

    def put(path, data, **others):
        http.put(path, data, **others)
        digests[path] = hashlib.sha256(data).hexdigest()

    print("filer HTTP: a text, a file of 20 MiB in chunks of 1 MiB, one with a hole")
    put("/docs/readme.txt", b"Hello from SeaweedFS.\n" * 3)
    put("/data/random.bin", source.randbytes(20 * MIB), query="maxMB=1")
    http.put("/data/sparse.bin", b"start")
    http.put("/data/sparse.bin", b"end", query=f"offset={8 * MIB}")

    print("S3: a bucket, and an upload in three parts")
    s3.put("/bucket")
    parts = [source.randbytes(6 * MIB) for _ in range(3)]
    s3.multipart("/bucket/parts.bin", parts)
    digests["/buckets/bucket/parts.bin"] = hashlib.sha256(b"".join(parts)).hexdigest()

    print("weed mount: a directory tree with a symlink, a hard link and an extended attribute")
    writer = mounts.WeedMount(f"{weed.HOST}:{cluster.filer_port}", work / "writer", work, name="writer")
    try:
        tree = writer.path / "tree"
        (tree / "deep/er").mkdir(parents=True)
        for i in range(20):
            (tree / "deep/er" / f"file{i:02d}").write_text(f"file {i}\n" * i)
        (tree / "link").symlink_to("deep/er/file01")
        os.link(tree / "deep/er/file02", tree / "second-name")
        os.setxattr(tree / "second-name", "user.color", b"green")
    finally:
        writer.end()
    return digests


def look_around(mount, digests):
    show("ls -l . docs data tree", mount)
    show("cat docs/readme.txt", mount)
    show("find tree -name 'file1*' -size +0 | sort | head -5", mount)
    show("readlink tree/link; stat -c '%n: %h names' tree/second-name; getfattr -d tree/second-name", mount)
    show("touch docs/new || true", mount)
    step("Every byte is right")
    for path, digest in digests.items():
        command = ["sha256sum", path.lstrip("/")]
        got = subprocess.run(command, cwd=mount, check=True, capture_output=True, text=True).stdout.split()[0]
        print(f"{got[:16]}...  {path}  {'as written' if got == digest else 'DIFFERS'}")
        if got != digest:
            raise SystemExit("demo: a file differs")


def fill_bench(cluster):
    http = wire.Http(cluster.filer_port)
    for name in ("kelpfs", "weed"):
        http.put(f"/bench/{name}.bin", os.urandom(BENCH_MIB * MIB))


def sequential_mib_s(path):
    buffer = bytearray(MIB)
    start = time.monotonic()
    with open(path, "rb", buffering=0) as f:
        while f.readinto(buffer):
            pass
    return BENCH_MIB / (time.monotonic() - start)


def random_reads_s(path, jobs):
    """4 KiB at random, past the page cache."""
    command = ["fio", "--name=random", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k", "--direct=1",
               "--ioengine=psync", f"--numjobs={jobs}", "--group_reporting", "--time_based", f"--runtime={RANDOM_S}",
               f"--size={BENCH_MIB}M", "--norandommap", "--output-format=json", "--thread", "--allow_file_create=0"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    return json.loads(out[out.index("{"):])["jobs"][0]["read"]["iops"]


def bench(cluster, work):
    filer = f"{weed.HOST}:{cluster.filer_port}"
    rows = [("sequential, 1 MiB reads, cold (MiB/s)", sequential_mib_s),
            ("random 4 KiB reads, 1 job (reads/s)", lambda path: random_reads_s(path, 1)),
            ("random 4 KiB reads, 16 jobs (reads/s)", lambda path: random_reads_s(path, 16))]
    results = []
    for label, measure in rows:
        print(f"... {label}", flush=True)
        figures = []
        for kind in ("kelpfs", "weed"):
            # A mount of its own for every figure: nothing is in a cache.
            name = f"bench-{kind}-{len(results)}"
            if kind == "kelpfs":
                mount = mounts.KelpMount(filer, work / name, work, name=name)
            else:
                mount = mounts.WeedMount(filer, work / name, work, name=name, options=["-readOnly"])
            try:
                figures.append(measure(mount.path / f"bench/{kind}.bin"))
            finally:
                mount.end()
        results.append((label, *figures))
    print(f"\n{'':40}{'kelpfs':>10}{'weed mount':>12}{'ratio':>8}")
    for label, ours, theirs in results:
        print(f"{label:40}{ours:10.0f}{theirs:12.0f}{ours / theirs:8.2f}")
    print("Servers and mounts share this machine: only the ratios say something.")


def demo(work):
    step("Starting SeaweedFS: a master, a volume server, a filer with S3")
    cluster = weed.Cluster(work / "seaweedfs", s3=True)
    mount = None
    try:
        print(f"filer at {cluster.filer}")
        step("Writing files through several doors")
        digests = fill(cluster, work)
        step(f"Mounting: kelpfs {cluster.filer} mnt")
        mount = mounts.KelpMount(cluster.filer, work / "mnt", work)
        show(f"grep {work}/mnt /proc/self/mounts", "/")
        step("Looking around")
        look_around(mount.path, digests)
        step("Unmounting: fusermount3 -u mnt")
        mount.end()
        mount = None
        step(f"A short benchmark beside weed mount ({BENCH_MIB} MiB files)")
        fill_bench(cluster)
        bench(cluster, work)
    finally:
        if mount:
            mount.abandon()
        cluster.stop()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    work = Path(tempfile.mkdtemp(prefix="kelpfs-demo-")).resolve()
    try:
        demo(work)
        step("Done. Nothing is left running or mounted.")
    except KeyboardInterrupt:
        print("\ndemo: interrupted, cleaning up", file=sys.stderr)
        sys.exit(130)
    finally:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if line.split()[4].startswith(f"{work}/"):
                mounts.unmount_for_good(line.split()[4])
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()

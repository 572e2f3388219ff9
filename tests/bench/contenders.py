"""Who reads: the cluster, its agent, and all that mounts it."""

import contextlib
import itertools
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import mounts
import weed
from data import BUCKET, trees, upload

NULL_READAHEAD_KB = 1024  # what kelpfs sets for its own mounts


class NullMount(mounts.Mount):
    def __init__(self, data, mountpoint, work_dir, name, arguments=()):
        command = [mounts.bin_dir() / "nullfs", *arguments, mountpoint, *(tree.null_argument for tree in data)]
        super().__init__(name, command, mountpoint, work_dir)
        device = self.path.stat().st_dev
        bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        with contextlib.suppress(OSError):  # only root may; then kelpfs may not either
            bdi.write_text(str(NULL_READAHEAD_KB))

    def end(self):
        try:
            self.unmount()
        finally:
            self.abandon()


class S3Mount(mounts.Mount):
    """A mount of the bucket through the S3 gateway, by a program that stays in the foreground. It is ended
    as Mount does; data is where the trees are."""

    def end(self):
        try:
            self.unmount()
        finally:
            self.abandon()


def s3fs_command(s3_port, mountpoint, _scratch):
    return ["s3fs", BUCKET, mountpoint, "-f", "-o", f"url=http://{weed.HOST}:{s3_port}", "-o",
            "use_path_request_style", "-o", "public_bucket=1", "-o", "nonempty"]


def rclone_command(s3_port, mountpoint, _scratch):
    return ["rclone", "mount", f":s3:{BUCKET}", mountpoint, "--read-only", "--config", os.devnull, "--s3-provider",
            "SeaweedFS", "--s3-endpoint", f"http://{weed.HOST}:{s3_port}", "--s3-force-path-style", "--s3-region",
            "us-east-1", "--s3-access-key-id", "any", "--s3-secret-access-key", "any"]


S3_COMMANDS = {"s3fs": s3fs_command, "rclone": rclone_command}  # named as their packages


def install(contender):
    """Installs one of those where that is possible; says whether it is there."""
    if not shutil.which(contender):
        subprocess.run([mounts.REPO / "scripts/packages", contender], stdin=subprocess.DEVNULL, stdout=2, check=False)
    return shutil.which(contender) is not None


# Title of each, in the order of the table's columns.
CONTENDERS = {
    "kelpfs": "kelpfs",
    "kelpfs-agent": "kelpfs, kelpd over TCP",
    "kelpfs-ssd": "kelpfs, on the SSD",
    "weed": "weed mount",
    "s3fs": "s3fs",
    "rclone": "rclone",
    "null": "null",
    "curl": "bare libcurl",
    "kelpfs-warm": "kelpfs, in the slab",
    "kelpfs-events": "kelpfs, consistency=events",
    "kelpfs-agent-events": "kelpfs, kelpd over TCP, consistency=events",
}
# These have rows of their own, rather than columns.
VARIANTS = ("kelpfs-warm", "kelpfs-events", "kelpfs-agent-events")
STANDARD = ("kelpfs", "kelpfs-agent", "weed", "null", *VARIANTS)
OURS = ("kelpfs", "kelpfs-agent")
WITH_AGENT = ("kelpfs-agent", "kelpfs-agent-events")
SSD_SIZE = "8G"
SSD_ROUNDS_MAX = 10
SLAB_OF_WARM_BYTES = 1280 << 20  # more than all big files


class Agent(weed.Process):
    """kelpd beside the volume server."""

    def __init__(self, cluster, work_dir):
        self.port = weed.free_port()
        command = [mounts.bin_dir() / "kelpd", "-f", "--dir", cluster.work_dir / "volume0", "--listen",
                   f"{weed.HOST}:{self.port}"]
        super().__init__("kelpd", command, work_dir)
        weed.wait_until(self._listens, "kelpd listens")

    def _listens(self):
        if not self.running():
            raise RuntimeError(f"kelpd ended: {self.log_tail()}")
        with contextlib.suppress(OSError):
            socket.create_connection((weed.HOST, self.port), 1).close()
            return True
        return False


class Bench:
    """The cluster, its data, and what mounts it."""

    def __init__(self, options, work_dir, progress, wanted=None):
        """wanted: names of the trees; None: all."""
        self.options = options
        self.work_dir = work_dir
        self.progress = progress
        self.trees = {name: tree for name, tree in trees(options).items() if wanted is None or name in wanted}
        self.numbers = itertools.count()
        progress("starting the cluster")
        self.cluster = weed.Cluster(work_dir / "cluster", s3=bool(set(S3_COMMANDS) & set(options.contenders)))
        self.agent = None

    def start_agent(self):
        self.agent = Agent(self.cluster, self.work_dir)

    def fill_ssd(self):
        """Reads everything until a mount finds all of it in its cache_dir: a slow disk drops some."""
        for number in range(SSD_ROUNDS_MAX):
            self.progress(f"filling the SSD, round {number + 1}")
            with self.mounted("kelpfs-ssd") as mount:
                for tree in self.trees.values():
                    for path in tree.paths():
                        (mount.data / path).read_bytes()
                mount.unmount()
                if re.search(r"reads by source: .*\bhttp 0 \(.*\bfiler 0 \(", mount.log_text()):
                    return
        raise RuntimeError("never all of it on the SSD")

    @property
    def servers(self):
        return [*self.cluster.processes.values(), *([self.agent] if self.agent else [])]

    def fill(self):
        for tree in self.trees.values():
            upload(self.cluster, tree, self.options.chunk_mb, self.progress)
        self.progress("writing back")
        os.sync()

    def close(self):
        if self.agent:
            self.agent.kill()
        self.cluster.stop()

    @contextlib.contextmanager
    def mounted(self, contender, extra=()):
        """A mount with empty caches; nothing of it is left afterwards. extra: further options of kelpfs, or
        arguments of nullfs."""
        name = f"{contender}{next(self.numbers)}"
        scratch = self.work_dir / name
        scratch.mkdir()
        try:
            mount = self._mount(contender, scratch / "mnt", scratch, name, extra)
            try:
                yield mount
                mount.end()
            finally:
                mount.abandon()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _mount(self, contender, mountpoint, scratch, name, extra):
        """A mount with .data, the directory that has the trees."""
        if contender == "null":
            mount = NullMount(self.trees.values(), mountpoint, scratch, name, extra)
        elif contender in S3_COMMANDS:
            env = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}
            command = S3_COMMANDS[contender](self.cluster.s3_port, mountpoint, scratch)
            mount = S3Mount(name, command, mountpoint, scratch, env)
        elif contender == "weed":
            mount = mounts.WeedMount(self.cluster.filer, mountpoint, scratch, name=name)
        else:
            kelpfs_options = [*self._options(contender), *extra]
            mount = mounts.KelpMount(self.cluster.filer, mountpoint, scratch, kelpfs_options, name)
        mount.data = mountpoint if contender == "null" or contender in S3_COMMANDS else mountpoint / "buckets" / BUCKET
        return mount

    def _options(self, contender):
        result = ["rdma=off", "agent=off"]
        if contender in WITH_AGENT:
            result = ["rdma=off", "agent=require", f"agent_port={self.agent.port}"]
        if contender == "kelpfs-ssd":
            result += [f"cache_dir={self.work_dir / 'ssd'}", f"cache_size={SSD_SIZE}"]
        if contender == "kelpfs-warm":
            result.append(f"slab={SLAB_OF_WARM_BYTES}")
        if contender.endswith("-events"):
            result.append("consistency=events")
        return [*result, *self.options.kelpfs_option]

    def server_bytes(self):
        """Bytes that the servers have written, to sockets above all: all answers, with their headers."""
        total = 0
        for process in self.cluster.processes.values():
            counters = Path(f"/proc/{process.pid}/io").read_text()
            total += int(re.search(r"^wchar: (\d+)", counters, re.MULTILINE)[1])
        return total

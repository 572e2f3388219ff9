"""kelpctl serve as a process, and weed mount 4.44, the last one that knows such a sidecar."""

import http.client
import itertools
import json
import os
import signal
from pathlib import Path

import pytest

import mounts
import weed

STOP_S = 60


class Serve(weed.Process):
    _numbers = itertools.count()

    def __init__(self, work_dir, *arguments, env=None, port=None):
        self.port = port or weed.free_port()
        command = [mounts.bin_dir() / "kelpctl", "serve", "--listen", f"{weed.HOST}:{self.port}", *arguments]
        super().__init__(f"serve{next(self._numbers)}", command, work_dir, dict(mounts.command_env(), **(env or {})))
        weed.wait_until(self._answers, "kelpctl serve answers")

    def _answers(self):
        assert self.running(), self.log_tail()
        try:
            return self.get("/health").status in (200, 503)
        except OSError:
            return False

    @property
    def address(self):
        return f"{weed.HOST}:{self.port}"

    def request(self, method, target, headers=None, body=None, timeout_s=30):
        """The answer, with its body in .data, over a connection of its own."""
        connection = http.client.HTTPConnection(weed.HOST, self.port, timeout=timeout_s)
        try:
            connection.request(method, target, body=body, headers=headers or {})
            answer = connection.getresponse()
            answer.data = answer.read()
            return answer
        finally:
            connection.close()

    def get(self, target, **options):
        return self.request("GET", target, **options)

    def read(self, fid, query="", **options):
        return self.get(f"/read?file_id={fid}{query}", **options)

    def stats(self):
        return json.loads(self.get("/stats").data)

    def answers(self):
        """How many of each status /read gave so far."""
        return self.stats()["kelpctl_answers_total"]

    def sent(self, source):
        """Bytes from that source that were sent so far."""
        return self.stats()["kelpctl_answer_bytes_total"][source]

    def active(self):
        """Reads under way."""
        return self.stats()["kelpctl_reads_active"]

    def end(self):
        """Ends it as an operator would; it has to do so cleanly."""
        if self.running():
            assert self.kill(signal.SIGTERM, timeout_s=STOP_S) == 0, self.log_tail()
        assert not mounts.SANITIZER_REPORT.search(self.log_text()), self.log_tail()


def old_weed():
    """The weed binary of version 4.44, from the virtual environment of scripts/setup."""
    path = Path(os.environ.get("KELP_WEED_4_44", mounts.REPO / ".venv-4.44/bin/weed"))
    if not path.exists():
        pytest.skip(f"no {path}: scripts/setup installs it")
    return path


class OldMount(mounts.Mount):
    """weed mount 4.44 with a sidecar."""

    def __init__(self, filer, sidecar, mountpoint, work_dir, path="/", options=(), name="old-mount"):
        work_dir = Path(work_dir)
        cache = work_dir / f"{name}.cache"
        cache.mkdir(exist_ok=True)
        command = [old_weed(), "-v=4", "mount", f"-filer={filer}", f"-dir={mountpoint}", f"-filer.path={path}",
                   f"-cacheDir={cache}", f"-localSocket={work_dir}/{name}.sock", "-readOnly", "-rdma.enabled",
                   f"-rdma.sidecar={sidecar}", *options]
        super().__init__(name, command, mountpoint, work_dir)

    def end(self):
        try:
            self.unmount()
        finally:
            self.abandon()

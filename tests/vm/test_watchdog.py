"""A test that hangs is ended, and what hung is told."""

import os
import signal

import pytest

import mounts
from watchdog import Watchdog

pytestmark = pytest.mark.one_build


def test_read_that_hangs_is_ended_and_its_mount_looked_at(cluster, work_dir):
    mount = mounts.KelpMount(cluster.filer, work_dir / "mnt" / "hanging", work_dir, name="kelpfs-hanging")
    try:
        os.kill(mount.pid, signal.SIGSTOP)
        with Watchdog(2, lambda: [mount.process], lambda process: process is mount.process) as watchdog:
            with pytest.raises(OSError):
                os.listdir(mount.path)
        assert "threads of kelpfs-hanging" in watchdog.said and "Thread 1 " in watchdog.said, watchdog.said
    finally:
        mount.abandon()

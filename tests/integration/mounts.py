"""Mounts of kelpfs and of weed, for the tests."""

import json
import os
import re
import subprocess
from pathlib import Path

import weed

REPO = Path(__file__).resolve().parents[2]
SANITIZER_REPORT = re.compile(r"(ERROR|WARNING): \w+Sanitizer|runtime error:|LeakSanitizer")
UNMOUNT_S = 20 * weed.SLOW


def bin_dir():
    return Path(os.environ.get("KELP_BIN_DIR", REPO / "build/release/bin")).resolve()


def kelpfs_binary():
    return bin_dir() / "kelpfs"


def sanitized():
    """Whether this is a build with a sanitizer, whose memory and time are not kelpfs's."""
    return bin_dir().parent.name in ("asan", "tsan")


def command_env():
    """Sanitizers report through the log, and through the exit status."""
    env = dict(os.environ)
    env.setdefault("ASAN_OPTIONS", "detect_leaks=1:exitcode=99")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:exitcode=99")
    suppressions = REPO / "tests/tsan.supp"
    tsan = "exitcode=99:second_deadlock_stack=1"
    env.setdefault("TSAN_OPTIONS", f"{tsan}:suppressions={suppressions}" if suppressions.exists() else tsan)
    return env


def unmount(path):
    return subprocess.run(["fusermount3", "-u", str(path)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True)


def unmount_for_good(path):
    """Also what is busy or dead."""
    subprocess.run(["fusermount3", "-u", "-z", str(path)], stdin=subprocess.DEVNULL, capture_output=True)


class Mount:
    """A FUSE mount by a process in the foreground."""

    def __init__(self, name, command, mountpoint, work_dir, env=None):
        self.path = Path(mountpoint)
        self.path.mkdir(parents=True, exist_ok=True)
        self.process = weed.Process(name, command, work_dir, env)
        try:
            weed.wait_until(self._up, f"{name} to be mounted")
        except BaseException:
            self.abandon()
            raise

    def _up(self):
        assert self.process.running(), f"{self.process.name} ended:\n{self.process.log_tail()}"
        return weed.mounted(self.path)

    @property
    def pid(self):
        return self.process.pid

    def log_text(self):
        return self.process.log_text()

    def status(self, field):
        """A number of /proc/PID/status, such as VmHWM (KiB)."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)[1])

    def bytes_written(self):
        """What it has told the kernel, for the most part."""
        text = Path(f"/proc/{self.pid}/io").read_text()
        return int(re.search(r"^wchar: (\d+)", text, re.MULTILINE)[1])

    def unmount(self):
        """Returns the exit status."""
        if weed.mounted(self.path):
            result = unmount(self.path)
            assert result.returncode == 0, f"fusermount3: {result.stderr}"
        try:
            return self.process.process.wait(UNMOUNT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.process.name} does not end:\n{self._what_it_waits_for()}") from None

    def _what_it_waits_for(self):
        """Where its threads are, and in which other mount namespaces it is mounted still: as long as there
        is one the kernel does not end the session."""
        lines = [f"{(task / 'comm').read_text().strip()}: {(task / 'wchan').read_text()}"
                 for task in Path(f"/proc/{self.pid}/task").iterdir()]
        for mountinfo in Path("/proc").glob("[0-9]*/mountinfo"):
            try:
                if f" {self.path} " in mountinfo.read_text():
                    lines.append(f"mounted for process {mountinfo.parent.name}")
            except OSError:
                pass  # it has ended
        return "\n".join(lines)

    def abandon(self):
        unmount_for_good(self.path)
        self.process.kill()


class KelpMount(Mount):
    def __init__(self, source, mountpoint, work_dir, options=(), name="kelpfs", arguments=(), env=None, under=()):
        """under: a program that runs it, with its arguments."""
        command = [*under, kelpfs_binary(), source, mountpoint, "-f", *arguments]
        for option in options:
            command += ["-o", option]
        super().__init__(name, command, mountpoint, work_dir, env or command_env())

    def end(self):
        """Unmounts, and checks that kelpfs ended well."""
        try:
            status = self.unmount()
            assert status == 0, f"kelpfs ended with {status}:\n{self.process.log_tail()}"
            self.check_log()
        finally:
            self.abandon()

    def stats(self):
        """What it says of itself now, from inside of the mount."""
        return json.loads((self.path / ".kelpfs/stats").read_text())

    def check_log(self):
        report = SANITIZER_REPORT.search(self.log_text())
        assert not report, f"sanitizer report:\n{self.log_text()[report.start():][:6000]}"


class WeedMount(Mount):
    def __init__(self, filer, mountpoint, work_dir, path="/", options=(), name="weed-mount", env=None):
        work_dir = Path(work_dir)
        cache = work_dir / f"{name}.cache"
        cache.mkdir(exist_ok=True)
        command = [weed.weed_binary(), "mount", f"-filer={filer}", f"-dir={mountpoint}", f"-filer.path={path}",
                   f"-cacheDir={cache}", f"-localSocket={work_dir}/{name}.sock", *options]
        super().__init__(name, command, mountpoint, work_dir, env)

    def end(self):
        try:
            self.unmount()
        finally:
            self.abandon()

"""Ends a test that takes far longer than it may, and says what the programs were doing. A signal, such as that of
pytest's own time limit, does not reach who waits for a file system."""

import subprocess
import threading
from pathlib import Path

GDB_S = 120  # to read symbols from a busy host
COMMAND_S = 20
OUTPUT_MAX = 50_000  # characters of one program
COMMANDS = (["cat", "/proc/loadavg"], ["free", "-m"], ["ss", "-tinmp"], ["rdma", "resource", "show", "qp"],
            ["sh", "-c", "grep -H . /sys/class/infiniband/*/ports/1/hw_counters/*"])


def output(command, timeout_s=COMMAND_S):
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, errors="replace", timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{error}\n"
    return result.stdout[-OUTPUT_MAX:]


def threads(pid):
    lines = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            state = (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
            lines.append(f"{task.name} {(task / 'comm').read_text().strip()} {state} {(task / 'wchan').read_text()}")
        except OSError:
            pass  # it has ended
    return "\n".join(lines)


def diagnosis(processes):
    """What this machine and those programs (weed.Process) are doing."""
    parts = [f"--- {' '.join(command)}\n{output(command)}" for command in COMMANDS]
    for process in processes:
        if not process.running():
            parts.append(f"--- {process.name} has ended")
            continue
        stacks = output(["gdb", "-nx", "-batch", "-p", str(process.pid), "-ex", "thread apply all backtrace 16"], GDB_S)
        parts += [f"--- threads of {process.name}\n{threads(process.pid)}", f"--- their stacks\n{stacks}",
                  f"--- {process.name} said\n{process.log_tail()}"]
    return "\n".join(parts)


class Watchdog:
    """A context. processes(): the programs to look at. is_mount(process): it is to be killed then, which fails all
    that waits for its file system. elsewhere(): what is known of other machines."""

    def __init__(self, limit_s, processes, is_mount, elsewhere=lambda: ""):
        self.limit_s, self.processes, self.is_mount, self.elsewhere = limit_s, processes, is_mount, elsewhere
        self.said = ""
        self.timer = threading.Timer(limit_s, self._bark)
        self.timer.daemon = True

    def __enter__(self):
        self.timer.start()
        return self

    def __exit__(self, *_):
        self.timer.cancel()
        self.timer.join()

    def _bark(self):
        processes = list(self.processes())
        try:
            self.said = f"ended after {self.limit_s} s\n{diagnosis(processes)}\n{self.elsewhere()}"
        finally:
            for process in processes:
                if self.is_mount(process):
                    process.kill()

"""Real SeaweedFS servers and mounts on loopback, for the tests.

Every server is a process of its own, so that a test can kill one of them. Processes die with the
one that started them, data lives under one work directory, and nothing listens outside loopback, unless
KELP_TEST_HOST says so.
"""

import contextlib
import ctypes
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

TCP_LISTEN = "0A"  # in /proc/net/tcp
GRPC_OFFSET = 10000  # of a server's gRPC port from its HTTP port
SLOW = 10 if "KELP_VM" in os.environ else 1  # in a VM all is emulated
START_S = 60 * SLOW
HOST = os.environ.get("KELP_TEST_HOST", "127.0.0.1")

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def die_with_parent():
    """To be run in the child: a killed test run leaves no process behind."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Who runs in the background of a script was told to ignore Ctrl-C, and would hand that down.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def weed_binary():
    """The real server, from the virtual environment of scripts/setup."""
    for candidate in (os.environ.get("KELP_WEED"), Path(sys.prefix) / "bin" / "weed", shutil.which("weed")):
        if candidate and Path(candidate).exists():
            return str(candidate)
    raise FileNotFoundError("no weed binary; run scripts/setup")


def _is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((HOST, port))
        except OSError:
            return False
    return True


def listens(host, port):
    """Whether somebody takes connections there: seen without making one, which would be counted."""
    local = f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}"
    any_v4, any_v6 = "0" * 8, "0" * 32
    wanted = {f"{address}:{port:04X}" for address in (local, any_v4, any_v6)}
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{name}") as table:
            if any(fields[1] in wanted and fields[3] == TCP_LISTEN for fields in map(str.split, table)):
                return True
    return False


_given_out = set()


def free_port():
    """A port that is free together with the one GRPC_OFFSET above it; both lie below the range from
    which the kernel takes ports for outgoing connections."""
    while True:
        port = random.randrange(12000, 22000)
        if port not in _given_out and _is_free(port) and _is_free(port + GRPC_OFFSET):
            _given_out.add(port)
            return port


def wait_until(condition, what, timeout_s=START_S, every_s=0.05):
    end = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        time.sleep(every_s)


def mounted(path):
    """The file system type mounted at path, or None."""
    wanted = str(path).replace(" ", "\\040")
    with open("/proc/self/mountinfo") as f:
        for line in f:
            fields = line.split()
            if fields[4] == wanted:
                return fields[fields.index("-") + 1]
    return None


class Process:
    """A program that stays in the foreground, with its output in a log file."""

    def __init__(self, name, command, work_dir, env=None):
        self.name = name
        self.command = [str(c) for c in command]
        self.work_dir = Path(work_dir)
        self.log = self.work_dir / f"{name}.log"
        self.env = env
        self.process = None
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.work_dir,
                env=self.env,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process.poll() is None

    def kill(self, with_signal=signal.SIGKILL, timeout_s=30):
        if self.running():
            self.process.send_signal(with_signal)
        return self.process.wait(timeout_s)

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self, lines=60):
        return "\n".join(self.log_text().splitlines()[-lines:])


class Cluster:
    """A master, volume servers and a filer (with S3 when wanted)."""

    def __init__(self, work_dir, volumes=1, replication="000", filer_options=(), volume_options=(), env=None,
                 s3=False, security=None, ssl_context=None, write_headers=dict):
        """security: the text of security.toml. ssl_context: how to speak HTTPS to the servers.
        write_headers: a function that gives the headers for writing through the filer."""
        self.work_dir = Path(work_dir)
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self.ssl_context = ssl_context
        self.write_headers = write_headers
        self.env = dict(os.environ, HOME=str(self.work_dir), **(env or {}))
        # Where set it names certificates that have nothing to do with these servers.
        self.env.pop("AWS_CA_BUNDLE", None)
        if security:
            (self.work_dir / "security.toml").write_text(security)
        self.processes = {}
        self.master_port = free_port()
        self.filer_port = free_port()
        self.s3_port = free_port() if s3 else None
        self.volume_ports = [free_port() for _ in range(volumes)]
        try:
            self._start_servers(replication, filer_options, volume_options)
        except BaseException:
            self.stop()
            raise

    def _start_servers(self, replication, filer_options, volume_options):
        self._add("master", "master", f"-port={self.master_port}", f"-mdir={self._dir('master')}",
                  f"-defaultReplication={replication}", "-volumeSizeLimitMB=512", "-electionTimeout=1s",
                  "-heartbeatInterval=100ms", "-telemetry=false")
        # Who meets a master without a leader waits seconds before the next try.
        wait_until(self._has_leader, "a leading master")
        for i, port in enumerate(self.volume_ports):
            self._add(f"volume{i}", "volume", f"-port={port}", f"-master={HOST}:{self.master_port}",
                      f"-dir={self._dir(f'volume{i}')}", "-max=100", "-dataCenter=dc", "-rack=rack",
                      *volume_options)
        s3 = () if self.s3_port is None else (
            "-s3", f"-s3.port={self.s3_port}", "-s3.port.iceberg=0", "-s3.port.lance=0")
        self._add_filer("filer", self.filer_port, *s3, *filer_options)
        self.wait_ready()

    def _add_filer(self, name, port, *options):
        self._add(name, "filer", f"-port={port}", f"-master={HOST}:{self.master_port}",
                  f"-defaultStoreDir={self._dir(name)}", f"-localSocket={self.work_dir}/{name}.sock", *options)

    def _has_leader(self):
        assert self.processes["master"].running(), self.logs()
        status, body = self._get(self.master_port, "/cluster/status")
        return status == 200 and b'"IsLeader":true' in body

    def _get(self, port, path):
        connection = self.connect(port)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return None, b""
        finally:
            connection.close()

    def connect(self, port, timeout_s=30):
        if self.ssl_context:
            return http.client.HTTPSConnection(HOST, port, timeout=timeout_s, context=self.ssl_context)
        return http.client.HTTPConnection(HOST, port, timeout=timeout_s)

    def _dir(self, name):
        path = self.work_dir / name
        path.mkdir(exist_ok=True)
        return path

    def _add(self, name, *args):
        command = [weed_binary(), args[0], f"-ip={HOST}", f"-ip.bind={HOST}", *args[1:]]
        self.processes[name] = Process(name, command, self.work_dir, self.env)

    def add_filer(self, name, *options, group=None):
        """A further filer; returns its port. Filers of one group keep each other's entries; by default
        it is alone in its own."""
        port = free_port()
        self._add_filer(name, port, f"-filerGroup={name if group is None else group}", *options)
        self.wait_filer(port, name)
        return port

    @property
    def filer(self):
        prefix = "https://" if self.ssl_context else ""
        return f"{prefix}{HOST}:{self.filer_port}"

    @property
    def master(self):
        return f"{HOST}:{self.master_port}"

    def wait_ready(self):
        self.wait_filer(self.filer_port, "filer")
        if self.s3_port:
            wait_until(lambda: not _is_free(self.s3_port), "the S3 gateway")

    def wait_filer(self, port, name):
        """Ready is: something could be stored."""

        def stored():
            assert self.processes[name].running(), f"{name} ended:\n{self.processes[name].log_tail()}"
            return self.can_store(port)

        wait_until(stored, f"filer at port {port}")

    def can_store(self, port):
        connection = self.connect(port)
        try:
            connection.request("PUT", "/.ready", body=b"x" * 10, headers=self.write_headers())
            return connection.getresponse().status == 201
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self, name):
        self.processes[name].kill()

    def restart(self, name):
        self.processes[name].kill()
        self.processes[name].start()

    def stop(self):
        for process in reversed(list(self.processes.values())):
            process.kill()

    def logs(self):
        return "\n".join(f"--- {p.name}\n{p.log_tail()}" for p in self.processes.values())

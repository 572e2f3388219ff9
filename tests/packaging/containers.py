"""Containers without a Docker engine: podman with a store of its own, and podman-compose."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import debian

SOURCE = Path(__file__).resolve().parents[2]
# The limits that podman sets of itself need more rights than a container that runs tests may have.
LIMITS = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]
ENGINE = ["--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=file"]
BASE = "localhost/debian:bookworm-slim"
WEED = "localhost/weed"


class Podman:
    """Everything it keeps is below one directory."""

    def __init__(self, work_dir):
        self.work_dir = Path(work_dir)
        self.work_dir.mkdir(parents=True)
        self.arguments = [f"--root={self.work_dir}/store", f"--runroot={self.work_dir}/run",
                          f"--tmpdir={self.work_dir}/tmp", *ENGINE]

    def run(self, *arguments):
        return debian.run(["podman", *self.arguments, *arguments])

    def try_run(self, *arguments):
        return subprocess.run(["podman", *self.arguments, *map(str, arguments)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True)

    def import_base(self, root):
        """The base image is a Debian root, with this machine's settings of apt. Returns why no container of it
        can be run here, or None."""
        archive = self.work_dir / "base.tar"
        debian.run(["tar", "-C", root.path, "--one-file-system", "-cf", archive, "."])
        done = self.try_run("import", "--quiet", archive, BASE)
        archive.unlink()
        if done.returncode == 0:
            done = self.try_run("run", "--rm", "--network=host", *LIMITS, BASE, "true")
        return done.stderr.strip()[-300:] if done.returncode else None

    def build(self, context, *options):
        return self.run("build", "--network=host", "--isolation=chroot", *LIMITS, "--build-arg", f"BASE={BASE}",
                        *options, context)

    def remove(self):
        self.try_run("rm", "--all", "--force", "--time=2")
        self.try_run("system", "reset", "--force")
        shutil.rmtree(self.work_dir, ignore_errors=True)


class Compose:
    """The project's compose file, with variables that say where things are."""

    def __init__(self, podman, name, variables):
        self.podman = podman
        self.name = name
        self.environment = {**os.environ, **variables}

    def run(self, *arguments, profile=()):
        command = [Path(sys.executable).parent / "podman-compose", f"--podman-args={' '.join(self.podman.arguments)}",
                   f"--podman-run-args={' '.join(LIMITS)}", "--in-pod=false", "-p", self.name,
                   "-f", SOURCE / "packaging/compose.yaml", *profile, *arguments]
        return debian.run(command, env=self.environment)

    def container(self, service):
        return f"{self.name}_{service}_1"

    def state(self, service, what="{{.State.Status}}"):
        return self.podman.try_run("inspect", self.container(service), "--format", what).stdout.strip()

    def logs(self):
        return "\n".join(f"--- {service}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
                         for service in ("master", "volume", "filer", "kelpd", "mount", "sidecar")
                         for done in [self.podman.try_run("logs", self.container(service))])


def copy_source(to):
    """What an image is built of: the files of the project that are there, but for what builds leave."""
    shutil.copytree(SOURCE, to, symlinks=True,
                    ignore=shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".pytest_cache"))
    return to

"""The images, and the whole set of containers as the compose file puts it up."""

import hashlib
import itertools
import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest

import containers
import debian
import weed
from wire import Http

NEEDED = ("podman", "buildah", "runc")
IMAGES = ("kelpfs", "kelpd", "kelpctl")
DATA = random.Random(2).randbytes(3 << 20)


@pytest.fixture(scope="module")
def podman(tmp_path_factory, clean_root):
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if missing or not os.path.exists("/dev/fuse"):
        pytest.skip(f"needs /dev/fuse and: {', '.join(missing) or 'nothing else'}")
    podman = containers.Podman(tmp_path_factory.mktemp("podman") / "p")
    try:
        reason = podman.import_base(clean_root)
        if reason:
            pytest.skip(f"podman runs no container here: {reason}")
        yield podman
    finally:
        podman.remove()


@pytest.fixture(scope="module")
def images(podman, tmp_path_factory):
    """The project's images, and one with the real weed."""
    source = containers.copy_source(tmp_path_factory.mktemp("context") / "source")
    for name in IMAGES:
        podman.build(source, "-f", source / "packaging/container/Dockerfile", "--target", name, "-t",
                     f"localhost/{name}")
    context = tmp_path_factory.mktemp("weed-image")
    shutil.copy(os.path.realpath(weed.weed_binary()), context / "weed")
    (context / "Dockerfile").write_text(f"FROM {containers.BASE}\nCOPY weed /usr/bin/weed\n")
    podman.build(context, "-t", containers.WEED)
    return IMAGES


@pytest.fixture(scope="module")
def mount_dir(tmp_path_factory):
    """A directory from which mounts are propagated."""
    path = tmp_path_factory.mktemp("mounts")
    debian.run(["mount", "--bind", path, path])
    debian.run(["mount", "--make-rshared", path])
    yield path
    for mountpoint in (path / "data", path):
        if os.path.ismount(mountpoint):
            debian.run(["umount", "-l", mountpoint])


@pytest.fixture(scope="module")
def compose(podman, images, mount_dir):
    ports = {f"{name}_PORT": weed.free_port() for name in ("MASTER", "VOLUME", "FILER", "AGENT", "SIDECAR")}
    variables = {"SEAWEEDFS_IMAGE": containers.WEED, "READER_IMAGE": containers.BASE, "BASE": containers.BASE,
                 "MOUNT_DIR": str(mount_dir), "ADDRESS": weed.HOST, **{n: str(p) for n, p in ports.items()}}
    compose = containers.Compose(podman, f"kelptest{os.getpid()}", variables)
    (mount_dir / "data").mkdir()
    try:
        compose.run("up", "-d", "--no-build")
        filer = Http(ports["FILER_PORT"])

        def stored():
            try:
                filer.put("/dir/file", DATA, "maxMB=1")
                return True
            except (OSError, AssertionError):
                return False

        weed.wait_until(stored, "a filer that stores")
        weed.wait_until(lambda: os.path.ismount(mount_dir / "data"), "the mount")
    except BaseException:
        print(compose.logs())
        compose.run("down", "-v", "-t", "5")
        raise
    compose.filer = filer
    compose.sidecar = Http(ports["SIDECAR_PORT"])
    yield compose
    compose.run("down", "-v", "-t", "5")


def test_images_say_their_version(podman, images):
    for name in images:
        assert name in podman.run("run", "--rm", "--network=host", *containers.LIMITS, f"localhost/{name}", name,
                                  "--version")


def test_reader_sees_the_mount_of_another_container(compose, mount_dir):
    assert (mount_dir / "data/dir/file").read_bytes() == DATA
    said = compose.run("run", "--rm", "-T", "reader", "sha256sum", "/mnt/kelpfs/data/dir/file",
                       profile=("--profile", "reader"))
    assert hashlib.sha256(DATA).hexdigest() in said


def test_services_with_a_health_check_are_healthy(compose):
    def is_healthy(service):
        return compose.podman.try_run("healthcheck", "run", compose.container(service)).returncode == 0

    for service in ("kelpd", "mount", "sidecar"):
        weed.wait_until(lambda: is_healthy(service), f"the health of {service}", every_s=1)


def test_agent_serves_what_is_read(compose, mount_dir):
    kelpd = compose.container("kelpd")
    names = (f"served{n}" for n in itertools.count())

    def served():
        """A file that no cache has; the mount looks for an agent that was not there again after a while."""
        name = next(names)
        compose.filer.put(f"/dir/{name}", DATA, "maxMB=1")
        assert (mount_dir / "data/dir" / name).read_bytes() == DATA
        compose.podman.run("kill", "--signal=USR1", kelpd)
        numbers = re.findall(r"reads (\d+) \((\d+) ok", compose.podman.run("logs", kelpd))
        return numbers and int(numbers[-1][1]) > 0

    try:
        weed.wait_until(served, "an agent that served reads", every_s=1)
    except TimeoutError:
        print(compose.logs())
        raise


def test_sidecar_gives_the_bytes_of_needles(compose):
    chunks = compose.filer.entry("/dir/file")["chunks"]
    assert b"".join(compose.sidecar.get("/read", f"file_id={chunk['file_id']}")
                    for chunk in sorted(chunks, key=lambda chunk: chunk.get("offset", 0))) == DATA


def test_variables_of_the_predecessor_reach_the_programs(podman, images):
    shown = podman.run("run", "--rm", "--network=host", *containers.LIMITS,
                       "-e", "VOLUME_SERVER_URL=http://127.0.0.1:1/", "-e", "MAX_CONNECTIONS=7",
                       "-e", "MAX_IDLE_TIME=5m",
                       "--entrypoint=sh", "localhost/kelpd", "-c",
                       "printf '#!/bin/sh\\necho \"$@\"\\n' > /usr/local/bin/kelpd; chmod 755 /usr/local/bin/kelpd;"
                       "kelp-entrypoint kelpd")
    assert {"--volume-server=127.0.0.1:1", "--max-connections=7", "--idle-timeout=300"} <= set(shown.split())


def test_mount_ends_cleanly_when_its_container_is_stopped(compose, mount_dir):
    began = time.monotonic()
    compose.podman.run("stop", "--time=60", compose.container("mount"))
    assert time.monotonic() - began < 50  # and was not killed in the end
    assert not os.path.ismount(mount_dir / "data")
    assert compose.state("mount", "{{.State.ExitCode}}") == "0"
    compose.podman.run("start", compose.container("mount"))
    weed.wait_until(lambda: os.path.ismount(mount_dir / "data"), "the mount again")
    assert Path(mount_dir / "data/dir/file").read_bytes() == DATA

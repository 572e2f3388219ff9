"""Fixtures: the packages, as CPack makes them of a build, and clean roots to try them in.

Environment:
  KELP_BUILD_DIR  the build (default build/release)
"""

import os
import shutil
from pathlib import Path

import pytest

import debian
import weed

NEEDED = ("debootstrap", "dpkg-deb", "cpack", "lintian")


@pytest.fixture(scope="session")
def can_be_run():
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if os.geteuid() or missing:
        pytest.skip(f"needs root and: {', '.join(missing) or 'nothing else'}")


@pytest.fixture(scope="session")
def packages(tmp_path_factory, can_be_run):
    """{name: path} of the Debian packages."""
    build = Path(os.environ.get("KELP_BUILD_DIR", "build/release"))
    out = tmp_path_factory.mktemp("packages")
    debian.run(["cpack", "-G", "DEB", "--config", build / "CPackConfig.cmake", "-B", out])
    return {path.name.split("_")[0]: path for path in out.glob("*.deb")}


@pytest.fixture(scope="session")
def clean_root(tmp_path_factory, can_be_run):
    """Not to be changed."""
    root = debian.Root(tmp_path_factory.mktemp("roots") / "clean")
    yield root
    root.remove()


@pytest.fixture(scope="module")
def root(tmp_path_factory, can_be_run):
    """To be changed by the tests of one module."""
    root = debian.Root(tmp_path_factory.mktemp("roots") / "root")
    yield root
    root.remove()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    cluster = weed.Cluster(tmp_path_factory.mktemp("weed") / "cluster")
    yield cluster
    cluster.stop()

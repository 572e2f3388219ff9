"""The Debian packages, installed into a clean root that has nothing but them and what they depend on."""

import os
import random
import subprocess
from pathlib import Path

import pytest

import debian
import weed
from wire import Http

NAMES = ("kelpctl", "kelpd", "kelpfs")
# What apt, dpkg and the loader note down about any package; and what is not the root's own.
NOT_OURS = ("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "etc/ld.so.cache", "etc/ssl", "proc", "sys", "dev",
            "root", "tmp", "run", "var/lib/systemd", "etc/.pwd.lock", "etc/passwd", "etc/group", "etc/shadow",
            "etc/gshadow", "etc/fstab")
DATA = random.Random(1).randbytes(5 << 20)


@pytest.fixture(scope="module")
def filer(cluster):
    http = Http(cluster.filer_port)
    http.put("/data/file", DATA, "maxMB=1")
    return cluster.filer


def files_of(root):
    """{path: content or target} of what is in a root."""
    found = {}
    for directory, names, files in os.walk(root):
        here = Path(directory).relative_to(root)
        names[:] = [n for n in names if str(here / n) not in NOT_OURS]
        for name in names + files:
            path = here / name
            if str(path) not in NOT_OURS:
                found[str(path)] = os.lstat(root / path).st_mode
    return found


@pytest.fixture(scope="module")
def installed(root, packages):
    """A root with what the packages depend on, then the packages; .before is what was there before these."""
    depends = {name: debian.run(["dpkg-deb", "-f", path, "Depends"]) for name, path in packages.items()}
    wanted = {part.split()[0] for text in depends.values() for part in text.split(", ")}
    root.install("bash-completion", "systemd", *wanted)
    root.before = files_of(root.path)
    for path in packages.values():
        debian.run(["cp", path, root.path / "tmp"])
    root.run("dpkg", "-i", *[f"/tmp/{path.name}" for path in packages.values()])
    return root


def test_packages_are_three_and_lintian_has_no_error(packages):
    assert sorted(packages) == sorted(NAMES)
    said = subprocess.run(["lintian", "--allow-root", *packages.values()], capture_output=True, text=True).stdout
    assert [line for line in said.splitlines() if line.startswith("E:")] == []


def test_mount_works_from_the_package_alone(installed, filer):
    mountpoint = installed.path / "mnt"
    installed.run("kelpfs", f"{filer}/data", "/mnt")
    assert (mountpoint / "file").read_bytes() == DATA
    installed.run("fusermount3", "-u", "/mnt")
    assert not os.path.ismount(mountpoint)


@pytest.mark.parametrize("kind", ["fuse.kelpfs", "kelpfs"])
def test_mount_works_by_a_line_of_fstab(installed, filer, kind):
    mountpoint = installed.path / "mnt"
    fstab = installed.path / "etc/fstab"
    fstab.write_text(f"{filer}:/data /mnt {kind} allow_other,_netdev,nofail 0 0\n")
    installed.run("mount", "/mnt")
    assert (mountpoint / "file").read_bytes() == DATA
    installed.run("umount", "/mnt")
    assert not os.path.ismount(mountpoint)


def test_agent_and_hand_tool_work_from_their_packages_alone(installed, cluster, filer):
    data = installed.path / "srv/volume"
    data.mkdir(exist_ok=True)
    debian.run(["mount", "--bind", cluster.work_dir / "volume0", data])
    port = weed.free_port()
    agent = weed.Process("kelpd", ["chroot", installed.path, "kelpd", "-f", "--dir=/srv/volume",
                                   f"--listen=127.0.0.1:{port}"], installed.path / "tmp")
    try:
        weed.wait_until(lambda: "listening" in agent.log_text() or not agent.running(), "kelpd")
        assert "agent" in installed.run("kelpctl", "caps", f"127.0.0.1:{port}")
        assert "tcp" in installed.run("kelpctl", "bench", f"{filer}/data/file", "--agent", f"127.0.0.1:{port}",
                                      "--seconds", "0.1", "--sizes", "4K", "--depths", "1")
    finally:
        agent.kill()
        debian.run(["umount", data])
        data.rmdir()


@pytest.mark.parametrize("unit", ["kelpd.service", "kelpfs@.service"])
def test_units_are_understood_by_systemd(installed, unit):
    assert installed.run("systemd-analyze", "verify", "--man=no", f"/lib/systemd/system/{unit}").strip() == ""


def test_configuration_explains_every_option(installed):
    for program, file in (("kelpd", "etc/kelpfs/kelpd.conf"),
                          ("kelpfs", "usr/share/doc/kelpfs/examples/example.mount")):
        text = (installed.path / file).read_text()
        options = installed.run(program, "--help").split("\noptions:\n")[1].split("\n\n")[0]
        missing = [line for line in options.splitlines() if f"#{line}" not in text.splitlines()]
        assert options and missing == []


def complete(root, *words):
    """What bash offers for the last of the words."""
    script = """
        source /usr/share/bash-completion/bash_completion
        _completion_loader "$1"
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
        function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        compopt() { :; }
        "$function" "$1" "${!#}" "${@: -2:1}"
        printf '%s\\n' "${COMPREPLY[@]}" """
    return root.run("bash", "-c", script, "bash", *words).split()


@pytest.mark.parametrize("words,offered", [
    (("kelpfs", "-o", "slab"), ["slab="]),
    (("kelpfs", "-o", "slab=1G,reada"), ["slab=1G,readahead=", "slab=1G,readahead_kb="]),
    (("kelpd", "--idx"), ["--idx-dir"]),
    (("kelpctl", "loc"), ["locate"]),
    (("kelpctl", "bench", "--dep"), ["--depths"]),
])
def test_bash_completes_what_the_programs_know(installed, words, offered):
    assert complete(installed, *words) == offered


def test_removing_leaves_nothing(installed):
    """The last one: nothing of the packages is there afterwards."""
    installed.run("dpkg", "--purge", *NAMES)
    after = files_of(installed.path)
    assert {path: after.get(path) for path in after.keys() ^ installed.before.keys()} == {}

"""A clean Debian root, made by debootstrap from where this machine gets its own packages."""

import os
import shutil
import subprocess
from pathlib import Path

CODENAME = "bookworm"
APT_SETTINGS = ("/etc/apt/sources.list", "/etc/apt/sources.list.d", "/etc/apt/apt.conf.d", "/etc/apt/auth.conf.d",
                "/etc/apt/keyrings", "/etc/apt/trusted.gpg.d", "/etc/ssl/certs", "/etc/resolv.conf", "/etc/hosts")
BOUND = ("/proc", "/sys", "/dev")


def cached_archive():
    """The path of an archive of a minimal root; made once, kept where the VMs' kernel is kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kelpfs"
    archive = cache / f"debian-{CODENAME}.tar"
    if archive.exists():
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / f"debian-{CODENAME}.{os.getpid()}.root"
    partial = archive.with_suffix(f".{os.getpid()}")
    try:
        run(["debootstrap", "--variant=minbase", CODENAME, root, *mirror()])
        run(["tar", "-C", root, "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./dev/*", "-cf", partial, "."])
        partial.rename(archive)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        partial.unlink(missing_ok=True)
    return archive


def mirror():
    """Where apt has this release from, as a list of none or one."""
    text = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {CODENAME}", "Created-By: Packages"])
    return text.split()[:1]


def run(command, **options):
    """Returns the output. A failure shows it."""
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}"
    return done.stdout


class Root:
    """Commands run in it see this machine's network, /proc, /sys and /dev."""

    def __init__(self, path):
        self.path = Path(path)
        self.path.mkdir()
        run(["tar", "-C", self.path, "-xf", cached_archive()])
        (self.path / "etc/apt/sources.list").unlink(missing_ok=True)
        for settings in APT_SETTINGS:
            if Path(settings).exists():
                run(["cp", "-rL", "--parents", settings, self.path])
        shutil.rmtree(self.path / "etc/apt/preferences.d", ignore_errors=True)
        for directory in BOUND:
            run(["mount", "--bind", directory, self.path / directory[1:]])

    def run(self, *command):
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LANG": "C.UTF-8"}
        return run(["chroot", self.path, *command], env=environment)

    def install(self, *packages):
        if not (self.path / "var/lib/apt/lists/lock").exists():
            self.run("apt-get", "update", "-q")
        return self.run("apt-get", "install", "-q", "-y", "--no-install-recommends", *packages)

    def remove(self):
        """Ends mounts below it, the last one first."""
        below = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mountpoint in reversed([m for m in below if m.startswith(f"{self.path}/")]):
            subprocess.run(["umount", "-l", mountpoint], check=False)
        run(["rm", "-rf", "--one-file-system", self.path])

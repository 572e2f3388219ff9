"""Ordinary programs work on the mount as on any file system."""

import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import corpus as doors

DIRECTORY = "/tools"


def run(*command, **others):
    """Standard output; fails when the program does."""
    result = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            timeout=90, **others)
    assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


def make_tree(top):
    (top / "src/deep/er").mkdir(parents=True)
    (top / "empty-directory").mkdir()
    for i in range(60):
        directory = top / ("src", "src/deep", "src/deep/er")[i % 3]
        (directory / f"file{i}.txt").write_bytes(doors.prose(1 + i * 700, i))
    (top / "src/needle.txt").write_text("hay\nthe needle\nhay\n")
    (top / "large.bin").write_bytes(doors.noise(9 << 20))
    os.symlink("src/needle.txt", top / "link")
    os.link(top / "large.bin", top / "large-again.bin")
    (top / "script.sh").write_text("#!/bin/sh\necho \"from the mount: $1\"\n")
    (top / "script.sh").chmod(0o755)
    shutil.copy2(Path(shutil.which("true")).resolve(), top / "true")
    for path in (top / "src/needle.txt", top / "src/deep/file1.txt"):
        os.utime(path, (1600000000, 1600000000))
    with zipfile.ZipFile(top / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", doors.prose(100000))
        archive.writestr("b.bin", doors.noise(3 << 20))
    with sqlite3.connect(top / "file.db") as database:
        database.execute("create table t (n integer primary key, text)")
        database.executemany("insert into t values (?, ?)", ((i, f"row {i}" * 20) for i in range(20000)))
    database.close()
    make_repository(top / "repository")


def make_repository(path):
    path.mkdir()
    run("git", "init", "-q", "-b", "main", path)
    for i in range(5):
        (path / f"file{i}").write_bytes(doors.noise(50000, i))
        run("git", "-C", path, "add", ".")
        run("git", "-C", path, "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-q", "-m",
            f"commit {i}")


@pytest.fixture(scope="module")
def source(work_dir):
    """The tree as it is on an ordinary file system."""
    top = work_dir / "tools-source"
    top.mkdir()
    make_tree(top)
    return top


@pytest.fixture(scope="module")
def stored(source, corpus):
    top = corpus.through_mount(DIRECTORY)
    run("cp", "-a", f"{source}/.", top)
    # weed mount loses the mode and the time of many files in this; what is set later stays.
    for directory, names, files in os.walk(source, topdown=False):
        for name in (*files, *names):
            path = Path(directory, name)
            copy, s = top / path.relative_to(source), path.lstat()
            if not path.is_symlink():
                copy.chmod(stat.S_IMODE(s.st_mode))
                os.utime(copy, ns=(s.st_mtime_ns, s.st_mtime_ns))


@pytest.fixture
def tree(stored, mnt):
    return mnt / DIRECTORY.lstrip("/")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "target"


def picture(top):
    """What a copy must keep: types, modes, sizes, times and content."""
    shown = {}
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            path = Path(directory, name)
            s = path.lstat()
            content = (os.readlink(path) if path.is_symlink() else
                       hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None)
            shown[str(path.relative_to(top))] = (oct(s.st_mode), content, None if path.is_dir() else s.st_mtime_ns)
    return shown


def test_cp_a(tree, source, target):
    run("cp", "-a", tree, target)
    assert picture(target) == picture(source)
    assert os.stat(target / "large.bin").st_nlink == 2


def test_cp_keeps_holes(tree, corpus, mnt, target):
    opened = corpus("mount_holes")
    run("cp", "--sparse=auto", mnt / opened.directory.lstrip("/") / "sparse.bin", target)
    assert target.read_bytes() == opened.files["sparse.bin"]
    assert os.stat(target).st_blocks * 512 < 8 << 20


def test_rsync_with_checksums(tree, source, target):
    run("rsync", "-a", "-H", "-c", f"{tree}/", target)
    assert picture(target) == picture(source)
    assert run("rsync", "-a", "-H", "-c", "-i", "--omit-dir-times", f"{tree}/", target) == ""


def test_tar(tree, source, target):
    target.mkdir()
    run("tar", "-C", tree, "--format=posix", "-cf", target.parent / "tree.tar", ".")
    run("tar", "-C", target, "-xpf", target.parent / "tree.tar")
    assert picture(target) == picture(source)


def test_find_newer(tree, source):
    def found(top):
        out = run("find", top, "-type", "f", "-newer", top / "src/needle.txt")
        return sorted(os.path.relpath(line, top) for line in out.splitlines())

    assert found(tree) == found(source)
    assert "src/deep/file1.txt" not in found(tree)


def test_find_by_type_size_and_links(tree, source):
    def found(top, *tests):
        return sorted(os.path.relpath(line, top) for line in run("find", top, *tests).splitlines())

    for tests in (["-type", "d"], ["-type", "l"], ["-size", "+1M"], ["-empty"], ["-links", "2", "-type", "f"],
                  ["-perm", "-u+x", "-type", "f"]):
        assert found(tree, *tests) == found(source, *tests), tests


def test_grep_r(tree):
    assert run("grep", "-r", "the needle", tree) == f"{tree}/src/needle.txt:the needle\n"


def test_sha256sum(tree, source):
    files = sorted(p.relative_to(source) for p in source.rglob("*") if p.is_file())
    assert run("sha256sum", *files, cwd=tree) == run("sha256sum", *files, cwd=source)


def test_diff_r(tree, source):
    assert run("diff", "-r", source, tree) == ""


def test_du_and_ls(tree, source):
    assert run("du", "-sb", "--apparent-size", "large.bin", cwd=tree).split()[0] == str(9 << 20)
    assert "link -> src/needle.txt" in run("ls", "-lR", tree)


def test_zipfile(tree):
    run(sys.executable, "-m", "zipfile", "-t", tree / "archive.zip")


def test_sqlite_opened_immutable(tree):
    count = run("sqlite3", f"file:{tree}/file.db?immutable=1", "pragma integrity_check; select count(*) from t;")
    assert count.split() == ["ok", "20000"]


def test_git_clone(tree, target):
    # The files may belong to another user; that is not what is tested here.
    run("git", "-c", "safe.directory=*", "clone", "-q", "--no-local", "--no-hardlinks", "-u",
        "git -c safe.directory=* upload-pack", tree / "repository", target)
    run("git", "-C", target, "fsck", "--strict")
    assert len(run("git", "-C", target, "log", "--oneline").splitlines()) == 5


def test_git_status_of_a_work_tree_in_the_mount(tree):
    out = run("git", "-c", "safe.directory=*", "-C", tree / "repository", "log", "--oneline")
    assert len(out.splitlines()) == 5


def test_elf_program_is_executed(tree):
    run(tree / "true")


def test_script_is_executed(tree):
    assert run(tree / "script.sh", "hello") == "from the mount: hello\n"


def test_python_imports_from_the_mount(tree, corpus, mnt):
    corpus.http.put("/tools-python/package/__init__.py", b"answer = 42\n")
    code = "import package; print(package.answer)"
    assert run(sys.executable, "-c", code, env={"PYTHONPATH": str(mnt / "tools-python")}) == "42\n"

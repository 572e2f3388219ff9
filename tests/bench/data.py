"""What is read: trees of files in a bucket, and how they get there."""

import http.client
import itertools
import os
import shutil
import sys
import threading
from dataclasses import dataclass

MIB = 1 << 20
UPLOADERS = 4
CHUNK_MB = 4  # of big files, unless told otherwise
BUCKET = "bench"  # so that the mounts of S3 see the same files


@dataclass(frozen=True)
class Tree:
    """Directory `name` with directories d00000, ... of files f000000, ..., as nullfs shows it too."""

    name: str
    dirs: int
    files: int
    bytes: int

    @property
    def count(self):
        return self.dirs * self.files

    @property
    def null_argument(self):
        return f"{self.name}:{self.dirs}:{self.files}:{self.bytes}"

    def paths(self):
        for d, f in itertools.product(range(self.dirs), range(self.files)):
            yield f"{self.name}/d{d:05}/f{f:06}"


def trees(options):
    """Four big files, many small ones, and with --large very many."""
    big = 64 * MIB if options.quick else 256 * MIB
    result = [Tree("seq", 1, 4, big), Tree("small", 10, 50 if options.quick else 500, 4096)]
    if options.large:
        result.append(Tree("large", 100, 1000, 1024))
    return {tree.name: tree for tree in result}


class Progress:
    """One line that is overwritten, on a terminal only."""

    def __init__(self):
        self.shown = sys.stderr.isatty()

    def __call__(self, text=""):
        if self.shown:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)


def upload(cluster, tree, chunk_mb, progress):
    """Stores the files of a tree through the filer: random bytes, which nobody compresses."""
    paths = tree.paths()
    lock = threading.Lock()
    done = itertools.count(1)
    failures = []

    def store(connection, path):
        connection.request("PUT", f"/buckets/{BUCKET}/{path}?maxMB={chunk_mb}", body=os.urandom(tree.bytes))
        response = connection.getresponse()
        response.read()
        if response.status != 201:
            raise RuntimeError(f"storing {path}: status {response.status}")

    def work():
        connection = cluster.connect(cluster.filer_port, timeout_s=120)
        try:
            while not failures:
                with lock:
                    path = next(paths, None)
                if path is None:
                    return
                store(connection, path)
                n = next(done)
                if n % 100 == 0 or n == tree.count:
                    progress(f"storing {tree.name}: {n} of {tree.count} files")
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(UPLOADERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]

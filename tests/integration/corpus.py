"""Files that are written through every door SeaweedFS has, with the bytes they must read back as.

A door is a function that writes files into a directory of its own and returns {name: bytes}. Doors
are opened when a test first asks for them; the bytes are random, but the same in every run.
"""

import functools
import gzip
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import weed
import wire
from stat import S_IFREG

KIB = 1 << 10
MIB = 1 << 20
REGULAR = S_IFREG | 0o644

DOORS = {}


def door(function):
    DOORS[function.__name__] = function
    return function


@dataclass
class Opened:
    filer: str  # host:port
    directory: str
    files: dict  # name -> bytes


@functools.lru_cache(maxsize=64)
def noise(size, seed=0):
    """Bytes that do not compress."""
    return random.Random(f"{size}/{seed}").randbytes(size)


@functools.lru_cache(maxsize=8)
def prose(size, seed=0):
    """Text that compresses."""
    source = random.Random(f"text/{size}/{seed}")
    words = [source.randbytes(source.randint(1, 5)).hex() for _ in range(500)]
    text = " ".join(source.choices(words, k=size // 5 + 1))
    return text.encode()[:size].ljust(size, b".")


class Corpus:
    def __init__(self, cluster, weed_path, work_dir):
        self.cluster = cluster
        self.weed_path = Path(weed_path)  # of a writable weed mount of the whole namespace
        self.work_dir = Path(work_dir)
        self.http = wire.Http(cluster.filer_port)
        self.s3 = wire.S3(cluster.s3_port)
        self.opened = {}
        self.filer_ports = {}

    def __call__(self, name):
        if name not in self.opened:
            directory = f"/corpus/{name}"
            self.http.mkdir(directory)
            result = DOORS[name](self, directory)
            if not isinstance(result, Opened):
                result = Opened(self.cluster.filer, directory, result)
            self.opened[name] = result
        return self.opened[name]

    def other_filer(self, name, *options):
        """The port of a filer with those options, on the same cluster."""
        if name not in self.filer_ports:
            self.filer_ports[name] = self.cluster.add_filer(name, *options)
        return self.filer_ports[name]

    def through_mount(self, directory):
        """The directory as the weed mount shows it."""
        path = self.weed_path / directory.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def needle(self, data):
        """Stores bytes under a new file id, without any file."""
        answer = wire.Http(self.cluster.master_port).get("/dir/assign").decode()
        fid = answer.split('"fid":"')[1].split('"')[0]
        url = answer.split('"url":"')[1].split('"')[0]
        wire.Http(int(url.rsplit(":", 1)[1])).put("/" + fid, data)
        return fid

    def create(self, directory, message):
        wire.create_entry(self.cluster.filer_port, directory, message)


def _put_all(http, directory, files, query=""):
    for name, data in files.items():
        http.put(f"{directory}/{name}", data, query)
    return files


@door
def filer_put(c, directory):
    sizes = (0, 1, 4095, 4096, 4097, 128 * KIB, MIB - 1, 4 * MIB, 4 * MIB + 1, 11 * MIB + 12345)
    return _put_all(c.http, directory, {f"{size}.bin": noise(size) for size in sizes})


@door
def filer_post_form(c, directory):
    files = {"small.bin": noise(1000), "large.bin": noise(9 * MIB + 77)}
    for name, data in files.items():
        c.http.post_form(f"{directory}/{name}", data, filename=name)
    return files


@door
def filer_append(c, directory):
    parts = [noise(size, i) for i, size in enumerate((100, 5 * MIB, 1, 300 * KIB))]
    c.http.put(f"{directory}/log.bin", parts[0])
    for part in parts[1:]:
        c.http.put(f"{directory}/log.bin", part, "op=append")
    return {"log.bin": b"".join(parts)}


@door
def filer_offset_writes(c, directory):
    """Over what is there, across its end, and far behind it."""
    model = bytearray(noise(6 * MIB))
    c.http.put(f"{directory}/patched.bin", bytes(model))
    for i, (offset, size) in enumerate(((1000, 10), (4 * MIB - 5, 10), (500000, MIB), (700000, 100), (6 * MIB - 50,
                                        5000), (8 * MIB + 1, 4096), (400000, 3 * MIB))):
        data = noise(size, i)
        model.extend(bytes(max(0, offset + size - len(model))))
        model[offset:offset + size] = data
        c.http.put(f"{directory}/patched.bin", data, f"offset={offset}")
    return {"patched.bin": bytes(model)}


@door
def filer_small_chunks(c, directory):
    return _put_all(c.http, directory, {"chunks.bin": noise(13 * MIB + 3)}, "maxMB=1")


@door
def filer_compressed_text(c, directory):
    """The filer compresses what looks like text; a user's own gzip file must stay one."""
    text = prose(9 * MIB + 5)
    return _put_all(c.http, directory, {
        "short.txt": text[:3000],
        "long.txt": text,
        "page.html": b"<html>" + text[:200000],
        "zeros.txt": bytes(5 * MIB),
        "own.gz": gzip.compress(text[:MIB], mtime=0),
        "own-gz-as.txt": gzip.compress(text[:MIB], mtime=0),
    })


@door
def filer_inlined(c, directory):
    """A filer that keeps small files in its own store."""
    port = c.other_filer("inlining", "-saveToFilerLimit=2000")
    http = wire.Http(port)
    files = {"empty": b"", "one": b"1", "inlined.txt": prose(1999), "inlined.bin": noise(1500), "larger": noise(2500)}
    http.mkdir(directory)
    _put_all(http, directory, files)
    assert http.entry(f"{directory}/inlined.bin")["Content"]
    return Opened(f"{weed.HOST}:{port}", directory, files)


@door
def filer_encrypted(c, directory):
    """A filer that encrypts every chunk, compressed ones too."""
    port = c.other_filer("encrypting", "-encryptVolumeData")
    http = wire.Http(port)
    files = {"empty": b"", "one": b"1", "random.bin": noise(9 * MIB + 1), "text.txt": prose(5 * MIB)}
    http.mkdir(directory)
    _put_all(http, directory, files)
    assert http.entry(f"{directory}/random.bin")["chunks"][0]["cipher_key"]
    return Opened(f"{weed.HOST}:{port}", directory, files)


def _s3_opened(c, bucket, files):
    return Opened(c.cluster.filer, f"/buckets/{bucket}", files)


@door
def s3_put(c, directory):
    files = {"small.bin": noise(500), "large.bin": noise(10 * MIB + 1), "text.txt": prose(MIB)}
    c.s3.put("/corpus-put")
    _put_all(c.s3, "/corpus-put", files)
    return _s3_opened(c, "corpus-put", files)


@door
def s3_multipart(c, directory):
    parts = [noise(5 * MIB + 1, 1), noise(9 * MIB, 2), noise(10, 3)]
    c.s3.put("/corpus-multipart")
    c.s3.multipart("/corpus-multipart/parts.bin", parts)
    return _s3_opened(c, "corpus-multipart", {"parts.bin": b"".join(parts)})


@door
def mount_random_writes(c, directory):
    """Overlapping chunks, as many flushes leave them."""
    source = random.Random("random writes")
    path = c.through_mount(directory)
    files = {}
    for name, size, writes in (("small.bin", 100 * KIB, 300), ("large.bin", 7 * MIB, 120)):
        model = bytearray(noise(size))
        (path / name).write_bytes(model)
        with open(path / name, "r+b", buffering=0) as f:
            for i in range(writes):
                offset = source.randrange(size)
                data = source.randbytes(source.choice((1, 100, 4096, 200000 if size > MIB else 5000)))
                f.seek(offset)
                assert f.write(data) == len(data)
                model.extend(bytes(max(0, offset + len(data) - len(model))))
                model[offset:offset + len(data)] = data
                if i % 15 == 0:
                    os.fsync(f.fileno())
        files[name] = bytes(model)
    return files


@door
def mount_truncates(c, directory):
    """Shorter inside a chunk, longer again, and to nothing."""
    path = c.through_mount(directory)
    data = noise(5 * MIB)
    files = {
        "shorter": (data[:3 * MIB + 100],),
        "longer": (data + bytes(100000),),
        "shorter-then-longer": (data[:MIB + 1], data[:MIB + 1] + bytes(2 * MIB)),
        "shorter-then-appended": (data[:1000], data[:1000]),
        "to-nothing": (b"",),
        "only-a-hole": (b"", bytes(3 * MIB)),
    }
    for name, steps in files.items():
        (path / name).write_bytes(data)
        for step in steps:
            os.truncate(path / name, len(step))
    with open(path / "shorter-then-appended", "ab") as f:
        f.write(b"appended")
    files["shorter-then-appended"] += (data[:1000] + b"appended",)
    return {name: steps[-1] for name, steps in files.items()}


@door
def mount_holes(c, directory):
    path = c.through_mount(directory)
    model = bytearray(20 * MIB)
    with open(path / "sparse.bin", "wb", buffering=0) as f:
        for offset, size in ((0, 10), (3 * MIB + 5, 100000), (9 * MIB, 2 * MIB), (20 * MIB - 1, 1)):
            data = noise(size, offset)
            f.seek(offset)
            f.write(data)
            model[offset:offset + size] = data
    return {"sparse.bin": bytes(model)}


@door
def mount_renames(c, directory):
    """Also over a file that exists."""
    path = c.through_mount(directory)
    (path / "before").mkdir(exist_ok=True)
    (path / "after").mkdir(exist_ok=True)
    files = {"after/moved": noise(3 * MIB), "after/over": noise(MIB, 9)}
    (path / "after/over").write_bytes(noise(2 * MIB, 8))
    for name, data in files.items():
        here = path / name.replace("after", "before")
        here.write_bytes(data)
        here.rename(path / name)
    return files


@door
def filer_copy(c, directory):
    source = c.work_dir / "filer-copy-source"
    source.mkdir(exist_ok=True)
    files = {"a.bin": noise(5 * MIB + 5), "b.txt": prose(3 * MIB), "empty": b""}
    for name, data in files.items():
        (source / name).write_bytes(data)
    subprocess.run([weed.weed_binary(), "filer.copy", "-maxMB=1", *(str(source / name) for name in files),
                    f"http://{c.cluster.filer}{directory}/"], check=True, capture_output=True, cwd=c.work_dir,
                   stdin=subprocess.DEVNULL, timeout=60)
    return files


def _chunks_of(c, data, piece, ts_ns=1000, base=0):
    return [wire.chunk(c.needle(data[i:i + piece]), base + i, len(data[i:i + piece]), ts_ns)
            for i in range(0, len(data), piece)]


def _manifest(c, chunks, offset, size):
    """The chunk that stands for those chunks."""
    return wire.chunk(c.needle(wire.field(1, chunks)), offset, size, 1000, manifest=True)


@door
def manifest(c, directory):
    """As writers leave it for files of more than 10,000 chunks, with plain chunks behind it."""
    data, tail = noise(MIB), noise(50000, 1)
    chunks = [_manifest(c, _chunks_of(c, data, 100000), 0, MIB), *_chunks_of(c, tail, 50000, base=MIB)]
    c.create(directory, wire.entry("manifest.bin", REGULAR, MIB + len(tail), chunks))
    return {"manifest.bin": data + tail}


@door
def manifest_nested(c, directory):
    """Manifests of manifests, with a hole between them."""
    first, second = noise(600000, 1), noise(600000, 2)
    inner = [_manifest(c, _chunks_of(c, first, 70000), 0, len(first)),
             _manifest(c, _chunks_of(c, second, 70000, base=MIB), MIB, len(second))]
    outer = _manifest(c, inner, 0, MIB + len(second))
    c.create(directory, wire.entry("nested.bin", REGULAR, MIB + len(second), [outer]))
    return {"nested.bin": first + bytes(MIB - len(first)) + second}


@door
def many_chunks(c, directory):
    """So many that the filer itself makes manifests."""
    piece = noise(700)
    fid, count = c.needle(piece), 20500
    chunks = [wire.chunk(fid, i * len(piece), len(piece), 1000 + i) for i in range(count)]
    c.create(directory, wire.entry("many.bin", REGULAR, count * len(piece), chunks))
    assert any(chunk.get("is_chunk_manifest") for chunk in c.http.entry(f"{directory}/many.bin")["chunks"])
    return {"many.bin": piece * count}


@door
def overlapping_chunks(c, directory):
    """Where chunks overlap the newest wins, wherever it stands in the list."""
    low, middle, high = noise(3000, 1), noise(1000, 2), noise(100, 3)
    chunks = [wire.chunk(c.needle(high), 1500, 100, 3000), wire.chunk(c.needle(low), 0, 3000, 1000),
              wire.chunk(c.needle(middle), 1000, 1000, 2000)]
    model = bytearray(low)
    model[1000:2000] = middle
    model[1500:1600] = high
    c.create(directory, wire.entry("overlap.bin", REGULAR, 3000, chunks))
    return {"overlap.bin": bytes(model)}


@door
def trimmed_chunks(c, directory):
    """A chunk may use less than its needle has, and a file may be longer than its chunks."""
    data = noise(100000)
    fid = c.needle(data)
    c.create(directory, wire.entry("trimmed.bin", REGULAR, 40000, [wire.chunk(fid, 0, 40000, 1000)]))
    c.create(directory, wire.entry("tail.bin", REGULAR, 150000, [wire.chunk(fid, 10, 100000, 1000)]))
    c.create(directory, wire.entry("hole.bin", REGULAR, 5 * MIB))
    return {"trimmed.bin": data[:40000], "tail.bin": bytes(10) + data + bytes(49990), "hole.bin": bytes(5 * MIB)}

"""Objects that the S3 gateway encrypted (SSE-C, SSE-S3, SSE-KMS).

Only the gateway decrypts them: the filer gives the encrypted bytes, and weed mount shows those as the
file. kelpfs says that it cannot read them.
"""

import base64
import errno
import hashlib
import json
import os

import pytest

import corpus as doors
import wire

BUCKET = "encrypted"
PLAIN = doors.noise(5 << 20, "sse")
CUSTOMER_KEY = bytes(range(32))
HEADERS = {
    "SSE-C": {
        "x-amz-server-side-encryption-customer-algorithm": "AES256",
        "x-amz-server-side-encryption-customer-key": base64.b64encode(CUSTOMER_KEY).decode(),
        "x-amz-server-side-encryption-customer-key-MD5":
            base64.b64encode(hashlib.md5(CUSTOMER_KEY).digest()).decode(),
    },
    "SSE-S3": {"x-amz-server-side-encryption": "AES256"},
    "SSE-KMS": {"x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "test-key"},
}
S3_CONFIG = {
    "identities": [{"name": "anonymous", "actions": ["Admin", "Read", "Write", "List", "Tagging"]}],
    # A key service inside the gateway, which makes keys when they are asked for.
    "kms": {"default_provider": "local", "providers": {"local": {"type": "local", "enableOnDemandCreate": True}}},
}

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="weed mount shows ciphertext")


@pytest.fixture(scope="module")
def encrypted(make_cluster, work_dir):
    """A cluster with one object of each kind, and one that is not encrypted."""
    config = work_dir / "sse.json"
    config.write_text(json.dumps(S3_CONFIG))
    cluster = make_cluster("sse", s3=True, filer_options=[f"-s3.config={config}"],
                           env={"WEED_S3_SSE_KEK": "00112233445566778899aabbccddeeff" * 2})
    s3 = wire.S3(cluster.s3_port)
    s3.put(f"/{BUCKET}")
    for kind, headers in HEADERS.items():
        s3.put(f"/{BUCKET}/{kind}", PLAIN, headers=headers)
    s3.put(f"/{BUCKET}/plain", PLAIN)
    return cluster


@pytest.mark.parametrize("kind", HEADERS)
def test_the_filer_does_not_decrypt(encrypted, kind):
    """Why kelpfs refuses: should a filer learn it, kelpfs can let the filer read such files."""
    assert wire.Http(encrypted.filer_port).get(f"/buckets/{BUCKET}/{kind}") != PLAIN


@pytest.mark.parametrize("kind", HEADERS)
def test_open_is_eacces_with_one_line(encrypted, mount_kelpfs, kind):
    mount = mount_kelpfs(encrypted, f"/buckets/{BUCKET}")
    with pytest.raises(OSError) as error:
        (mount.path / kind).read_bytes()
    assert error.value.errno == errno.EACCES
    lines = [line for line in mount.log_text().splitlines() if kind in line]
    assert len(lines) == 1 and "encrypted by the S3 gateway" in lines[0]


def test_what_is_not_encrypted_is_read_as_usual(encrypted, mount_kelpfs):
    path = mount_kelpfs(encrypted, f"/buckets/{BUCKET}").path
    assert (path / "plain").read_bytes() == PLAIN
    assert {name: (path / name).stat().st_size for name in HEADERS} == dict.fromkeys(HEADERS, len(PLAIN))

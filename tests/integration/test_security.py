"""Clusters that ask for tokens, and clusters that speak HTTPS."""

import errno
import os
import ssl
import subprocess

import pytest

import corpus as doors
import mounts
import weed
import wire

DATA = doors.noise(5 << 20, "security")
KEYS = {"jwt.signing": "volume-write-key", "jwt.signing.read": "volume-read-key",
        "jwt.filer_signing": "filer-write-key", "jwt.filer_signing.read": "filer-read-key"}

pytestmark = pytest.mark.skipif(os.environ.get("KELP_TEST_MOUNT") == "weed", reason="about kelpfs's own options")


def toml(keys):
    return "".join(f'[{section}]\nkey = "{key}"\n' for section, key in keys.items())


def try_mount(source, mountpoint, *options):
    """Runs kelpfs until it fails."""
    mountpoint.mkdir()
    command = [mounts.kelpfs_binary(), source, mountpoint]
    for option in options:
        command += ["-o", option]
    try:
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20,
                              env=mounts.command_env())
    finally:
        mounts.unmount_for_good(mountpoint)


def write_headers():
    return {"Authorization": "Bearer " + wire.jwt(KEYS["jwt.filer_signing"])}


@pytest.fixture(scope="module")
def guarded(make_cluster):
    """All four keys are set."""
    cluster = make_cluster("guarded", security=toml(KEYS), write_headers=write_headers)
    http = wire.Http(cluster.filer_port)
    http.request("PUT", "/secret/data.bin", DATA, headers=write_headers())
    assert http.request("GET", "/secret/data.bin", expect=(401,)).status == 401
    return cluster


@pytest.fixture
def read_keys(tmp_path):
    """A security.toml with what a reader needs, readable by its owner only."""
    path = tmp_path / "security.toml"
    path.write_text(toml({section: key for section, key in KEYS.items() if section.endswith(".read")}))
    path.chmod(0o600)
    return path


def test_tokens_signed_with_the_keys_open_everything(guarded, read_keys, mount_kelpfs):
    mount = mount_kelpfs(guarded, options=[f"security={read_keys}"])
    assert os.listdir(mount.path / "secret") == ["data.bin"]
    assert (mount.path / "secret/data.bin").read_bytes() == DATA


def test_volume_token_comes_from_the_master_when_only_the_filer_key_is_known(guarded, tmp_path, mount_kelpfs):
    path = tmp_path / "security.toml"
    path.write_text(toml({"jwt.filer_signing.read": KEYS["jwt.filer_signing.read"]}))
    mount = mount_kelpfs(guarded, options=[f"security={path}"])
    assert (mount.path / "secret/data.bin").read_bytes() == DATA


def test_filer_proxy_works_with_tokens(guarded, read_keys, mount_kelpfs):
    mount = mount_kelpfs(guarded, options=[f"security={read_keys}", "volume_access=proxy"])
    assert (mount.path / "secret/data.bin").read_bytes() == DATA


def test_mount_without_keys_is_refused_and_says_why(guarded, tmp_path):
    result = try_mount(guarded.filer, tmp_path / "mnt")
    assert result.returncode != 0
    assert guarded.filer in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert any(word in result.stderr.lower() for word in ("denied", "allow", "token", "authori"))


def test_mount_with_the_wrong_key_is_refused(guarded, tmp_path):
    path = tmp_path / "security.toml"
    path.write_text(toml({"jwt.filer_signing.read": "another-key"}))
    result = try_mount(guarded.filer, tmp_path / "mnt", f"security={path}")
    assert result.returncode != 0 and "another-key" not in result.stderr


def test_wrong_volume_key_is_an_error_and_not_wrong_bytes(guarded, tmp_path, mount_kelpfs):
    path = tmp_path / "security.toml"
    path.write_text(toml({"jwt.filer_signing.read": KEYS["jwt.filer_signing.read"], "jwt.signing.read": "another"}))
    mount = mount_kelpfs(guarded, options=[f"security={path}", "timeout=3"])
    try:
        assert (mount.path / "secret/data.bin").read_bytes() == DATA  # through the proxy or the master's token
    except OSError as error:
        assert error.errno in (errno.EACCES, errno.EIO)


def test_keys_are_neither_in_the_log_nor_in_the_process_list(guarded, read_keys, mount_kelpfs):
    mount = mount_kelpfs(guarded, options=[f"security={read_keys}"], arguments=["-d"])
    assert (mount.path / "secret/data.bin").read_bytes() == DATA
    with open(f"/proc/{mount.pid}/cmdline") as f:
        shown = f.read() + mount.log_text()
    for secret in (*KEYS.values(), "Bearer", "eyJ"):
        assert secret not in shown, secret


# HTTPS


def openssl(*arguments, cwd):
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def certificates(work_dir):
    """A CA, a server's and a client's certificate, and one of another CA."""
    path = work_dir / "certificates"
    path.mkdir()
    (path / "server.ext").write_text(f"subjectAltName=IP:{weed.HOST},DNS:localhost\n")
    key = ["-newkey", "rsa:2048", "-nodes"]
    for ca in ("ca", "other-ca"):
        openssl("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.crt", "-days", "30", "-subj", f"/CN={ca}",
                cwd=path)
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", cwd=path)
        extensions = ["-extfile", "server.ext"] if name == "server" else []
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out",
                f"{name}.crt", "-days", "30", *extensions, cwd=path)
    return path


@pytest.fixture(scope="module")
def https(make_cluster, certificates):
    """HTTPS everywhere; the filer wants a client certificate, as it does by default."""
    c = certificates
    pair = f'cert = "{c}/server.crt"\nkey = "{c}/server.key"\nca = "{c}/ca.crt"\n'
    security = "".join(f"[https.{server}]\n{pair}" for server in ("master", "volume", "filer"))
    security += f'[https.client]\nenabled = true\ncert = "{c}/client.crt"\nkey = "{c}/client.key"\nca = "{c}/ca.crt"\n'
    context = ssl.create_default_context(cafile=c / "ca.crt")
    context.load_cert_chain(c / "client.crt", c / "client.key")
    cluster = make_cluster("https", security=security, ssl_context=context)
    connection = cluster.connect(cluster.filer_port)
    connection.request("PUT", "/secret/data.bin", DATA)
    assert connection.getresponse().status == 201
    connection.close()
    return cluster


def test_https_with_client_certificate(https, certificates, mount_kelpfs):
    c = certificates
    mount = mount_kelpfs(https, options=[f"tls_ca={c}/ca.crt", f"tls_cert={c}/client.crt", f"tls_key={c}/client.key"])
    assert (mount.path / "secret/data.bin").read_bytes() == DATA


def test_https_settings_come_from_security_toml(https, certificates, tmp_path, mount_kelpfs):
    c = certificates
    path = tmp_path / "security.toml"
    path.write_text(f'[https.client]\nenabled = true\ncert = "{c}/client.crt"\nkey = "{c}/client.key"\n'
                    f'ca = "{c}/ca.crt"\n')
    mount = mount_kelpfs(https, options=[f"security={path}"])
    assert (mount.path / "secret/data.bin").read_bytes() == DATA


def test_https_filer_with_an_unknown_certificate_is_refused(https, certificates, tmp_path):
    c = certificates
    result = try_mount(https.filer, tmp_path / "mnt", f"tls_ca={c}/other-ca.crt", f"tls_cert={c}/client.crt",
                       f"tls_key={c}/client.key")
    assert result.returncode != 0 and "certificate" in result.stderr.lower()


def test_https_filer_without_client_certificate_is_refused(https, certificates, tmp_path):
    result = try_mount(https.filer, tmp_path / "mnt", f"tls_ca={certificates}/ca.crt")
    assert result.returncode != 0 and len(result.stderr.strip().splitlines()) == 1


def test_certificate_file_that_is_missing_is_named(https, tmp_path):
    result = try_mount(https.filer, tmp_path / "mnt", f"tls_ca={tmp_path}/none.crt")
    assert result.returncode != 0 and "none.crt" in result.stderr


def test_http_to_an_https_filer_fails_in_one_line(https, tmp_path):
    result = try_mount(https.filer.removeprefix("https://"), tmp_path / "mnt")
    assert result.returncode != 0 and len(result.stderr.strip().splitlines()) == 1

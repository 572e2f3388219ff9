"""The unit tests that need a device, each counted for itself."""

import re
import subprocess
import xml.etree.ElementTree as ET

import pytest

import mounts

SOURCE = mounts.REPO / "tests/rdma/test_verbs.c"
NAMES = re.findall(r"^\t\tVERBS_TEST\((\w+)\)", SOURCE.read_text(), re.MULTILINE)
LIMIT_S = 250


@pytest.fixture(scope="module")
def ran(build, work_dir):
    """The program's exit status, what it said, and {test: why it failed, or ""}."""
    report = work_dir / f"test_verbs-{build}.xml"
    env = dict(mounts.command_env(), CMOCKA_MESSAGE_OUTPUT="XML", CMOCKA_XML_FILE=str(report))
    process = subprocess.run([mounts.bin_dir() / "test_verbs"], cwd=mounts.REPO, env=env, stdin=subprocess.DEVNULL, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S)
    cases = ET.parse(report).iter("testcase") if report.exists() else ()
    return process.returncode, process.stdout, {
        case.get("name"): "".join(failure.text for failure in case.iter("failure")) for case in cases}


@pytest.mark.parametrize("name", NAMES)
def test_unit(ran, name):
    status, said, failures = ran
    assert name in failures, f"did not run; the program ended with {status}:\n{said}"
    assert not failures[name], failures[name]


def test_program_ends_well_and_leaks_nothing(ran):
    """With a sanitizer, its report comes at the end."""
    status, said, failures = ran
    assert NAMES and set(failures) == set(NAMES)
    assert status == 0, said
    assert not mounts.SANITIZER_REPORT.search(said), said

"""The unit tests that need a device, each counted for itself."""

import re
import subprocess
import xml.etree.ElementTree as ET

import pytest

import mounts

LIMIT_S = 600  # for one program


def cases_of(source):
    table = re.search(r"struct CMUnitTest tests\[\] = {(.*?)};", source.read_text(), re.DOTALL)[1]
    return re.findall(r"\((\w+)", table)


PROGRAMS = {source.stem: cases_of(source) for source in mounts.REPO.glob("tests/rdma/test_verbs*.c")}


class Ran:
    def __init__(self, program, report):
        env = dict(mounts.command_env(), CMOCKA_MESSAGE_OUTPUT="XML", CMOCKA_XML_FILE=str(report))
        process = subprocess.run([mounts.bin_dir() / program], cwd=mounts.REPO, env=env, stdin=subprocess.DEVNULL,
                                 text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S)
        self.status, self.said = process.returncode, process.stdout
        cases = ET.parse(report).iter("testcase") if report.exists() else ()
        self.failures = {case.get("name"): "".join(failure.text for failure in case.iter("failure"))
                         for case in cases}  # "": it passed


@pytest.fixture(scope="module")
def ran(build, work_dir):
    """ran(program) -> what it did, once."""
    done = {}

    def run(program):
        if program not in done:
            done[program] = Ran(program, work_dir / f"{program}-{build}.xml")
        return done[program]

    return run


@pytest.mark.timeout(LIMIT_S + 30)
@pytest.mark.parametrize("program, name", [(program, name) for program in PROGRAMS for name in PROGRAMS[program]])
def test_unit(ran, program, name):
    it = ran(program)
    assert name in it.failures, f"did not run; the program ended with {it.status}:\n{it.said}"
    assert not it.failures[name], it.failures[name]


@pytest.mark.timeout(LIMIT_S + 30)
@pytest.mark.parametrize("program", PROGRAMS)
def test_program_ends_well_and_leaks_nothing(ran, program):
    """With a sanitizer, its report comes at the end."""
    it = ran(program)
    assert set(it.failures) == set(PROGRAMS[program])
    assert it.status == 0, it.said
    assert not mounts.SANITIZER_REPORT.search(it.said), it.said

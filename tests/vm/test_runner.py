"""scripts/vm itself. Each test starts a VM of its own, some of them two; none needs root or a device."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

VM = Path(__file__).resolve().parents[2] / "scripts/vm"
LIMIT_S = 400  # for one run, on a machine with much else to do

pytestmark = pytest.mark.timeout(LIMIT_S + 60)


@pytest.fixture
def start(tmp_path):
    """start(argument, ...) -> Popen of scripts/vm. At the end, nothing of it may be left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [VM, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "TMPDIR": str(temporary)})
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.communicate()
    assert processes_of(temporary) == []
    if processes and processes[-1].returncode != -signal.SIGKILL:
        assert list(temporary.iterdir()) == []


@pytest.fixture
def run(start):
    """run(argument, ...) -> what scripts/vm did, once it has ended."""

    def run(*arguments):
        process = start(*arguments)
        stdout, stderr = process.communicate(timeout=LIMIT_S)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    return run


def processes_of(folder):
    """The command lines of QEMU processes that work in a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has ended
        if "qemu" in words[0] and any(str(folder) in word for word in words):
            found.append(words)
    return found


def wait_until(condition, what, limit_s=LIMIT_S):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        time.sleep(0.1)


def check(result, status=0):
    assert result.returncode == status, result.stdout + result.stderr


def test_exit_status_and_both_streams_come_through(run):
    result = run("bash", "-c", "echo out; echo err >&2; exit 42")
    check(result, 42)
    assert result.stdout == "out\n"
    # On a machine that keeps it waiting the kernel may complain, or die while it boots.
    said = [line for line in result.stderr.splitlines() if not line.startswith("vm: ")]
    assert said == ["err"]


def test_long_output_comes_through_whole(run):
    result = run("seq", "300000")
    check(result)
    assert result.stdout == "".join(f"{i}\n" for i in range(1, 300001))


def test_command_sees_folder_arguments_and_environment(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KELP_SOME", "it's \"two\"\nlines")
    result = run("--", "bash", "-c", 'pwd; echo "$KELP_SOME"; printf "<%s>" "$@"', "-", "a  b", "", "$x'")
    check(result)
    assert result.stdout == f"{tmp_path}\nit's \"two\"\nlines\n<a  b><><$x'>"


def test_unknown_command_is_127(run):
    result = run("/no/such/program")
    check(result, 127)
    assert "/no/such/program" in result.stderr


def test_only_shared_folders_are_written(run, tmp_path):
    shared, private = tmp_path / "shared, and", tmp_path / "private"
    shared.mkdir()
    private.mkdir()
    result = run("--share", str(shared), "bash", "-c", 'echo kept >"$1/file" && echo lost >"$2/file"',
                 "-", str(shared), str(private))
    check(result)
    assert (shared / "file").read_text() == "kept\n"
    assert list(private.iterdir()) == []


def test_rxe_device_is_there(run):
    result = run("bash", "-c", "ibv_devices && ibv_devinfo -d $KELP_VM_DEV && cat $1 && id -u", "-",
                 "/sys/class/infiniband/rxe0/ports/1/gids/1")
    check(result)
    assert re.search(r"^\s+rxe0\s", result.stdout, re.M)
    assert "PORT_ACTIVE" in result.stdout
    assert "ffff:0a63:0001" in result.stdout  # 10.99.0.1
    assert result.stdout.endswith("\n0\n")


# The client comes when the server listens.
READ_BW = """
options="-d $KELP_VM_DEV -x 1 -s 65536 -n 1000"
ib_read_bw $options >/dev/null &
for i in $(seq 600); do ss -Htln 'sport = 18515' | grep -q . && break; sleep 0.1; done
ib_read_bw $options $1
"""


def test_rdma_read_moves_data(run):
    result = run("bash", "-c", READ_BW, "-", "10.99.0.1")
    check(result)
    row = re.search(r"^ 65536\s+1000\s+([\d.]+)\s+([\d.]+)", result.stdout, re.M)
    assert row and float(row[2]) > 1, result.stdout


def rping(count):
    """A server at the device's own address and a client at the peer's, both in this VM."""
    return f"""
rping -s -a $KELP_VM_PEER -C {count} &
until rdma resource show cm_id | grep -q LISTEN; do sleep 0.1; done
timeout 100 rping -c -a $KELP_VM_PEER -I $KELP_VM_ADDR -C {count}
"""


def test_wire_inside_one_vm_is_crossed(run):
    result = run("--net", "pair", "bash", "-e", "-c", f"""
iptables -I INPUT -i rdma1 -p udp --dport 4791
iptables -I INPUT -i rdma1 -p icmp --icmp-type echo-request
{rping(3)}
ping -c 3 -i 0.2 $KELP_VM_PEER
iptables -nvxL INPUT
""")
    check(result)
    rdma_packets = re.search(r"^\s*(\d+) .* udp dpt:4791", result.stdout, re.M)
    pings = re.search(r"^\s*(\d+) .* icmptype 8", result.stdout, re.M)
    assert rdma_packets and int(rdma_packets[1]) > 6, result.stdout
    assert pings and int(pings[1]) == 3, result.stdout


def test_wire_inside_one_vm_comes_back_after_link_down(run):
    result = run("--net", "pair", "bash", "-e", "-c", """
ip link set rdma0 down
if ping -c 1 -W 1 $KELP_VM_PEER; then exit 9; fi
ip link set rdma0 up
sleep 1
ping -c 3 -W 5 $KELP_VM_PEER
""")
    check(result)


def test_rping_crosses_the_wire_between_two_vms(run):
    result = run(
        "--pair", "rping -s -a $KELP_VM_ADDR -C 5 -v &"
        "until rdma resource show cm_id | grep -q LISTEN; do sleep 0.1; done; touch /run/pair/ready; wait",
        "until [ -e /run/pair/ready ]; do sleep 0.1; done; rping -c -a $KELP_VM_PEER -C 5 -v")
    check(result)
    for mark in ("1| ", "2| "):
        pings = [line for line in result.stdout.splitlines() if line.startswith(mark) and "ping data" in line]
        assert len(pings) == 5, result.stdout + result.stderr


def test_pair_ends_with_the_second_command(run):
    result = run("--pair", "echo one; sleep 1000", "echo two; exit 3")
    check(result, 3)
    assert sorted(result.stdout.splitlines()) == ["1| one", "2| two"]


def test_hung_command_is_ended_by_the_timeout(run):
    result = run("--timeout", "15", "bash", "-c", "trap '' TERM; echo started; while :; do sleep 1; done")
    check(result, 124)
    assert result.stdout == "started\n"
    assert "ran past 15 s" in result.stderr


def test_vm_that_ends_while_it_boots_is_started_again(run):
    result = run("--mem", "40", "true")  # too little for the kernel to come up
    check(result, 125)
    assert result.stderr.count("ended while it booted, starting it again") == 2
    assert result.stderr.count("ended without a word of the command") == 1


def test_panic_of_the_kernel_is_told(run):
    result = run("bash", "-c", "echo c >/proc/sysrq-trigger")
    check(result, 125)
    assert "sysrq triggered crash" in result.stderr


def test_nothing_is_left_after_ctrl_c(start, tmp_path):
    process = start("--pair", "sleep 1000", "echo up; sleep 1000")
    assert process.stdout.readline() == "2| up\n"
    assert len(processes_of(tmp_path)) == 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_after_a_signal_while_it_boots(start, tmp_path, number):
    process = start("sleep", "1000")
    wait_until(lambda: processes_of(tmp_path), "QEMU")
    process.send_signal(number)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    wait_until(lambda: not processes_of(tmp_path), "QEMU's end")


def test_vm_is_stopped_when_nobody_reads(start, tmp_path):
    process = start("bash", "-c", "while echo y; do sleep 0.1; done")
    assert process.stdout.readline() == "y\n"
    process.stdout.close()
    assert process.wait(timeout=LIMIT_S) == 141


@pytest.mark.parametrize("arguments", [
    [], ["--pair", "true"], ["--net", "none", "true"], ["--timeout", "0", "true"], ["--share", "/no/folder", "true"],
], ids=shlex.join)
def test_wrong_arguments_are_refused(run, arguments):
    check(run(*arguments), 2)


def test_kernel_that_apt_does_not_know_is_told(run, monkeypatch):
    monkeypatch.setenv("KELP_VM_KERNEL", "linux-image-0.1-amd64")
    result = run("true")
    check(result, 125)
    assert "apt does not know linux-image-0.1-amd64" in result.stderr

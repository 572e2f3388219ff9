"""One run on one cluster: what bench.py, levers.py and flame.py have in common."""

import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

from contenders import Bench
from data import Progress

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_by_signal(number, _frame):
    """Once: a second Ctrl-C must not cut the cleaning up short."""
    for other in END_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


@contextlib.contextmanager
def opened(options, wanted=None):
    """A Bench whose cluster holds its trees (only those wanted, if not None); nothing of it is left
    afterwards, also after Ctrl-C."""
    for number in END_SIGNALS:
        signal.signal(number, end_by_signal)
    progress = Progress()
    with contextlib.ExitStack() as stack:
        work_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(
            prefix="kelpfs-bench-", dir=os.environ.get("KELP_TEST_DIR"), ignore_cleanup_errors=True))).resolve()
        bench = Bench(options, work_dir, progress, wanted)
        stack.callback(bench.close)
        stack.callback(progress, "")
        bench.fill()
        yield bench

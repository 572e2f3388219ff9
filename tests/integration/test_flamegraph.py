"""What scripts/flame makes of the output of perf script."""

import sys
import xml.etree.ElementTree
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

import flamegraph  # noqa: E402
from flamegraph import KERNEL, Frame  # noqa: E402

COPYING = """kelpfs
\tffffffff81000000 fuse_copy_do ([kernel.kallsyms])
\tffffffff81000010 fuse_dev_write ([kernel.kallsyms])
\tffffffff81000020 do_syscall_64 ([kernel.kallsyms])
\t    7f0000000000 __GI___writev (/usr/lib/x86_64-linux-gnu/libc.so.6)
\t    7f0000001000 [unknown] (/usr/lib/x86_64-linux-gnu/libfuse3.so.3.14.0)
\t    560000000000 op_read (/usr/bin/kelpfs)
\t    7f0000001100 [unknown] (/usr/lib/x86_64-linux-gnu/libfuse3.so.3.14.0)
\t    7f0000002000 clone3 (/usr/lib/x86_64-linux-gnu/libc.so.6)
"""
SCRIPT = COPYING + "\n" + COPYING + """
kelpfs
\t    560000000100 plan<read> (/usr/bin/kelpfs)
\t               0 [unknown] ([unknown])
\t    560000000000 op_read (/usr/bin/kelpfs)

"""


def test_equal_stacks_are_counted_from_the_operation_on():
    stacks = flamegraph.read_stacks(SCRIPT)
    assert stacks == Counter({
        (Frame("kelpfs", ""), Frame("op_read", "kelpfs"), Frame("[libfuse3]", "libfuse3.so.3.14.0"),
         Frame("__GI___writev", "libc.so.6"), Frame("fuse_dev_write", KERNEL), Frame("fuse_copy_do", KERNEL)): 2,
        (Frame("kelpfs", ""), Frame("op_read", "kelpfs"), Frame("plan<read>", "kelpfs")): 1,
    })


def test_self_time_goes_to_the_group_of_what_ran():
    shares = dict(flamegraph.shares(flamegraph.read_stacks(SCRIPT), flamegraph.group_of))
    assert shares == {"copying into the page cache (`fuse_copy…`)": 2 / 3, "our own code": 1 / 3}


def test_drawing_is_xml_that_names_every_function():
    drawing = flamegraph.draw(flamegraph.read_stacks(SCRIPT), "one & two")
    root = xml.etree.ElementTree.fromstring(drawing)
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[0] == "one & two"
    assert "plan<read> (kelpfs): 33.3%, 1 samples" in titles
    assert "fuse_copy_do ([kernel]): 66.7%, 2 samples" in titles
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_what_took_hardly_any_time_is_not_drawn():
    main = Frame("kelpfs", "")
    stacks = Counter({(main, Frame("much", "kelpfs")): 999, (main, Frame("little", "kelpfs")): 1})
    drawing = flamegraph.draw(stacks, "title")
    assert "much" in drawing and "little" not in drawing

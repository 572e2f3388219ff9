"""What perf recorded: read, put into groups, and drawn."""

import re
from collections import Counter
from dataclasses import dataclass, field
from html import escape

WIDTH, ROW, TOP, BOTTOM = 1200, 16, 46, 10
CHARACTER = 6.7  # width of one, of the font below
SHARE_MIN = 0.005  # narrower frames are left out; what they took is seen as a gap above the caller
COLOURS = {"kernel": "#e9a06a", "own": "#7fb2e0", "libcurl": "#8fca8f", "libfuse": "#c3a1dc", "else": "#cfcfcf"}
KERNEL = "[kernel]"
OWN = ("kelpfs", "kelpd")

# On every stack, and of no interest there.
NOISE = re.compile(r"^(entry_SYSCALL_64.*|do_syscall_64|x64_sys_call|asm_exc_page_fault|__libc_start.*)$")


@dataclass(frozen=True)
class Frame:
    name: str
    object: str  # file name of the program or library; KERNEL

    @property
    def kind(self):
        if self.object == KERNEL:
            return "kernel"
        if self.object in OWN:
            return "own"
        return next((kind for kind in ("libcurl", "libfuse") if self.object.startswith(kind)), "else")


def frame_of(line):
    """None: of no interest."""
    found = re.match(r"\s*[0-9a-f]+ (.+) \((.*)\)$", line)
    if not found or NOISE.match(found[1]):
        return None
    name, file = found[1], found[2]
    if name != "[unknown]":
        return Frame(name, KERNEL if file.startswith("[") and file != "[vdso]" else file.rsplit("/", 1)[-1])
    # A function of a library without symbols; or nothing at all.
    file = file.rsplit("/", 1)[-1]
    return None if file.startswith("[") else Frame(f"[{file.split('.so')[0]}]", file)


def read_stacks(script):
    """Counter of stacks, each a tuple of Frames, outermost first, from the output of perf script. What calls
    an operation is libfuse's loop, and is not seen where parts of the stack were never touched: left out."""
    stacks = Counter()
    for sample in re.split(r"\n\s*\n", script):
        lines = sample.strip().splitlines()
        if not lines:
            continue
        frames = [Frame(lines[0].strip() or "?", "")]  # the thread's name
        for line in reversed(lines[1:]):
            frame = frame_of(line)
            if frame and frame.kind == "own" and frame.name.startswith("op_"):
                frames = [frames[0], frame]
            elif frame and frame != frames[-1]:
                frames.append(frame)
        stacks[tuple(frames)] += 1
    return stacks


# --- groups of self time ---------------------------------------------------------------------------

# (group, pattern): a sample in the kernel belongs to the first whose pattern matches a function on its stack.
KERNEL_GROUPS = (
    ("page faults", r"exc_page_fault|handle_mm_fault"),
    ("interrupts, and the network's work in them", r"handle_softirqs|__do_softirq|asm_sysvec_.*|asm_common_interrupt"),
    ("sleeping and waking", r"schedule|__schedule|try_to_wake_up|__wake_up.*|do_futex"),
    ("copying into the page cache (`fuse_copy…`)", r"fuse_copy_.*"),
    ("FUSE, all else", r"fuse_.*"),
    ("copying out of the socket", r"_copy_to_iter|skb_copy_datagram_iter|__check_object_size"),
    ("receiving, all else", r"__sys_recv.*|___sys_recvmsg|tcp_recvmsg.*|sock_recvmsg"),
    ("sending", r"__sys_send.*|___sys_sendmsg|tcp_sendmsg.*|sock_sendmsg|.*sendfile.*"),
    ("polling", r"do_sys_poll|do_poll.*|do_epoll_.*"),
    ("reading volume files", r"vfs_read|do_preadv|io_read|filemap_.*|page_cache_ra_.*"),
)
KERNEL_REST = "other system calls"
CHECKSUMS = re.compile(r"crc|md5|sha\d|adler", re.IGNORECASE)
COPIES = re.compile(r"mem(cpy|move|set|pcpy)")
_KERNEL_PATTERNS = [(group, re.compile(rf"^({pattern})(\.\w+)*$")) for group, pattern in KERNEL_GROUPS]


def group_of(stack):
    leaf = stack[-1]
    if leaf.object == KERNEL:
        for group, pattern in _KERNEL_PATTERNS:
            if any(frame.object == KERNEL and pattern.match(frame.name) for frame in stack):
                return group
        return KERNEL_REST
    if leaf.object and CHECKSUMS.search(leaf.name):
        return "checksums"
    if COPIES.search(leaf.name):
        return "copying in the program"
    named = {"own": "our own code", "libcurl": "libcurl", "libfuse": "libfuse"}
    return named.get(leaf.kind, "libc and other libraries")


def shares(stacks, of):
    """[(what, share)], the greatest first; of(stack): to what a sample belongs."""
    counts = Counter()
    for stack, n in stacks.items():
        counts[of(stack)] += n
    total = sum(counts.values())
    return [(what, n / total) for what, n in counts.most_common()]


# --- the drawing -----------------------------------------------------------------------------------

@dataclass
class Node:
    count: int = 0
    children: dict = field(default_factory=dict)


def tree_of(stacks):
    root = Node()
    for stack, n in stacks.items():
        node = root
        node.count += n
        for frame in stack:
            node = node.children.setdefault(frame, Node())
            node.count += n
    return root


def boxes(node, total, x=0.0, level=0):
    """(frame, samples, x, level) of what is wide enough, callers before those they call."""
    for frame, child in sorted(node.children.items(), key=lambda item: item[0].name):
        if child.count / total >= SHARE_MIN:
            yield frame, child.count, x, level
            yield from boxes(child, total, x, level + 1)
        x += child.count


def box_svg(frame, count, x, y, total):
    left, width = x * WIDTH / total, count * WIDTH / total
    where = f" ({frame.object})" if frame.object else ""
    title = f"{frame.name}{where}: {count / total:.1%}, {count} samples"
    letters = int((width - 6) / CHARACTER)
    label = frame.name if len(frame.name) <= letters else frame.name[: letters - 1] + "…" if letters > 3 else ""
    text = f'<text x="{left + 3:.1f}" y="{y + 12}">{escape(label)}</text>' if label else ""
    return (f'<g><title>{escape(title)}</title><rect x="{left:.1f}" y="{y}" width="{max(width - 0.5, 0.5):.1f}" '
            f'height="{ROW - 1}" fill="{COLOURS[frame.kind]}"/>{text}</g>')


def draw(stacks, title):
    """Returns the text of the SVG: callers below, those they call above them."""
    root = tree_of(stacks)
    shown = list(boxes(root, root.count))
    height = TOP + ROW * (1 + max((level for *_, level in shown), default=0)) + BOTTOM
    parts = [f'<text x="4" y="16" font-size="14">{escape(title)}</text>']
    x = 4
    for kind, colour in COLOURS.items():
        parts.append(f'<rect x="{x}" y="26" width="11" height="11" fill="{colour}"/>'
                     f'<text x="{x + 16}" y="36">{"our own code" if kind == "own" else kind}</text>')
        x += 110
    parts += [box_svg(frame, count, at, height - BOTTOM - ROW * (level + 1), root.count)
              for frame, count, at, level in shown]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11" fill="#222">\n'
            f'<title>{escape(title)}</title>\n<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
            + "\n".join(parts) + "\n</svg>\n")

"""The chart of a run: for each row how many times as fast as weed mount, as an SVG."""

from html import escape

WIDTH, LEFT, RIGHT, TOP = 860, 300, 70, 64
BAR, GAP, GROUP_GAP = 14, 2, 14
COLOURS = {"kelpfs": "#2a78b8", "kelpfs-agent": "#1b9e77", "s3fs": "#a6761d", "rclone": "#7570b3"}
RATIO_MAX = 8.0  # longer bars are cut, and say by their figure how long they were


def ratio_rows(rows, contenders, results):
    """(title, [(contender, ratio)]) of the rows where more is better."""
    for row in rows:
        if row.ratio == "cost" or row.against != "weed":
            continue
        bars = [(c, results.ratio(row, c)) for c in COLOURS if c in contenders]
        bars = [(c, ratio) for c, ratio in bars if ratio]
        if bars:
            yield row.title, bars


def text(x, y, what, **attributes):
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.0f}" y="{y:.0f}"{extra}>{escape(what)}</text>'


def draw(rows, contenders, results, titles, caption):
    """Returns the text of the SVG; titles: {contender: what to call it}."""
    groups = list(ratio_rows(rows, contenders, results))
    longest = min(RATIO_MAX, max((ratio for _, bars in groups for _, ratio in bars), default=1))
    scale = (WIDTH - LEFT - RIGHT) / max(longest, 1.5)
    parts, y = [], TOP
    for title, bars in groups:
        height = len(bars) * (BAR + GAP)
        parts.append(text(LEFT - 10, y + height / 2 + 4, title, text_anchor="end"))
        for contender, ratio in bars:
            width = min(ratio, RATIO_MAX) * scale
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[contender]}"/>')
            parts.append(text(LEFT + width + 5, y + BAR - 3, f"{ratio:.2f}"))
            y += BAR + GAP
        y += GROUP_GAP
    one = LEFT + scale
    parts.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{TOP - 8}" y2="{y - GROUP_GAP + 6}" stroke="#888" '
                 'stroke-dasharray="3 3"/>')
    parts.append(text(one, TOP - 12, "weed mount", text_anchor="middle"))
    x = LEFT
    for contender in (c for c in COLOURS if any(c == b for _, bars in groups for b, _ in bars)):
        parts.append(f'<rect x="{x}" y="14" width="{BAR}" height="{BAR}" fill="{COLOURS[contender]}"/>')
        parts.append(text(x + BAR + 5, 26, titles[contender]))
        x += 30 + 7 * len(titles[contender]) + BAR
    parts.append(text(LEFT, y + 14, caption, fill="#888"))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 28}" '
            f'viewBox="0 0 {WIDTH} {y + 28}" font-family="sans-serif" font-size="12" fill="#666">\n'
            '<title>How many times as fast as weed mount</title>\n' + "\n".join(parts) + "\n</svg>\n")

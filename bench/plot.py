"""A bar chart of ratios as an SVG file, without a plotting library."""

from collections.abc import Sequence
from html import escape
from typing import Final

from rig import Row

BAR: Final = 22
GAP: Final = 14
LABELS: Final = 380
WIDTH: Final = 420  # of the bars, up to a ratio of LIMIT
LIMIT: Final = 1.5  # a longer bar would make the others unreadable; the number beside it says the truth
REACHED: Final = "#3b7a57"
MISSED: Final = "#c0504d"


def draw(rows: Sequence[Row]) -> str:
    """Return an SVG with one bar a row that has a ratio, a line at 1 (the peer), and a mark at the aim."""
    bars = [row for row in rows if row.ratio is not None]
    height = (BAR + GAP) * len(bars) + 2 * GAP
    scale = WIDTH / LIMIT
    style = 'font-family="sans-serif" font-size="13"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABELS + WIDTH + 70}" height="{height}" {style}>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, row in enumerate(bars):
        ratio, top = row.ratio or 0.0, GAP + number * (BAR + GAP)
        colour = REACHED if row.aim is None or ratio >= row.aim else MISSED
        label = escape(f"{row.what.replace('`', '')}, to {row.peer_name}")
        width = min(ratio, LIMIT) * scale
        parts += [
            f'<text x="{LABELS - 10}" y="{top + 16}" text-anchor="end">{label}</text>',
            f'<rect x="{LABELS}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LABELS + width + 6:.1f}" y="{top + 16}">{ratio:.2f}</text>',
        ]
        if row.aim is not None:
            x = LABELS + row.aim * scale
            parts.append(f'<path d="M{x:.1f} {top - 3}v{BAR + 6}" stroke="black" stroke-dasharray="3 2"/>')
    parts.append(f'<path d="M{LABELS + scale:.1f} 0v{height}" stroke="gray"/></svg>')
    return "\n".join(parts) + "\n"

"""The picture of the architecture: the layers of CONTRIBUTING.md as an SVG file."""

from __future__ import annotations

import re
from html import escape

ROW = re.compile(r"^\| (\d) \| `([\w/.]+)` \|", flags=re.MULTILINE)
WIDTH, STEP, GAP = 880, 58, 10


def layers(contributing: str) -> list[tuple[int, list[str]]]:
    """Layers with their folders, the highest first, from the table of CONTRIBUTING.md."""
    found: dict[int, list[str]] = {}
    for number, name in ROW.findall(contributing):
        found.setdefault(int(number), []).append(name)
    return sorted(found.items(), reverse=True)


def architecture_svg(contributing: str) -> str:
    """The layers one above the other, with an arrow in the direction in which files may import."""
    stack = [(-1, ["recipes/"]), *layers(contributing)]
    height = len(stack) * STEP + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="15">',
        "<title>Layers of pkdzoo: a file imports only lower layers and its own folder</title>",
        '<defs><marker id="end" markerWidth="10" markerHeight="10" refX="5" refY="5" orient="auto">'
        '<path d="M0,0 L10,5 L0,10 z" fill="#64748b"/></marker></defs>',
        f'<line x1="30" y1="{GAP}" x2="30" y2="{height - 2 * GAP}" stroke="#64748b" stroke-width="2" '
        'marker-end="url(#end)"/>',
    ]
    for row, (number, names) in enumerate(stack):
        y = row * STEP + GAP
        label = "scripts" if number < 0 else f"layer {number}"
        parts.append(f'<text x="50" y="{y + 28}" fill="#64748b">{label}</text>')
        width = (WIDTH - 140) / len(names)
        for column, name in enumerate(names):
            x = 130 + column * width
            parts.append(
                f'<rect x="{x:.0f}" y="{y}" width="{width - GAP:.0f}" height="{STEP - GAP}" rx="6" fill="#e0e7ff" '
                f'stroke="#4f46e5"/><text x="{x + (width - GAP) / 2:.0f}" y="{y + 29}" text-anchor="middle" '
                f'fill="#1e1b4b">{escape(name)}</text>'
            )
    return "\n".join([*parts, "</svg>\n"])

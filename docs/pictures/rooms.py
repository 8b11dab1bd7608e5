"""Draws the rooms of the package and what they import. Usage: python docs/pictures/rooms.py.

Flow: the files' imports -> edges between rooms, without those that follow from others -> rooms.svg beside this file.
"""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "fmcs_bench"
PURPOSE = {
    "core": ("options, errors, files, seeds", 1),
    "jobs": ("trials on cores or on Ray", 0),
    "images": ("image datasets and splits", 1),
    "backbones": ("any timm or torchvision network", 1),
    "training": ("loop, losses, recipes, CQI", 1),
    "store": ("an FMCS dataset on disk", 0.75),
    "build": ("from configuration to manifest", 0),
    "hub": ("publish, download, data card", 0),
    "results": ("records, metrics, tables", 1.75),
    "evaluators": ("the contract, one file each", 1.5),
    "evaluator_track": ("protocol, fits, selection", 1),
    "scoring": ("score your own network", 2),
    "training_track": ("methods, plan, trainings", 1),
    "leaderboard": ("pages, claims, check", 1),
    "testing": ("conformance of plug-ins", 2),
    "cli": ("one file per verb", 1),
}
"""Each room with what it is for and its column in the picture."""
STYLE = (
    ".b{fill:#e3f1ee;stroke:#1b7f6b;stroke-width:1.5}.t{fill:#1d2a32;font-weight:600}.u{fill:#4a5a66;font-size:12.5px}"
    ".a{stroke:#8a9aa5;stroke-width:1.5;fill:none}@media (prefers-color-scheme: dark){.b{fill:#17423a;stroke:#5fc7b0}"
    ".t{fill:#eef4f7}.u{fill:#b9c8d1}}"
)
WIDTH, HEIGHT, ROW, COLUMN = 220, 44, 68, 250


def imported_rooms() -> dict[str, set[str]]:
    """Each room that has files, and the other rooms from which they import, anywhere in them."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        if room not in PURPOSE:
            continue
        modules = found.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            base = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for parts in (f"{base}.{name}".strip(".").split(".") for name in names):
                if parts[0] == "fmcs_bench" and len(parts) > 1 and parts[1] in PURPOSE:
                    modules.add(parts[1])
    return {room: rooms - {room} for room, rooms in found.items()}


def direct(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The edges without those that follow from others."""

    def reached(start: set[str]) -> set[str]:
        return start.union(*(reached(edges.get(room, set())) for room in start))

    return {
        room: {target for target in targets if target not in reached(targets - {target})}
        for room, targets in edges.items()
    }


def drawing() -> str:
    """The picture as SVG: a room stands below all rooms from which it imports."""
    edges = direct(imported_rooms())

    def level(room: str) -> int:
        return 1 + max(map(level, edges[room]), default=-1)

    at = {room: (10 + PURPOSE[room][1] * COLUMN, 10 + level(room) * ROW) for room in PURPOSE if room in edges}
    height = max(y for _, y in at.values()) + HEIGHT + 10
    look = 'role="img" aria-label="Rooms and imports" font-family="system-ui, sans-serif" font-size="15"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 {height}" {look}>',
        f"<style>{STYLE}</style>",
    ]
    for room, targets in edges.items():
        for target in sorted(targets):
            (x0, y0), (x1, y1) = at[room], at[target]
            x0, x1 = x0 + WIDTH / 2, x1 + WIDTH / 2
            bend = (y0 - y1 - HEIGHT) / 2
            curve = f"M{x0:g} {y0} C{x0:g} {y0 - bend:g} {x1:g} {y1 + HEIGHT + bend:g} {x1:g} {y1 + HEIGHT}"
            lines.append(f'<path class="a" d="{curve}"/>')
    for room, (x, y) in at.items():
        middle = x + WIDTH / 2
        lines += [
            f'<rect class="b" x="{x:g}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
            f'<text class="t" x="{middle:g}" y="{y + 18}" text-anchor="middle">{room}</text>',
            f'<text class="u" x="{middle:g}" y="{y + 35}" text-anchor="middle">{PURPOSE[room][0]}</text>',
        ]
    return "\n".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    (HERE / "rooms.svg").write_text(drawing(), encoding="utf-8")

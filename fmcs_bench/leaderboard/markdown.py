"""Tables as GitHub Markdown."""

from __future__ import annotations

from fmcs_bench.core.markdown import code, escape, rows
from fmcs_bench.leaderboard.cells import Cell, Table

__all__ = ["cell", "code", "escape", "table"]


def table(value: Table) -> str:
    """A table with its caption above it."""
    body = [[cell(item) for item in row.cells] for row in value.rows]
    return f"**{escape(value.caption)}**\n\n{rows([column.name for column in value.columns], body)}"


def cell(value: Cell) -> str:
    """One cell: number, interval, mark, links.

    Example:
        >>> cell(Cell("0.416", interval="[0.379, 0.454]"))
        '0.416 [0.379, 0.454]'
        >>> cell(Cell("set", is_name=True, mark="chosen"))
        '`set` (chosen)'
        >>> from fmcs_bench.leaderboard.cells import Link
        >>> cell(Cell("set", is_name=True, links=(Link("5 records", "set.html", "records/set"),)))
        '[`set`](records/set)'
    """
    name = code(value.text)
    if value.is_name and value.links:
        name = f"[{name}]({value.links[0].source or value.links[0].href})"
    parts = [name if value.is_name else escape(value.text), value.interval]
    parts.append(f"({value.mark})" if value.mark else "")
    parts += [] if value.is_name else [f"[{link.text}]({link.source or link.href})" for link in value.links]
    return " ".join(part for part in parts if part)

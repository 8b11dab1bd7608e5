"""Tables as GitHub Markdown."""

from __future__ import annotations

import re

from fmcs_bench.leaderboard.tables import Cell, Table


def table(value: Table) -> str:
    """A table with its caption above it."""
    lines = [[column.name for column in value.columns], ["---"] * len(value.columns)]
    lines += [[cell(item) for item in row.cells] for row in value.rows]
    return "\n".join([f"**{escape(value.caption)}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def cell(value: Cell) -> str:
    """One cell: number, interval, mark, links.

    Example:
        >>> cell(Cell("0.416", interval="[0.379, 0.454]"))
        '0.416 [0.379, 0.454]'
        >>> cell(Cell("set", is_name=True, mark="chosen"))
        '`set` (chosen)'
    """
    parts = [code(value.text) if value.is_name else value.text, value.interval]
    parts.append(f"({value.mark})" if value.mark else "")
    parts += [f"[{link.text}]({link.href})" for link in value.links]
    return " ".join(part for part in parts if part)


def code(name: str) -> str:
    """A name as a code span: nothing in it is markup, and no mail address is seen in ``ral-set@0.9``."""
    plain = re.sub(r"\s", " ", name).replace("`", "'").replace("|", r"\|")
    return f"`{plain}`"


def escape(text: str) -> str:
    """Text in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]<>&|~#])", r"\\\1", re.sub(r"\s", " ", text))

"""Text and names that somebody else chose, as Markdown that renders as that text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def code(name: str) -> str:
    """A name as a code span: nothing in it is markup, and no mail address is seen in ``ral-set@0.9``."""
    plain = re.sub(r"\s", " ", name).replace("`", "'").replace("|", r"\|")
    return f"`{plain}`"


def escape(text: str) -> str:
    r"""Text in which nothing is markup, as one line; also inside the cell of a table.

    Example:
        >>> print(escape("[x](javascript:y) | <b>\n---"))
        \[x\](javascript:y) \| \<b\> ---
    """
    return re.sub(r"([\\`*_\[\]<>&|~#$])", r"\\\1", re.sub(r"\s", " ", text))


def block(text: str, language: str = "") -> str:
    """Lines as a code block, whose fence is longer than any run of backticks in them.

    Example:
        >>> print(block("a = 1", "python"))
        ```python
        a = 1
        ```
    """
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Cells, which are Markdown already, as a table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])

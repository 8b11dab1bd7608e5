"""How to cite the suite.

Flow: version and year of the suite -> a BibTeX entry, shown on the page.
"""

from __future__ import annotations

from fmcs_bench import __version__

YEAR = 2026
"""Of this version; a build on another day must give the same page."""


def bibtex() -> str:
    """The suite as a BibTeX entry.

    Example:
        >>> print(bibtex().splitlines()[0])
        @software{fmcs_bench,
    """
    fields = {
        "title": "fmcs-bench",
        "author": "{The fmcs-bench developers}",
        "version": __version__,
        "year": str(YEAR),
    }
    lines = [f"  {name:<7} = {{{value}}}," for name, value in fields.items()]
    return "\n".join(["@software{fmcs_bench,", *lines, "}"])

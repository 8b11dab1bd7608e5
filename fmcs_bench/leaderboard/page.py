"""What pages of the leaderboard are made of, and how they become HTML and Markdown.

A page has sections of items: text, code, pictures, folds, and the tables of ``fmcs_bench.results.board``. Nothing that
a record, a claim or a manifest says is markup, in either language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files as package_files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from fmcs_bench import __version__
from fmcs_bench.core import markdown
from fmcs_bench.core.errors import PluginError
from fmcs_bench.results.board import Column, Table

ASSETS = ("page.css", "page.js")
DATATABLES = "datatables.js"
_EXPORT = re.compile(r"\bexport\s*\{([^{}]*)\};?")
_DEFAULT = re.compile(r"([\w$]+) as default")


@dataclass(frozen=True)
class Text:
    """A paragraph; ``empty`` where it stands for a table that is not there."""

    text: str
    empty: bool = False


@dataclass(frozen=True)
class Code:
    """A text to copy."""

    anchor: str
    text: str


@dataclass(frozen=True)
class TableItem:
    """A table with the names of its rows, for their addresses, and their links; empty where rows have none."""

    anchor: str
    table: Table[Any]
    names: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure; ``name`` is its path without the ending, ``alt`` its text alternative, ``text`` stands below it."""

    name: str
    draw: Callable[[], Figure]
    alt: str
    text: str

    @property
    def href(self) -> str:
        """Its path as a link."""
        return quote(f"{self.name}.svg")


@dataclass(frozen=True)
class Meanings:
    """What columns mean."""

    columns: tuple[Column[Any], ...]


@dataclass(frozen=True)
class Fold:
    """Items that are shown on request."""

    summary: str
    items: tuple[Item, ...]


Item = Text | Code | TableItem | Picture | Meanings | Fold


@dataclass(frozen=True)
class Section:
    """A part of a page with its heading, which is shown smaller from an @ on; ``level`` is that of the heading."""

    anchor: str
    title: str
    items: tuple[Item, ...]
    level: int = 2


@dataclass(frozen=True)
class Page:
    """A page; ``lead`` stands below its heading, ``links`` (text and address) at its top."""

    path: str
    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]
    links: tuple[tuple[str, str], ...] = ()

    @property
    def root(self) -> str:
        """The way from the page to the folder of the leaderboard."""
        return "../" * self.path.count("/")

    @property
    def pictures(self) -> Iterator[Picture]:
        """All pictures, folded or not."""
        for section in self.sections:
            for item in section.items:
                yield from (p for p in (item.items if isinstance(item, Fold) else (item,)) if isinstance(p, Picture))


def anchor(*parts: str) -> str:
    """A permanent fragment address: the parts, with what does not belong in one replaced."""
    return "-".join(re.sub(r"[^A-Za-z0-9@+~._-]", "_", part) for part in parts)


def html(page: Page) -> str:
    """A page as HTML."""
    return _environment().get_template("page.html.j2").render(page=page)


def as_markdown(items: Sequence[Item]) -> str:
    """The tables and paragraphs among some items as Markdown."""
    parts: list[str] = []
    for item in items:
        match item:
            case Text():
                parts.append(markdown.escape(item.text))
            case TableItem():
                parts += [f"**{markdown.escape(item.table.title)}**", item.table.markdown()]
            case Fold():
                parts.append(as_markdown(item.items))
    return "\n\n".join(filter(None, parts))


def assets() -> dict[str, bytes]:
    """The files that every page loads, by name."""
    own = {name: (package_files(__package__) / "assets" / name).read_bytes() for name in ASSETS}
    return own | {DATATABLES: datatables()}


def datatables() -> bytes:
    """DataTables as a plain script; ``itables`` carries it as a module, which browsers refuse to load from disk."""
    module = (package_files("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    exports = list(_EXPORT.finditer(module))
    default = _DEFAULT.search(exports[0][1]) if len(exports) == 1 else None
    if default is None or "Bundled license information" not in module:
        raise PluginError("this version of itables has no DataTables that the page can use; install itables 2.9")
    script = module[: exports[0].start()] + f"window.DataTable={default[1]};" + module[exports[0].end() :]
    return f"(() => {{\n{script}\n}})();\n".encode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fmcs_bench.leaderboard", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"version": __version__, "anchor": anchor}
    tests: dict[str, Any] = environment.tests
    tests.update((kind.__name__, partial(_is, kind)) for kind in (Text, Code, TableItem, Picture, Meanings, Fold))
    return environment


def _is(kind: type, value: object) -> bool:
    return isinstance(value, kind)

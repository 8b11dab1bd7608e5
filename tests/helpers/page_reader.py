"""A page of the leaderboard as tests read it: its tables, links and ids."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

VOID = {"img", "link", "meta", "source", "br"}


@dataclasses.dataclass
class Cell:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    links: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Table:
    caption: str = ""
    rows: list[list[Cell]] = dataclasses.field(default_factory=list)

    def named_rows(self) -> list[dict[str, Cell]]:
        heads = [" ".join(cell.text.split()) for cell in self.rows[0]]
        return [dict(zip(heads, row, strict=True)) for row in self.rows[1:]]


class Page(HTMLParser):
    """A page's tables, links and ids; fails where a tag is not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tables: list[Table] = []
        self.hrefs: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.images_without_text = 0
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.hrefs += [values["href"]] if tag == "a" else []
        self.sources += [values["src"]] if "src" in values else []
        self.images_without_text += tag == "img" and not values.get("alt")
        if tag == "table":
            self.tables.append(Table())
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag in ("td", "th"):
            self.tables[-1].rows[-1].append(Cell(tag, values))
        elif tag == "a" and self.open[-1] in ("td", "th"):
            self.tables[-1].rows[-1][-1].links.append(values["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "caption" in self.open:
            self.tables[-1].caption += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1].rows[-1][-1].text += data

    def table(self, start: str) -> Table:
        (found,) = [table for table in self.tables if table.caption.startswith(start)]
        return found


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

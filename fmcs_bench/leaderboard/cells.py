"""What tables are made of: columns and cells, and how a number of a board becomes a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote

from fmcs_bench.results.evaluator_board import EvaluatorBoard
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.statistics import Estimate
from fmcs_bench.results.store import RecordStore
from fmcs_bench.results.training_board import TrainingBoard

NONE = "\N{EN DASH}"


class Column(NamedTuple):
    """A column.

    Attributes:
        title: its heading.
        part: a second part of the heading, or empty.
        meaning: in plain words.
        numeric: it holds numbers.
        headline: it is what the table is about.
    """

    title: str
    part: str
    meaning: str
    numeric: bool = True
    headline: bool = False

    @property
    def name(self) -> str:
        """Both parts of the heading."""
        return f"{self.title}, {self.part}" if self.part else self.title


class Link(NamedTuple):
    """A link, from the folder of the page.

    Attributes:
        text: what is shown.
        href: where the page links to.
        source: where Markdown links to, which shows files and folders and no pages; empty for ``href``.
    """

    text: str
    href: str
    source: str = ""


class Cell(NamedTuple):
    """What a table shows in one place.

    Attributes:
        text: the number or name, rounded for reading.
        value: the number, not rounded, in the unit of the records (accuracies are shares); None where ``text``
            is no number.
        low: end of the 95 % interval, as ``value``; None where there is no interval.
        high: its other end.
        interval: both ends, rounded for reading.
        links: to what the number comes from; of a name, to what the numbers of its row come from.
        is_name: a name that a record gave, the heading of its row.
        mark: a word beside the text.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    links: tuple[Link, ...] = ()
    is_name: bool = False
    mark: str = ""


class Row(NamedTuple):
    """One row.

    Attributes:
        anchor: its permanent address on the page, empty where it has none.
        cells: one for each column.
        best: nothing in the table is clearly better.
    """

    anchor: str
    cells: tuple[Cell, ...]
    best: bool = False

    @property
    def details(self) -> Link | None:
        """Where more is said about the row: the first link of its cells."""
        return next((link for cell in self.cells for link in cell.links), None)


@dataclass(frozen=True)
class Table:
    """A table with its caption; ``sortable`` where a reader may want its rows in another order, or fewer of them."""

    anchor: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sortable: bool = True


SEEDS = Column("Seeds", "", "how often it was repeated, each time from another seed")
RECORDS = Column("Records", "", "all metrics of every seed, curves, environment, the command that makes them again, "
                 "and the records (JSON) with their predictions", False)  # fmt: skip
PARAMETERS = Column("Parameters", "", "trainable numbers in the network")
EMPTY = Cell(NONE)


def anchor(*parts: str) -> str:
    """A permanent fragment address: the parts, with what does not belong in one replaced."""
    return "-".join(
        "".join(c if c.isascii() and (c.isalnum() or c in "@+~._-") else "_" for c in part) for part in parts
    )


def board_name(board: EvaluatorBoard | TrainingBoard) -> str:
    """Dataset and settings, for a caption."""
    return f"{board.dataset_id}, settings {board.settings}"


def number(estimate: Estimate) -> Cell:
    """A number of its own, such as a MAE."""
    return cell(estimate, "{:.3f}")


def percent(share: Estimate) -> Cell:
    """A share as a percentage."""
    return cell(share, "{:.1f}", 100, " %")


def points(share: Estimate) -> Cell:
    """A difference of shares in percentage points, with its sign."""
    return cell(share, "{:+.2f}", 100)


def cell(estimate: Estimate, form: str, scale: float = 1, unit: str = "") -> Cell:
    """A mean with its interval.

    Args:
        estimate: in the unit of the records.
        form: of the numbers that are shown.
        scale: from the unit of the records to that of the table.
        unit: behind the mean.
    """

    def show(value: float) -> str:
        return form.format(scale * value).replace("-", "\N{MINUS SIGN}")

    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f"[{show(estimate.low)}, {show(estimate.high)}]"
    return Cell(show(estimate.mean) + unit, estimate.mean, estimate.low, estimate.high, interval)


def count(number: int) -> Cell:
    """How many."""
    return Cell(f"{number:,}", value=number)


def links(records: Sequence[EvaluatorRecord | TrainingRecord], text: str = "") -> Cell:
    """The way to the records of one method, which lie in one folder and have one page.

    Args:
        records: of one method.
        text: of the link; empty for their number.
    """
    text = text or f"{len(records)} record{'s' if len(records) > 1 else ''}"
    return Cell("", links=(Link(text, details_href(records[0]), f"records/{quote(folder(records[0]))}"),))


def details_href(record: EvaluatorRecord | TrainingRecord) -> str:
    """Link to the page of this record and the other seeds of its method, from the folder of the leaderboard."""
    return f"details/{quote(folder(record))}.html"


def folder(record: EvaluatorRecord | TrainingRecord) -> str:
    """Path of the folder of a record and the other seeds of its method, below the folder of all records."""
    return str(PurePosixPath(address(record)).parent)


def address(record: EvaluatorRecord | TrainingRecord) -> str:
    """Path of a record below the folder of all records, the same wherever that folder is."""
    return str(RecordStore(Path()).address(record))

"""What tables are made of: columns and cells, and how a number of a board becomes a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from fmcs_bench.boards import EvaluatorBoard, TrainingBoard
from fmcs_bench.records import EvaluatorRecord, RecordStore, TrainingRecord
from fmcs_bench.statistics import Estimate

NONE = "\N{EN DASH}"


class Column(NamedTuple):
    """A column: its heading in one or two parts, what it means in plain words, whether it holds numbers."""

    title: str
    part: str
    meaning: str
    numeric: bool = True

    @property
    def name(self) -> str:
        """Both parts of the heading."""
        return f"{self.title}, {self.part}" if self.part else self.title


class Link(NamedTuple):
    """A link to a record."""

    text: str
    href: str


class Cell(NamedTuple):
    """What a table shows in one place.

    Attributes:
        text: the number or name, rounded for reading.
        value: the number at full precision, in the unit of the records (accuracies are shares); None where ``text``
            is no number.
        low: end of the 95 % interval, as ``value``; None where there is no interval.
        high: its other end.
        interval: both ends, rounded for reading.
        links: to records.
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
    """One row; ``anchor`` is its permanent address on the page, empty where it has none."""

    anchor: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table with its caption."""

    anchor: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


SEEDS = Column("Seeds", "", "how often it was repeated, each time from another seed")
RECORDS = Column("Records", "", "one link per seed to the record (JSON); its predictions file lies beside it", False)
PARAMETERS = Column("Parameters", "", "trainable numbers in the network")
EMPTY = Cell(NONE)


def anchor(*parts: str) -> str:
    """A permanent fragment address: the parts, with what does not belong in one replaced."""
    return "-".join(
        "".join(c if c.isascii() and (c.isalnum() or c in "@+._-") else "_" for c in part) for part in parts
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


def links(records: Sequence[EvaluatorRecord | TrainingRecord]) -> Cell:
    """A link to each record."""
    return Cell("", links=tuple(Link(str(record.seed), f"records/{quote(address(record))}") for record in records))


def address(record: EvaluatorRecord | TrainingRecord) -> str:
    """Path of a record below the folder of all records, the same wherever that folder is."""
    return str(RecordStore(Path()).address(record))

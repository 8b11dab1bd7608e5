"""What both boards share: which records are compared, and one list of columns that makes every view of a board."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from fmcs_bench.core import markdown
from fmcs_bench.results.records import AnyRecord, Record
from fmcs_bench.results.statistics import Estimate, Rank
from fmcs_bench.training.methods import NUM_SEEDS

if TYPE_CHECKING:
    import pandas as pd

Row = TypeVar("Row")
Value = Estimate | Rank | float | str | bool | None
NONE = "-"


class Form(NamedTuple):
    """How numbers of a column are shown: a format, and the factor from the records' unit to the reader's."""

    spec: str
    scale: float = 1.0


NUMBER, SCORE, DIFFERENCE = Form("z.3f"), Form(".2f"), Form("+z.2f")
PERCENT, POINTS, SPREAD = Form(".1f", 100), Form("+z.2f", 100), Form(".2f", 100)
COUNT, SECONDS, PLAIN, P_VALUE = Form(",.0f"), Form(",.1f"), Form("g"), Form(".3f")


class Cell(NamedTuple):
    """What a table shows in one place; ``mark`` belongs to the name, ``value`` is in the unit of the records."""

    text: str
    interval: str = ""
    mark: str = ""
    value: float | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.text, self.interval, f"({self.mark})" if self.mark else "")))


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column of a board; a DataFrame has two more for an ``Estimate``, ``<name>_low`` and ``<name>_high``.

    ``value`` computes it from a row, in the unit of the records. ``views`` show the interval, ``brief`` views do not.
    What stands behind a comma in ``label`` may go to a second line. An ``optional`` column needs a value in some row.
    """

    name: str
    label: str
    value: Callable[[Row], Value]
    meaning: str = ""
    form: Form = NUMBER
    views: str = ""
    brief: str = ""
    mark: Callable[[Row], str] | None = None
    optional: bool = False
    numeric: bool = True

    def cell(self, row: Row, view: str = "") -> Cell:
        """What a view shows of a row."""
        value, mark = self.value(row), "" if self.mark is None else self.mark(row)
        match value:
            case None:
                return Cell(NONE, "", mark)
            case Estimate():
                mean, interval = value.parts(*self.form)
                return Cell(mean, "" if view in self.brief.split() else interval, mark, value.mean)
            case Rank():
                return Cell(str(value), "", mark, value.best)
            case bool() | str():
                return Cell(str(value), "", mark)
        return Cell(f"{self.form.scale * value:{self.form.spec}}", "", mark, value)

    def frame_columns(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        """Its columns of a DataFrame."""
        values = [self.value(row) for row in rows]
        if any(isinstance(value, Rank) for value in values):
            return {f"{self.name}_{end}": [getattr(value, end, None) for value in values] for end in Rank._fields}
        if not any(isinstance(value, Estimate) for value in values):
            return {self.name: values}
        parts = {"": "mean", "_low": "low", "_high": "high"}
        return {self.name + end: [getattr(value, part, None) for value in values] for end, part in parts.items()}


@dataclass(frozen=True)
class Table(Generic[Row]):
    """One view of a board: rows, and the columns that the view shows."""

    title: str
    columns: tuple[Column[Row], ...]
    rows: tuple[Row, ...]
    view: str
    note: str = ""

    @classmethod
    def of(
        cls, columns: Iterable[Column[Row]], rows: Sequence[Row], view: str, title: str, note: str = ""
    ) -> Table[Row]:
        """The view of this name: the columns that it shows, without optional ones that have nothing to show."""
        shown = tuple(
            column
            for column in columns
            if view in f"{column.views} {column.brief}".split()
            and not (column.optional and all(column.value(row) is None for row in rows))
        )
        return cls(title, shown, tuple(rows), view, note)

    @property
    def cells(self) -> list[list[Cell]]:
        """What is shown, row by row."""
        return [[column.cell(row, self.view) for column in self.columns] for row in self.rows]

    def __str__(self) -> str:
        lines = [[column.label for column in self.columns], *([str(cell) for cell in row] for row in self.cells)]
        widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
        numeric = [column.numeric for column in self.columns]
        body = (
            "  ".join(
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(line, widths, numeric, strict=True)
            ).rstrip()
            for line in lines
        )
        return "\n".join(filter(None, (self.title, *body, self.note)))

    def markdown(self) -> str:
        """As a Markdown table, without title and note."""
        body = ([markdown.escape(str(cell)) for cell in row] for row in self.cells)
        return markdown.rows([column.label for column in self.columns], body)


def frame(columns: Iterable[Column[Row]], rows: Sequence[Row]) -> pd.DataFrame:
    """All columns of some rows as a DataFrame, a row each, in the unit of the records (accuracies are shares)."""
    import pandas as pd

    return pd.DataFrame({name: values for column in columns for name, values in column.frame_columns(rows).items()})


def comparable(records: Iterable[AnyRecord]) -> dict[tuple[str, str], list[AnyRecord]]:
    """Records by dataset and settings: what may stand on one board."""
    groups: dict[tuple[str, str], list[AnyRecord]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        groups.setdefault((record.dataset_id, record.settings), []).append(record)
    return dict(sorted(groups.items()))


def enough_seeds(groups: Iterable[Sequence[Record]]) -> int:
    """Seeds that a candidate needs to be chosen: a sixth seed of one does not shut out the others."""
    return min(NUM_SEEDS, max((len(group) for group in groups), default=0))

"""Boards -> tables of cells. The page and the Markdown file show these tables, so their numbers are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote

from fmcs_bench.boards import Column as Images
from fmcs_bench.boards import EvaluatorBoard, EvaluatorRow, SweepPoint, TrainingBoard, TrainingRow
from fmcs_bench.records import EvaluatorRecord, RecordStore, TrainingRecord
from fmcs_bench.statistics import Estimate

_NONE = "\N{EN DASH}"
_IMAGES: dict[Images, str] = {
    "test_run": "test images of a run that it never saw; the headline, and what the rank is made from",
    "same_run": "other images, but of the runs it was fitted on",
    "unseen": "the source's own test images; neither backbones nor evaluators were trained on them",
}


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
        value: the number at full precision, in the unit of the records (accuracies are shares); None where ``text``
            is no number.
        low: end of the 95 % interval, as ``value``; None where there is no interval.
        high: its other end.
        interval: both ends, rounded for reading.
        links: to what the number comes from.
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


_SEEDS = Column("Seeds", "", "how often it was repeated, each time from another seed")
_RECORDS = Column("Records", "", "all metrics of every seed, curves, environment, the command that makes them again, "
                  "and the records (JSON) with their predictions", False)  # fmt: skip
_PARAMETERS = Column("Parameters", "", "trainable numbers in the network")

EVALUATOR_COLUMNS = (
    Column("Rank", "", "1 plus the number of evaluators that are clearly better (see above); equal ranks are ties"),
    Column("Evaluator", "", "the judge; “chosen” marks the one that goes into training", False),
    *(Column("MAE", part.replace("_", " "), f"mean absolute error in stages: {meaning}", headline=part == "test_run")
      for part, meaning in _IMAGES.items()),
    Column("Accuracy", "test run", "share of maps whose stage is named exactly, on the images of MAE, test run"),
    Column("Accuracy", "same run", "the same on the images of MAE, same run"),
    Column("Spearman", "", "rank correlation of the mean score and the backbone's validation accuracy, over all "
           "checkpoints of the test run; 1 is best, a dash where one of them never changes"),
    _PARAMETERS,
    Column("FLOPs", "per map", "products and convolutions of one answer, a multiply-add as two; a dash where it is no "
           "network or was not counted"),
    Column("Speed", "maps/s", "maps of the test run judged per second, in one call, on the machine that the record "
           "names; a dash where it was not measured"),
    Column("Fit", "seconds", "mean wall time of one fit, on the machine that the record names"),
    _SEEDS,
    _RECORDS,
)  # fmt: skip

TRAINING_COLUMNS = (
    Column("Method", "", "network, constraint, objective and judge; RAL is trained against the frozen judge", False),
    Column("RAF", "chosen", "weight of the classification loss with the highest mean validation accuracy; 1 is none "
           "of the judge's loss"),
    Column("Accuracy", "validation", "on the images that RAF was chosen on, so it flatters a little"),
    Column("Accuracy", "test", "on the test images, read once, after the last epoch"),
    Column("Difference", "pp", "test accuracy minus the baseline's at the same seeds, in percentage points: same first "
           "weights, same batches"),
    Column("p", "Holm", "two-sided exact sign-flip test of the difference, corrected for the number of rows (Holm)"),
    Column("Detectable", "pp", "smallest true difference that this many seeds would find with a probability of 0.8, "
           "given the spread seen"),
    _PARAMETERS,
    Column("Training", "seconds", "mean wall time of one training, on the machine that the record names"),
    _SEEDS,
    _RECORDS,
)  # fmt: skip

_SWEEP_COLUMNS = (
    TRAINING_COLUMNS[0],
    Column("RAF", "", "weight of the classification loss"),
    *TRAINING_COLUMNS[2:4],
    _SEEDS,
    _RECORDS,
)

_ENVIRONMENT_COLUMNS = tuple(
    Column(title, "", "", title == "Records")
    for title in ("Records", "fmcs-bench", "Code", "Python", "torch", "Device", "Processor")
)


def evaluator_table(board: EvaluatorBoard) -> Table:
    """The evaluator board."""
    return Table(
        anchor=anchor("evaluators", board.dataset_id, board.settings),
        caption=f"Evaluators on {_id(board)}: mean over fits with 95 % interval, on one test run",
        columns=EVALUATOR_COLUMNS,
        rows=tuple(_evaluator_row(board, row) for row in board.rows),
    )


def test_on_table(board: EvaluatorBoard) -> Table:
    """The MAE of the same fits on the test runs of other datasets; a dash where an evaluator was not asked.

    It is not asked where it takes only maps of the shape it was fitted on.
    """
    meaning = "MAE on the test images of that dataset's test run, by fits that saw nothing of it"
    others = board.tested_on
    return Table(
        anchor=anchor("test-on", board.dataset_id, board.settings),
        caption=f"The same fits, from {_id(board)}, on other datasets: MAE, mean over fits with 95 % interval",
        columns=(EVALUATOR_COLUMNS[1], *(Column(other, "", meaning) for other in others)),
        rows=tuple(
            Row(
                anchor("test-on", board.dataset_id, board.settings, row.evaluator),
                (
                    Cell(row.evaluator, is_name=True, mark="chosen" if row.chosen else ""),
                    *(_number(row.test_on[other]) if other in row.test_on else Cell(_NONE) for other in others),
                ),
            )
            for row in board.rows
        ),
    )


def training_table(board: TrainingBoard) -> Table:
    """The training board, each method at the RAF chosen on validation images."""
    return Table(
        anchor=anchor("training", board.dataset_id, board.settings),
        caption=f"Training methods on {_id(board)}: mean over seeds with 95 % interval",
        columns=TRAINING_COLUMNS,
        rows=tuple(_training_row(board, row) for row in board.rows),
    )


def sweep_table(board: TrainingBoard) -> Table:
    """Every RAF of every method."""
    return Table(
        anchor=anchor("sweep", board.dataset_id, board.settings),
        caption=f"All RAF values on {_id(board)}, chosen or not",
        columns=_SWEEP_COLUMNS,
        rows=tuple(_sweep_row(board, row, point) for row in board.rows for point in row.sweep),
    )


def environment_table(dataset_id: str, records: Sequence[EvaluatorRecord | TrainingRecord]) -> Table:
    """What software and hardware made the records; more than one row means that they differ."""
    found = Counter(
        (
            record.environment.fmcs_bench,
            record.environment.code_digest[:12],
            record.environment.python,
            record.environment.libraries.get("torch", _NONE),
            record.environment.device,
            record.environment.processor,
        )
        for record in records
    )
    return Table(
        anchor=anchor("made-with", dataset_id),
        caption=f"Software and hardware behind the records of {dataset_id}",
        columns=_ENVIRONMENT_COLUMNS,
        rows=tuple(Row("", (_count(num), *map(Cell, texts))) for texts, num in sorted(found.items())),
    )


def anchor(*parts: str) -> str:
    """A permanent fragment address: the parts, with what does not belong in one replaced."""
    return "-".join(
        "".join(c if c.isascii() and (c.isalnum() or c in "@+._-") else "_" for c in part) for part in parts
    )


def _id(board: EvaluatorBoard | TrainingBoard) -> str:
    return f"{board.dataset_id}, settings {board.settings}"


def _evaluator_row(board: EvaluatorBoard, row: EvaluatorRow) -> Row:
    ties = sum(other.rank == row.rank for other in board.rows)
    cells = (
        Cell(f"{row.rank} tie" if ties > 1 else str(row.rank), value=row.rank),
        Cell(row.evaluator, is_name=True, mark="chosen" if row.chosen else ""),
        *(_number(row.mae[part]) for part in _IMAGES),
        _percent(row.accuracy["test_run"]),
        _percent(row.accuracy["same_run"]),
        Cell(_NONE) if row.spearman is None else _number(row.spearman),
        _count(row.num_parameters),
        Cell(_NONE) if row.flops_per_map is None else _count(row.flops_per_map),
        Cell(_NONE) if row.maps_per_second is None else _cell(row.maps_per_second, "{:,.0f}"),
        Cell(f"{row.fit_seconds:,.1f}", value=row.fit_seconds),
        _count(len(row.records)),
        _links(row.records),
    )
    return Row(anchor("evaluator", board.dataset_id, board.settings, row.evaluator), cells, best=row.rank == 1)


def _training_row(board: TrainingBoard, row: TrainingRow) -> Row:
    difference, point = row.difference, row.chosen
    cells = (
        Cell(row.family, is_name=True),
        Cell(f"{point.raf:g}", value=point.raf),
        _percent(point.validation_accuracy),
        _percent(point.test_accuracy),
        Cell(_NONE) if difference is None else _points(difference.estimate),
        Cell(_NONE) if row.holm_p is None else Cell(f"{row.holm_p:.3f}", value=row.holm_p),
        Cell(_NONE)
        if difference is None or difference.detectable is None
        else Cell(f"{100 * difference.detectable:.2f}", value=difference.detectable),
        _count(row.num_parameters),
        Cell(f"{row.seconds:,.1f}", value=row.seconds),
        _count(len(point.records)),
        _links(point.records),
    )
    return Row(anchor("training", board.dataset_id, board.settings, row.family), cells)


def _sweep_row(board: TrainingBoard, row: TrainingRow, point: SweepPoint) -> Row:
    cells = (
        Cell(row.family, is_name=True, mark="chosen" if point is row.chosen and len(row.sweep) > 1 else ""),
        Cell(f"{point.raf:g}", value=point.raf),
        _percent(point.validation_accuracy),
        _percent(point.test_accuracy),
        _count(len(point.records)),
        _links(point.records),
    )
    return Row(anchor("sweep", board.dataset_id, board.settings, row.family, f"{point.raf:g}"), cells)


def _number(estimate: Estimate) -> Cell:
    return _cell(estimate, "{:.3f}")


def _percent(share: Estimate) -> Cell:
    return _cell(share, "{:.1f}", 100, " %")


def _points(share: Estimate) -> Cell:
    return _cell(share, "{:+.2f}", 100)


def _cell(estimate: Estimate, form: str, scale: float = 1, unit: str = "") -> Cell:
    def show(value: float) -> str:
        return form.format(scale * value).replace("-", "\N{MINUS SIGN}")

    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f"[{show(estimate.low)}, {show(estimate.high)}]"
    return Cell(show(estimate.mean) + unit, estimate.mean, estimate.low, estimate.high, interval)


def _count(number: int) -> Cell:
    return Cell(f"{number:,}", value=number)


def _links(records: Sequence[EvaluatorRecord | TrainingRecord]) -> Cell:
    """The way to the records of one method, which lie in one folder and have one page."""
    text = f"{len(records)} record{'s' if len(records) > 1 else ''}"
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

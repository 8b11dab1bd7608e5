"""Boards -> tables of cells. The page and the Markdown file show these tables, so their numbers are the same."""

from __future__ import annotations

from collections.abc import Sequence

from fmcs_bench.leaderboard.cells import (
    EMPTY,
    NONE,
    PARAMETERS,
    RECORDS,
    SEEDS,
    Cell,
    Column,
    Row,
    Table,
    address,
    anchor,
    board_name,
    cell,
    count,
    links,
    number,
    percent,
)
from fmcs_bench.leaderboard.training_tables import (
    CHOICE_COLUMNS,
    TRAINING_COLUMNS,
    choice_summary,
    choice_table,
    seed_table,
    sweep_table,
    training_table,
)
from fmcs_bench.results.evaluator_board import EvaluatorBoard, EvaluatorRow
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.records import Subset as Images

__all__ = [
    "CHOICE_COLUMNS",
    "EVALUATOR_COLUMNS",
    "TRAINING_COLUMNS",
    "address",
    "anchor",
    "choice_summary",
    "choice_table",
    "environment_table",
    "evaluator_table",
    "seed_table",
    "sweep_table",
    "test_on_table",
    "training_table",
]

_IMAGES: dict[Images, str] = {
    "test_run": "test images of a run that it never saw; the headline, and what the rank is made from",
    "same_run": "other images, but of the runs it was fitted on",
    "unseen": "the source's own test images; neither backbones nor evaluators were trained on them",
}


EVALUATOR_COLUMNS = (
    Column("Rank", "", "1 plus the number of evaluators that are clearly better (see above); equal ranks are ties"),
    Column("Evaluator", "", "the judge; “chosen” marks the one that goes into training", False),
    *(Column("MAE", part.replace("_", " "), f"mean absolute error in stages: {meaning}", headline=part == "test_run")
      for part, meaning in _IMAGES.items()),
    Column("Accuracy", "test run", "share of maps whose stage is named exactly, on the images of MAE, test run"),
    Column("Accuracy", "same run", "the same on the images of MAE, same run"),
    Column("Spearman", "", "rank correlation of the mean score and the backbone's validation accuracy, over all "
           "checkpoints of the test run; 1 is best, a dash where one of them never changes"),
    PARAMETERS,
    Column("FLOPs", "per map", "products and convolutions of one answer, a multiply-add as two; a dash where it is no "
           "network or was not counted"),
    Column("Speed", "maps/s", "maps of the test run judged per second, in one call, on the machine that the record "
           "names; a dash where it was not measured"),
    Column("Fit", "seconds", "mean wall time of one fit, on the machine that the record names"),
    SEEDS,
    RECORDS,
)  # fmt: skip

_ENVIRONMENT_COLUMNS = tuple(
    Column(title, "", "", title == "Records")
    for title in ("Records", "fmcs-bench", "Code", "Python", "torch", "Device", "Processor", "First method")
)


def evaluator_table(board: EvaluatorBoard) -> Table:
    """The evaluator board."""
    return Table(
        anchor=anchor("evaluators", board.dataset_id, board.settings),
        caption=f"Evaluators on {board_name(board)}: mean over fits with 95 % interval, on one test run"
        + (f"; each fit the best on the validation run of {board.grid}" if board.grid else ""),
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
        caption=f"The same fits, from {board_name(board)}, on other datasets: MAE, mean over fits with 95 % interval",
        columns=(EVALUATOR_COLUMNS[1], *(Column(other, "", meaning) for other in others)),
        rows=tuple(
            Row(
                anchor("test-on", board.dataset_id, board.settings, row.evaluator),
                (
                    Cell(
                        row.evaluator,
                        is_name=True,
                        mark="chosen" if row.chosen else "",
                        links=links(row.records).links,
                    ),
                    *(number(row.test_on[other]) if other in row.test_on else EMPTY for other in others),
                ),
            )
            for row in board.rows
        ),
    )


def environment_table(dataset_id: str, records: Sequence[EvaluatorRecord | TrainingRecord]) -> Table:
    """What software and hardware made the records; more than one row means that they differ."""
    found: dict[tuple[str, ...], list[EvaluatorRecord | TrainingRecord]] = {}
    for record in records:
        made = record.environment
        torch = made.libraries.get("torch", NONE)
        texts = (made.fmcs_bench, made.code_digest[:12], made.python, torch, made.device, made.processor)
        found.setdefault(texts, []).append(record)
    return Table(
        anchor=anchor("made-with", dataset_id),
        caption=f"Software and hardware behind the records of {dataset_id}",
        columns=_ENVIRONMENT_COLUMNS,
        rows=tuple(
            Row("", (count(len(own)), *map(Cell, texts), links(own, own[0].method)))
            for texts, own in sorted(found.items(), key=lambda item: item[0])
        ),
    )


def _evaluator_row(board: EvaluatorBoard, row: EvaluatorRow) -> Row:
    cells = (
        Cell(str(row.rank), value=row.rank.best),
        Cell(row.evaluator, is_name=True, mark="chosen" if row.chosen else ""),
        *(number(row.mae[part]) for part in _IMAGES),
        percent(row.accuracy["test_run"]),
        percent(row.accuracy["same_run"]),
        EMPTY if row.spearman is None else number(row.spearman),
        count(row.num_parameters),
        EMPTY if row.flops_per_map is None else count(row.flops_per_map),
        EMPTY if row.maps_per_second is None else cell(row.maps_per_second, "{:,.0f}"),
        Cell(f"{row.fit_seconds:,.1f}", value=row.fit_seconds),
        count(len(row.records)),
        links(row.records),
    )
    return Row(anchor("evaluator", board.dataset_id, board.settings, row.evaluator), cells, best=row.rank.best == 1)

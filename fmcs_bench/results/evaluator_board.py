"""Records of the evaluator track -> the rows of the evaluator board, and its columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fmcs_bench.results import board, statistics
from fmcs_bench.results.board import Column, Table
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord, Subset
from fmcs_bench.results.statistics import CORRELATION, ERROR, SHARE, Estimate, Range, Rank

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class EvaluatorRow:
    """One evaluator over its seeds; ``metrics["mae"]["test_run"]`` is the headline, and ``rank`` is made from it.

    ``spearman`` is that of mean score and validation accuracy along the test run. ``test_on`` has the MAE on the test
    runs of other datasets. ``chosen`` has the lowest mean MAE on the validation run, of all differentiable evaluators
    with all seeds but the controls.
    """

    evaluator: str
    rank: Rank
    metrics: dict[str, dict[Subset, Estimate]]
    spearman: Estimate | None
    num_parameters: int
    flops_per_map: int | None
    maps_per_second: Estimate | None
    fit_seconds: float
    test_on: dict[str, Estimate]
    chosen: bool
    control: bool
    records: tuple[EvaluatorRecord, ...]

    @property
    def mae(self) -> dict[Subset, Estimate]:
        """Mean absolute error in stages, by subset."""
        return self.metrics["mae"]


_ALL = "page terminal narrow"
_SUBSETS: dict[Subset, str] = {
    "test_run": "test images of a run that no evaluator was fitted on; the headline, which the rank is made from",
    "same_run": "images that it was not fitted on, of the runs that it was fitted on",
    "unseen": "the source's own test images; neither backbones nor evaluators were trained on them",
    "validation_run": "images of the validation run, which chooses the evaluator that goes into training",
}
_METRICS: dict[str, tuple[str, str, Range]] = {
    "mae": ("MAE", "mean absolute error in stages", ERROR),
    "accuracy": ("Accuracy", "share of maps whose stage is named exactly", SHARE),
    "within_one": ("Within one", "share of maps at most one stage off", SHARE),
    "kappa": ("Kappa", "Cohen's kappa with quadratic weights", CORRELATION),
    "tau_b": ("Tau-b", "Kendall's rank correlation of score and stage in an image, mean over images", CORRELATION),
    "violations": ("Violations", "share of neighbouring stages of an image whose score falls", SHARE),
    "log_loss": ("Log loss", "cross-entropy in nats", ERROR),
    "ece": ("ECE", "expected calibration error", SHARE),
}
_SHOWN = {"mae_test_run": (f"{_ALL} readme", ""), "mae_same_run": ("page readme", "terminal narrow"),
          "mae_unseen": ("page", ""), "accuracy_test_run": ("page", "terminal"),
          "accuracy_same_run": ("page", "")}  # fmt: skip


def _metric_column(metric: str, subset: Subset) -> Column[EvaluatorRow]:
    views, brief = _SHOWN.get(name := f"{metric}_{subset}", ("", ""))
    label, meaning, _ = _METRICS[metric]
    is_percentage = metric in ("accuracy", "within_one", "violations")
    return Column(
        name,
        f"{label}, {subset.replace('_', ' ')}{' (%)' if is_percentage else ''}",
        lambda row: row.metrics[metric][subset],
        f"{meaning}: {_SUBSETS[subset]}",
        board.PERCENT if is_percentage else board.NUMBER,
        views,
        brief,
    )


EVALUATOR_COLUMNS: tuple[Column[EvaluatorRow], ...] = (
    Column("rank", "Rank", lambda row: row.rank, "best to worst that the intervals over fits allow, by MAE on the test "
           "run; rows are ordered by the mean", views=_ALL),
    Column("evaluator", "Evaluator", lambda row: row.evaluator, "“chosen” goes into training, a “control” is there "
           "for comparison", views=f"{_ALL} readme test_on", numeric=False,
           mark=lambda row: "chosen" if row.chosen else "control" if row.control else ""),
    *(_metric_column(metric, subset) for metric in _METRICS for subset in _SUBSETS),
    Column("spearman", "Spearman", lambda row: row.spearman, "rank correlation of the mean score and the backbone's "
           "validation accuracy, over all checkpoints of the test run; 1 is best, a dash where one of them never "
           "changes", views="page", brief="terminal narrow"),
    Column("num_parameters", "Parameters", lambda row: row.num_parameters, "trainable numbers", board.COUNT,
           "page terminal"),
    Column("flops_per_map", "FLOPs, per map", lambda row: row.flops_per_map, "products and convolutions of one answer, "
           "a multiply-add as two; a dash where it is no network or was not counted", board.COUNT, "page"),
    Column("maps_per_second", "Speed, maps/s", lambda row: row.maps_per_second, "maps of the test run in one call, on "
           "the machine that the record names", board.COUNT, "page"),
    Column("fit_seconds", "Fit, seconds", lambda row: row.fit_seconds, "mean wall time of one fit, on the machine that "
           "the record names", board.SECONDS, "page"),
    Column("num_seeds", "Seeds", lambda row: len(row.records), "fits, each from a seed of its own", board.COUNT,
           "page terminal"),
)  # fmt: skip
"""Everything that a view of the evaluator board shows; a column without views is in the DataFrame alone."""


@dataclass(frozen=True, repr=False)
class EvaluatorBoard:
    """All evaluators on one FMCS dataset that were fitted with equal settings, ordered by MAE on the test run."""

    dataset_id: str
    settings: str
    num_stages: int
    rows: tuple[EvaluatorRow, ...]

    @property
    def chosen(self) -> EvaluatorRow | None:
        """The evaluator that goes into training: chosen on the validation run, never on the test run."""
        return next((row for row in self.rows if row.chosen), None)

    @property
    def tested_on(self) -> list[str]:
        """Ids of the other datasets that a row was tested on."""
        return sorted({other for row in self.rows for other in row.test_on})

    @property
    def grid(self) -> str:
        """The values of the recipe that were tried, and which evaluators use no recipe; empty without a grid."""
        searches = {row.evaluator: row.records[0].grid_search for row in self.rows}
        without = sorted(name for name, search in searches.items() if search is not None and not search.attempts)
        applies_not = f" (not of {', '.join(without)}, which use no recipe)" if without else ""
        tried = self.rows[0].records[0].trial.grid
        in_words = "; ".join(f"{name} = {', '.join(map(str, values))}" for name, values in tried.items())
        return f"{in_words}{applies_not}" if tried else ""

    @property
    def columns(self) -> tuple[Column[EvaluatorRow], ...]:
        """``EVALUATOR_COLUMNS``, and the MAE on every other dataset."""
        meaning = "MAE on the test images of that dataset's test run, by fits that saw nothing of it"

        def on(other: str) -> Column[EvaluatorRow]:
            return Column(f"mae_on_{other}", other, lambda row: row.test_on.get(other), meaning, views="test_on")

        return (*EVALUATOR_COLUMNS, *map(on, self.tested_on))

    def table(self, view: str = "terminal") -> Table[EvaluatorRow]:
        """A view: ``terminal``, ``narrow``, ``page``, ``readme``, or ``test_on``: MAE on other datasets."""
        if view == "test_on":
            title = f"The same fits, from {self.dataset_id}, on the test runs of other datasets: MAE"
            note = "-: takes only maps of the shape that it was fitted on, or not every seed was tested"
        else:
            title = f"Evaluators on {self.dataset_id}: MAE in stages of {self.num_stages}"
            note = "[95 % interval over fits] on one test run; rank: the range that the intervals allow"
            note += f"\ntried, best on the validation run kept: {self.grid}" if self.grid else ""
        return Table.of(self.columns, self.rows, view, title, note)

    def frame(self) -> pd.DataFrame:
        """Every number of the board, a row for each evaluator; intervals in ``<name>_low`` and ``<name>_high``."""
        return board.frame(self.columns, self.rows)

    def __repr__(self) -> str:
        return str(self.table("terminal"))


def evaluator_boards(records: Iterable[EvaluatorRecord]) -> list[EvaluatorBoard]:
    """One board for each FMCS dataset and settings among the records, ordered by name."""
    return [_evaluator_board(*key, group) for key, group in board.comparable(records).items()]


def _evaluator_board(dataset_id: str, settings: str, records: Sequence[EvaluatorRecord]) -> EvaluatorBoard:
    groups: dict[str, list[EvaluatorRecord]] = {}
    for record in records:
        groups.setdefault(record.method, []).append(record)
    test_mae = {name: [record.metrics["test_run"].mae for record in group] for name, group in groups.items()}
    ranks = statistics.rank_ranges(test_mae, smaller_is_better=True)
    candidates = {name: group for name, group in groups.items() if group[0].differentiable and not group[0].control}
    enough = board.enough_seeds(candidates.values())
    validation = {
        name: statistics.estimate([record.metrics["validation_run"].mae for record in group]).mean
        for name, group in candidates.items()
        if len(group) >= enough
    }
    chosen = min(validation, key=lambda name: (validation[name], name)) if validation else None
    rows = [_evaluator_row(name, tuple(group), ranks[name], name == chosen) for name, group in groups.items()]
    rows.sort(key=lambda row: (row.mae["test_run"].mean, row.evaluator))
    return EvaluatorBoard(dataset_id, settings, records[0].num_stages, tuple(rows))


def _evaluator_row(name: str, group: tuple[EvaluatorRecord, ...], rank: Rank, chosen: bool) -> EvaluatorRow:
    def metric(metric: str, subset: Subset) -> Estimate:
        return statistics.estimate([getattr(record.metrics[subset], metric) for record in group], _METRICS[metric][2])

    return EvaluatorRow(
        evaluator=name,
        rank=rank,
        metrics={name: {subset: metric(name, subset) for subset in SUBSETS} for name in _METRICS},
        spearman=statistics.estimate_of_all([record.trajectory.spearman for record in group], CORRELATION),
        num_parameters=group[0].cost.num_parameters,
        flops_per_map=group[0].cost.flops_per_map,
        maps_per_second=statistics.estimate_of_all([record.cost.maps_per_second for record in group], ERROR),
        fit_seconds=statistics.estimate([record.cost.seconds for record in group]).mean,
        test_on={
            other: statistics.estimate([record.test_on[other].mae for record in group], ERROR)
            for other in sorted(set.intersection(*(set(record.test_on) for record in group)))
        },
        chosen=chosen,
        control=group[0].control,
        records=group,
    )

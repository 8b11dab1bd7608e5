"""Records of the evaluator track -> the rows of the evaluator board."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fmcs_bench.results import statistics
from fmcs_bench.results.grid import said
from fmcs_bench.results.grouping import comparable, enough_seeds
from fmcs_bench.results.records import EvaluatorRecord
from fmcs_bench.results.statistics import Estimate

Column = Literal["validation_run", "same_run", "test_run", "unseen"]
COLUMNS: tuple[Column, ...] = get_args(Column)


@dataclass(frozen=True)
class EvaluatorRow:
    """One evaluator over its seeds.

    Attributes:
        rank: by MAE on the test run; evaluators that cannot be told apart share a rank.
        mae: in stages, for each column.
        accuracy: share of exact stages, for each column.
        spearman: rank correlation of mean score and validation accuracy along the test run; None where undefined.
        flops_per_map: see ``fmcs_bench.evaluator_track.calls``; None where there is no network, or it was not counted.
        maps_per_second: answers on the test run; None where not every seed was measured.
        test_on: MAE on the test runs of other datasets, by their ids, where every seed was tested there.
        chosen: it has the lowest mean MAE on the validation run, of all differentiable evaluators with all seeds but
            the controls.
        records: one per seed, ordered by seed.
    """

    evaluator: str
    rank: int
    mae: dict[Column, Estimate]
    accuracy: dict[Column, Estimate]
    spearman: Estimate | None
    num_parameters: int
    flops_per_map: int | None
    maps_per_second: Estimate | None
    fit_seconds: float
    test_on: dict[str, Estimate]
    chosen: bool
    records: tuple[EvaluatorRecord, ...]


@dataclass(frozen=True, repr=False)
class EvaluatorBoard:
    """All evaluators on one FMCS dataset that were fitted with equal settings, by rank."""

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
        """The values of the recipe that were tried, in words, and who uses no recipe; empty where there is no grid."""
        searches = {row.evaluator: row.records[0].grid_search for row in self.rows}
        without = sorted(name for name, search in searches.items() if search is not None and not search.trials)
        applies_not = f" (not of {', '.join(without)}, which use no recipe)" if without else ""
        return f"{said(tried)}{applies_not}" if (tried := self.rows[0].records[0].unit.grid) else ""

    def __repr__(self) -> str:
        lines = [f"Evaluators on {self.dataset_id} (MAE in stages of {self.num_stages}; test run is the headline)"]
        for row in self.rows:
            mark = "*" if row.chosen else " "
            lines.append(f"{row.rank:>2} {mark} {row.evaluator:<12} same run {row.mae['same_run']}   "
                         f"test run {row.mae['test_run']}")  # fmt: skip
        return "\n".join([*lines, "* chosen on the validation run"])


def evaluator_boards(records: Iterable[EvaluatorRecord]) -> list[EvaluatorBoard]:
    """One board for each FMCS dataset and settings among the records, ordered by name."""
    return [_evaluator_board(*key, group) for key, group in comparable(records).items()]


def _evaluator_board(dataset_id: str, settings: str, records: Sequence[EvaluatorRecord]) -> EvaluatorBoard:
    groups: dict[str, list[EvaluatorRecord]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        groups.setdefault(record.method, []).append(record)
    test_mae = {name: [record.metrics["test_run"].mae for record in group] for name, group in groups.items()}
    ranks = statistics.tied_ranks(test_mae, smaller_is_better=True)
    judges = {name: group for name, group in groups.items() if group[0].differentiable and not group[0].control}
    enough = enough_seeds(judges.values())
    validation = {
        name: statistics.estimate([record.metrics["validation_run"].mae for record in group]).mean
        for name, group in judges.items()
        if len(group) >= enough
    }
    chosen = min(validation, key=lambda name: (validation[name], name)) if validation else None
    rows = [_evaluator_row(name, tuple(group), ranks[name], name == chosen) for name, group in groups.items()]
    rows.sort(key=lambda row: (row.rank, row.mae["test_run"].mean, row.evaluator))
    return EvaluatorBoard(dataset_id, settings, records[0].num_stages, tuple(rows))


def _evaluator_row(name: str, group: tuple[EvaluatorRecord, ...], rank: int, chosen: bool) -> EvaluatorRow:
    correlations = [record.trajectory.spearman for record in group]
    defined = [value for value in correlations if value is not None]
    speeds = [record.cost.maps_per_second for record in group if record.cost.maps_per_second is not None]
    return EvaluatorRow(
        evaluator=name,
        rank=rank,
        mae={c: statistics.estimate([record.metrics[c].mae for record in group]) for c in COLUMNS},
        accuracy={c: statistics.estimate([record.metrics[c].accuracy for record in group]) for c in COLUMNS},
        spearman=statistics.estimate(defined) if len(defined) == len(group) else None,
        num_parameters=group[0].cost.num_parameters,
        flops_per_map=group[0].cost.flops_per_map,
        maps_per_second=statistics.estimate(speeds) if len(speeds) == len(group) else None,
        fit_seconds=statistics.estimate([record.cost.seconds for record in group]).mean,
        test_on={
            other: statistics.estimate([record.test_on[other].mae for record in group])
            for other in sorted(set.intersection(*(set(record.test_on) for record in group)))
        },
        chosen=chosen,
        records=group,
    )

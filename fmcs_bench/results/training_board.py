"""Records of the training track -> the rows of the training board, and its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fmcs_bench.core.errors import RecordError
from fmcs_bench.results import board, statistics
from fmcs_bench.results.board import Column, Form, Table
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.statistics import SHARE, Estimate, Optimism, PairedDifference, Range

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "baseline"
_BySeed = Mapping[int, float | None] | Mapping[int, float]
_OF_SHARES: Range = (-1.0, 1.0)


@dataclass(frozen=True)
class SweepPoint:
    """One RAF of a family over its seeds. Accuracy and score are those of the weights that were tested.

    ``score`` is None where a record was not watched, or by a different evaluator than the baseline. The differences to
    the baseline are by the seeds that both have.
    """

    raf: float
    validation_accuracy: Estimate
    test_accuracy: Estimate
    best_test_accuracy: Estimate | None
    score: Estimate | None
    epoch: Estimate | None
    test_differences: Mapping[int, float] = field(repr=False)
    score_differences: Mapping[int, float] = field(repr=False)
    records: tuple[TrainingRecord, ...] = field(repr=False)

    @cached_property
    def difference(self) -> PairedDifference | None:
        """Test accuracy minus the baseline's at equal seeds; None where there is none."""
        return _paired(self.test_differences, _OF_SHARES)

    @cached_property
    def score_difference(self) -> PairedDifference | None:
        """Score minus the baseline's at equal seeds; None where there is none."""
        largest = self.records[0].num_stages - 1.0
        return _paired(self.score_differences, (-largest, largest))

    @cached_property
    def accuracy_curve(self) -> tuple[Estimate, ...]:
        """Validation accuracy after every epoch."""
        lengths = sorted({len(record.curve) for record in self.records})
        if len(lengths) > 1:
            name = self.records[0].method
            raise RecordError(f"the seeds of {name} were trained for {lengths} epochs; train them again")
        epochs = zip(*(record.curve for record in self.records), strict=True)
        return tuple(statistics.estimate([epoch.validation for epoch in each], SHARE) for each in epochs)


@dataclass(frozen=True)
class Choice:
    """What choosing the RAF of a family gains on paper, from the seeds that every RAF has; accuracies are shares.

    ``validation`` and ``test`` choose and report on the same images, ``headline`` chooses on validation and reports on
    test images. ``added_by_test``: test accuracy of ``picked_on_test`` minus that of the chosen point.
    """

    validation: Optimism
    test: Optimism
    headline: Optimism
    picked_on_test: SweepPoint
    added_by_test: float


@dataclass(frozen=True)
class TrainingRow:
    """One family of methods (``ral-set``) at the RAF that was chosen on validation images; ``sweep`` has all.

    ``holm_p`` is corrected over the rows of the board, ``seconds`` the mean wall time of one training.
    """

    family: str
    control: bool
    chosen: SweepPoint
    sweep: tuple[SweepPoint, ...]
    choice: Choice | None
    holm_p: float | None
    num_parameters: int
    seconds: float

    @property
    def difference(self) -> PairedDifference | None:
        """That of the chosen point."""
        return self.chosen.difference


class Entry(NamedTuple):
    """One line of a view: a row at one of its points."""

    row: TrainingRow
    point: SweepPoint

    def of_difference(self, name: str) -> Any:
        """``estimate``, ``p_value``, ... of the difference to the baseline; None where there is none."""
        return getattr(self.point.difference, name, None)

    def of_choice(self, name: str) -> Any:
        """Points of an optimism, or ``added_by_test``; None where there was no choice."""
        found = getattr(self.row.choice, name, None)
        return getattr(found, "points", found)


def _mark(entry: Entry) -> str:
    is_choice = len(entry.row.sweep) > 1 and entry.point is entry.row.chosen
    return ", ".join(["control"] * entry.row.control + ["chosen"] * is_choice)


_MAIN = "terminal page readme"
TRAINING_COLUMNS: tuple[Column[Entry], ...] = (
    Column("method", "Method", lambda e: e.row.family, "network, constraint, objective and the evaluator in the loss; "
           "a “control” is there for comparison, at equal cost", views="terminal page readme choice score seeds",
           mark=lambda e: "control" if e.row.control else "", numeric=False),
    Column("method_at_raf", "Method", lambda e: e.row.family, "as on the board; the “chosen” RAF has the highest "
           "validation accuracy", views="sweep", mark=_mark, numeric=False),
    Column("raf", "RAF", lambda e: e.point.raf, "weight of the classification loss, chosen on validation images; 1 is "
           "classification alone", board.PLAIN, f"{_MAIN} choice sweep seeds"),
    Column("validation_accuracy", "Validation, %", lambda e: e.point.validation_accuracy, "accuracy on the images that "
           "RAF and epoch were chosen on, so it is a little too high", board.PERCENT, "page sweep", "terminal"),
    Column("test_accuracy", "Test, %", lambda e: e.point.test_accuracy, "accuracy on the test images, read once, with "
           "the weights of the chosen epoch; rows are ordered by it", board.PERCENT, "page readme sweep", "terminal"),
    Column("test_accuracy_sd", "SD, pp", lambda e: e.point.test_accuracy.std, "standard deviation of the test accuracy "
           "over seeds", board.SPREAD, "terminal page sweep"),
    Column("best_test_accuracy", "Best epoch on test, %", lambda e: e.point.best_test_accuracy,
           "test accuracy at the epoch that is best on the test images themselves, as some papers report it: it is "
           "too high, and stands here only beside such numbers", board.PERCENT, "page sweep", optional=True),
    Column("difference", "Difference, pp", lambda e: e.of_difference("estimate"), "test accuracy minus the baseline's "
           "at the same seeds: same first weights, same batches", board.POINTS, f"{_MAIN} sweep"),
    Column("p", "p", lambda e: e.of_difference("p_value"), "two-sided exact sign-flip test of the difference",
           Form(".4f"), "page"),
    Column("smallest_p", "p, smallest", lambda e: e.of_difference("smallest_p"), "the smallest p that this many seeds "
           "can give, whatever the effect: 2 of 2ⁿ flips", Form(".4f"), "page"),
    Column("holm_p", "p, Holm", lambda e: e.row.holm_p, "p corrected for the number of rows (Holm)", board.P_VALUE,
           "terminal page"),
    Column("detectable", "Detectable, pp", lambda e: e.of_difference("detectable"), "smallest true difference that "
           "this many seeds find with a probability of 0.8, given the spread seen", board.SPREAD,
           "terminal page sweep"),
    Column("score", "Score", lambda e: e.point.score, "mean FMCS, in stages, that the board's chosen evaluator gives "
           "the validation images with the tested weights", board.SCORE, "page sweep score", optional=True),
    Column("score_difference", "Score difference, stages",
           lambda e: getattr(e.point.score_difference, "estimate", None), "score minus the baseline's at the same "
           "seeds", board.DIFFERENCE, "page readme sweep score", optional=True),
    Column("epoch", "Epoch, chosen", lambda e: e.point.epoch, "whose weights were tested: the one with the highest "
           "validation accuracy; mean", Form(".1f"), "", "page sweep score", optional=True),
    Column("num_parameters", "Parameters", lambda e: e.row.num_parameters, "trainable numbers in the network",
           board.COUNT, "page"),
    Column("seconds", "Training, seconds", lambda e: e.row.seconds, "mean wall time of one training, on the machine "
           "that the record names", board.SECONDS, "page"),
    Column("num_seeds", "Seeds", lambda e: len(e.point.records), "trainings, each from a seed of its own", board.COUNT,
           "terminal page sweep"),
    Column("optimism_validation", "Optimism, validation, pp", lambda e: e.of_choice("validation"),
           "how much higher its validation accuracy is than that of seeds that had no part in choosing it (one left "
           "out at a time)", board.POINTS, "choice"),
    Column("optimism_headline", "Optimism, headline, pp", lambda e: e.of_choice("headline"),
           "the same of the test accuracy on this board, where validation images choose", board.POINTS, "choice"),
    Column("raf_by_test", "RAF, by test", lambda e: e.row.choice.picked_on_test.raf if e.row.choice else None,
           "the one that the test images pick", board.PLAIN, "choice"),
    Column("added_by_test", "Added by test, pp", lambda e: e.of_choice("added_by_test"),
           "how much higher the test accuracy is where RAF is chosen on the test images, as in papers without "
           "validation images", board.POINTS, "choice"),
    Column("optimism_test", "Optimism, test, pp", lambda e: e.of_choice("test"), "how much higher that accuracy is "
           "than the test accuracy of seeds that had no part in choosing it", board.POINTS, "choice"),
)  # fmt: skip
"""Everything that a view of the training board shows."""


@dataclass(frozen=True, repr=False)
class TrainingBoard:
    """All methods that were trained with equal settings, ordered by test accuracy."""

    dataset_id: str
    settings: str
    rows: tuple[TrainingRow, ...]

    @property
    def baseline(self) -> TrainingRow | None:
        """The row that all others are compared with."""
        return next((row for row in self.rows if row.family == BASELINE), None)

    @property
    def num_tested(self) -> int:
        """Rows with a p-value: the family that Holm's correction covers."""
        return len(self._smallest)

    @property
    def smallest_p(self) -> float | None:
        """The smallest p-value that the numbers of seeds here can give, whatever the effect; None without a test."""
        return min(self._smallest, default=None)

    @property
    def smallest_holm_p(self) -> float | None:
        """The same after Holm's correction: where it is 1, the corrected p-values here can show nothing."""
        return statistics.smallest_holm_p_value(self._smallest) if self._smallest else None

    @property
    def _smallest(self) -> list[float]:
        return [row.difference.smallest_p for row in self.rows if row.difference and row.holm_p is not None]

    def table(self, view: str = "terminal") -> Table[Entry]:
        """A view: ``terminal``, ``page`` or ``readme``.

        Or ``choice``: what choosing the RAF gains on paper; ``score``; ``sweep``: every RAF; ``seeds``: every seed.
        """
        entries = [Entry(row, point) for row in self.rows for point in (row.sweep if view == "sweep" else [row.chosen])]
        if view in ("choice", "score"):
            entries = [e for e in entries if (e.row.choice if view == "choice" else e.point.score) is not None]
        title, note = _TEXTS.get(view, (f"Training methods on {self.dataset_id}: mean over seeds [95 % interval]", ""))
        if view in ("terminal", "page"):
            note = "difference: to the baseline at equal seeds; p: sign-flip test; detectable: with probability 0.8"
            if self.smallest_p is not None:
                note += f"\nwith this many seeds p is at least {self.smallest_p:.4g}, "
                note += f"and corrected for {self.num_tested} rows at least {self.smallest_holm_p:.3g}"
        columns = TRAINING_COLUMNS
        if view == "seeds":
            columns += tuple(map(_seed_column, sorted({r.seed for entry in entries for r in entry.point.records})))
        return Table.of(columns, entries, view, title, note)

    def frame(self) -> pd.DataFrame:
        """Every number of the board, a row a method at its chosen RAF; intervals in ``<name>_low``, ``<name>_high``."""
        columns = (column for column in TRAINING_COLUMNS if column.name != "method_at_raf")
        return board.frame(columns, [Entry(row, row.chosen) for row in self.rows])

    def __repr__(self) -> str:
        return str(self.table())


_TEXTS = {
    "choice": (
        "What choosing the best RAF gains on paper, in points of accuracy",
        "optimism: how much higher the accuracy is than that of seeds that had no part in choosing",
    ),
    "score": (
        "Mean score (FMCS) of the validation images with the tested weights [95 % interval]",
        "difference: score minus the baseline's at equal seeds; epoch: the one chosen, mean over seeds",
    ),
    "sweep": ("All RAF values, chosen or not", ""),
    "seeds": ("Test accuracy of every seed, in %", ""),
}


def _seed_column(seed: int) -> Column[Entry]:
    def value(entry: Entry) -> float | None:
        return next((r.metrics.test_accuracy for r in entry.point.records if r.seed == seed), None)

    return Column(f"seed_{seed}", f"Seed, {seed}", value, "test accuracy from this seed", board.PERCENT, "seeds")


def training_boards(records: Iterable[TrainingRecord]) -> list[TrainingBoard]:
    """One board for each FMCS dataset and settings among the records, ordered by name."""
    return [_training_board(*key, group) for key, group in board.comparable(records).items()]


def _training_board(dataset_id: str, settings: str, records: Sequence[TrainingRecord]) -> TrainingBoard:
    families: dict[str, dict[float, list[TrainingRecord]]] = {}
    for record in records:
        families.setdefault(record.trial.family, {}).setdefault(record.trial.method.raf, []).append(record)
    base = [record for group in families.get(BASELINE, {}).values() for record in group]
    sweeps = {}
    for family, points in families.items():
        compared = [] if family == BASELINE else base
        sweeps[family] = tuple(_sweep_point(raf, tuple(points[raf]), compared) for raf in sorted(points, reverse=True))
    chosen = {family: _choose(sweep) for family, sweep in sweeps.items()}
    p_values = {family: point.difference.p_value for family, point in chosen.items() if point.difference}
    tested = {family: p_value for family, p_value in p_values.items() if p_value is not None}
    adjusted = dict(zip(tested, statistics.holm(list(tested.values())), strict=True))
    rows = [
        TrainingRow(
            family=family,
            control=point.records[0].trial.method.is_control,
            chosen=point,
            sweep=sweeps[family],
            choice=_choice(sweeps[family]),
            holm_p=adjusted.get(family),
            num_parameters=point.records[0].cost.num_parameters,
            seconds=statistics.estimate([record.cost.seconds for record in point.records]).mean,
        )
        for family, point in chosen.items()
    ]
    rows.sort(key=lambda row: (-row.chosen.test_accuracy.mean, row.family))
    return TrainingBoard(dataset_id, settings, tuple(rows))


def _sweep_point(raf: float, records: tuple[TrainingRecord, ...], baseline: Sequence[TrainingRecord]) -> SweepPoint:
    """One point, compared with ``baseline``, which is empty for the baseline itself."""
    is_comparable = {_watcher(record) for record in records} <= {_watcher(record) for record in baseline or records}
    scores, tests = {r.seed: r.score for r in records}, {r.seed: r.metrics.test_accuracy for r in records}
    metrics = [record.metrics for record in records]
    return SweepPoint(
        raf=raf,
        validation_accuracy=statistics.estimate([each.validation_accuracy for each in metrics], SHARE),
        test_accuracy=statistics.estimate(list(tests.values()), SHARE),
        best_test_accuracy=statistics.estimate_of_all([each.best_test_accuracy for each in metrics], SHARE),
        score=statistics.estimate_of_all(list(scores.values()), (1, records[0].num_stages)) if is_comparable else None,
        epoch=statistics.estimate_of_all([each.epoch for each in metrics], statistics.ERROR),
        test_differences=_differences(tests, {r.seed: r.metrics.test_accuracy for r in baseline}),
        score_differences=_differences(scores, {r.seed: r.score for r in baseline}) if is_comparable else {},
        records=records,
    )


def _watcher(record: TrainingRecord) -> tuple[str | None, str | None]:
    return record.trial.watcher, record.trial.watcher_digest


def _differences(own: _BySeed, base: _BySeed) -> dict[int, float]:
    pairs = {seed: (own[seed], base[seed]) for seed in sorted(own.keys() & base.keys())}
    return {seed: a - b for seed, (a, b) in pairs.items() if a is not None and b is not None}


def _paired(differences: Mapping[int, float], within: Range) -> PairedDifference | None:
    values = list(differences.values())
    return statistics.paired_difference(values, [0.0] * len(values), within) if values else None


def _candidates(sweep: tuple[SweepPoint, ...]) -> list[SweepPoint]:
    enough = board.enough_seeds(point.records for point in sweep)
    return [point for point in sweep if len(point.records) >= enough]


def _choose(sweep: tuple[SweepPoint, ...]) -> SweepPoint:
    """The highest mean validation accuracy among those with enough seeds; of equals the largest RAF."""
    candidates = _candidates(sweep)
    return candidates[statistics.best([point.validation_accuracy.mean for point in candidates])]


def _choice(sweep: tuple[SweepPoint, ...]) -> Choice | None:
    """What choosing among these points gains on paper; None with fewer than two candidates or shared seeds."""
    candidates = _candidates(sweep)
    seeds = set.intersection(*({record.seed for record in point.records} for point in candidates))
    if len(candidates) < 2 or len(seeds) < 2:
        return None
    shared = [[record.metrics for record in point.records if record.seed in seeds] for point in candidates]
    validation_SC = np.array([[each.validation_accuracy for each in group] for group in shared]).T
    test_SC = np.array([[each.test_accuracy for each in group] for group in shared]).T
    on_test = candidates[statistics.best([point.test_accuracy.mean for point in candidates])]
    return Choice(
        validation=statistics.choice_optimism(validation_SC),
        test=statistics.choice_optimism(test_SC),
        headline=statistics.choice_optimism(validation_SC, test_SC),
        picked_on_test=on_test,
        added_by_test=on_test.test_accuracy.mean - _choose(sweep).test_accuracy.mean,
    )

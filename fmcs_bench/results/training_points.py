"""One method at one RAF over its seeds, and what choosing among several RAFs costs.

Flow: records of one method and RAF, accuracy and score of the baseline by seed -> ``SweepPoint``; the points of one
family -> the one with the highest mean validation accuracy, and ``Choice``, the optimism of choosing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fmcs_bench.core.errors import RecordError
from fmcs_bench.results import statistics
from fmcs_bench.results.grouping import enough_seeds
from fmcs_bench.results.records import Epoch, TrainingRecord
from fmcs_bench.results.selection_bias import Optimism, best, choice_optimism
from fmcs_bench.results.statistics import Estimate, PairedDifference

_CONTROL = re.compile(
    r"(label-smoothing|longer|equal-parameters)(-.+)?"
    r"|single-(?!.*-(ral|fmcs-only)(-|$)).+"
    r"|(.+-)?(ral|fmcs-only)-(random|permuted)(-.+)?"
)


def is_control(family: str) -> bool:
    """Whether a family of methods is there to be beaten, at equal cost, and not to win.

    Controls are recipes and single networks that do without a judge, and RAL with a judge that knows nothing: of
    random weights, or fitted on permuted labels.

    Example:
        >>> [is_control(name) for name in ("ral-set", "fmcs-only-set", "ral-random-set", "longer-set")]
        [False, False, True, True]
    """
    return _CONTROL.fullmatch(family) is not None


@dataclass(frozen=True)
class SweepPoint:
    """One RAF of a family over its seeds. Accuracy and score are those of the weights that were tested.

    Attributes:
        raf: weight of the classification loss.
        validation_accuracy: on the images that RAF and epoch were chosen on.
        test_accuracy: on the test images.
        best_test_accuracy: at the epoch that is best on the test images themselves: it flatters. None where a record
            lacks it.
        score: mean FMCS that the watching evaluator gives the validation images, in stages; None where a record was
            not watched, or by another evaluator than the baseline: such scores do not compare.
        epoch: whose weights were tested; None where the last was taken without a choice.
        test_differences: test accuracy minus the baseline's, by the seeds that both have.
        score_differences: the same of the score.
        records: one per seed, ordered by seed.
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
        """Test accuracy minus the baseline's at equal seeds; None for the baseline and where no seed is shared."""
        return _paired(self.test_differences)

    @cached_property
    def score_difference(self) -> PairedDifference | None:
        """Score minus the baseline's at equal seeds; None as for ``difference``, and where one was not watched."""
        return _paired(self.score_differences)

    @cached_property
    def accuracy_curve(self) -> tuple[Estimate, ...]:
        """Validation accuracy after every epoch.

        Raises:
            RecordError: the seeds were not trained for the same epochs.
        """
        return tuple(statistics.estimate([epoch.validation for epoch in epochs]) for epochs in self._epochs())

    @cached_property
    def score_curve(self) -> tuple[Estimate, ...] | None:
        """Mean FMCS of the validation images after every epoch; None where there is no ``score``.

        Raises:
            RecordError: the seeds were not trained for the same epochs.
        """
        if self.score is None:
            return None
        scores = [[epoch.score for epoch in epochs if epoch.score is not None] for epochs in self._epochs()]
        if any(len(found) < len(self.records) for found in scores):
            return None
        return tuple(statistics.estimate(found) for found in scores)

    def _epochs(self) -> list[tuple[Epoch, ...]]:
        """For each epoch its entries, one per seed."""
        lengths = sorted({len(record.curve) for record in self.records})
        if len(lengths) > 1:
            raise RecordError(
                f"the seeds of {self.records[0].method} were trained for {lengths} epochs; records of one method and "
                "settings have the same number: train the others again"
            )
        return list(zip(*(record.curve for record in self.records), strict=True))


@dataclass(frozen=True)
class Choice:
    """What choosing the RAF of a family gains on paper; accuracies are shares.

    Only seeds that every RAF has are compared.

    Attributes:
        validation: chosen on validation images, and reported on them.
        test: chosen on test images, and reported on them, as in papers that have no validation images.
        headline: chosen on validation images, reported on test images: what is left of it in this board's test
            accuracy, because the trainings that choose are those that are reported. May be negative.
        picked_on_test: the point that the test images would have picked.
        added_by_test: its test accuracy minus that of the point that was chosen on validation images.
    """

    validation: Optimism
    test: Optimism
    headline: Optimism
    picked_on_test: SweepPoint
    added_by_test: float


def sweep_point(raf: float, records: tuple[TrainingRecord, ...], baseline: Sequence[TrainingRecord]) -> SweepPoint:
    """One point.

    Args:
        raf: of these records.
        records: one per seed, ordered by seed.
        baseline: records to compare with; empty for the baseline itself.

    Raises:
        RecordError: a record names an epoch that its curve does not have.
    """
    best_test = [record.metrics.best_test_accuracy for record in records]
    others = {_watcher(record) for record in records} - {_watcher(record) for record in baseline or records}
    scores = [None if others else tested_epoch(record).score for record in records]
    epochs = [record.metrics.epoch for record in records]
    return SweepPoint(
        raf=raf,
        validation_accuracy=statistics.estimate([record.metrics.validation_accuracy for record in records]),
        test_accuracy=statistics.estimate([record.metrics.test_accuracy for record in records]),
        best_test_accuracy=_estimate_of_all(best_test),
        score=_estimate_of_all(scores),
        epoch=_estimate_of_all(epochs),
        test_differences=_differences(_tests(records), _tests(baseline)),
        score_differences={} if others else _differences(_scores(records), _scores(baseline)),
        records=records,
    )


def tested_epoch(record: TrainingRecord) -> Epoch:
    """The epoch whose weights were tested: the chosen one, or the last.

    Raises:
        RecordError: the curve does not have it.
    """
    number = len(record.curve) if record.metrics.epoch is None else record.metrics.epoch
    found = next((epoch for epoch in record.curve if epoch.epoch == number), None)
    if found is None:
        raise RecordError(
            f"seed {record.seed} of {record.method} was tested after epoch {number}, which is not among the "
            f"{len(record.curve)} epochs of its curve; train it again"
        )
    return found


def choose(sweep: tuple[SweepPoint, ...]) -> SweepPoint:
    """The point with the highest mean validation accuracy, among those with enough seeds.

    Of equals it is the first, with the largest RAF, nearest to the baseline.
    """
    candidates = _candidates(sweep)
    return candidates[best([point.validation_accuracy.mean for point in candidates])]


def optimism_of(sweep: tuple[SweepPoint, ...]) -> Choice | None:
    """What choosing among these points gains on paper; None with fewer than two candidates or shared seeds."""
    candidates = _candidates(sweep)
    seeds = sorted(set.intersection(*({record.seed for record in point.records} for point in candidates)))
    if len(candidates) < 2 or len(seeds) < 2:
        return None
    shared = [[record for record in point.records if record.seed in seeds] for point in candidates]
    validation_SC = np.array([[record.metrics.validation_accuracy for record in group] for group in shared]).T
    test_SC = np.array([[record.metrics.test_accuracy for record in group] for group in shared]).T
    on_test = candidates[best([point.test_accuracy.mean for point in candidates])]
    return Choice(
        validation=choice_optimism(validation_SC),
        test=choice_optimism(test_SC),
        headline=choice_optimism(validation_SC, test_SC),
        picked_on_test=on_test,
        added_by_test=on_test.test_accuracy.mean - choose(sweep).test_accuracy.mean,
    )


def _candidates(sweep: tuple[SweepPoint, ...]) -> list[SweepPoint]:
    enough = enough_seeds(point.records for point in sweep)
    return [point for point in sweep if len(point.records) >= enough]


def _estimate_of_all(values: Sequence[float | None]) -> Estimate | None:
    """None where one of them is: a mean over some of the seeds could not stand beside the others."""
    found = [float(value) for value in values if value is not None]
    return statistics.estimate(found) if len(found) == len(values) else None


def _tests(records: Sequence[TrainingRecord]) -> dict[int, float]:
    return {record.seed: record.metrics.test_accuracy for record in records}


def _scores(records: Sequence[TrainingRecord]) -> dict[int, float]:
    scores = {record.seed: tested_epoch(record).score for record in records}
    return {seed: score for seed, score in scores.items() if score is not None}


def _watcher(record: TrainingRecord) -> tuple[str | None, str | None]:
    return record.unit.watcher, record.unit.watcher_digest


def _differences(own: Mapping[int, float], base: Mapping[int, float]) -> dict[int, float]:
    return {seed: own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())}


def _paired(differences: Mapping[int, float]) -> PairedDifference | None:
    if not differences:
        return None
    return statistics.paired_difference(list(differences.values()), [0.0] * len(differences))

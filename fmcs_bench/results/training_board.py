"""Records of the training track -> the rows of the training board.

Flow: records of equal settings -> families, each with its points, one per RAF -> the RAF chosen on validation images
and the difference to the baseline there, Holm over all rows -> rows: the baseline, methods, controls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fmcs_bench.results import statistics
from fmcs_bench.results.grouping import comparable
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.statistics import PairedDifference
from fmcs_bench.results.training_points import Choice, SweepPoint, choose, is_control, optimism_of, sweep_point

BASELINE = "baseline"


@dataclass(frozen=True)
class TrainingRow:
    """One family of methods at the RAF that was chosen on validation images.

    Attributes:
        family: method without its RAF, such as ``ral-set``.
        control: it is there to be beaten; see ``is_control``.
        chosen: the point of the sweep with the highest mean validation accuracy (of equals, the largest RAF).
        sweep: all RAF values, largest first; the chosen one is among them.
        choice: what choosing the RAF gains on paper; None where there was nothing to choose, or one seed.
        holm_p: sign-flip p-value after Holm's correction over the rows of the board; None as for ``difference``.
        seconds: mean wall time of one training.
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
        """Of the chosen point; None for the baseline itself and where no seed is shared with it."""
        return self.chosen.difference


@dataclass(frozen=True, repr=False)
class TrainingBoard:
    """All methods that were trained with equal settings: the baseline, methods, controls, each by difference to it."""

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
        return sum(row.holm_p is not None for row in self.rows)

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

    def __repr__(self) -> str:
        lines = [f"Training methods on {self.dataset_id} (test accuracy; paired difference to the baseline)"]
        for row in self.rows:
            name = row.family if row.chosen.raf == 1 else f"{row.family}@{row.chosen.raf:g}"
            name += " (control)" if row.control else ""
            difference = "" if row.difference is None else f"   difference {row.difference.estimate}"
            lines.append(f"  {name:<36} {row.chosen.test_accuracy}{difference}")
        return "\n".join(lines)


def training_boards(records: Iterable[TrainingRecord]) -> list[TrainingBoard]:
    """One board for each FMCS dataset and settings among the records, ordered by name."""
    return [_training_board(*key, group) for key, group in comparable(records).items()]


def _training_board(dataset_id: str, settings: str, records: Sequence[TrainingRecord]) -> TrainingBoard:
    families: dict[str, dict[float, list[TrainingRecord]]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        families.setdefault(record.unit.family, {}).setdefault(record.unit.method.raf, []).append(record)
    base = [record for group in families.get(BASELINE, {}).values() for record in group]
    sweeps = {
        family: tuple(
            sweep_point(raf, tuple(points[raf]), () if family == BASELINE else base)
            for raf in sorted(points, reverse=True)
        )
        for family, points in families.items()
    }
    chosen = {family: choose(sweep) for family, sweep in sweeps.items()}
    p_values = {family: point.difference.p_value for family, point in chosen.items() if point.difference}
    tested = {family: p_value for family, p_value in p_values.items() if p_value is not None}
    adjusted = dict(zip(tested, statistics.holm(list(tested.values())), strict=True))
    rows = [
        TrainingRow(
            family=family,
            control=is_control(family),
            chosen=point,
            sweep=sweeps[family],
            choice=optimism_of(sweeps[family]),
            holm_p=adjusted.get(family),
            num_parameters=point.records[0].cost.num_parameters,
            seconds=statistics.estimate([record.cost.seconds for record in point.records]).mean,
        )
        for family, point in chosen.items()
    ]
    rows.sort(key=_order)
    return TrainingBoard(dataset_id, settings, tuple(rows))


def _order(row: TrainingRow) -> tuple[bool, bool, float, str]:
    return row.family != BASELINE, row.control, -(row.difference.estimate.mean if row.difference else 0.0), row.family

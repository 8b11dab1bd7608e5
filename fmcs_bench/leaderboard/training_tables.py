"""The training board as tables: results, what choosing the RAF gains, every RAF, every seed.

Flow: board -> the columns that its records have something for -> a row for each family, point or seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fmcs_bench.leaderboard.cells import (
    EMPTY,
    PARAMETERS,
    RECORDS,
    SEEDS,
    Cell,
    Column,
    Row,
    Table,
    anchor,
    board_name,
    cell,
    count,
    links,
    percent,
    points,
)
from fmcs_bench.results.statistics import Optimism, PairedDifference
from fmcs_bench.results.training_board import Choice, SweepPoint, TrainingBoard, TrainingRow

_METHOD = Column(
    "Method", "", "network, constraint, objective and judge; RAL is trained against the frozen judge; a “control” is "
    "there to be beaten, at equal cost", False,
)  # fmt: skip
_RAF = Column("RAF", "", "weight of the classification loss")
_VALIDATION = Column(
    "Accuracy", "validation", "on the images that RAF and epoch were chosen on, so it flatters a little"
)
_TEST = Column("Accuracy", "test", "on the test images, read once, with the weights of the chosen epoch")
_SPREAD = Column("Spread", "test, pp", "standard deviation of the test accuracy over seeds, in percentage points")
_BEST = Column(
    "Best epoch on test", "flatters", "test accuracy at the epoch that is best on the test images themselves, as some "
    "papers report it; it is chosen by what it reports, and here only to stand beside such numbers",
)  # fmt: skip
_DIFFERENCE = Column(
    "Difference", "pp", "test accuracy minus the baseline's at the same seeds, in percentage points: same first "
    "weights, same batches",
)  # fmt: skip
_DETECTABLE = Column(
    "Detectable", "pp", "smallest true difference that this many seeds would find with a probability of 0.8, given the "
    "spread seen",
)  # fmt: skip
_SCORE = Column(
    "Score", "mean", "mean FMCS, in stages, that the board's chosen judge gives the validation images with the weights "
    "that were tested",
)  # fmt: skip
_SCORE_DIFFERENCE = Column("Score difference", "stages", "score minus the baseline's at the same seeds")
_EPOCH = Column("Epoch", "chosen", "whose weights were tested: the one with the highest validation accuracy; mean")


class _Part(NamedTuple):
    """A column of the results, and its cell for a point; a column with nothing in any row is left out."""

    column: Column
    cell: Callable[[SweepPoint], Cell]
    optional: bool = False


_POINT_PARTS = (
    _Part(_VALIDATION, lambda point: percent(point.validation_accuracy)),
    _Part(_TEST, lambda point: percent(point.test_accuracy)),
    _Part(_SPREAD, lambda point: _points_of(point.test_accuracy.std)),
    _Part(_BEST, lambda point: EMPTY if point.best_test_accuracy is None else percent(point.best_test_accuracy), True),
    _Part(_DIFFERENCE, lambda point: EMPTY if point.difference is None else points(point.difference.estimate)),
    _Part(_DETECTABLE, lambda point: _points_of(point.difference.detectable if point.difference else None)),
    _Part(_SCORE, lambda point: EMPTY if point.score is None else cell(point.score, "{:.2f}"), True),
    _Part(_SCORE_DIFFERENCE, lambda point: _score_difference(point.score_difference), True),
    _Part(_EPOCH, lambda point: EMPTY if point.epoch is None else _plain(point.epoch.mean, "{:.1f}"), True),
)
_P_COLUMNS = (
    Column("p", "", "two-sided exact sign-flip test of the difference: the share of all ways to flip the signs of the "
           "seeds' differences that give a mean at least as far from 0"),
    Column("p", "smallest", "the smallest p that this many seeds can give, whatever the effect: 2 of 2ⁿ flips, 1/16 "
           "with five seeds"),
    Column("p", "Holm", "p corrected for the number of rows (Holm)"),
)  # fmt: skip
_AFTER_DIFFERENCE = 1 + [part.column for part in _POINT_PARTS].index(_DIFFERENCE)

TRAINING_COLUMNS = (
    _METHOD,
    Column("RAF", "chosen", "weight of the classification loss with the highest mean validation accuracy; 1 is none of "
           "the judge's loss"),
    *(part.column for part in _POINT_PARTS[:_AFTER_DIFFERENCE]),
    *_P_COLUMNS,
    *(part.column for part in _POINT_PARTS[_AFTER_DIFFERENCE:]),
    PARAMETERS,
    Column("Training", "seconds", "mean wall time of one training, on the machine that the record names"),
    SEEDS,
    RECORDS,
)  # fmt: skip

CHOICE_COLUMNS = (
    _METHOD,
    Column("RAF", "by validation", "chosen on validation images, as on this board"),
    Column("Optimism", "validation, pp", "how much higher its validation accuracy is than that of seeds that had no "
           "part in choosing it (one left out at a time)"),
    Column("Optimism", "headline, pp", "the same of the test accuracy on this board, where validation images choose"),
    Column("RAF", "by test", "what the test images would have chosen"),
    Column("Added by test", "pp", "how much higher the test accuracy would be, had RAF been chosen on the test images, "
           "as papers without validation images do"),
    Column("Optimism", "test, pp", "how much higher that accuracy is than the test accuracy of seeds that had no part "
           "in choosing it"),
    Column("Records", "by RAF", "what was chosen among: a link to the records of each RAF", False),
)  # fmt: skip


def training_table(board: TrainingBoard) -> Table:
    """The training board, each method at the RAF chosen on validation images."""
    parts = _shown([row.chosen for row in board.rows])
    before = [part for part in parts if part in _POINT_PARTS[:_AFTER_DIFFERENCE]]
    after = [part for part in parts if part not in before]
    return Table(
        anchor=anchor("training", board.dataset_id, board.settings),
        caption=f"Training methods on {board_name(board)}: mean over seeds with 95 % interval{_limits(board)}",
        columns=(
            *TRAINING_COLUMNS[:2],
            *(part.column for part in before),
            *_P_COLUMNS,
            *(part.column for part in after),
            *TRAINING_COLUMNS[-4:],
        ),
        rows=tuple(
            Row(
                anchor("training", board.dataset_id, board.settings, row.family),
                (
                    _name(row),
                    _plain(row.chosen.raf, "{:g}"),
                    *(part.cell(row.chosen) for part in before),
                    *_p_cells(row),
                    *(part.cell(row.chosen) for part in after),
                    count(row.num_parameters),
                    _plain(row.seconds, "{:,.1f}"),
                    count(len(row.chosen.records)),
                    links(row.chosen.records),
                ),
            )
            for row in board.rows
        ),
    )


def choice_table(board: TrainingBoard) -> Table:
    """What choosing the RAF gains on paper; no rows where no method had a choice."""
    return Table(
        anchor=anchor("choice", board.dataset_id, board.settings),
        caption=f"What choosing the best RAF gains on paper, on {board_name(board)}",
        columns=CHOICE_COLUMNS,
        rows=tuple(
            Row(anchor("choice", board.dataset_id, board.settings, row.family), _choice_cells(row, row.choice))
            for row in board.rows
            if row.choice is not None
        ),
    )


def choice_summary(board: TrainingBoard) -> str:
    """What the test images would have added if they had chosen RAF, in one sentence; empty where nothing was chosen."""
    added = [100 * row.choice.added_by_test for row in board.rows if row.choice is not None]
    if not added:
        return ""
    return (
        "Chosen on the test images, as in papers without validation images, RAF would have added "
        f"{min(added):.2f} to {max(added):.2f} percentage points of test accuracy (mean of {len(added)} "
        f"{'method' if len(added) == 1 else 'methods'}: {sum(added) / len(added):.2f})."
    )


def sweep_table(board: TrainingBoard) -> Table:
    """Every RAF of every method."""
    parts = _shown([point for row in board.rows for point in row.sweep])
    return Table(
        anchor=anchor("sweep", board.dataset_id, board.settings),
        caption=f"All RAF values on {board_name(board)}, chosen or not",
        columns=(_METHOD, _RAF, *(part.column for part in parts), SEEDS, RECORDS),
        rows=tuple(
            Row(
                anchor("sweep", board.dataset_id, board.settings, row.family, f"{point.raf:g}"),
                (
                    _name(row, chosen=point is row.chosen and len(row.sweep) > 1),
                    _plain(point.raf, "{:g}"),
                    *(part.cell(point) for part in parts),
                    count(len(point.records)),
                    links(point.records),
                ),
            )
            for row in board.rows
            for point in row.sweep
        ),
    )


def seed_table(board: TrainingBoard) -> Table:
    """Test accuracy of every seed, each method at its chosen RAF: nothing of the spread is hidden in a mean."""
    seeds = sorted({record.seed for row in board.rows for record in row.chosen.records})
    return Table(
        anchor=anchor("seeds", board.dataset_id, board.settings),
        caption=f"Test accuracy of every seed on {board_name(board)}, in %",
        columns=(
            _METHOD,
            _RAF,
            *(Column("Seed", str(seed), "test accuracy of the training from this seed") for seed in seeds),
        ),
        rows=tuple(
            Row(
                anchor("seeds", board.dataset_id, board.settings, row.family),
                (
                    _name(row, linked=True),
                    _plain(row.chosen.raf, "{:g}"),
                    *(_seed_cell(row.chosen, seed) for seed in seeds),
                ),
            )
            for row in board.rows
        ),
    )


def _shown(every: list[SweepPoint]) -> list[_Part]:
    return [part for part in _POINT_PARTS if not part.optional or any(part.cell(point) != EMPTY for point in every)]


def _limits(board: TrainingBoard) -> str:
    if board.smallest_p is None or board.smallest_holm_p is None:
        return ""
    return (
        f"; no p here can be below {board.smallest_p:.3g}, and none below {board.smallest_holm_p:.3g} after the "
        f"correction for {board.num_tested} rows"
    )


def _name(row: TrainingRow, *, chosen: bool = False, linked: bool = False) -> Cell:
    marks = [*(["control"] if row.control else []), *(["chosen"] if chosen else [])]
    to_records = links(row.chosen.records).links if linked else ()
    return Cell(row.family, is_name=True, mark=", ".join(marks), links=to_records)


def _p_cells(row: TrainingRow) -> tuple[Cell, Cell, Cell]:
    if row.difference is None or row.difference.p_value is None or row.holm_p is None:
        return EMPTY, EMPTY, EMPTY
    return (
        _plain(row.difference.p_value, "{:.4f}"),
        _plain(row.difference.smallest_p, "{:.4f}"),
        _plain(row.holm_p, "{:.3f}"),
    )


def _choice_cells(row: TrainingRow, choice: Choice) -> tuple[Cell, ...]:
    return (
        _name(row),
        _plain(row.chosen.raf, "{:g}"),
        _optimism(choice.validation),
        _optimism(choice.headline),
        _plain(choice.picked_on_test.raf, "{:g}"),
        _gain(choice.added_by_test),
        _optimism(choice.test),
        Cell("", links=tuple(links(point.records, f"{point.raf:g}").links[0] for point in row.sweep)),
    )


def _optimism(optimism: Optimism) -> Cell:
    return _gain(optimism.points)


def _gain(share: float) -> Cell:
    share = round(share, 12) + 0.0  # no -0.00 of what is 0 but for rounding
    return Cell(f"{100 * share:+.2f}".replace("-", "\N{MINUS SIGN}"), value=share)


def _points_of(share: float | None) -> Cell:
    return EMPTY if share is None else Cell(f"{100 * share:.2f}", value=share)


def _score_difference(difference: PairedDifference | None) -> Cell:
    return EMPTY if difference is None else cell(difference.estimate, "{:+.2f}")


def _seed_cell(point: SweepPoint, seed: int) -> Cell:
    found = [record.metrics.test_accuracy for record in point.records if record.seed == seed]
    return _plain(found[0], "{:.1f}", 100) if found else EMPTY


def _plain(value: float, form: str, scale: float = 1) -> Cell:
    return Cell(form.format(scale * value), value=value)

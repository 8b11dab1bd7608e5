"""The figures of a training board with their text alternatives, which say what the figure shows to who cannot see it.

Flow: board -> the figures that its records allow, each with a sentence on what is in it and one on what was found.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from fmcs_bench.leaderboard.figures import evaluators
from fmcs_bench.results.training_board import TrainingBoard


def training_figures(board: TrainingBoard) -> dict[str, tuple[Figure, str]]:
    """Figure and text alternative by name; without those that the records have nothing for."""
    figures = {
        "training": evaluators.training_figure(board),
        "raf": evaluators.raf_figure(board),
        "accuracy-curves": evaluators.accuracy_curve_figure(board),
        "score-curves": evaluators.score_curve_figure(board),
        "score-accuracy": evaluators.score_accuracy_figure(board),
    }
    alts = {
        "training": "Difference of test accuracy to the baseline for every method and control, with interval and one "
        f"dot per seed. {_largest_difference(board)}",
        "raf": "Test accuracy at every RAF with interval, a panel for every method with a judge, beside the baseline.",
        "accuracy-curves": "Validation accuracy after every epoch, a panel for every method with a judge at its chosen "
        "RAF, beside the baseline, with intervals.",
        "score-curves": "Mean score of the validation images after every epoch, a panel for every method, beside the "
        "baseline, with intervals.",
        "score-accuracy": "For every method, how much higher score and test accuracy are than the baseline's, with "
        f"intervals. {_raised(board)}",
    }
    return {name: (figure, alts[name].strip()) for name, figure in figures.items() if figure is not None}


def _largest_difference(board: TrainingBoard) -> str:
    compared = [(row.family, row.difference.estimate) for row in board.rows if row.difference and not row.control]
    if not compared:
        return ""
    family, estimate = max(compared, key=lambda pair: pair[1].mean)
    return f"Largest of a method: {family}, {100 * estimate.mean:+.2f} percentage points."


def _raised(board: TrainingBoard) -> str:
    """How many methods raised what, where the interval excludes zero."""
    pairs = [
        (row.chosen.score_difference.estimate.low or 0.0, row.difference.estimate.low or 0.0)  # None: one seed
        for row in board.rows
        if row.difference is not None and row.chosen.score_difference is not None
    ]
    score, accuracy = (sum(pair[i] > 0 for pair in pairs) for i in (0, 1))
    return f"Of {len(pairs)}, the interval of {score} is above 0 in score, that of {accuracy} in accuracy."

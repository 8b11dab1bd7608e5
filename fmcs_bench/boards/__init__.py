"""Records -> the rows of the two boards. What a table, a page or a plot shows is computed here and nowhere else."""

from fmcs_bench.boards.evaluators import COLUMNS, Column, EvaluatorBoard, EvaluatorRow, evaluator_boards
from fmcs_bench.boards.training import TrainingBoard, TrainingRow, training_boards
from fmcs_bench.boards.training_points import Choice, SweepPoint, is_control

__all__ = [
    "COLUMNS",
    "Choice",
    "Column",
    "EvaluatorBoard",
    "EvaluatorRow",
    "SweepPoint",
    "TrainingBoard",
    "TrainingRow",
    "evaluator_boards",
    "is_control",
    "training_boards",
]

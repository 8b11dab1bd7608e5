"""Records -> the rows of the two boards. What a table, a page or a plot shows is computed here and nowhere else."""

from fmcs_bench.results.evaluator_table import COLUMNS, Column, EvaluatorBoard, EvaluatorRow, evaluator_boards
from fmcs_bench.results.training_points import Choice, SweepPoint, is_control
from fmcs_bench.results.training_table import TrainingBoard, TrainingRow, training_boards

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

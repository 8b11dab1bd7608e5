"""Writes the tables of results in README.md from the committed records.

    python docs/readme_tables.py

Flow: leaderboard/records -> boards -> Markdown tables and sentences -> between their marks in README.md, which a test
compares.
"""

from __future__ import annotations

import re
from pathlib import Path

from fmcs_bench.core.markdown import rows
from fmcs_bench.results.evaluator_board import EvaluatorBoard, evaluator_boards
from fmcs_bench.results.records import EvaluatorRecord, Subset, TrainingRecord
from fmcs_bench.results.statistics import Estimate
from fmcs_bench.results.store import RecordStore
from fmcs_bench.results.training_board import TrainingBoard, TrainingRow, training_boards

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
STORE = RecordStore(ROOT / "leaderboard/records")
BOTH: tuple[Subset, ...] = ("test_run", "same_run")
TEST: tuple[Subset, ...] = ("test_run",)
SETS: dict[str, tuple[str, tuple[Subset, ...]]] = {
    "digits-smallcnn-32px-base": ("digits", BOTH),
    "mnist-smallcnn-32px-base": ("MNIST", BOTH),
    "mnist-shufflenet_v2-48px-base": ("MNIST by ShuffleNet v2", TEST),
    "hub_cifar10_jpeg-shufflenet_v2-48px-base": ("CIFAR-10 (JPEG) by ShuffleNet v2", TEST),
}
"""Data sets whose evaluators the README shows, how it calls them and which columns; the trainings are of the first."""
SHOWN = (
    "baseline",
    r"ral-(?!random|permuted)\S+",
    r"fmcs-only-(?!random|permuted)\S+",
    "dueheadnet-(add|concat)-(none|align|diversify)",
    "label-smoothing",
    r"longer-\S+",
    r"equal-parameters-\S+",
    r"ral-(random|permuted)-\S+",
)
"""Families of the training board that the README shows, by kind; the page has all."""


def boards() -> tuple[dict[str, EvaluatorBoard], TrainingBoard]:
    """The evaluator board of each data set, and the training board of the first from fresh weights."""
    evaluators = {board.dataset_id.split("@")[0]: board for board in evaluator_boards(STORE.all(EvaluatorRecord))}
    trainings = training_boards(STORE.all(TrainingRecord))
    of_first = [board for board in trainings if board.dataset_id.startswith(f"{next(iter(SETS))}@")]
    return evaluators, next(board for board in of_first if "same-run" not in board.settings)


def evaluator_text(evaluators: dict[str, EvaluatorBoard]) -> str:
    """MAE of every evaluator on all data sets, in the order of the first."""
    by_name = {name: {row.evaluator: row for row in evaluators[name].rows} for name in SETS}
    header = ["evaluator"] + [f"{name}, {side.replace('_', ' ')}" for name, sides in SETS.values() for side in sides]
    body = []
    for row in evaluators[next(iter(SETS))].rows:
        found = [by_name[name].get(row.evaluator) for name in SETS]
        if None in found:
            continue
        cells = []
        for item, (_, sides) in zip(filter(None, found), SETS.values(), strict=True):
            cells += [_shown(item.mae[side]) + (" *" if item.chosen and side == "test_run" else "") for side in sides]
        body.append([f"`{row.evaluator}`", *cells])
    return rows(header, body)


def training_text(board: TrainingBoard) -> str:
    """The rows of ``SHOWN``, and what the whole board says."""
    header = ["method", "RAF", "test accuracy, %", "difference, points", "score difference, stages"]
    chosen = [row for kind in SHOWN for row in board.rows if re.fullmatch(kind, row.family)]
    differences = [row.difference.estimate for row in board.rows if row.difference is not None]
    above = sum(item.low is not None and item.low > 0 for item in differences)
    below = sum(item.high is not None and item.high < 0 for item in differences)
    said = (
        f"Of the {len(differences)} methods and controls on the whole board, {above} have an interval above 0 and "
        f"{below} one below 0; after Holm's correction for so many rows no p-value can be below "
        f"{board.smallest_holm_p:.3g}."
    )
    return f"{rows(header, [_training_cells(row) for row in chosen])}\n\n{said}"


def _training_cells(row: TrainingRow) -> list[str]:
    point = row.chosen
    difference = "" if row.difference is None else _shown(row.difference.estimate, 100, "{:+.2f}")
    score = "" if point.score_difference is None else _shown(point.score_difference.estimate, 1, "{:+.2f}")
    mark = " (control)" if row.control else ""
    return [f"`{row.family}`{mark}", f"{point.raf:g}", _shown(point.test_accuracy, 100, "{:.1f}"), difference, score]


def _shown(estimate: Estimate, scale: float = 1.0, form: str = "{:.2f}") -> str:
    mean = form.format(scale * estimate.mean)
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} [{form.format(scale * estimate.low)}, {form.format(scale * estimate.high)}]"


def with_tables(text: str) -> str:
    """The README with what stands between its marks made again."""
    evaluators, training = boards()
    for name, value in (("evaluators", evaluator_text(evaluators)), ("training", training_text(training))):
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
            lambda match, value=value: f"{match[1]}\n{value.strip()}\n\n{match[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")

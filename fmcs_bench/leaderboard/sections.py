"""What the page says about each dataset, as tables and pictures in the order in which they are shown.

Flow: boards, predictions -> tables, pictures -> panels, one for each board -> sections, one for each FMCS dataset.
The templates know tables, pictures and folds, and nothing of boards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from matplotlib.figure import Figure

from fmcs_bench.leaderboard import tables
from fmcs_bench.leaderboard.cells import Table
from fmcs_bench.leaderboard.figures import evaluators as plots
from fmcs_bench.leaderboard.training_figures import training_figures
from fmcs_bench.results.evaluator_board import EvaluatorBoard, evaluator_boards
from fmcs_bench.results.metrics import break_down
from fmcs_bench.results.records import EvaluatorRecord, Predictions, TrainingRecord
from fmcs_bench.results.training_board import TrainingBoard, training_boards


@dataclass(frozen=True)
class Picture:
    """A figure; ``name`` is its address without the ending, ``alt`` its text alternative, ``text`` stands below it."""

    name: str
    figure: Figure
    alt: str
    text: str

    @property
    def href(self) -> str:
        """``name`` as a page or Markdown can link to it."""
        return quote(self.name)


@dataclass(frozen=True)
class Fold:
    """Tables and pictures that are shown when they are asked for."""

    summary: str
    items: tuple[Table | Picture, ...]


@dataclass(frozen=True)
class Panel:
    """One board: a sentence, and its tables and pictures in order."""

    intro: str
    items: tuple[Table | Picture | Fold, ...]

    @property
    def pictures(self) -> Iterator[Picture]:
        """All pictures, folded or not."""
        for item in self.items:
            yield from (
                part for part in (item.items if isinstance(item, Fold) else (item,)) if isinstance(part, Picture)
            )


@dataclass(frozen=True)
class Section:
    """One FMCS dataset: its panels of both tracks, one for each settings, and what made its records."""

    dataset_id: str
    evaluators: tuple[Panel, ...]
    training: tuple[Panel, ...]
    made_with: Table

    @property
    def pictures(self) -> Iterator[Picture]:
        """All pictures of all panels."""
        for panel in (*self.evaluators, *self.training):
            yield from panel.pictures


def sections(
    evaluators: Sequence[EvaluatorRecord],
    trainings: Sequence[TrainingRecord],
    predictions: Callable[[EvaluatorRecord], Predictions],
) -> list[Section]:
    """One section for each FMCS dataset, ordered by name.

    Args:
        evaluators: records of the evaluator track.
        trainings: records of the training track.
        predictions: reads the predictions of an evaluator's record.
    """
    every: list[EvaluatorRecord | TrainingRecord] = [*evaluators, *trainings]
    by_evaluators, by_trainings = evaluator_boards(evaluators), training_boards(trainings)
    return [
        Section(
            name,
            tuple(evaluator_panel(board, predictions) for board in by_evaluators if board.dataset_id == name),
            tuple(training_panel(board) for board in by_trainings if board.dataset_id == name),
            tables.environment_table(name, [record for record in every if record.dataset_id == name]),
        )
        for name in sorted({record.dataset_id for record in every})
    ]


def evaluator_panel(board: EvaluatorBoard, predictions: Callable[[EvaluatorRecord], Predictions]) -> Panel:
    """The evaluator board, with what its evaluators answer and cost.

    Args:
        board: of one dataset.
        predictions: reads the predictions of a record.
    """
    best, cost = board.rows[0], plots.cost_figure(board)
    breakdowns = {row.evaluator: break_down([predictions(record) for record in row.records]) for row in board.rows}
    items: list[Table | Picture | Fold] = [
        tables.evaluator_table(board),
        _picture(
            board,
            "evaluators",
            plots.evaluator_figure(board),
            alt=f"Error of {len(board.rows)} evaluators on the test run and on the runs they were fitted on. Lowest "
            f"on the test run: {best.evaluator}, {best.mae['test_run']} stages.",
            text="Mean absolute error in stages, smaller is better. Bars are 95 % intervals over fits, small dots are "
            "single fits.",
        ),
        _picture(
            board,
            "scores",
            plots.score_figure(board),
            alt="Mean predicted score of every evaluator along the checkpoints of the test run, beside the validation "
            "accuracy of the backbone.",
            text="What the evaluators say along the whole test run, also between the stages they were fitted on. Bands "
            "span the seeds.",
        ),
    ]
    if board.tested_on:
        items.append(tables.test_on_table(board))
    if cost is not None:
        items.append(
            _picture(
                board,
                "cost",
                cost,
                alt="Error of the evaluators on the test run against the maps that they judge in a second.",
                text="What quality costs. Seconds are those of one call with all maps of the test run, on the machines "
                "that the records name.",
            )
        )
    confusion = _picture(
        board,
        "confusion",
        plots.confusion_figure(board, breakdowns),
        alt="For every evaluator, which stage of the test run it takes for which, with the recall of each stage.",
        text="Shares of the maps of each true stage of the test run, mean over seeds. On the diagonal: the recall of "
        "the stage in per cent.",
    )
    calibration = _picture(
        board,
        "calibration",
        plots.calibration_figure(board, breakdowns),
        alt="For every evaluator, how often its most probable stage is right, by the probability that it gives.",
        text="Calibration on the test run, in the 15 bins of the expected calibration error (ECE). A dot's area is its "
        "share of the maps; below the dashed line an evaluator is surer than it should be.",
    )
    summary = "Which stages are taken for which, and how sure the evaluators are"
    chosen = f" Chosen on the validation run, for training: {board.chosen.evaluator}." if board.chosen else ""
    return Panel(f"{board.num_stages} stages.{chosen}", (*items, Fold(summary, (confusion, calibration))))


_TEXTS = {
    "training": "Test accuracy minus the baseline's at equal seeds. A bar across zero means that no difference was "
    "shown.",
    "raf": "RAF is chosen on validation images; the test accuracy of the others is shown so that nothing is hidden.",
    "accuracy-curves": "Accuracy on the validation images, each method with a judge at its chosen RAF. Bands are 95 % "
    "intervals over seeds; the axis is stretched towards 100 %.",
    "score-curves": "Mean score (FMCS) that the board's chosen judge gives the validation images. Bands are 95 % "
    "intervals over seeds.",
    "score-accuracy": "What training against the judge raised: the judge's score, the accuracy, both or neither. Each "
    "is compared with the baseline at equal seeds; bars are 95 % intervals.",
}


def training_panel(board: TrainingBoard) -> Panel:
    """The training board: results, what the judge raised, curves, every RAF, every seed.

    Args:
        board: of one dataset.
    """
    pictures = {
        name: _picture(board, name, figure, alt=alt, text=_TEXTS[name])
        for name, (figure, alt) in training_figures(board).items()
    }

    def drawn(*names: str) -> tuple[Picture, ...]:
        return tuple(pictures[name] for name in names if name in pictures)

    folds = [Fold("Accuracy and score after every epoch", drawn("accuracy-curves", "score-curves"))]
    summary, sweep = tables.choice_summary(board), tables.sweep_table(board)
    choice = (tables.choice_table(board),) if summary else ()
    folds.append(
        Fold("All RAF values, chosen or not, and what choosing gains on paper", (*drawn("raf"), *choice, sweep))
    )
    folds.append(Fold("Every seed", (tables.seed_table(board),)))
    return Panel(
        summary,
        (
            tables.training_table(board),
            *drawn("training", "score-accuracy"),
            *(fold for fold in folds if fold.items),
        ),
    )


def _picture(board: EvaluatorBoard | TrainingBoard, name: str, figure: Figure, *, alt: str, text: str) -> Picture:
    return Picture(f"figures/{board.dataset_id}/{board.settings}/{name}", figure, alt, text)

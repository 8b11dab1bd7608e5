"""Records -> a page of tables and figures that works from disk, and the same tables as Markdown.

Flow: records -> boards -> sections (tables, figures) -> ``index.html``, ``README.md``, figures and copies of the
records. The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from fmcs_bench import boards, plots
from fmcs_bench.boards import EvaluatorBoard, TrainingBoard
from fmcs_bench.breakdown import break_down
from fmcs_bench.errors import MissingDataError
from fmcs_bench.leaderboard import markdown, site, tables
from fmcs_bench.leaderboard.training_figures import training_figures
from fmcs_bench.records import EvaluatorRecord, Predictions, RecordStore, TrainingRecord, predictions_path


@dataclass(frozen=True)
class Picture:
    """A figure with its text alternative; ``name`` is its address without the ending."""

    name: str
    figure: Figure
    alt: str

    @property
    def href(self) -> str:
        """``name`` as a page or Markdown can link to it."""
        return quote(self.name)


@dataclass(frozen=True)
class Section:
    """What the page says about one FMCS dataset: its boards, one for each settings, each with its pictures."""

    dataset_id: str
    evaluators: tuple[tuple[EvaluatorBoard, dict[str, Picture]], ...]
    training: tuple[tuple[TrainingBoard, dict[str, Picture]], ...]
    records: tuple[EvaluatorRecord | TrainingRecord, ...]


def build(records_root: Path, out: Path) -> Path:
    """Build the leaderboard of all records under ``records_root``.

    Args:
        records_root: folder of a ``RecordStore``. It may be ``out/records`` itself; otherwise the records and their
            predictions are copied there.
        out: folder for the page; files in it that no build wrote are left alone.

    Returns:
        Path of the page, ``out/index.html``.

    Raises:
        MissingDataError: there is no record.
        RecordError: a record is not valid.
        ConfigError: ``out`` holds a file, not from a build, where one of ours must go.
    """
    store = RecordStore(records_root)
    evaluator_records, training_records = store.all(EvaluatorRecord), store.all(TrainingRecord)
    if not evaluator_records and not training_records:
        raise MissingDataError(
            f"there are no records under {records_root}; make some with `fmcs-bench evaluate` or `fmcs-bench train`"
        )
    found = sections(evaluator_records, training_records, store.predictions)
    contents: dict[str, bytes | Path] = {}
    for section in found:
        for _, pictures in (*section.evaluators, *section.training):
            for picture in pictures.values():
                contents[f"{picture.name}.svg"] = plots.encode(picture.figure, "svg")
                contents[f"{picture.name}-dark.svg"] = plots.encode(picture.figure, "svg", dark=True)
    in_place = (out / "records").resolve() == records_root.resolve()
    addresses = [tables.address(record) for record in evaluator_records]
    addresses += [tables.address(record) for record in training_records]
    for address in [] if in_place else addresses:
        path = records_root / address
        for copied in (predictions_path(path), path):
            contents[f"records/{copied.relative_to(records_root).as_posix()}"] = copied
    contents["README.md"] = render("README.md.j2", found).encode()
    contents["index.html"] = render("page.html.j2", found).encode()
    site.publish(out, contents, leave="records" if in_place else "")
    return out / "index.html"


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
    evaluator_boards, training_boards = boards.evaluator_boards(evaluators), boards.training_boards(trainings)
    return [
        Section(
            name,
            tuple(
                (board, _evaluator_pictures(board, predictions))
                for board in evaluator_boards
                if board.dataset_id == name
            ),
            tuple((board, _training_pictures(board)) for board in training_boards if board.dataset_id == name),
            tuple(record for record in every if record.dataset_id == name),
        )
        for name in sorted({record.dataset_id for record in every})
    ]


def render(template: str, found: Sequence[Section]) -> str:
    """The page or the Markdown file about these sections.

    Args:
        template: file beside this one.
        found: one for each FMCS dataset.
    """
    environment = Environment(
        loader=PackageLoader("fmcs_bench.leaderboard", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(sections=found, tables=tables, markdown=markdown)


def _evaluator_pictures(
    board: EvaluatorBoard, predictions: Callable[[EvaluatorRecord], Predictions]
) -> dict[str, Picture]:
    best, cost = board.rows[0], plots.cost_figure(board)
    breakdowns = {row.evaluator: break_down([predictions(record) for record in row.records]) for row in board.rows}
    pictures = {
        "evaluators": _picture(
            board,
            "evaluators",
            plots.evaluator_figure(board),
            f"Error of {len(board.rows)} evaluators on the test run and on the runs they were fitted on. Lowest "
            f"on the test run: {best.evaluator}, {best.mae['test_run']} stages.",
        ),
        "scores": _picture(
            board,
            "scores",
            plots.score_figure(board),
            "Mean predicted score of every evaluator along the checkpoints of the test run, beside the validation "
            "accuracy of the backbone.",
        ),
        "confusion": _picture(
            board,
            "confusion",
            plots.confusion_figure(board, breakdowns),
            "For every evaluator, which stage of the test run it takes for which, with the recall of each stage.",
        ),
        "calibration": _picture(
            board,
            "calibration",
            plots.calibration_figure(board, breakdowns),
            "For every evaluator, how often its most probable stage is right, by the probability that it gives.",
        ),
    }
    if cost is not None:
        alt = "Error of the evaluators on the test run against the maps that they judge in a second."
        pictures["cost"] = _picture(board, "cost", cost, alt)
    return pictures


def _training_pictures(board: TrainingBoard) -> dict[str, Picture]:
    return {name: _picture(board, name, figure, alt) for name, (figure, alt) in training_figures(board).items()}


def _picture(board: EvaluatorBoard | TrainingBoard, name: str, figure: Figure, alt: str) -> Picture:
    return Picture(f"figures/{board.dataset_id}/{board.settings}/{name}", figure, alt)

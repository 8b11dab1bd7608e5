"""Records -> a page of tables and figures that works from disk, and the same tables as Markdown.

Flow: records -> boards -> sections (tables, figures) -> ``index.html``, ``README.md``, figures and copies of the
records. The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from fmcs_bench import boards, plots
from fmcs_bench.boards import EvaluatorBoard, TrainingBoard
from fmcs_bench.errors import MissingDataError
from fmcs_bench.leaderboard import markdown, site, tables
from fmcs_bench.records import EvaluatorRecord, RecordStore, TrainingRecord, predictions_path


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
    """What the page says about one FMCS dataset; a board is None where it has no records of that track."""

    dataset_id: str
    evaluators: EvaluatorBoard | None
    training: TrainingBoard | None
    pictures: dict[str, Picture]
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
    found = sections(evaluator_records, training_records)
    contents: dict[str, bytes | Path] = {}
    for section in found:
        for picture in section.pictures.values():
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


def sections(evaluators: Sequence[EvaluatorRecord], trainings: Sequence[TrainingRecord]) -> list[Section]:
    """One section for each FMCS dataset, ordered by name."""
    evaluator_boards = {board.dataset_id: board for board in boards.evaluator_boards(evaluators)}
    training_boards = {board.dataset_id: board for board in boards.training_boards(trainings)}
    return [
        Section(
            name,
            evaluator_boards.get(name),
            training_boards.get(name),
            _pictures(evaluator_boards.get(name), training_boards.get(name)),
            (
                *(record for record in evaluators if record.dataset_id == name),
                *(record for record in trainings if record.dataset_id == name),
            ),
        )
        for name in sorted(evaluator_boards.keys() | training_boards.keys())
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


def _pictures(evaluators: EvaluatorBoard | None, training: TrainingBoard | None) -> dict[str, Picture]:
    pictures = {}
    if evaluators is not None:
        best = evaluators.rows[0]
        pictures["evaluators"] = _picture(
            evaluators.dataset_id,
            "evaluators",
            plots.evaluator_figure(evaluators),
            f"Error of {len(evaluators.rows)} evaluators on the test run and on the runs they were fitted on. Lowest "
            f"on the test run: {best.evaluator}, {best.mae['test_run']} stages.",
        )
        pictures["scores"] = _picture(
            evaluators.dataset_id,
            "scores",
            plots.score_figure(evaluators),
            "Mean predicted score of every evaluator along the checkpoints of the test run, above the validation "
            "accuracy of the backbone.",
        )
    if training is not None:
        forest, sweep = plots.training_figure(training), plots.raf_figure(training)
        if forest is not None:
            alt = "Difference of test accuracy to the baseline for every method, with interval and one dot per seed."
            pictures["training"] = _picture(training.dataset_id, "training", forest, alt)
        if sweep is not None:
            alt = "Test accuracy at every RAF with interval, beside the baseline."
            pictures["raf"] = _picture(training.dataset_id, "raf", sweep, alt)
    return pictures


def _picture(dataset_id: str, name: str, figure: Figure, alt: str) -> Picture:
    return Picture(f"figures/{dataset_id}/{name}", figure, alt)

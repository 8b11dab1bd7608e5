"""Results -> a folder of pages that work from disk, and the same tables as Markdown.

Every file is read once. What cannot be shown is left out, and the main page says so. The same results give the same
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fmcs_bench import __version__
from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, FmcsBenchError, MissingDataError
from fmcs_bench.core.figure_style import encode
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.leaderboard import method_page
from fmcs_bench.leaderboard.claims import CLAIM_COLUMNS, Comparison, compare, load_claims
from fmcs_bench.leaderboard.claims import NAME as CLAIMS
from fmcs_bench.leaderboard.figures import evaluators as evaluator_figures
from fmcs_bench.leaderboard.figures import training as training_figures
from fmcs_bench.leaderboard.load import Fault, Report, Trial, find_manifests, read_trials, usable
from fmcs_bench.leaderboard.page import (
    Code,
    Fold,
    Item,
    Meanings,
    Page,
    Picture,
    Section,
    TableItem,
    Text,
    anchor,
    as_markdown,
    assets,
    html,
)
from fmcs_bench.results.board import COUNT, Column, Form, Table
from fmcs_bench.results.evaluator_board import EVALUATOR_COLUMNS, EvaluatorBoard, evaluator_boards
from fmcs_bench.results.metrics import confusion
from fmcs_bench.results.records import EvaluatorRecord, Predictions, TrainingRecord
from fmcs_bench.results.training_board import TRAINING_COLUMNS, TrainingBoard, training_boards
from fmcs_bench.store.schema import Manifest

YEAR = 2026
"""Of this version; a build on a different day must give the same page."""
_OWN = ("assets", "details", "figures", "index.html")
_READING = """
A number is a mean over seeds, with its 95 % interval below it (Student's t over the seeds); one seed has no interval.
The intervals of the evaluator boards are over fits on one test run. They do not include the variation between runs: a \
different test run may give different numbers.
Rows are ordered by the mean. A rank is a range: the best and the worst that the intervals of the differences allow \
(Welch, not corrected for the number of pairs).
The evaluator that goes into training is chosen on the validation run, among those that have a gradient; RAF is chosen \
on validation images. The test run and the test images choose nothing.
Training methods are compared with the baseline seed by seed: same initial weights, same batches. The p-value counts \
all ways to flip the signs of the differences, so with five seeds it is at least 1/16, whatever the effect; Holm's \
correction makes it larger. Read the interval and the smallest detectable difference beside it.
The name of a row links to a page with everything that its records say, and the command that makes them again.
"""
_LEAD = """An evaluator looks at the feature maps of a backbone and predicts its stage on the way to convergence \
(FMCS, 1 to K). The evaluator boards compare evaluators; the training boards show what training against one changed."""
_CITE = f"""@software{{fmcs_bench,
  title   = {{fmcs-bench}},
  author  = {{{{The fmcs-bench developers}}}},
  version = {{{__version__}}},
  year    = {{{YEAR}}},
}}"""


@dataclass(frozen=True)
class Results:
    """All that the pages show; ``left_out`` is what they cannot show, and why."""

    trials: Sequence[Trial]
    comparisons: Sequence[Comparison] = ()
    manifests: Sequence[Manifest] = ()
    left_out: Sequence[Fault] = ()

    @cached_property
    def evaluators(self) -> list[EvaluatorRecord]:
        """Records of the evaluator track."""
        return [trial.record for trial in self.trials if isinstance(trial.record, EvaluatorRecord)]

    @cached_property
    def trainings(self) -> list[TrainingRecord]:
        """Records of the training track."""
        return [trial.record for trial in self.trials if isinstance(trial.record, TrainingRecord)]

    @cached_property
    def _arrays(self) -> dict[str, Predictions]:
        return {trial.record.key: trial.arrays for trial in self.trials}

    def predictions(self, record: EvaluatorRecord) -> Predictions:
        """The predictions of one of the records."""
        return self._arrays[record.key]


class LeftOutError(FmcsBenchError, ValueError):
    """The pages are made, but some records are not on them; ``page`` is the path of the main page."""

    def __init__(self, page: Path, left_out: Sequence[Fault]) -> None:
        lines = [f"- {fault.where}: {fault.what}" for fault in left_out]
        advice = "make them again or remove them; everything else is on the page"
        super().__init__("\n".join([f"{len(left_out)} left out of {page}:", *lines, advice]))
        self.page, self.left_out = page, tuple(left_out)


def build_leaderboard(
    source: PathLike | None = None, out: PathLike | None = None, *, workspace: PathLike | None = None
) -> Path:
    """Make the pages of all results of a workspace, or of a folder such as the repository's ``leaderboard``.

    Args:
        source: folder with results, and perhaps ``claims.csv``; None is the workspace.
        out: folder for the pages; None is ``leaderboard`` in the workspace.
        workspace: folder of the workspace; None is the usual one.

    Returns:
        Path of the main page, ``index.html``.

    Raises:
        MissingDataError: there is no result yet.
        ConfigError: ``out`` holds files that no build wrote.
        LeftOutError: the pages are made, but some records are not valid; the main page lists them too.
    """
    place = Workspace(workspace)
    results = load(place.root if source is None else Path(source), [place.datasets])
    page = write(results, place.leaderboard if out is None else Path(out))
    if results.left_out:
        raise LeftOutError(page, results.left_out)
    return page


def load(source: Path, datasets: Sequence[Path] = ()) -> Results:
    """All results of a folder, with its claims and its data cards; ``datasets`` are more folders with data cards."""
    report = Report()
    trials = usable(read_trials(source, report), report)
    if not trials and not report.faults:
        raise MissingDataError(
            f"there are no results in {source}; make some with `fmcs-bench evaluate` or `fmcs-bench train`"
        )
    manifests = find_manifests([source / "datasets", source.resolve().parent / "data_cards", *datasets])
    trainings = [trial.record for trial in trials if isinstance(trial.record, TrainingRecord)]
    comparisons = compare(load_claims(source / CLAIMS), trainings, manifests)
    return Results(trials, comparisons, list(manifests.values()), report.faults)


def write(results: Results, out: Path) -> Path:
    """Write all pages into a folder that is new, empty, or holds pages of an earlier build; returns the main page."""
    others = sorted(path.name for path in out.iterdir() if path.name not in _OWN) if out.is_dir() else []
    if others:
        raise ConfigError(f"{out} holds {others[0]}, which no build of the leaderboard wrote; choose an empty folder")
    pages = [main_page(results), *_method_pages(results)]
    contents = {f"assets/{name}": data for name, data in assets().items()}
    contents |= {f"{picture.name}.svg": encode(picture.draw(), "svg") for page in pages for picture in page.pictures}
    contents |= {page.path: html(page).encode() for page in reversed(pages)}  # the main page comes last
    for name, data in contents.items():
        files.write_atomically(out / name, data)
    for path in sorted(out.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(out).as_posix() not in contents:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return out / "index.html"


def main_page(results: Results) -> Page:
    """The page with all boards."""
    sections: list[Section] = []
    if results.left_out:
        lines = tuple(Text(f"{fault.where}: {fault.what}") for fault in results.left_out)
        text = Text("These records could not be used. No number on this page comes from them.")
        sections.append(Section("left-out", "Records that are not shown", (text, *lines)))
    ids = sorted({record.dataset_id for record in (*results.evaluators, *results.trainings)})
    for dataset_id in ids:
        sections += _dataset_sections(dataset_id, results)
    if results.comparisons:
        claims = TableItem(
            "claims-table",
            Table("Published figures beside our trainings", CLAIM_COLUMNS, tuple(results.comparisons), "page"),
            tuple(item.claim.id for item in results.comparisons),
        )
        sections.append(Section("claims", "Claims", (claims, Fold("Columns", (Meanings(CLAIM_COLUMNS),)))))
    if results.manifests:
        table = Table("FMCS datasets here", DATASET_COLUMNS, tuple(results.manifests), "page")
        names = tuple(manifest.id for manifest in results.manifests)
        sections.append(Section("datasets", "FMCS datasets", (TableItem("datasets-table", table, names),)))
    columns = (
        Fold("Columns of the evaluator boards", (Meanings(EVALUATOR_COLUMNS),)),
        Fold("Columns of the training boards", (Meanings(TRAINING_COLUMNS),)),
    )
    sections.append(Section("reading", "How to read the tables", (*map(Text, _READING.strip().splitlines()), *columns)))
    cite = Text("Cite the suite with its version, and each dataset with its name and digest as they stand above.")
    sections.append(Section("cite", "Cite", (cite, Code("bibtex", _CITE))))
    num_fits, num_trainings = len(results.evaluators), len(results.trainings)
    lead = (_LEAD, f"{len(ids)} FMCS datasets, {num_fits:,} fits of evaluators, {num_trainings:,} trainings.")
    links = tuple((section.title, f"#{section.anchor}") for section in sections if section.level == 2)
    title = "How converged is a network, judged from its feature maps alone? Does training against that help?"
    return Page("index.html", title, lead, tuple(sections), links)


def markdown(results: Results) -> str:
    """All tables of the main page as Markdown, each section with its heading."""
    page = main_page(results)
    parts = [
        f"{'#' * section.level} {as_markdown((Text(section.title),))}\n\n{as_markdown(section.items)}"
        for section in page.sections
        if any(isinstance(item, TableItem) for item in section.items)
    ]
    return "\n\n".join(parts) + "\n"


def _dataset_sections(dataset_id: str, results: Results) -> list[Section]:
    """A heading, and below it a section for each board."""
    own = [record for record in results.evaluators if record.dataset_id == dataset_id]
    evaluators = evaluator_boards(own)
    trainings = training_boards([record for record in results.trainings if record.dataset_id == dataset_id])
    none = "No evaluator was compared on this dataset yet: fmcs-bench evaluate."
    return [
        Section(anchor("dataset", dataset_id), dataset_id, () if evaluators else (Text(none, empty=True),)),
        *(_evaluator_section(board, results.predictions) for board in evaluators),
        *map(_training_section, trainings),
    ]


def _evaluator_section(board: EvaluatorBoard, predictions: Callable[[EvaluatorRecord], Predictions]) -> Section:
    best, count = board.rows[0], len(board.rows)
    chosen = f" Chosen on the validation run, for training: {board.chosen.evaluator}." if board.chosen else ""
    error = f"{best.mae['test_run']} of {board.num_stages} stages"
    intro = f"Lowest error on the test run: {best.evaluator}, {error}.{chosen}"
    name = anchor("evaluators", board.dataset_id, board.settings)

    def confusions() -> dict[str, np.ndarray]:
        return {row.evaluator: _confusion([predictions(record) for record in row.records]) for row in board.rows}

    def table(view: str, name: str) -> TableItem:
        links = tuple(method_page.href(row.records[0]) for row in board.rows)
        return TableItem(name, board.table(view), tuple(row.evaluator for row in board.rows), links)

    def picture(name: str, draw: Callable[[], Figure], alt: str, text: str) -> Picture:
        return Picture(f"figures/{board.dataset_id}/{board.settings}/{name}", draw, alt, text)

    items: list[Item] = [
        Text(intro),
        table("page", name),
        picture(
            "errors",
            lambda: evaluator_figures.error_figure(board),
            f"Error of {count} evaluators on the test run and on the runs they were fitted on.",
            "Mean absolute error in stages. Bars are 95 % intervals over fits, small dots are single fits.",
        ),
        picture(
            "scores",
            lambda: evaluator_figures.score_figure(board),
            f"Mean predicted score of {count} evaluators along the checkpoints of the test run.",
            "The score along the whole test run, also between the stages. Bands span the seeds.",
        ),
    ]
    if board.tested_on:
        items.append(table("test_on", anchor("test-on", board.dataset_id, board.settings)))
    picture_of_confusion = picture(
        "confusion",
        lambda: evaluator_figures.confusion_figure(board, confusions()),
        "For every evaluator, the share of each predicted stage for each true stage of the test run.",
        "Shares of the maps of each true stage of the test run, mean over seeds; on the diagonal the recall (%).",
    )
    items.append(Fold("Which stages are confused", (picture_of_confusion,)))
    return Section(f"{name}-board", f"Evaluators, settings {board.settings}", tuple(items), 3)


def _confusion(predictions: Sequence[Predictions]) -> np.ndarray:
    """Share of the maps of each true stage (row) that each stage (column) was predicted for; mean over fits."""
    found = []
    for arrays in predictions:
        probs_KNK = arrays["test_run/probs"]
        num_stages, num_images, _ = probs_KNK.shape
        found.append(confusion(probs_KNK.reshape(-1, num_stages), np.repeat(np.arange(num_stages), num_images)))
    mean_KK: np.ndarray = np.mean(found, axis=0)
    return mean_KK


_TRAINING_TEXTS = {
    "differences": (
        "Difference of test accuracy to the baseline for every method and control.",
        "Test accuracy minus the baseline's at equal seeds. A bar across 0 means that no difference was shown.",
    ),
    "scores": (
        "For every method, how much higher score and test accuracy are than the baseline's.",
        "The score of the board's chosen evaluator and the accuracy, each compared with the baseline at equal seeds.",
    ),
    "raf": (
        "Test accuracy at every RAF, a panel for every method with an evaluator, beside the baseline.",
        "RAF is chosen on validation images; the test accuracy of the others is shown so that nothing is hidden.",
    ),
    "curves": (
        "Validation accuracy after every epoch, a panel for every method at its chosen RAF, beside the baseline.",
        "Validation accuracy after every epoch, mean over seeds. Bands are 95 % intervals over seeds.",
    ),
}


def _training_section(board: TrainingBoard) -> Section:
    name = anchor("training", board.dataset_id, board.settings)
    figures = training_figures.drawable(board)

    def pictures(*keys: str) -> tuple[Item, ...]:
        path = f"figures/{board.dataset_id}/{board.settings}"
        shown = [key for key in keys if key in figures]
        return tuple(Picture(f"{path}/{key}", partial(figures[key], board), *_TRAINING_TEXTS[key]) for key in shown)

    def table(view: str) -> tuple[Item, ...]:
        value = board.table(view)
        names = tuple(f"{entry.row.family}@{entry.point.raf:g}" for entry in value.rows)
        links = tuple(method_page.href(entry.point.records[0]) for entry in value.rows)
        own = name if view == "page" else anchor(view, board.dataset_id, board.settings)
        return (TableItem(own, value, names, links),) if value.rows else ()

    folds = (
        Fold(
            "All RAF values, and what choosing one gains",
            (*pictures("raf", "curves"), *table("choice"), *table("sweep")),
        ),
        Fold("Every seed", table("seeds")),
    )
    items = (Text(_summary(board)), *table("page"), *pictures("differences", "scores"))
    items += tuple(fold for fold in folds if fold.items)
    return Section(f"{name}-board", f"Training, settings {board.settings}", items, 3)


def _summary(board: TrainingBoard) -> str:
    """What the board shows, in a sentence."""
    # At RAF 0 nothing is learned about the classes.
    rows = [row for row in board.rows if not row.control and row.chosen.raf > 0]
    found = [row.difference.estimate for row in rows if row.difference is not None]
    above = sum(estimate.low is not None and estimate.low > 0 for estimate in found)
    below = sum(estimate.high is not None and estimate.high < 0 for estimate in found)
    if board.baseline is None:
        return "There is no baseline with these settings, so no method is compared."
    accuracy = " ".join(board.baseline.chosen.test_accuracy.parts(".1f", 100))
    return (
        f"The baseline has a test accuracy of {accuracy} %. Of {len(found)} methods (no controls, no RAF 0), {above} "
        f"have an interval of the difference above 0, and {below} have one below 0."
    )


def _method_pages(results: Results) -> list[Page]:
    def key(record: EvaluatorRecord | TrainingRecord) -> str:
        return method_page.path(record)

    every = sorted((trial.record for trial in results.trials), key=lambda record: (key(record), record.seed))
    names = {"evaluator": "evaluators", "training": "training"}
    return [
        method_page.method_page(group, anchor(names[group[0].track], group[0].dataset_id, group[0].settings))
        for group in (list(found) for _, found in groupby(every, key))
    ]


DATASET_COLUMNS: tuple[Column[Manifest], ...] = (
    Column("id", "Dataset", lambda m: m.id, "name and first digits of the digest", numeric=False),
    Column("image_dataset", "Images", lambda m: m.config.image_dataset, numeric=False),
    Column("num_images", "Images, number", lambda m: sum(m.images.num_images.values()), form=COUNT),
    Column("backbone", "Backbone", lambda m: m.config.backbone, numeric=False),
    Column("image_size", "Size, px", lambda m: m.config.image_size, form=COUNT),
    Column("stages", "K", lambda m: m.config.stages, "number of stages", form=COUNT),
    Column("runs", "Runs", lambda m: len(m.runs), "trainings of the backbone", form=COUNT),
    Column("num_maps", "Maps", lambda m: m.num_maps, form=COUNT),
    Column("map_shape", "Shape of a map", lambda m: " x ".join(map(str, m.map_shape)), numeric=False),
    Column("stored", "Stored, MB", lambda m: m.stored_bytes / 1e6, form=Form(",.1f")),
    Column("codec", "Codec", lambda m: m.config.codec, "q8 loses a little, the others nothing", numeric=False),
    Column("licence", "Licence", lambda m: m.images.licence, "of the images", numeric=False),
)

"""Boards as tables for a person at a terminal, and as plain text for a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fmcs_bench.backbones.create import DESCRIBED_CLASSES, Description
from fmcs_bench.results.evaluator_table import EvaluatorBoard
from fmcs_bench.results.statistics import Estimate
from fmcs_bench.results.training_table import TrainingBoard, TrainingRow
from fmcs_bench.store.schema import Manifest

_NONE = "-"
_WIDE_TERMINAL = 100
_WIDE = 10_000  # columns, more than any table has


def evaluator_table(board: EvaluatorBoard, *, wide: bool = True) -> Table:
    """The evaluator board, for names of up to 12 letters at most 100 columns wide, or 80 where it is not ``wide``."""
    table = _table(f"Evaluators on {board.dataset_id}: MAE in stages of {board.num_stages}")
    tried = f"\ntried, best on the validation run kept: {board.grid}" if board.grid else ""
    table.caption = Text(
        "[95 % interval over fits]; one test run, which gives the ranks (equal ranks are ties);\n"
        f"* chosen on the validation run{tried}"
    )
    table.add_column("#", justify="right")
    table.add_column("evaluator", overflow="fold")
    for name in ("test run", "same run", "accuracy", "Spearman", "params", *(["seeds"] if wide else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for row in board.rows:
        table.add_row(
            str(row.rank),
            Text(f"{row.evaluator} *" if row.chosen else row.evaluator, style="bold" if row.chosen else ""),
            Text(str(row.mae["test_run"])),
            Text(str(row.mae["same_run"]) if wide else f"{row.mae['same_run'].mean:.3f}"),
            f"{100 * row.accuracy['test_run'].mean:.1f} %",
            _NONE if row.spearman is None else f"{row.spearman.mean:.3f}",
            f"{row.num_parameters:,}",
            *([str(len(row.records))] if wide else []),
        )
    return table


def test_on_table(board: EvaluatorBoard) -> Table:
    """MAE of the fits on other datasets' test runs, one column for each."""
    table = _table(f"The same fits, from {board.dataset_id}, on the test runs of other datasets: MAE")
    table.caption = Text("-: takes only maps of the shape it was fitted on, or was not asked with every seed")
    table.add_column("evaluator", overflow="fold")
    for other in board.tested_on:
        table.add_column(other, justify="right", overflow="fold", min_width=20)
    for row in board.rows:
        found = (str(row.test_on[other]) if other in row.test_on else _NONE for other in board.tested_on)
        table.add_row(Text(row.evaluator), *map(Text, found))
    return table


def training_table(board: TrainingBoard) -> Table:
    """The training board, at most 100 columns wide for names of up to 22 letters."""
    table = _table(f"Training methods on {board.dataset_id}: accuracy in %, [95 % interval]")
    lines = [
        "difference: test minus the baseline's at equal seeds, in points; SD: spread of test over seeds",
        "p: sign-flip test, Holm-corrected; detectable: what would be found with a probability of 0.8",
    ]
    if board.smallest_p is not None and board.smallest_holm_p is not None:
        lines.append(
            f"with so many seeds p is at least {board.smallest_p:.4g}, corrected for {board.num_tested} rows at least "
            f"{board.smallest_holm_p:.3g}"
        )
    table.caption = Text("\n".join(lines))
    table.add_column("method", overflow="fold")
    for name in ("RAF", "valid.", "test", "SD", "difference", "p", "detectable", "seeds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in board.rows:
        difference, point = row.difference, row.chosen
        table.add_row(
            _method(row),
            f"{point.raf:g}",
            f"{100 * point.validation_accuracy.mean:.1f}",
            f"{100 * point.test_accuracy.mean:.1f}",
            _share_points(point.test_accuracy.std),
            _NONE if difference is None else _points(difference.estimate),
            _NONE if row.holm_p is None else f"{row.holm_p:.3f}",
            _share_points(None if difference is None else difference.detectable),
            str(len(point.records)),
        )
    return table


def choice_table(board: TrainingBoard) -> Table:
    """What choosing the RAF gains on paper, of the methods that had a choice."""
    table = _table("What choosing the best RAF gains on paper, in points of accuracy")
    table.caption = Text(
        "optimism: how much higher the accuracy is than that of seeds that had no part in choosing\n"
        "added: what choosing on the test images would have added to the test accuracy"
    )
    table.add_column("method", overflow="fold")
    for name in ("RAF", "optimism, valid.", "optimism, test", "RAF by test", "added", "its optimism"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in board.rows:
        if row.choice is not None:
            table.add_row(
                _method(row),
                f"{row.chosen.raf:g}",
                _share_points(row.choice.validation.points),
                _share_points(row.choice.headline.points),
                f"{row.choice.picked_on_test.raf:g}",
                _share_points(row.choice.added_by_test),
                _share_points(row.choice.test.points),
            )
    return table


def score_table(board: TrainingBoard) -> Table:
    """What training did to the judge's score, of the methods that were watched."""
    table = _table("Mean score (FMCS) of the validation images with the tested weights, [95 % interval]")
    table.caption = Text(
        "difference: score minus the baseline's at equal seeds; epoch: the one chosen, mean over seeds"
    )
    table.add_column("method", overflow="fold")
    for name in ("score", "difference", "epoch"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in board.rows:
        point = row.chosen
        if point.score is not None:
            change = None if point.score_difference is None else point.score_difference.estimate
            table.add_row(
                _method(row),
                Text(str(point.score)),
                _NONE if change is None else Text(_with_interval(change, 1)),
                _NONE if point.epoch is None else f"{point.epoch.mean:.1f}",
            )
    return table


def stage_table(manifest: Manifest) -> Table:
    """Where the stages of every run end: epoch, smoothed training loss and validation accuracy there."""
    table = _table("Stages (FMCS): where each ends on its run: epoch, training loss, validation accuracy")
    table.add_column("FMCS", justify="right", no_wrap=True)
    for run in manifest.runs:
        table.add_column(f"run {run.seed}, {run.role}", justify="right", no_wrap=True)
    for stages in zip(*(run.stages for run in manifest.runs), strict=True):
        cells = (f"{s.epoch:.2f}  {s.train_loss:.3f}  {100 * s.validation_accuracy:4.1f} %" for s in stages)
        table.add_row(str(stages[0].stage), *cells)
    return table


def backbone_table(descriptions: Sequence[Description]) -> Table:
    """Maps of backbones at one image size; a network that cannot take it says why."""
    table = _table(f"Maps of images of {descriptions[0].image_size} px, in float16 before compression")
    table.caption = Text(f"parameters: with a classifier for {DESCRIBED_CLASSES} classes")
    table.add_column("backbone", overflow="fold")
    for name in ("D x H x W", "parameters", "bytes per map"):
        table.add_column(name, justify="right", no_wrap=True)
    if any(row.problem for row in descriptions):
        table.add_column("why not", overflow="fold")
    for row in descriptions:
        table.add_row(
            Text(row.name),
            _NONE if row.map_shape is None else " x ".join(str(side) for side in row.map_shape),
            _NONE if row.num_parameters is None else f"{row.num_parameters:,}",
            _NONE if row.map_bytes is None else f"{row.map_bytes:,}",
            *([Text(row.problem)] if row.problem else []),
        )
    return table


def print_board(console: Console, board: EvaluatorBoard | TrainingBoard) -> None:
    """Print a board; a narrow terminal gets fewer columns, and none of them is cut off."""
    if isinstance(board, TrainingBoard):
        print_table(console, training_table(board))
        for table in (choice_table(board), score_table(board)):
            if table.row_count:
                print_table(console, table)
        return
    print_table(console, evaluator_table(board, wide=not console.is_terminal or console.width >= _WIDE_TERMINAL))
    if board.tested_on:
        print_table(console, test_on_table(board))


def print_table(console: Console, table: Table) -> None:
    """Print a table. A pipe or a file gets plain text in which no row is wrapped or cut off."""
    if console.is_terminal:
        console.print(table)
        return
    # Title and caption inside the table would be wrapped to its width.
    title, caption, table.title, table.caption = table.title, table.caption, None, None
    table.box, table.padding = None, (0, 2, 0, 0)
    plain = Console(file=console.file, width=_WIDE, color_system=None)
    for part in (title, table, caption):
        if part is not None:
            plain.print(part)


def _table(title: str) -> Table:
    return Table(
        title=Text(title),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _method(row: TrainingRow) -> Text:
    return Text(f"{row.family} (control)" if row.control else row.family)


def _share_points(share: float | None) -> str:
    return _NONE if share is None else f"{100 * round(share, 12) + 0.0:.2f}"


def _points(share: Estimate) -> Text:
    return Text(_with_interval(share, 100))  # in a Text, [ opens no markup


def _with_interval(estimate: Estimate, scale: float) -> str:
    mean, low, high = (None if value is None else f"{scale * value:+.2f}" for value in estimate[:3])
    return str(mean) if low is None else f"{mean} [{low}, {high}]"

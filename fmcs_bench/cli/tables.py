"""Boards and lists as tables for a person at a terminal, and as plain text for a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from fmcs_bench.backbones.create import DESCRIBED_CLASSES, Description
from fmcs_bench.results.board import COUNT, Column, Table
from fmcs_bench.results.evaluator_board import EvaluatorBoard
from fmcs_bench.results.training_board import TrainingBoard
from fmcs_bench.store.schema import Manifest, Stage

_WIDE_TERMINAL = 100


def stage_table(manifest: Manifest) -> Table[Any]:
    """Where the stages of every run end: epoch, smoothed training loss and validation accuracy there."""

    def of_run(i: int) -> Column[tuple[Stage, ...]]:
        run = manifest.runs[i]

        def shown(stages: tuple[Stage, ...]) -> str:
            stage = stages[i]
            return f"{stage.epoch:.2f}  {stage.train_loss:.3f}  {100 * stage.validation_accuracy:4.1f} %"

        return Column(f"run_{run.seed}", f"run {run.seed}, {run.role}", shown)

    rows = tuple(zip(*(run.stages for run in manifest.runs), strict=True))
    columns = (
        Column("stage", "FMCS", lambda stages: stages[0].stage, form=COUNT),
        *map(of_run, range(len(manifest.runs))),
    )
    title = "Stages (FMCS): where each ends on its run: epoch, training loss, validation accuracy"
    return Table(title, columns, rows, "terminal")


def backbone_table(descriptions: Sequence[Description]) -> Table[Description]:
    """Maps of backbones at one image size; a network that does not take it has the reason."""
    columns: tuple[Column[Description], ...] = (
        Column("backbone", "backbone", lambda row: row.name, views="terminal", numeric=False),
        Column("map_shape", "D x H x W", lambda row: row.map_shape and " x ".join(map(str, row.map_shape)),
               views="terminal"),
        Column("num_parameters", "parameters", lambda row: row.num_parameters, form=COUNT, views="terminal"),
        Column("map_bytes", "bytes per map", lambda row: row.map_bytes, form=COUNT, views="terminal"),
        Column("problem", "why not", lambda row: row.problem or None, views="terminal", optional=True, numeric=False),
    )  # fmt: skip
    title = f"Maps of images of {descriptions[0].image_size} px, in float16 before compression"
    note = f"parameters: with a classifier for {DESCRIBED_CLASSES} classes"
    return Table.of(columns, descriptions, "terminal", title, note)


def print_board(board: EvaluatorBoard | TrainingBoard, console: Console | None = None) -> None:
    """Print a board; a narrow terminal gets fewer columns, and none of them is cut off."""
    console = console or Console(highlight=False)
    if isinstance(board, TrainingBoard):
        tables: list[Table[Any]] = [board.table(view) for view in ("terminal", "choice", "score")]
    else:
        is_narrow = console.is_terminal and console.width < _WIDE_TERMINAL
        tables = [board.table("narrow" if is_narrow else "terminal")]
        tables += [board.table("test_on")] if board.tested_on else []
    for table in tables:
        if table.rows:
            print_table(table, console)


def print_table(table: Table[Any], console: Console | None = None) -> None:
    """Print a table. A pipe or a file gets plain text in which no row is wrapped or cut off."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.file.write(f"{table}\n")
        return
    rich = RichTable(
        title=Text(table.title),
        caption=Text(table.note),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
        pad_edge=False,
    )
    cells = table.cells
    for i, column in enumerate(table.columns):
        label, width = Text(column.label.replace(", ", "\n", 1)), max(len(str(row[i])) for row in cells)
        justify: Literal["left", "right"] = "right" if column.numeric else "left"
        rich.add_column(label, justify=justify, min_width=width if column.numeric else None, overflow="fold")
    for row in cells:  # in a Text, [ opens no markup
        rich.add_row(*(Text(str(cell), style="bold" if cell.mark == "chosen" else "") for cell in row))
    console.print(rich)

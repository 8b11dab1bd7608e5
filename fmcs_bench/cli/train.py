"""The command ``fmcs-bench train``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fmcs_bench.cli.options import json_option, made, options_of, print_board, print_json, workspace_option
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.jobs.options import Execution
from fmcs_bench.training_track.options import TrainOptions

if TYPE_CHECKING:
    from fmcs_bench.results.training_board import TrainingBoard


@click.command()
@click.argument("dataset", required=False)
@options_of(TrainOptions)
@click.option("--plan", is_flag=True, help="Only show what would be trained, what is done, and how long it may take.")
@options_of(ImageOptions, only=("data_dir", "image_source", "stream_images"))
@workspace_option
@options_of(Execution)
@json_option
def train(dataset: str | None, plan: bool, workspace: str, as_json: bool, **values: Any) -> None:
    """Train baseline, RAL, DueHeadNet and controls with the chosen evaluator, and compare them at equal seeds.

    A training whose loss becomes NaN or infinite does not stop the others: the table shows the rest, standard error
    shows what failed, and the exit code is 1.
    """
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.core.errors import UnitsFailedError
    from fmcs_bench.training_track import estimate, runner

    options, images, execution = made(TrainOptions, values), made(ImageOptions, values), made(Execution, values)
    if plan:
        found = estimate.plan_training(dataset, options, workspace=workspace, device=execution.device)
        print_json(found.to_json()) if as_json else click.echo(str(found))
        return
    failure: UnitsFailedError | None = None
    boards: Sequence[TrainingBoard]
    with shown() as progress:
        try:
            boards = [
                runner.train(
                    dataset, options, workspace=workspace, images=images, execution=execution, progress=progress
                )
            ]
        except UnitsFailedError as error:
            failure, boards = error, error.finished
    if as_json:
        points = [point for board in boards for row in board.rows for point in row.sweep]
        print_json([record.to_json() for point in points for record in point.records])
    else:
        for board in boards:
            print_board(board)
    if failure is not None:
        raise failure

"""The commands of the two tracks: ``evaluate``, ``train`` and ``explain``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fmcs_bench.cli.options import device_option, json_option, made, options_of, print_json, workspace_option
from fmcs_bench.core.errors import UnitsFailedError
from fmcs_bench.evaluator_track.options import EvaluateOptions
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.jobs.options import Execution
from fmcs_bench.training_track.options import ExplainOptions, TrainOptions

if TYPE_CHECKING:
    from fmcs_bench.results.evaluator_board import EvaluatorBoard
    from fmcs_bench.results.records import Record
    from fmcs_bench.results.training_board import TrainingBoard


@click.command()
@click.argument("datasets", nargs=-1, metavar="[DATASET ...]")
@options_of(EvaluateOptions)
@click.option("--grid", multiple=True, metavar="FIELD=VALUES", help=EvaluateOptions.model_fields["grid"].description)
@click.option(
    "--test-on",
    multiple=True,
    metavar="DATASET",
    help="Also test the fits, unchanged, on the test run of this dataset; repeat for several.",
)
@workspace_option
@options_of(Execution)
@json_option
def evaluate(datasets: tuple[str, ...], test_on: tuple[str, ...], workspace: str, as_json: bool, **values: Any) -> None:
    """Fit and test evaluators on FMCS datasets; every dataset of the workspace by default.

    An evaluator that fails does not stop the others: the table shows the rest, standard error shows what failed, and
    the exit code is 1.
    """
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.evaluator_track import runner

    options, execution = made(EvaluateOptions, values), made(Execution, values)
    failure: UnitsFailedError | None = None
    with shown() as progress:
        try:
            boards: Sequence[EvaluatorBoard] = runner.evaluate(
                datasets or None, options, test_on=test_on, workspace=workspace, execution=execution, progress=progress
            )
        except UnitsFailedError as error:
            failure, boards = error, error.finished
    records = [record for board in boards for row in board.rows for record in row.records]
    _print_results(boards, records, failure, as_json=as_json)


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
    points = [point for board in boards for row in board.rows for point in row.sweep]
    records = [record for point in points for record in point.records]
    _print_results(boards, records, failure, as_json=as_json)


@click.command()
@click.argument("dataset", required=False)
@options_of(ExplainOptions)
@click.option("--out", metavar="FILE", help="The picture: .png, .svg or .pdf.  [default: in the workspace]")
@options_of(ImageOptions, only=("data_dir", "image_source", "stream_images"))
@workspace_option
@device_option
def explain(dataset: str | None, out: str | None, workspace: str, device: str, **values: Any) -> None:
    """Draw where a network looks, by stage or by RAF (Grad-CAM), and print the picture's path."""
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.training_track import explain as room

    options, images = made(ExplainOptions, values), made(ImageOptions, values)
    with shown() as progress:
        explanation = room.explain(
            dataset, options, out=out, workspace=workspace, images=images, device=device, progress=progress
        )
    click.echo(str(explanation))


def _print_results(
    boards: Sequence[EvaluatorBoard | TrainingBoard],
    records: Sequence[Record],
    failure: UnitsFailedError | None,
    *,
    as_json: bool,
) -> None:
    """Print what was finished, then raise the failure of the rest."""
    from fmcs_bench.cli.tables import print_board

    if as_json:
        print_json([record.to_json() for record in records])
    else:
        for board in boards:
            print_board(board)
    if failure is not None:
        raise failure

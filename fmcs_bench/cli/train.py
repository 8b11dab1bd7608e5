"""The command ``fmcs-bench train``; see ``cli``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fmcs_bench.cli.options import (
    ENGINE_FIELDS,
    data_dir_option,
    device_option,
    engine_options,
    images_option,
    json_option,
    print_board,
    print_json,
    stream_option,
    workspace_option,
)

if TYPE_CHECKING:
    from fmcs_bench.results.training_board import TrainingBoard

RECIPE_FIELDS = ("optimizer", "lr", "weight_decay", "schedule", "batch_size", "augmentation", "precision")


@click.command()
@click.argument("dataset", required=False)
@click.option("--method", "methods", multiple=True, help="Which; repeat for several; see `fmcs-bench list methods`.")
@click.option(
    "--raf",
    "rafs",
    multiple=True,
    metavar="RAF|paper",
    help="RAF of RAL; repeat. paper is 1, .95, .9, .85, .8, .78, .75, .7, .5, 0.  [default: 0.95, 0.9, 0.75]",
)
@click.option("--seeds", type=int, default=5, show_default=True, help="Paired trainings of each method.")
@click.option("--evaluator", metavar="NAME|FILE.py:Class", help="The judge.  [default: the best on the validation run]")
@click.option(
    "--init",
    type=click.Choice(["fresh", "same-run"]),
    default="fresh",
    show_default=True,
    help="same-run: from the weights that the training runs of the dataset began with, so that channels agree.",
)
@click.option("--base", metavar="BACKBONE", help="Of DueHeadNet's two heads.  [default: the dataset's]")
@click.option("--constraint-weight", type=float, default=1.0, show_default=True, help="Of DueHeadNet's constraint.")
@click.option("--pretrained-first", is_flag=True, help="DueHeadNet's first head starts from published weights.")
@click.option(
    "--recipe",
    metavar="fmce|dueheadnet-readme|dueheadnet-code",
    help="How networks are trained, and how long.  [default: as the dataset's runs, to their convergence point]",
)
@click.option("--epochs", type=int, help="Length.  [default: the recipe's; fmce's is the convergence point]")
@click.option("--optimizer", type=click.Choice(["adam", "adamw", "sgd"]), help="Other than the recipe's.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option("--weight-decay", type=float, help="Of the optimizer.")
@click.option("--schedule", type=click.Choice(["cosine", "constant"]), help="Of the learning rate.")
@click.option("--batch-size", type=int, help="Of training.")
@click.option("--augmentation", metavar="none|flip|crop-flip", help="Of training images.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Of training.")
@click.option(
    "--best-epoch-on-test",
    is_flag=True,
    help="Also record the best test accuracy of all epochs, as some sources report; it is never used for a choice.",
)
@click.option("--keep-weights", is_flag=True, help="Also keep the weights that were tested, for `fmcs-bench explain`.")
@click.option("--plan", is_flag=True, help="Only show what would be trained, what is done, and how long it may take.")
@click.option("--retry", is_flag=True, help="Train those again that failed before.")
@images_option
@stream_option
@data_dir_option
@workspace_option
@device_option
@engine_options
@json_option
def train(
    dataset: str | None,
    methods: tuple[str, ...],
    rafs: tuple[str, ...],
    plan: bool,
    as_json: bool,
    image_source: str | None,
    stream_images: bool | None,
    data_dir: str | None,
    **options: Any,
) -> None:
    """Train baseline, RAL, DueHeadNet and controls with the chosen evaluator, and compare them at equal seeds.

    A training whose loss becomes NaN or infinite stops no other: the board shows the rest, standard error says what
    failed, the exit code is 1.
    """
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.core.errors import UnitsFailedError
    from fmcs_bench.training_track import api

    options["changes"] = {field: options.pop(field) for field in RECIPE_FIELDS}
    options |= {name: typed for name, typed in (("methods", methods), ("rafs", rafs)) if typed}
    engine = {field: options.pop(field) for field in ENGINE_FIELDS}
    if plan:
        found = api.plan_training(dataset, **options)
        print_json(found.to_json()) if as_json else click.echo(str(found))
        return
    failure: UnitsFailedError | None = None
    with shown() as progress:
        try:
            boards: Sequence[TrainingBoard] = [
                api.train(
                    dataset,
                    data_dir=data_dir,
                    image_source=image_source,
                    stream_images=stream_images,
                    progress=progress,
                    **options,
                    **engine,
                )
            ]
        except UnitsFailedError as error:
            failure, boards = error, error.finished
    _print(boards, as_json=as_json)
    if failure is not None:
        raise failure


def _print(boards: Sequence[TrainingBoard], *, as_json: bool) -> None:
    if as_json:
        points = [point for board in boards for row in board.rows for point in row.sweep]
        print_json([record.to_json() for point in points for record in point.records])
        return
    for board in boards:
        print_board(board)

"""The command line: one command per verb; each parses, calls one function, prints.

Heavy imports stay inside the commands, so that ``--help`` answers at once. Results go to standard output, progress to
standard error. Exit codes: 0 done, 1 failed, 2 wrong use.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fmcs_bench import __version__
from fmcs_bench.command import (
    Commands,
    data_dir_option,
    device_option,
    images_option,
    json_option,
    stream_option,
    workspace_option,
)
from fmcs_bench.leaderboard_commands import leaderboard
from fmcs_bench.sharing import download, publish

if TYPE_CHECKING:
    from fmcs_bench.boards import EvaluatorBoard, TrainingBoard
    from fmcs_bench.config import Head
    from fmcs_bench.workspace import Workspace


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fmcs-bench")
def main() -> None:
    """Feature-map data sets labelled by convergence, and a benchmark of the networks that judge them."""


@main.command()
@workspace_option
@device_option
def quickstart(workspace: str, device: str) -> None:
    """Do everything once on real digits, in minutes: build, evaluate, train, leaderboard."""
    from fmcs_bench import quickstart as road
    from fmcs_bench.display import shown

    place = _place(workspace)
    with place.locked(), shown() as progress:
        result = road.run(place, device=device, progress=progress)
    click.echo(f"{result.dataset}\n")
    _print_board(result.evaluators)
    _print_board(result.training)
    click.echo("The page with everything:")
    click.echo(str(result.page.resolve()))


@main.command()
@click.option(
    "--backbone",
    required=True,
    help="Short name, timm/NAME or torchvision/NAME; see `fmcs-bench list backbones --size N`.",
)
@click.option("--layer", metavar="NAME", help="Take the maps of this module, as layer3.  [default: the last maps]")
@click.option("--output-stride", type=int, metavar="8|16|32", help="Image side / map side.  [default: the network's]")
@click.option("--pretrained", is_flag=True, help="Start from published weights; only the classifier is random.")
@click.option(
    "--dataset",
    "image_dataset",
    default="digits",
    show_default=True,
    help="Image dataset: a name, folder:DIR or hub:NAME_OR_PATH.",
)
@click.option("--image-size", type=int, help="Side of the square input, in pixels.  [default: 224; digits: 32]")
@click.option("--stages", type=int, help="K, the number of FMCS.  [default: 9; digits: 7]")
@click.option("--runs", type=int, help="Training runs.  [default: 2]")
@click.option("--epochs", type=int, help="Upper bound of a run.  [default: 30; digits: 20]")
@click.option("--checkpoints", type=int, help="About how many checkpoints along a run.  [default: 60]")
@click.option("--limit", type=int, help="At most this many images in each split.")
@click.option(
    "--codec",
    type=click.Choice(["zstd", "pco", "q8"]),
    help="Of the maps: zstd (lossless, read everywhere), pco (lossless, smaller, outside the Zarr 3 specification) or "
    "q8 (8 bits, lossy).  [default: zstd]",
)
@click.option("--markers", type=click.Choice(["loss", "epoch"]), help="How stages are spaced.  [default: loss]")
@click.option("--cqi-threshold", type=float, help="Converged once CQI stays below, nats per epoch.  [default: 0.02]")
@click.option("--batch-size", type=int, help="Of training.  [default: 64]")
@click.option("--lr", type=float, help="Learning rate of training.  [default: 0.001]")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of training and maps; bfloat16 is faster on GPUs.  [default: float32]",
)
@click.option("--seed", type=int, help="Of the first run.  [default: 0]")
@click.option("--name", help="Last part of the dataset's name.  [default: base]")
@click.option("--download", is_flag=True, help="Fetch missing files of a named image dataset into --data-dir.")
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read; their number is kept.")
@stream_option
@data_dir_option
@workspace_option
@device_option
@json_option
def build(
    workspace: str,
    data_dir: str | None,
    device: str,
    as_json: bool,
    cqi_threshold: float | None,
    batch_size: int | None,
    lr: float | None,
    precision: str | None,
    layer: str | None,
    output_stride: int | None,
    pretrained: bool,
    **options: Any,
) -> None:
    """Build one FMCS dataset, or go on with an unfinished one."""
    from fmcs_bench import api
    from fmcs_bench.config import BackboneOptions, ConvergenceRule, Recipe
    from fmcs_bench.display import shown

    options["backbone_options"] = BackboneOptions.make(layer=layer, output_stride=output_stride, pretrained=pretrained)
    if cqi_threshold is not None:
        options["convergence"] = ConvergenceRule.make(threshold=cqi_threshold)
    recipe = {"batch_size": batch_size, "lr": lr, "precision": precision}
    options["recipe"] = Recipe.make(**{key: value for key, value in recipe.items() if value is not None})
    with shown() as progress:
        dataset = api.build(workspace=workspace, data_dir=data_dir, device=device, progress=progress, **options)
    _print_json(dataset.manifest.to_json()) if as_json else click.echo(str(dataset))


@main.command()
@click.argument("datasets", nargs=-1, metavar="[DATASET ...]")
@click.option(
    "--evaluator",
    "evaluators",
    multiple=True,
    metavar="NAME|FILE.py:Class",
    help="Which; repeat for several.  [default: all]",
)
@click.option(
    "--head",
    type=click.Choice(["softmax", "corn", "coral"]),
    default="softmax",
    show_default=True,
    help="corn and coral know that stages are ordered; for evaluators that are networks.",
)
@click.option("--seeds", type=int, default=5, show_default=True, help="Fits of each evaluator.")
@click.option("--limit", type=int, help="At most this many images in each split of each run.")
@click.option(
    "--test-on",
    multiple=True,
    metavar="DATASET",
    help="Test the fits on the test run of this dataset too, as they are; repeat for several.",
)
@workspace_option
@device_option
@json_option
def evaluate(
    datasets: tuple[str, ...],
    evaluators: tuple[str, ...],
    head: Head,
    seeds: int,
    limit: int | None,
    test_on: tuple[str, ...],
    workspace: str,
    device: str,
    as_json: bool,
) -> None:
    """Fit and test evaluators on FMCS datasets; every dataset of the workspace by default.

    An evaluator that fails stops no other: the board shows the rest, standard error says what failed, the exit code is
    1.
    """
    from fmcs_bench import api
    from fmcs_bench.display import shown
    from fmcs_bench.errors import UnitsFailedError

    failure: UnitsFailedError | None = None
    with shown() as progress:
        try:
            boards: Sequence[EvaluatorBoard] = api.evaluate(
                datasets or None,
                evaluators=evaluators,
                head=head,
                seeds=seeds,
                limit=limit,
                test_on=test_on,
                workspace=workspace,
                device=device,
                progress=progress,
            )
        except UnitsFailedError as error:
            failure, boards = error, error.finished
    if as_json:
        _print_json([record.to_json() for board in boards for row in board.rows for record in row.records])
    else:
        for board in boards:
            _print_board(board)
    if failure is not None:
        raise failure


@main.command()
@click.argument("dataset", required=False)
@click.option("--method", "methods", multiple=True, help="Which; repeat for several; see `fmcs-bench list methods`.")
@click.option("--raf", "rafs", multiple=True, type=float, help="RAF of RAL; repeat.  [default: 0.95, 0.9, 0.75]")
@click.option("--seeds", type=int, default=5, show_default=True, help="Paired trainings of each method.")
@click.option("--evaluator", metavar="NAME|FILE.py:Class", help="The judge.  [default: the best on the validation run]")
@click.option("--epochs", type=int, help="Length.  [default: the convergence point of the dataset's runs]")
@images_option
@stream_option
@data_dir_option
@workspace_option
@device_option
@json_option
def train(
    dataset: str | None,
    methods: tuple[str, ...],
    rafs: tuple[float, ...],
    seeds: int,
    evaluator: str | None,
    epochs: int | None,
    image_source: str | None,
    stream_images: bool | None,
    data_dir: str | None,
    workspace: str,
    device: str,
    as_json: bool,
) -> None:
    """Train baseline, RAL and DueHeadNet with the chosen evaluator, and compare them at equal seeds."""
    from fmcs_bench import api
    from fmcs_bench.config import DEFAULT_RAFS
    from fmcs_bench.display import shown
    from fmcs_bench.experiments import DEFAULT_METHODS

    with shown() as progress:
        board = api.train(
            dataset,
            methods=methods or DEFAULT_METHODS,
            rafs=rafs or DEFAULT_RAFS,
            seeds=seeds,
            evaluator=evaluator,
            epochs=epochs,
            workspace=workspace,
            data_dir=data_dir,
            image_source=image_source,
            stream_images=stream_images,
            device=device,
            progress=progress,
        )
    if as_json:
        points = [point for row in board.rows for point in row.sweep]
        _print_json([record.to_json() for point in points for record in point.records])
        return
    _print_board(board)


main.add_command(leaderboard)


@main.command()
@click.argument("dataset", required=False)
@click.option("--plot", metavar="DIR", help="Also draw loss, CQI and stages of every run into this folder.")
@workspace_option
@json_option
def info(dataset: str | None, plot: str | None, workspace: str, as_json: bool) -> None:
    """Show one FMCS dataset: shapes, sizes, runs, stages."""
    from pathlib import Path

    from fmcs_bench import places
    from fmcs_bench.store.figures import draw_runs

    place = _place(workspace)
    opened = places.only_dataset(place) if dataset is None else places.find_dataset(place, dataset)
    pictures = draw_runs(opened, Path(plot), "svg") if plot else []
    if as_json:
        _print_json(opened.manifest.to_json())
        return
    from rich.console import Console

    from fmcs_bench.terminal import print_table, stage_table

    click.echo(f"{opened}\n")
    print_table(Console(highlight=False), stage_table(opened.manifest))
    for path in pictures:
        click.echo(str(path))


@main.command()
@click.argument("dataset")
@click.option(
    "--recompute",
    type=int,
    default=0,
    metavar="N",
    help="Also compute N maps of every run and stage again, from the images and the stored checkpoints.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw of these maps.")
@images_option
@stream_option
@data_dir_option
@workspace_option
@device_option
@json_option
@click.pass_context
def verify(
    context: click.Context,
    dataset: str,
    recompute: int,
    seed: int,
    workspace: str,
    data_dir: str | None,
    image_source: str | None,
    stream_images: bool | None,
    device: str,
    as_json: bool,
) -> None:
    """Check every file, array and stage of an FMCS dataset; a fault exits with 1."""
    from fmcs_bench import api
    from fmcs_bench.display import shown

    with shown() as progress:
        report = api.verify(
            dataset,
            recompute=recompute,
            seed=seed,
            workspace=workspace,
            data_dir=data_dir,
            image_source=image_source,
            stream_images=stream_images,
            device=device,
            progress=progress,
        )
    _print_json(report.to_json()) if as_json else click.echo(str(report))
    if report.faults:
        context.exit(1)


main.add_command(publish)
main.add_command(download)


@main.command("list")
@click.argument("what", type=click.Choice(["backbones", "datasets", "evaluators", "methods"]))
@click.option("--size", type=click.IntRange(8, 1024), help="backbones: show their maps of images of this many pixels.")
@click.option("--name", "chosen", multiple=True, help="backbones: which, with --size; repeat.  [default: short names]")
@workspace_option
@json_option
def list_(what: str, size: int | None, chosen: tuple[str, ...], workspace: str, as_json: bool) -> None:
    """List what can be named: backbones, (image) datasets, evaluators, methods."""
    from fmcs_bench import listing

    if (size is None and (chosen or as_json)) or (size is not None and what != "backbones"):
        raise click.UsageError("--name and --json need --size, and these belong to `fmcs-bench list backbones`")
    if size is None:
        click.echo("\n".join(listing.lines(what, _place(workspace))))
        return
    rows = listing.describe_backbones(size, chosen)
    if as_json:
        _print_json([row.to_json() for row in rows])
        return
    from rich.console import Console

    from fmcs_bench.terminal import backbone_table, print_table

    print_table(Console(highlight=False), backbone_table(rows))


def _place(workspace: str) -> Workspace:
    from fmcs_bench.workspace import Workspace

    return Workspace(workspace)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, sort_keys=True))


def _print_board(board: EvaluatorBoard | TrainingBoard) -> None:
    from rich.console import Console

    from fmcs_bench.terminal import print_board

    print_board(Console(highlight=False), board)

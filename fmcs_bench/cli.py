"""The command line: one command per verb; each parses, calls one function, prints.

Heavy imports stay inside the commands, so that ``--help`` answers at once. Results go to standard output, progress to
standard error. Exit codes: 0 done, 1 failed, 2 wrong use.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fmcs_bench import __version__
from fmcs_bench.errors import FmcsBenchError

if TYPE_CHECKING:
    from fmcs_bench.boards import EvaluatorBoard, TrainingBoard
    from fmcs_bench.workspace import Workspace

Command = TypeVar("Command", bound=Callable[..., Any])


class _Failure(click.ClickException):
    """Shown as one or two lines on standard error, without a traceback."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click types it as a class variable and reads the instance's


class _Commands(click.Group):
    """Turns the errors that a person can act on into a line and an exit code; keeps the order of the verbs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FmcsBenchError as error:
            raise _Failure(str(error), error.exit_code) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            message = (
                f"the disk is full ({error.filename or 'while writing'}); free some space and type the command again"
            )
            raise _Failure(message, 1) from error
        except KeyboardInterrupt:
            raise _Failure("stopped; type the same command again and it goes on where it was", 1) from None


def _workspace_option(command: Command) -> Command:
    return click.option(
        "--workspace",
        envvar="FMCS_BENCH_WORKSPACE",
        default="fmcs-workspace",
        show_default=True,
        show_envvar=True,
        help="Folder of everything that is made.",
    )(command)


def _data_dir_option(command: Command) -> Command:
    return click.option(
        "--data-dir", envvar="FMCS_BENCH_DATA", show_envvar=True, help="Folder with the files of the image dataset."
    )(command)


def _images_option(command: Command) -> Command:
    return click.option(
        "--images", "image_source", help="folder:DIR or hub:NAME_OR_PATH that the dataset was built from."
    )(command)


def _device_option(command: Command) -> Command:
    return click.option(
        "--device", default="auto", show_default=True, help="auto takes CUDA where torch has it, else the CPU."
    )(command)


def _json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fmcs-bench")
def main() -> None:
    """Feature-map data sets labelled by convergence, and a benchmark of the networks that judge them."""


@main.command()
@_workspace_option
@_device_option
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
@click.option("--backbone", required=True, help="Short name, or timm/NAME; see `fmcs-bench list backbones`.")
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
@_data_dir_option
@_workspace_option
@_device_option
@_json_option
def build(
    workspace: str,
    data_dir: str | None,
    device: str,
    as_json: bool,
    cqi_threshold: float | None,
    batch_size: int | None,
    lr: float | None,
    precision: str | None,
    **options: Any,
) -> None:
    """Build one FMCS dataset, or go on with an unfinished one."""
    from fmcs_bench import api
    from fmcs_bench.config import ConvergenceRule, Recipe
    from fmcs_bench.display import shown

    if cqi_threshold is not None:
        options["convergence"] = ConvergenceRule.make(threshold=cqi_threshold)
    recipe = {"batch_size": batch_size, "lr": lr, "precision": precision}
    options["recipe"] = Recipe.make(**{key: value for key, value in recipe.items() if value is not None})
    with shown() as progress:
        dataset = api.build(workspace=workspace, data_dir=data_dir, device=device, progress=progress, **options)
    _print_json(dataset.manifest.to_json()) if as_json else click.echo(str(dataset))


@main.command()
@click.argument("datasets", nargs=-1, metavar="[DATASET ...]")
@click.option("--evaluator", "evaluators", multiple=True, help="Which; repeat for several.  [default: all]")
@click.option("--seeds", type=int, default=5, show_default=True, help="Fits of each evaluator.")
@click.option("--limit", type=int, help="At most this many images in each split of each run.")
@_workspace_option
@_device_option
@_json_option
def evaluate(
    datasets: tuple[str, ...],
    evaluators: tuple[str, ...],
    seeds: int,
    limit: int | None,
    workspace: str,
    device: str,
    as_json: bool,
) -> None:
    """Fit and test evaluators on FMCS datasets; every dataset of the workspace by default."""
    from fmcs_bench import api
    from fmcs_bench.display import shown

    with shown() as progress:
        boards = api.evaluate(
            datasets or None,
            evaluators=evaluators,
            seeds=seeds,
            limit=limit,
            workspace=workspace,
            device=device,
            progress=progress,
        )
    if as_json:
        _print_json([record.to_json() for board in boards for row in board.rows for record in row.records])
        return
    for board in boards:
        _print_board(board)


@main.command()
@click.argument("dataset", required=False)
@click.option("--method", "methods", multiple=True, help="Which; repeat for several; see `fmcs-bench list methods`.")
@click.option("--raf", "rafs", multiple=True, type=float, help="RAF of RAL; repeat.  [default: 0.95, 0.9, 0.75]")
@click.option("--seeds", type=int, default=5, show_default=True, help="Paired trainings of each method.")
@click.option("--evaluator", help="The judge.  [default: the best on the validation run]")
@click.option("--epochs", type=int, help="Length.  [default: the convergence point of the dataset's runs]")
@_images_option
@_data_dir_option
@_workspace_option
@_device_option
@_json_option
def train(
    dataset: str | None,
    methods: tuple[str, ...],
    rafs: tuple[float, ...],
    seeds: int,
    evaluator: str | None,
    epochs: int | None,
    image_source: str | None,
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
            device=device,
            progress=progress,
        )
    if as_json:
        points = [point for row in board.rows for point in row.sweep]
        _print_json([record.to_json() for point in points for record in point.records])
        return
    _print_board(board)


@main.group()
def leaderboard() -> None:
    """Tables and page, made of records."""


@leaderboard.command("build")
@_workspace_option
def leaderboard_build(workspace: str) -> None:
    """Make the page of all records of the workspace; its path is printed."""
    from fmcs_bench import api

    click.echo(str(api.build_leaderboard(workspace=workspace).resolve()))


@main.command()
@click.argument("dataset", required=False)
@click.option("--plot", metavar="DIR", help="Also draw loss, CQI and stages of every run into this folder.")
@_workspace_option
@_json_option
def info(dataset: str | None, plot: str | None, workspace: str, as_json: bool) -> None:
    """Show one FMCS dataset: shapes, sizes, runs, stages."""
    from fmcs_bench import api

    place = _place(workspace)
    opened = api.only_dataset(place) if dataset is None else api.find_dataset(place, dataset)
    pictures = api.plot_runs(opened, plot) if plot else []
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
@_images_option
@_data_dir_option
@_workspace_option
@_device_option
@_json_option
@click.pass_context
def verify(
    context: click.Context,
    dataset: str,
    recompute: int,
    seed: int,
    workspace: str,
    data_dir: str | None,
    image_source: str | None,
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
            device=device,
            progress=progress,
        )
    _print_json(report.to_json()) if as_json else click.echo(str(report))
    if report.faults:
        context.exit(1)


@main.command("list")
@click.argument("what", type=click.Choice(["backbones", "datasets", "evaluators", "methods"]))
@_workspace_option
def list_(what: str, workspace: str) -> None:
    """List what can be named: backbones, (image) datasets, evaluators, methods."""
    if what == "backbones":
        from fmcs_bench import backbones

        names = [*backbones.REGISTRY, "timm/NAME (any timm network whose features are maps)"]
    elif what == "datasets":
        from fmcs_bench import api, images

        place = _place(workspace)
        built = sorted(path.parent.name for path in place.datasets.glob("*/dataset.json"))
        sources = [*images.REGISTRY, *(usage for _, usage in images.SCHEMES.values())]
        names = ["image datasets", *(f"  {source}" for source in sources), f"FMCS datasets in {place.datasets}"]
        names += [f"  {name}" for name in built]
        names += [f"  {name} (unfinished: type its build command again)" for name in api.unfinished(place)]
    elif what == "evaluators":
        from fmcs_bench import evaluators

        names = []
        for name in evaluators.REGISTRY:
            kind = evaluators.REGISTRY[name]
            traits = {"differentiable": kind.differentiable, "channel-invariant": kind.channel_invariant}
            names.append(f"{name:<12} {', '.join(trait for trait, holds in traits.items() if holds)}".rstrip())
    else:
        from fmcs_bench.experiments import METHODS

        names = list(METHODS)
    click.echo("\n".join(names))


def _place(workspace: str) -> Workspace:
    from fmcs_bench.workspace import Workspace

    return Workspace(workspace)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, sort_keys=True))


def _print_board(board: EvaluatorBoard | TrainingBoard) -> None:
    from rich.console import Console

    from fmcs_bench.terminal import print_board

    print_board(Console(highlight=False), board)

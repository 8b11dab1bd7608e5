"""The command line: one command per verb; each parses, calls one function, prints.

Heavy imports stay inside the commands, so that ``--help`` answers at once. Results go to standard output, progress to
standard error. Exit codes: 0 done, 1 failed, 2 wrong use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fmcs_bench import __version__
from fmcs_bench.cli.evaluate import evaluate
from fmcs_bench.cli.explain import explain
from fmcs_bench.cli.hub import download, publish
from fmcs_bench.cli.leaderboard import leaderboard
from fmcs_bench.cli.options import (
    Commands,
    device_option,
    json_option,
    made,
    options_of,
    print_board,
    print_json,
    typed,
    workspace_option,
)
from fmcs_bench.cli.results import results
from fmcs_bench.cli.train import train
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.jobs.options import Execution
from fmcs_bench.store.config import BuildConfig

if TYPE_CHECKING:
    from fmcs_bench.core.workspace import Workspace


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fmcs-bench")
def main() -> None:
    """Feature-map data sets labelled by convergence, and a benchmark of the networks that judge them."""


@main.command()
@workspace_option
@device_option
def quickstart(workspace: str, device: str) -> None:
    """Do everything once on real digits, in minutes: build, evaluate, train, leaderboard."""
    from fmcs_bench.cli import quickstart as road
    from fmcs_bench.cli.progress import shown

    place = _place(workspace)
    with shown() as progress:
        result = road.run(place, device=device, progress=progress)
    click.echo(f"{result.dataset}\n")
    print_board(result.evaluators)
    print_board(result.training)
    click.echo("The page with everything:")
    click.echo(str(result.page.resolve()))


@main.command()
@options_of(BuildConfig)
@options_of(ImageOptions, without=("image_source",))
@workspace_option
@options_of(Execution)
@json_option
def build(workspace: str, as_json: bool, **values: Any) -> None:
    """Build one FMCS dataset, or go on with an unfinished one."""
    from fmcs_bench.build.runner import build as do
    from fmcs_bench.cli.progress import shown

    images, execution = made(ImageOptions, values), made(Execution, values)
    with shown() as progress:
        dataset = do(
            workspace=workspace, images=images, execution=execution, progress=progress, **typed(BuildConfig, values)
        )
    print_json(dataset.manifest.to_json()) if as_json else click.echo(str(dataset))


main.add_command(evaluate)


main.add_command(train)


main.add_command(leaderboard)
main.add_command(results)


@main.command()
@click.argument("dataset", required=False)
@click.option("--plot", metavar="DIR", help="Also draw loss, CQI and stages of every run into this folder.")
@workspace_option
@json_option
def info(dataset: str | None, plot: str | None, workspace: str, as_json: bool) -> None:
    """Show one FMCS dataset: shapes, sizes, runs, stages."""
    from pathlib import Path

    from fmcs_bench.build.figures import draw_runs
    from fmcs_bench.store import reader

    place = _place(workspace)
    opened = reader.only_dataset(place) if dataset is None else reader.find_dataset(place, dataset)
    pictures = draw_runs(opened, Path(plot), "svg") if plot else []
    if as_json:
        print_json(opened.manifest.to_json())
        return
    from rich.console import Console

    from fmcs_bench.cli.tables import print_table, stage_table

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
@options_of(ImageOptions, only=("image_source", "stream_images", "data_dir"))
@workspace_option
@device_option
@json_option
def verify(dataset: str, recompute: int, seed: int, workspace: str, device: str, as_json: bool, **values: Any) -> None:
    """Check every file, array and stage of an FMCS dataset; a fault exits with 1."""
    from fmcs_bench.build.verify import verify as do
    from fmcs_bench.cli.progress import shown

    images = made(ImageOptions, values)
    with shown() as progress:
        report = do(
            dataset,
            recompute=recompute,
            seed=seed,
            workspace=workspace,
            images=images,
            device=device,
            progress=progress,
        )
    print_json(report.to_json()) if as_json else click.echo(str(report))
    if report.faults:
        click.get_current_context().exit(1)


main.add_command(explain)
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
    from fmcs_bench.cli import list as listing

    if (size is None and (chosen or as_json)) or (size is not None and what != "backbones"):
        raise click.UsageError("--name and --json need --size, and these belong to `fmcs-bench list backbones`")
    if size is None:
        click.echo("\n".join(listing.lines(what, _place(workspace))))
        return
    rows = listing.describe_backbones(size, chosen)
    if as_json:
        print_json([row.to_json() for row in rows])
        return
    from rich.console import Console

    from fmcs_bench.cli.tables import backbone_table, print_table

    print_table(Console(highlight=False), backbone_table(rows))


def _place(workspace: str) -> Workspace:
    from fmcs_bench.core.workspace import Workspace

    return Workspace(workspace)

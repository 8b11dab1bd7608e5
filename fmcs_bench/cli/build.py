"""The commands of one FMCS dataset: ``build``, ``info`` and ``verify``."""

from __future__ import annotations

from typing import Any

import click

from fmcs_bench.cli.options import device_option, json_option, made, options_of, print_json, typed, workspace_option
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.jobs.options import Execution
from fmcs_bench.store.config import BuildConfig


@click.command()
@options_of(BuildConfig)
@options_of(ImageOptions, without=("image_source",))
@workspace_option
@options_of(Execution)
@json_option
def build(workspace: str, as_json: bool, **values: Any) -> None:
    """Build one FMCS dataset, or continue an unfinished one."""
    from fmcs_bench.build import runner
    from fmcs_bench.cli.progress import shown

    images, execution = made(ImageOptions, values), made(Execution, values)
    with shown() as progress:
        dataset = runner.build(
            workspace=workspace, images=images, execution=execution, progress=progress, **typed(BuildConfig, values)
        )
    print_json(dataset.manifest.to_json()) if as_json else click.echo(str(dataset))


@click.command()
@click.argument("dataset", required=False)
@click.option("--plot", metavar="DIR", help="Also draw loss, CQI and stages of every run into this folder.")
@workspace_option
@json_option
def info(dataset: str | None, plot: str | None, workspace: str, as_json: bool) -> None:
    """Show one FMCS dataset: shapes, sizes, runs, stages."""
    from pathlib import Path

    from fmcs_bench.build.figures import draw_runs
    from fmcs_bench.cli.tables import print_table, stage_table
    from fmcs_bench.core.workspace import Workspace
    from fmcs_bench.store import reader

    place = Workspace(workspace)
    opened = reader.only_dataset(place) if dataset is None else reader.find_dataset(place, dataset)
    pictures = draw_runs(opened, Path(plot), "svg") if plot else []
    if as_json:
        print_json(opened.manifest.to_json())
        return
    click.echo(f"{opened}\n")
    print_table(stage_table(opened.manifest))
    for path in pictures:
        click.echo(str(path))


@click.command()
@click.argument("dataset")
@click.option(
    "--recompute",
    type=int,
    default=0,
    metavar="N",
    help="Also compute N maps of every run and stage again, from the images and the stored checkpoints.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draw of these maps.")
@options_of(ImageOptions, only=("image_source", "stream_images", "data_dir"))
@workspace_option
@device_option
@json_option
def verify(dataset: str, recompute: int, seed: int, workspace: str, device: str, as_json: bool, **values: Any) -> None:
    """Check every file, array and stage of an FMCS dataset; a fault exits with 1."""
    from fmcs_bench.build import verify as room
    from fmcs_bench.cli.progress import shown

    where: dict[str, Any] = {"workspace": workspace, "images": made(ImageOptions, values), "device": device}
    with shown() as progress:
        report = room.verify(dataset, recompute=recompute, seed=seed, progress=progress, **where)
    print_json(report.to_json()) if as_json else click.echo(str(report))
    if report.faults:
        click.get_current_context().exit(1)

"""The command ``fmcs-bench explain``."""

from __future__ import annotations

from typing import Any

import click

from fmcs_bench.cli.options import device_option, made, options_of, workspace_option
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.training_track.options import ExplainOptions


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

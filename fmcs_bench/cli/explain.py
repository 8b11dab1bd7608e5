"""The command that draws Grad-CAM; see ``cli`` and ``explanation``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from fmcs_bench.cli.options import data_dir_option, device_option, images_option, stream_option, workspace_option

if TYPE_CHECKING:
    from fmcs_bench.backbones.gradcam import Target


@click.command()
@click.argument("dataset", required=False)
@click.option(
    "--by",
    type=click.Choice(["stage", "raf"]),
    default="stage",
    show_default=True,
    help="A column for each stage of a run, or for each RAF of a family of trainings whose weights were kept.",
)
@click.option("--run", type=int, metavar="SEED", help="stage: of which run.  [default: the test run]")
@click.option("--method", metavar="FAMILY", help="raf: as ral-set.  [default: the only one]")
@click.option("--seed", type=int, help="raf: of the trainings.  [default: the lowest]")
@click.option("--settings", help="raf: of the trainings.  [default: the only ones]")
@click.option("--num-images", type=int, metavar="N", help="Test images.  [default: one of each class, at most 10]")
@click.option("--image-id", "image_ids", type=int, multiple=True, metavar="ID", help="These images instead; repeat.")
@click.option(
    "--target",
    type=click.Choice(["predicted", "label"]),
    default="predicted",
    show_default=True,
    help="The class whose evidence is shown: what the network predicts, or the image's label.",
)
@click.option("--out", metavar="FILE", help="The picture: .png, .svg or .pdf.  [default: in the workspace]")
@images_option
@stream_option
@data_dir_option
@workspace_option
@device_option
def explain(
    dataset: str | None,
    by: Literal["stage", "raf"],
    run: int | None,
    method: str | None,
    seed: int | None,
    settings: str | None,
    num_images: int | None,
    image_ids: tuple[int, ...],
    target: Target,
    out: str | None,
    image_source: str | None,
    stream_images: bool | None,
    data_dir: str | None,
    workspace: str,
    device: str,
) -> None:
    """Draw where a network looks, by stage or by RAF (Grad-CAM); the picture's path is printed."""
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.training_track import explain as explanations

    with shown() as progress:
        explanation = explanations.explain(
            dataset,
            by=by,
            run=run,
            method=method,
            seed=seed,
            settings=settings,
            num_images=num_images,
            image_ids=image_ids,
            target=target,
            out=out,
            image_source=image_source,
            stream_images=stream_images,
            data_dir=data_dir,
            workspace=workspace,
            device=device,
            progress=progress,
        )
    click.echo(str(explanation))

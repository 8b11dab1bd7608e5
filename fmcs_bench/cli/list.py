"""``fmcs-bench list``: what can be named on the command line."""

from __future__ import annotations

import click

from fmcs_bench.cli.options import json_option, print_json, workspace_option
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.training.methods import METHODS

_SECOND = {"smallcnn": "WIDTH"}


def _names(what: str, workspace: Workspace) -> list[str]:
    """The names of one kind; of datasets, also those of the workspace."""
    if what == "backbones":
        from fmcs_bench.backbones.create import BACKBONE_LIBRARIES, BACKBONES

        return [*BACKBONES, *(f"{library}/{_SECOND.get(library, 'NAME')}" for library in BACKBONE_LIBRARIES)]
    if what == "datasets":
        from fmcs_bench.images.base import IMAGE_DATASETS
        from fmcs_bench.images.load import IMAGE_SCHEMES
        from fmcs_bench.store import reader

        built = sorted(path.parent.name for path in workspace.datasets.glob("*/dataset.json"))
        sources = [*IMAGE_DATASETS, *(usage for _, usage in IMAGE_SCHEMES.values())]
        return [
            "image datasets",
            *(f"  {source}" for source in sources),
            f"FMCS datasets in {workspace.datasets}",
            *(f"  {name}" for name in built),
            *(f"  {name} (unfinished: type its build command again)" for name in reader.unfinished_datasets(workspace)),
        ]
    if what == "evaluators":
        from fmcs_bench.evaluators.registry import EVALUATORS, find_evaluator

        found = []
        for name in EVALUATORS:
            kind = find_evaluator(name)
            traits = {
                "differentiable": kind.differentiable,
                "channel-invariant": kind.channel_invariant,
                "any shape": kind.any_shape,
            }
            found.append(f"{name:<12} {', '.join(trait for trait, holds in traits.items() if holds)}".rstrip())
        return found
    return [*METHODS, "single-NAME (any backbone)"]


@click.command("list")
@click.argument("what", type=click.Choice(["backbones", "datasets", "evaluators", "methods"]))
@click.option("--size", type=click.IntRange(8, 1024), help="backbones: show their maps of images of this many pixels.")
@click.option("--name", "names", multiple=True, help="backbones: which, with --size; repeat.  [default: short names]")
@workspace_option
@json_option
def list_(what: str, size: int | None, names: tuple[str, ...], workspace: str, as_json: bool) -> None:
    """List what can be named: backbones, (image) datasets, evaluators, methods."""
    if (size is None and (names or as_json)) or (size is not None and what != "backbones"):
        raise click.UsageError("--name and --json need --size, and these belong to `fmcs-bench list backbones`")
    if size is None:
        click.echo("\n".join(_names(what, Workspace(workspace))))
        return
    from fmcs_bench.backbones.create import BACKBONES, describe, find_backbone
    from fmcs_bench.cli.tables import backbone_table, print_table

    for name in names:  # before any is made, which takes time
        find_backbone(name)
    rows = [describe(name, size) for name in names or BACKBONES]
    print_json([row.to_json() for row in rows]) if as_json else print_table(backbone_table(rows))

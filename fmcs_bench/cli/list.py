"""What can be named on the command line, a line each: backbones, datasets, evaluators, methods."""

from __future__ import annotations

from collections.abc import Sequence

from fmcs_bench.backbones.create import BACKBONE_LIBRARIES, BACKBONES, Description, describe, find_backbone
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluators.registry import EVALUATORS, find_evaluator
from fmcs_bench.images.base import IMAGE_DATASETS
from fmcs_bench.images.load import IMAGE_SCHEMES
from fmcs_bench.store import reader
from fmcs_bench.training.methods import METHODS

_SECOND = {"smallcnn": "WIDTH"}


def lines(what: str, workspace: Workspace) -> list[str]:
    """The names of one kind.

    Args:
        what: ``backbones``, ``datasets``, ``evaluators`` or ``methods``.
        workspace: whose FMCS datasets are listed.
    """
    if what == "backbones":
        return [*BACKBONES, *(f"{library}/{_SECOND.get(library, 'NAME')}" for library in BACKBONE_LIBRARIES)]
    if what == "datasets":
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


def describe_backbones(image_size: int, names: Sequence[str] = ()) -> list[Description]:
    """The maps of backbones at one image size.

    Args:
        image_size: side of the square images, in pixels.
        names: of the backbones; none is all short names.

    Raises:
        UnknownNameError: no such backbone.
    """
    for name in names:  # before any is made, which takes time
        find_backbone(name)
    return [describe(name, image_size) for name in names or BACKBONES]

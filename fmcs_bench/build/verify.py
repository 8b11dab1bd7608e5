"""Checks an FMCS dataset: its bytes, arrays and stages (``store.verify``), and a few maps computed again.

N images, H height, W width, C channels of images, D channels of maps.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from fmcs_bench.backbones.create import find_backbone
from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.seeding import derive
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.images.dataset import SPLITS, ImageDataset
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.store import schema
from fmcs_bench.store.reader import FmcsDataset, dataset_location
from fmcs_bench.store.verify import Check, Fault, Report, Verifier, excess, guarded
from fmcs_bench.training.loop import autocast, choose_device
from fmcs_bench.training.trajectory import load_checkpoint


def verify(
    dataset: FmcsDataset | PathLike,
    *,
    recompute: int = 0,
    seed: int = 0,
    workspace: PathLike | None = None,
    images: ImageOptions | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    **options: Any,
) -> Report:
    """Check every file, array and stage of an FMCS dataset; the report lists all faults, and none raises.

    Args:
        dataset: opened, or a name, path or URL.
        recompute: this many maps of every run and stage are also computed again, from the images and the stored
            checkpoints.
        seed: of the draw of these maps.
        workspace: see ``Workspace``.
        images: where the image files are, for ``recompute``; None takes it from ``options``.
        device: where maps are computed again: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...
        progress: shows the work; silent by default.
        **options: fields of ``ImageOptions``.

    Raises:
        ConfigError: ``recompute`` is negative, or an option is wrong.
        MissingDataError: there is no such dataset, or the image files are not there.
        UnknownNameError: ``recompute`` needs an image dataset or a backbone that is not installed.
    """
    images = images or ImageOptions.make(**options)
    if recompute < 0:
        raise ConfigError(f"recompute = {recompute}; the number of maps of every run and stage must be 0 or more")
    location = dataset_location(Workspace(workspace), dataset)
    on = choose_device(device)
    try:
        dataset = FmcsDataset(location, check=False)
    except DatasetError as error:
        return Report(str(location), (Check("manifest", "", (str(error),)),))
    config = dataset.manifest.config
    # A changed manifest may name anything: nothing else on this machine is touched for it.
    sound = dataset.manifest.states_its_digest
    verifier = Verifier(dataset)
    names = ("manifest", "files", "images", "runs", "arrays", "maps", "checkpoints")
    steps = [(name, getattr(verifier, f"check_{name}")) for name in names]
    if recompute and sound:
        find_backbone(config.backbone)
        source = dataset.load_images(images, progress=progress)
        steps.append(("recompute", lambda fault: check_recomputed(verifier, fault, source, recompute, on, seed)))
    elif recompute:
        steps.append(("recompute", _not_done))
    checks = []
    with progress.task(f"verifying {PurePath(str(location)).name}", len(steps)) as task:
        for name, step in steps:
            found: list[str] = []
            covered = ""
            with guarded(found.append, "cannot be checked"):
                covered = step(found.append)
            checks.append(Check(name, covered, tuple(found)))
            task.advance()
    return Report(str(location), tuple(checks))


def _not_done(fault: Fault) -> str:
    fault("not done: the manifest was changed")
    return ""


@torch.no_grad()
def check_recomputed(
    verifier: Verifier, fault: Fault, source: ImageDataset, num: int, device: torch.device, seed: int
) -> str:
    """Some maps of every run and stage, computed again, are those that are stored."""
    part = verifier.dataset.part
    if not {"maps", "checkpoints"} <= set(part.kinds):
        fault(f"only {', '.join(part.kinds)} are there; computing maps again needs maps and checkpoints")
        return ""
    if source.sha256 != verifier.manifest.images.sha256:
        fault(f"the images of {source.name} here are not those of the dataset (another SHA-256): nothing to compare")
        return ""
    for name, values_N in (("image_id", source.ids_N), ("label", source.labels_N), ("split", source.splits_N)):
        if not np.array_equal(verifier.values(name), values_N):
            fault(f"{name} is not that of the images")
    prepare = Preprocessor(source, verifier.config.image_size).to(device)
    drawn, worst = 0, 0.0
    splits = [SPLITS.index(split) for split in part.splits]
    for run in verifier.manifest.runs:
        image_N = verifier.values(f"{schema.run_group(run.seed)}/image")
        for row in range(verifier.config.stages):
            if run.seed not in part.runs or row + 1 not in part.stages:
                continue
            where = f"run {run.seed}, stage {row + 1}"
            with guarded(fault, where):
                generator = np.random.default_rng(derive(seed, "recompute", run.seed, row))
                here_N = np.flatnonzero(np.isin(source.splits_N[image_N], splits))
                few_N = here_N[np.sort(generator.choice(len(here_N), min(num, len(here_N)), replace=False))]
                checkpoint = verifier.location.read_bytes(schema.checkpoint_name(run.seed, row + 1))
                backbone = load_checkpoint(verifier.config, len(source.classes), checkpoint).to(device)
                input_NCHW = prepare(torch.from_numpy(source.images_NCHW[image_N[few_N]]).to(device))
                with autocast(device, verifier.config.recipe.precision):
                    again_NDHW = backbone.features(input_NCHW).float().cpu().numpy()
                stored_NDHW = np.concatenate(
                    [verifier.dataset.read_maps(run.seed, "feature_maps", row, n, n + 1) for n in few_N]
                )
                excess_N = excess(stored_NDHW, again_NDHW, verifier.half_step(run.seed, "feature_maps", row, few_N))
                drawn, worst = drawn + len(few_N), max(worst, float(excess_N.max()))
                if (wrong_N := excess_N > 1).any():
                    example = int(np.argmax(excess_N))
                    fault(
                        f"{where}: {int(wrong_N.sum())} of {len(few_N)} maps differ from those computed again; "
                        f"image at {few_N[example]} by {excess_N[example]:.3g} times what is allowed"
                    )
    return f"{drawn:,} maps computed again; largest difference {worst:.2g} of what is allowed"

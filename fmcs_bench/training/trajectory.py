"""One run: train a backbone from one seed and keep checkpoints along its loss curve.

Stages are chosen afterwards, by ``convergence``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from fmcs_bench.backbones.base import Backbone
from fmcs_bench.backbones.create import create_backbone
from fmcs_bench.core import files
from fmcs_bench.core.options import Options
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.images.dataset import ImageDataset
from fmcs_bench.images.loader import image_inputs
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.training.convergence import checkpoint_steps
from fmcs_bench.training.loop import Batches, accuracy, fit
from fmcs_bench.training.losses import Objective, freeze
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import RunConfig


class Checkpoint(Options):
    """One kept point of a run. ``step`` counts from 1; ``epoch`` is the share of epochs done by then."""

    step: int = Field(ge=1)
    epoch: float = Field(gt=0)
    validation_accuracy: float = Field(ge=0, le=1)


class Run(Options):
    """One run: the training loss of every step, in nats, and the checkpoints."""

    seed: int
    steps_per_epoch: int
    losses: tuple[float, ...]
    checkpoints: tuple[Checkpoint, ...]


def image_batches(images: ImageDataset, prepare: Preprocessor, *splits: str, device: torch.device) -> Batches:
    """The images of some splits as uint8, with the preprocessing of the input on the device."""
    return Batches(
        image_inputs(images.images_NCHW, images.indices(*splits), device),
        torch.from_numpy(images.labels_N[images.indices(*splits)]).to(device),
        prepare.to(device),
    )


def train_run(
    images: ImageDataset,
    config: RunConfig,
    seed: int,
    folder: Path,
    *,
    device: torch.device,
    progress: Progress = SILENT,
) -> Run:
    """Train one backbone on the train split and keep its checkpoints, as ``step-<n>.safetensors``, in ``folder``.

    The state of an unfinished training is there too, and is resumed. ``seed`` decides weights, order and noise.
    """
    prepare = Preprocessor(images, config.image_size)
    train = image_batches(images, prepare, "train", device=device)
    validation = image_batches(images, prepare, "validation", device=device)
    model = initial_backbone(config, len(images.classes), seed=seed).to(device)
    steps_per_epoch = train.num_steps(config.recipe.batch_size)
    wanted = set(checkpoint_steps(config.epochs * steps_per_epoch, config.checkpoints))
    folder.mkdir(parents=True, exist_ok=True)

    with progress.task(f"run {seed}: training {config.backbone}", config.epochs) as task:

        def keep(step: int) -> dict[str, float] | None:
            if step not in wanted:
                return None
            save_checkpoint(model, checkpoint_path(folder, step))
            return {"step": step, "validation_accuracy": accuracy(model, validation, precision=config.recipe.precision)}

        def report(_epoch: int, _loss: float) -> dict[str, float]:
            task.advance()
            return {}

        history = fit(
            model,
            train,
            Objective(Method()),
            config.recipe,
            epochs=config.epochs,
            seed=seed,
            state_path=folder / "state.pt",
            after_step=keep,
            after_epoch=report,
        )
    return Run(
        seed=seed,
        steps_per_epoch=steps_per_epoch,
        losses=tuple(history.losses),
        checkpoints=tuple(Checkpoint(epoch=note["step"] / steps_per_epoch, **note) for note in history.step_notes),
    )


def initial_backbone(config: RunConfig, num_classes: int, *, seed: int) -> Backbone:
    """The backbone of a configuration as a run from this seed starts with it."""
    return create_backbone(
        config.backbone, num_classes, seed=seed, image_size=config.image_size, options=config.backbone_options
    )


def checkpoint_path(folder: Path, step: int) -> Path:
    """File of the checkpoint after ``step`` steps."""
    return folder / f"step-{step}.safetensors"


def save_checkpoint(model: Backbone, path: Path, *, key: str | None = None) -> None:
    """Write the weights as safetensors, whole or not at all; ``key`` of their record goes into the file's metadata."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    files.write_atomically(path, save(state, None if key is None else {"key": key}))


def checkpoint_key(path: Path) -> str | None:
    """The key that a checkpoint was saved with; None where it has none, is damaged, or does not exist."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            key: str | None = (file.metadata() or {}).get("key")
    except SafetensorError:
        return None
    return key


def load_checkpoint(config: RunConfig, num_classes: int, checkpoint: Path | bytes) -> Backbone:
    """The backbone with the weights of a checkpoint (a file or its bytes), frozen, in eval mode, on the CPU."""
    # Published weights would be fetched only to be replaced.
    options = config.backbone_options.model_copy(update={"pretrained": False})
    model = create_backbone(config.backbone, num_classes, seed=0, image_size=config.image_size, options=options)
    model.load_state_dict(load(checkpoint if isinstance(checkpoint, bytes) else checkpoint.read_bytes()))
    return freeze(model)

"""What a training command would do, and about how long it would take, before anything runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.trials import TrainingTrial
from fmcs_bench.store.reader import FmcsDataset, find_dataset, only_dataset
from fmcs_bench.training.loop import Batches, choose_device, fit
from fmcs_bench.training.losses import Objective
from fmcs_bench.training_track.networks import make_network
from fmcs_bench.training_track.options import TrainOptions
from fmcs_bench.training_track.plan import Trainings, plan_trials

MEASURED = "one measured step, without reading images and validation"
"""Where no training of the kind was finished on this machine."""


@dataclass(frozen=True)
class TrainingPlan:
    """What ``fmcs-bench train`` would do.

    Attributes:
        rows: one for each method and RAF: ``method`` (family), ``raf``, ``epochs`` of one training, ``seeds``, how many
            are ``done``, ``failed`` and ``left``, and ``seconds`` for those that are left, with the ``basis`` of that.
    """

    dataset_id: str
    settings: str
    rows: tuple[dict[str, Any], ...]

    @property
    def seconds(self) -> float:
        """For all that is left, one training at a time."""
        return float(sum(row["seconds"] for row in self.rows))

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"dataset": self.dataset_id, "settings": self.settings, "rows": self.rows, "seconds": self.seconds}

    def __str__(self) -> str:
        lines = [["method", "RAF", "epochs", "seeds", "done", "failed", "left", "time left", "estimated from"]]
        for row in self.rows:
            first, last = row["seeds"][0], row["seeds"][-1]
            time_left = duration(row["seconds"]) if row["left"] else ""
            seeds = f"{first}-{last}" if last != first else first
            counts = [row["epochs"], seeds, row["done"], row["failed"], row["left"]]
            lines.append([str(cell) for cell in (row["method"], f"{row['raf']:g}", *counts, time_left, row["basis"])])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        left, total = sum(row["left"] for row in self.rows), sum(len(row["seeds"]) for row in self.rows)
        about = f", about {duration(self.seconds)}" if left else ""
        return "\n".join(
            [
                f"Plan for {self.dataset_id}, settings {self.settings}",
                *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines),
                f"{left} of {total} trainings are left{about}",
            ]
        )


def duration(seconds: float) -> str:
    """A length of time with the precision of an estimate, such as ``10 min`` or ``2.5 h``."""
    for limit, divisor, form, unit in ((99, 1, ".0f", "s"), (5940, 60, ".0f", "min"), (172_800, 3600, ".1f", "h")):
        if seconds <= limit:
            return f"{max(1.0, seconds / divisor):{form}} {unit}"
    return f"{seconds / 86_400:.1f} days"


def plan_training(
    dataset: FmcsDataset | PathLike | None = None,
    options: TrainOptions | None = None,
    *,
    workspace: PathLike | None = None,
    device: str = "auto",
    **values: Any,
) -> TrainingPlan:
    """What ``train`` with the same arguments would do, and about how long it would take; nothing is trained."""
    options = TrainOptions.make(**(dict(options or {}) | values))
    place = Workspace(workspace)
    opened = only_dataset(place) if dataset is None else find_dataset(place, dataset)
    return plan_dataset(opened, place, options, device=device)


def plan_dataset(
    dataset: FmcsDataset, workspace: Workspace, options: TrainOptions | None = None, *, device: str = "auto"
) -> TrainingPlan:
    """The plan for ``runner.train_dataset`` with these arguments."""
    trainings, trials = plan_trials(dataset, workspace, options or TrainOptions(), choose_device(device))
    finished = [record for record in trainings.store.all(TrainingRecord) if record.dataset_id == dataset.id]
    estimates: dict[str, tuple[float, str]] = {}
    rows: dict[str, list[TrainingTrial]] = {}
    for trial in trials:
        rows.setdefault(trial.label, []).append(trial)

    def row(group: Sequence[TrainingTrial]) -> dict[str, Any]:
        first = group[0]
        done = [trial for trial in group if trainings.find_record(trial) is not None]
        failed = [trial for trial in group if trial not in done and trainings.find_failure(trial) is not None]
        left = len(group) - len(done) - len(failed)
        if left and first.family not in estimates:
            estimates[first.family] = _epoch_seconds(trainings, first, finished)
        seconds, basis = estimates[first.family] if left else (0.0, "")
        return {
            "method": first.family,
            "raf": first.method.raf,
            "epochs": first.num_epochs,
            "seeds": [trial.seed for trial in group],
            "done": len(done),
            "failed": len(failed),
            "left": left,
            "seconds": seconds * first.num_epochs * left,
            "basis": basis,
        }

    return TrainingPlan(dataset.id, trials[0].settings, tuple(row(group) for group in rows.values()))


def _epoch_seconds(trainings: Trainings, trial: TrainingTrial, records: Sequence[TrainingRecord]) -> tuple[float, str]:
    """Seconds of one epoch of trials of this kind, and what they are estimated from."""
    here = trainings.environment
    alike = [
        record
        for record in records
        if record.trial.family == trial.family
        and record.trial.recipe.batch_size == trial.recipe.batch_size
        and record.trial.recipe.precision == trial.recipe.precision
        and all(getattr(record.environment, name) == getattr(here, name) for name in ("device", "processor", "threads"))
    ]
    if alike:
        seconds = sum(record.cost.seconds for record in alike) / sum(len(record.curve) for record in alike)
        return seconds, f"{len(alike)} finished training{'s' if len(alike) > 1 else ''}"
    return _measured_epoch(trainings, trial), MEASURED


def _measured_epoch(trainings: Trainings, trial: TrainingTrial) -> float:
    """Seconds of the steps of an epoch, from the second of two steps of noise; the first one warms up."""
    size, batch, device = trial.image_size, trial.recipe.batch_size, trainings.device
    num_images = trainings.dataset.manifest.images.num_images["train"]
    num_steps = -(-num_images // batch)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(-(-num_images // num_steps), 3, size, size, generator=generator).to(device)
    labels = torch.arange(len(images), device=device) % trainings.num_classes
    moments = [time.monotonic()]

    def after_epoch(_epoch: int, _loss: float) -> dict[str, float]:
        moments.append(time.monotonic())  # the loss was read, so the device has finished
        return {}

    fit(
        make_network(trial, trainings.num_classes).to(device),
        Batches(images, labels, lambda inputs: inputs),
        Objective(trial.method, trainings.evaluators.of_loss(trial)),
        trial.recipe,
        epochs=2,
        seed=0,
        after_epoch=after_epoch,
    )
    return (moments[2] - moments[1]) * num_steps

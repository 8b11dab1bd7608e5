"""What a training command would do, and about how long it would take, before anything runs.

Flow: units of work -> those done, failed and left -> seconds of an epoch, from finished records of the same kind on
this machine, else from one measured step -> table.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch

from fmcs_bench.core.workspace import Workspace
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.store import FailedStore, RecordStore
from fmcs_bench.results.trials import TrainingTrial
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.training.loop import Batches, choose_device, fit
from fmcs_bench.training.losses import Objective
from fmcs_bench.training_track.networks import make_network
from fmcs_bench.training_track.options import TrainOptions
from fmcs_bench.training_track.plan import Planned, plan_units
from fmcs_bench.training_track.runner import find_record

MEASURED = "one measured step, without reading images and validation"
"""Where no training of the kind was finished on this machine."""


@dataclass(frozen=True)
class PlanRow:
    """One method at one RAF.

    Attributes:
        method: family, with its judge.
        epochs: of one training.
        seeds: of all its trainings.
        done: how many are finished.
        failed: how many failed before; they are not trained again unless that is asked for.
        left: how many would be trained.
        seconds: estimate for those.
        basis: what the estimate is made from; "" where nothing is left.
    """

    method: str
    raf: float
    epochs: int
    seeds: tuple[int, ...]
    done: int
    failed: int
    left: int
    seconds: float
    basis: str


@dataclass(frozen=True)
class Plan:
    """What ``fmcs-bench train`` would do."""

    dataset_id: str
    settings: str
    rows: tuple[PlanRow, ...]

    @property
    def seconds(self) -> float:
        """Estimate for all that is left, one training after the other."""
        return sum(row.seconds for row in self.rows)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "dataset": self.dataset_id,
            "settings": self.settings,
            "rows": [asdict(row) | {"seeds": list(row.seeds)} for row in self.rows],
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        head = ("method", "RAF", "epochs", "seeds", "done", "failed", "left", "time left", "estimated from")
        cells = [
            (
                row.method,
                f"{row.raf:g}",
                str(row.epochs),
                f"{row.seeds[0]}-{row.seeds[-1]}" if len(row.seeds) > 1 else str(row.seeds[0]),
                str(row.done),
                str(row.failed),
                str(row.left),
                spoken(row.seconds) if row.left else "",
                row.basis,
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *cells)]
        left = sum(row.left for row in self.rows)
        total = sum(len(row.seeds) for row in self.rows)
        return "\n".join(
            [
                f"Plan for {self.dataset_id}, settings {self.settings}",
                *lines,
                f"{left} of {total} trainings are left{f', about {spoken(self.seconds)}' if left else ''}",
            ]
        )


def spoken(seconds: float) -> str:
    """A length of time in words, with the precision that an estimate has.

    Example:
        >>> spoken(0.2), spoken(48), spoken(600), spoken(9000), spoken(400_000)
        ('1 s', '48 s', '10 min', '2.5 h', '4.6 days')
    """
    for limit, unit, form in ((99, 1, ".0f"), (5940, 60, ".0f"), (172_800, 3600, ".1f")):
        if seconds <= limit:
            return f"{max(1.0, seconds / unit):{form}} {({1: 's', 60: 'min', 3600: 'h'})[unit]}"
    return f"{seconds / 86_400:.1f} days"


def plan_methods(
    dataset: FmcsDataset,
    workspace: Workspace,
    sweep: TrainOptions | None = None,
    *,
    retry: bool = False,
    device: str = "auto",
) -> Plan:
    """What ``experiments.train_methods`` would do with these arguments; nothing is trained or written.

    Raises:
        FmcsBenchError: see ``planning.plan_units``.
    """
    sweep = sweep or TrainOptions()
    planned = plan_units(dataset, workspace, sweep, choose_device(device))
    store, failed = RecordStore(workspace.records), FailedStore(workspace.records)
    of_dataset = [record for record in store.all(TrainingRecord) if record.dataset_id == dataset.id]
    estimates: dict[str, tuple[float, str]] = {}
    rows: dict[str, list[TrainingTrial]] = {}
    for unit in planned.units:
        rows.setdefault(unit.label, []).append(unit)

    def row(units: Sequence[TrainingTrial]) -> PlanRow:
        found = [find_record(planned, store, u, best_epoch_on_test=sweep.best_epoch_on_test) is not None for u in units]
        known = [
            not retry and not done and failed.find(dataset.id, unit, planned.key(unit)) is not None
            for unit, done in zip(units, found, strict=True)
        ]
        first, left = units[0], len(units) - sum(found) - sum(known)
        if left and first.family not in estimates:
            estimates[first.family] = _epoch_seconds(planned, first, of_dataset)
        seconds, basis = estimates[first.family] if left else (0.0, "")
        return PlanRow(
            method=first.family,
            raf=first.method.raf,
            epochs=first.num_epochs,
            seeds=tuple(unit.seed for unit in units),
            done=sum(found),
            failed=sum(known),
            left=left,
            seconds=seconds * first.num_epochs * left,
            basis=basis,
        )

    return Plan(dataset.id, planned.units[0].settings, tuple(row(units) for units in rows.values()))


def _epoch_seconds(planned: Planned, unit: TrainingTrial, records: Iterable[TrainingRecord]) -> tuple[float, str]:
    """Seconds of one epoch of units of this kind, and what they are made from."""
    here = planned.environment
    alike = [
        record
        for record in records
        if record.trial.family == unit.family
        and record.trial.recipe.batch_size == unit.recipe.batch_size
        and record.trial.recipe.precision == unit.recipe.precision
        and all(getattr(record.environment, name) == getattr(here, name) for name in ("device", "processor", "threads"))
    ]
    if alike:
        seconds = sum(record.cost.seconds for record in alike) / sum(len(record.curve) for record in alike)
        return seconds, f"{len(alike)} finished training{'s' if len(alike) > 1 else ''}"
    return _measured_epoch(planned, unit), MEASURED


def _measured_epoch(planned: Planned, unit: TrainingTrial) -> float:
    """Seconds of the steps of an epoch, from the second of two steps of noise; the first one also warms up."""
    size, batch, device = unit.image_size, unit.recipe.batch_size, planned.device
    num_images = planned.dataset.manifest.images.num_images["train"]
    num_steps = -(-num_images // batch)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(-(-num_images // num_steps), 3, size, size, generator=generator).to(device)
    labels = torch.arange(len(images), device=device) % planned.num_classes
    moments = [time.monotonic()]

    def after_epoch(_epoch: int, _loss: float) -> dict[str, float]:
        moments.append(time.monotonic())  # the loss was read, so the device has finished
        return {}

    fit(
        make_network(unit, planned.num_classes).to(device),
        Batches(images, labels, lambda inputs: inputs),
        Objective(unit.method, planned.judge(unit)),
        unit.recipe,
        epochs=2,
        seed=0,
        after_epoch=after_epoch,
    )
    return (moments[2] - moments[1]) * num_steps

"""The training track: methods x RAF x seeds, paired, with the frozen judge.

Flow: FMCS dataset and a chosen evaluator -> units of work (``planning``) -> each trained from its seed, validated and
watched after every epoch, tested once with the weights of its best epoch -> record, or a failure that stops no other.

N images, E epochs, seeds as in ``TrainingTrial``.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmcs_bench.backbones.base import Backbone
from fmcs_bench.backbones.create import num_parameters
from fmcs_bench.core import environment
from fmcs_bench.core.errors import DatasetError, DivergedError, UnitsFailedError
from fmcs_bench.core.progress import PRINTED, SILENT, Progress
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track.elsewhere import DatasetThere, EvaluatorThere
from fmcs_bench.images.dataset import ImageDataset
from fmcs_bench.images.load import absolute_source
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.jobs.local import LOCAL, Engine, Failure, Outcome, run_units
from fmcs_bench.results import records
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.store import FailedStore, FailedTraining, RecordStore, pack_predictions
from fmcs_bench.results.training_board import TrainingBoard, training_boards
from fmcs_bench.results.trials import TrainingTrial
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.training.loop import Batches, History, choose_device, fit
from fmcs_bench.training.losses import Objective
from fmcs_bench.training.trajectory import checkpoint_key, image_batches, save_checkpoint
from fmcs_bench.training_track.networks import make_network, observe
from fmcs_bench.training_track.options import TrainOptions
from fmcs_bench.training_track.plan import Judges, Planned, plan_units


def train_methods(
    dataset: FmcsDataset,
    workspace: Workspace,
    sweep: TrainOptions | None = None,
    *,
    retry: bool = False,
    data_dir: str | Path | None = None,
    image_source: str | None = None,
    stream_images: bool | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    engine: Engine = LOCAL,
) -> TrainingBoard:
    """Train every method from every seed; what is finished is not repeated.

    Args:
        dataset: gives network, images and image size, and recipe and length where the sweep names no others.
        workspace: where records go and evaluators lie; the caller holds its lock.
        sweep: what is wanted; None is the default of everything.
        retry: train those again that failed before.
        data_dir: folder with the files of the image dataset.
        image_source: ``folder:DIR`` or ``hub:NAME_OR_PATH`` that the dataset was built from.
        stream_images: see ``stream`` of ``load_images``.
        device: ``auto``, ``cpu``, ``cuda``, ...
        progress: shows finished trainings and the time left.
        engine: who trains; see ``fmcs_bench.jobs.ray``.

    Raises:
        UnitsFailedError: a loss became NaN or infinite in some trainings; every other one is done and on its board.
        FmcsBenchError: see ``planning.plan_units``; and where the image files are not there, or are others.
    """
    sweep = sweep or TrainOptions()
    planned = plan_units(dataset, workspace, sweep, choose_device(device))
    track = _Track(
        planned, sweep.best_epoch_on_test, sweep.keep_weights, retry, data_dir, image_source, stream_images, progress
    )
    outcome = run_units(
        planned.units,
        find=track.find,
        work=track.work,
        description=f"training on {dataset.manifest.name}",
        survives=(DivergedError,),
        progress=progress,
        engine=engine,
        device=str(planned.device),
        folder=workspace.root,
    )
    boards = training_boards(outcome.results)
    if outcome.failures:
        raise UnitsFailedError(
            _told(outcome, dataset.id), [failure.error for failure in outcome.failures], boards
        ) from outcome.failures[0].error
    return boards[0]


def _told(outcome: Outcome[TrainingTrial, TrainingRecord], dataset_id: str) -> str:
    num = len(outcome.failures)
    lines = [f"- {failure.error}" for failure in outcome.failures]
    return "\n".join(
        [f"{num} of {num + len(outcome.results)} trainings on {dataset_id} failed; the others are done:", *lines]
    )


@dataclass(frozen=True)
class _Track:
    """The images, judges and options of some units; of it only inputs are pickled, as in ``evaluation``."""

    planned: Planned
    best_epoch_on_test: bool = False
    keep_weights: bool = False
    retry: bool = False
    data_dir: str | Path | None = None
    image_source: str | None = None
    stream_images: bool | None = None
    progress: Progress = SILENT

    def __reduce__(self) -> tuple[Any, ...]:
        judges = self.planned.judges
        names = [record.trial.evaluator for record in (judges.judge, judges.permuted, judges.watcher) if record]
        return _opened, (
            DatasetThere.of(self.dataset),
            self.planned.workspace.root.absolute(),
            str(self.planned.device),
            judges,
            EvaluatorThere.all_of(names),
            {
                "best_epoch_on_test": self.best_epoch_on_test,
                "keep_weights": self.keep_weights,
                "retry": self.retry,
                "data_dir": None if self.data_dir is None else Path(self.data_dir).absolute(),
                "image_source": absolute_source(self.image_source),
                "stream_images": self.stream_images,
            },
        )

    @property
    def dataset(self) -> FmcsDataset:
        return self.planned.dataset

    @cached_property
    def store(self) -> RecordStore:
        return RecordStore(self.planned.workspace.records)

    @cached_property
    def failed(self) -> FailedStore:
        return FailedStore(self.planned.workspace.records)

    @cached_property
    def images(self) -> ImageDataset:
        source = self.dataset.load_images(
            self.data_dir, self.image_source, stream=self.stream_images, progress=self.progress
        )
        if source.sha256 != self.dataset.manifest.images.sha256:
            raise DatasetError(f"the images of {source.name} here are not those that {self.dataset.id} was built from")
        return source

    @cached_property
    def prepare(self) -> Preprocessor:
        return Preprocessor(self.images, self.dataset.manifest.config.image_size)

    def find(self, unit: TrainingTrial) -> TrainingRecord | Failure[TrainingTrial] | None:
        record = find_record(self.planned, self.store, unit, best_epoch_on_test=self.best_epoch_on_test)
        if record is not None and (not self.keep_weights or checkpoint_key(self._weights(unit)) == record.key):
            return record
        known = None if self.retry else self.failed.find(self.dataset.id, unit, self.planned.key(unit))
        if known is None:
            return None
        message = f"{unit.label} with seed {unit.seed}: {known.reason} (on {known.created}; --retry trains it again)"
        return Failure(unit, DivergedError(message, known.epoch))

    def _weights(self, unit: TrainingTrial) -> Path:
        return self.planned.workspace.network(self.dataset.id, unit.settings, unit.label, unit.seed)

    def work(self, unit: TrainingTrial) -> TrainingRecord:
        """Train a unit.

        Raises:
            DivergedError: it failed; a note of it is kept.
        """
        key, manifest = self.planned.key(unit), self.dataset.manifest
        state = self.planned.workspace.state(f"{key}-every-test" if self.best_epoch_on_test else key)
        try:
            record = self._train(unit, key, state)
        except DivergedError as error:
            state.unlink(missing_ok=True)  # from it, the same would happen again
            self.failed.write(
                FailedTraining(
                    key=key,
                    dataset=manifest.name,
                    dataset_digest=manifest.dataset_digest,
                    environment=self.planned.environment,
                    trial=unit,
                    reason=str(error),
                    epoch=error.epoch,
                    created=environment.now(),
                )
            )
            raise DivergedError(f"{unit.label} with seed {unit.seed}: {error}", error.epoch) from error
        self.failed.remove(self.dataset.id, unit)
        return record

    def _batches(self, split: str) -> Batches:
        return image_batches(self.images, self.prepare, split, device=self.planned.device)

    def _network(self, unit: TrainingTrial) -> Backbone:
        return make_network(unit, self.planned.num_classes).to(self.planned.device)

    def _fit(self, unit: TrainingTrial, model: Backbone, train: Batches, **kept: Any) -> History:
        return fit(
            model,
            train,
            Objective(unit.method, self.planned.judge(unit)),
            unit.recipe,
            epochs=unit.num_epochs,
            seed=unit.seed,
            best_by="validation",
            **kept,
        )

    def _train(self, unit: TrainingTrial, key: str, state: Path) -> TrainingRecord:
        manifest, precision = self.dataset.manifest, unit.recipe.precision
        data = {split: self._batches(split) for split in ("train", "validation", "unseen")}
        model = self._network(unit)
        watcher = self.planned.watcher(unit)
        small = torch.uint8 if self.planned.num_classes <= 256 else torch.int16
        since = time.monotonic()

        def after_epoch(epoch: int, loss: float) -> dict[str, Any]:
            nonlocal since
            predicted_N, score = observe(model, data["validation"], watcher, precision=precision)
            right_N = predicted_N == data["validation"].targets_N
            note: dict[str, Any] = {"loss": loss, "validation": float(right_N.double().mean())}
            if score is not None:
                if not math.isfinite(score):
                    raise DivergedError(f"the score of the maps is {score} after epoch {epoch}", epoch)
                note["score"] = score
            if self.best_epoch_on_test:
                note["test"] = observe(model, data["unseen"], precision=precision)[0].to(small).cpu()
            note["seconds"], since = time.monotonic() - since, time.monotonic()
            return note

        history = self._fit(unit, model, data["train"], state_path=state, after_epoch=after_epoch)
        predictions: dict[str, np.ndarray] = {"epoch": np.array([history.best_epoch], dtype=np.int32)}
        for name, split in (("validation", "validation"), ("test", "unseen")):
            predicted_N, _ = observe(model, data[split], precision=precision)
            predictions[f"{name}/predicted"] = predicted_N.cpu().numpy().astype(np.int32)
            predictions[f"{name}/label"] = data[split].targets_N.cpu().numpy().astype(np.int32)
            predictions[f"{name}/image"] = self.images.ids_N[self.images.indices(split)]
        if self.best_epoch_on_test:
            predictions[EVERY_EPOCH] = torch.stack([note["test"] for note in history.epoch_notes]).numpy()
        packed = pack_predictions(predictions)
        record = TrainingRecord(
            key=key,
            dataset=manifest.name,
            dataset_digest=manifest.dataset_digest,
            environment=self.planned.environment,
            curve=tuple(
                records.Epoch(epoch=i, train_loss=note["loss"], validation=note["validation"], score=note.get("score"))
                for i, note in enumerate(history.epoch_notes, start=1)
            ),
            cost=records.Cost(
                seconds=sum(note["seconds"] for note in history.epoch_notes),
                num_parameters=num_parameters(model),
                process_peak_bytes=environment.process_peak_bytes(),
            ),
            predictions_sha256=hashlib.sha256(packed).hexdigest(),
            created=environment.now(),
            trial=unit,
            metrics=recompute(predictions),
        )
        if self.keep_weights:
            save_checkpoint(model, self._weights(unit), key=key)
        self.store.write(record, packed)
        return record


def _opened(
    dataset: DatasetThere,
    root: Path,
    device: str,
    judges: Judges,
    used: tuple[EvaluatorThere, ...],
    options: dict[str, Any],
) -> _Track:
    """A track in another process than the one that made it; its units come one by one."""
    for evaluator in used:
        evaluator.learn()
    planned = Planned(dataset.open(), Workspace(root), choose_device(device), judges)
    return _Track(planned, **options, progress=PRINTED)


EVERY_EPOCH = "test/predicted_by_epoch"
"""In a predictions file: the predicted class of every test image after every epoch [E, N]."""


def find_record(
    planned: Planned, store: RecordStore, unit: TrainingTrial, *, best_epoch_on_test: bool
) -> TrainingRecord | None:
    """The record of a finished unit; None where there is none, or it lacks what is asked for."""
    record = store.finished(TrainingRecord, planned.dataset.id, unit.settings, unit.label, unit.seed, planned.key(unit))
    lacks = record is not None and best_epoch_on_test and record.metrics.best_test_accuracy is None
    return None if lacks else record


def recompute(predictions: dict[str, np.ndarray]) -> records.TrainingMetrics:
    """The metrics of a record, from its predictions alone.

    Args:
        predictions: ``predicted``, ``label`` and ``image`` [N] of ``validation`` and ``test``; ``epoch`` [1] that they
            are of; and, where it was asked for, ``test/predicted_by_epoch`` [E, N].
    """
    share = {
        name: float((predictions[f"{name}/predicted"] == predictions[f"{name}/label"]).mean())
        for name in ("validation", "test")
    }
    best = None
    if EVERY_EPOCH in predictions:
        best = float((predictions[EVERY_EPOCH] == predictions["test/label"]).mean(axis=1).max())
    return records.TrainingMetrics(
        validation_accuracy=share["validation"],
        test_accuracy=share["test"],
        num_validation=len(predictions["validation/label"]),
        num_test=len(predictions["test/label"]),
        epoch=int(predictions["epoch"][0]) if "epoch" in predictions else None,
        best_test_accuracy=best,
    )
